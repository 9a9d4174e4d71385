"""Differences with intervals, and the correction over all that is claimed."""

import numpy as np
import pytest

from recdiv_core.evaluation.differences import ACCURACY, correct_claims, difference, resample
from recdiv_core.metrics.bootstrap import interval, p_value, resampled_means
from recdiv_core.metrics.jackknife import UserResults
from recdiv_core.metrics.tally import ATTENTION_METRICS, SYSTEM_METRICS


def judged(seed, *, num_users=60, num_items=200):
    rng = np.random.default_rng(seed)
    users = {"ndcg": rng.random(num_users), "ild": rng.random(num_users)}
    slates = np.stack([rng.permutation(num_items)[:5] for _ in range(num_users)])
    return UserResults(users, slates, num_items)


def test_all_figures_of_all_runs_are_resampled():
    runs = [judged(0), judged(1)]
    samples = resample(runs, 300)
    assert samples.names == ("ndcg", "ild", *SYSTEM_METRICS, *ATTENTION_METRICS)
    assert samples.samples_RSM.shape == (300, 2, len(samples.names))
    for place, name in enumerate(samples.names):
        assert samples.values_SM[:, place].tolist() == [run.value(name) for run in runs]
    np.testing.assert_allclose(samples.samples_RSM.mean(0), samples.values_SM, atol=0.02)


def test_means_are_resampled_by_the_bootstrap():
    runs = [judged(0), judged(1)]
    values = [run.users["ild"] for run in runs]
    expected = resampled_means(values, 300, seed=0)
    np.testing.assert_allclose(resample(runs, 300).samples_RSM[:, :, 1], expected)


def test_points_of_an_axis_of_all_slates_come_from_one_kind_of_resample():
    samples = resample([judged(0), judged(1), judged(2)], 300)
    measured, pairs = samples.points([2, 0], "coverage")
    coverage = samples.names.index("coverage")
    assert measured[0].tolist() == [samples.values_SM[2, 0], samples.values_SM[2, coverage]]
    np.testing.assert_array_equal(pairs[:, 1, 0], samples.accuracy_RS[:, 0])
    np.testing.assert_array_equal(pairs[:, 0, 1], samples.samples_RSM[:, 2, coverage])
    _, pairs = samples.points([2, 0], "ild")
    np.testing.assert_array_equal(pairs, samples.samples_RSM[:, [2, 0], :2])
    assert ACCURACY == "ndcg"


def test_a_difference_has_its_interval_its_share_and_its_p():
    rng = np.random.default_rng(0)
    before, behind = 2 + 0.1 * rng.normal(size=999), 2.5 + 0.1 * rng.normal(size=999)
    entry = difference(2.0, 2.5, before, behind)
    assert (entry["difference"], entry["percent"]) == (0.5, 25.0)
    assert (entry["low"], entry["high"]) == interval(behind - before)
    shares = interval(100 * (behind / before - 1))
    assert (entry["percent_low"], entry["percent_high"]) == pytest.approx(shares)
    assert entry["p"] == p_value(behind - before)


def test_a_share_of_nothing_is_none():
    entry = difference(0.0, 0.5, np.zeros(9), np.full(9, 0.5))
    assert (entry["difference"], entry["low"], entry["high"]) == (0.5, 0.5, 0.5)
    assert entry["percent"] is entry["percent_low"] is None


def test_what_a_front_does_not_reach_in_some_draws_has_no_interval():
    draws = np.array([0.1, np.nan, 0.2])
    entry = difference(0.1, 0.3, np.full(3, 0.1), draws)
    assert entry["difference"] == pytest.approx(0.2)
    assert entry["low"] is entry["high"] is entry["p"] is None


def test_claims_of_all_comparisons_are_corrected_together():
    first = {"metrics": {"ndcg": {"p": 0.01}, "mrr": {}}}
    second = {"axes": {"ild": {"99%": {"p": 0.04}, "95%": {"p": None}}}}
    assert correct_claims([first, second]) == 2
    assert first["metrics"] == {"ndcg": {"p": 0.01, "p_holm": 0.02}, "mrr": {}}
    assert second["axes"]["ild"]["99%"]["p_holm"] == 0.04
    assert "p_holm" not in second["axes"]["ild"]["95%"]
