"""The paired bootstrap and Holm: users repeated by hand, scipy, the procedure itself."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.metrics.bootstrap import (
    ROWS_AT_ONCE,
    holm,
    interval,
    p_value,
    resample_users,
    resampled_means,
)
from tests.oracles import rejected_by_holm


def counts_of(num_users, num_resamples, seed=0):
    return np.concatenate(list(resample_users(num_users, num_resamples, seed=seed)))


def test_a_resample_is_as_many_users_as_there_are():
    counts = counts_of(50, 200)
    assert counts.shape == (200, 50)
    assert (counts.sum(1) == 50).all()
    assert counts.mean(0) == pytest.approx(1, abs=0.4)


def test_resamples_come_some_at_a_time():
    sizes = [len(counts) for counts in resample_users(5, 2 * ROWS_AT_ONCE + 3, seed=0)]
    assert sizes == [ROWS_AT_ONCE, ROWS_AT_ONCE, 3]


def test_the_same_seed_draws_the_same_users():
    assert (counts_of(9, 5, seed=3) == counts_of(9, 5, seed=3)).all()
    assert (counts_of(9, 5, seed=3) != counts_of(9, 5, seed=4)).any()


def test_means_are_those_of_the_users_repeated():
    values = np.random.default_rng(1).normal(size=(2, 12))
    repeated = [np.repeat(values, count, axis=1).mean(1) for count in counts_of(12, 100, seed=2)]
    np.testing.assert_allclose(resampled_means(values, 100, seed=2), repeated)


def test_figures_that_are_equal_for_all_users_stay_equal():
    means = resampled_means([[0.1] * 30, [0.1] * 30], 50, seed=0)
    assert (means == 0.1).all()


@pytest.mark.parametrize("method", ["percentile", "BCa"])
def test_the_interval_of_a_paired_difference_is_that_of_scipy(method):
    rng = np.random.default_rng(5)
    a = rng.random(3000) * (rng.random(3000) < 0.1)  # as NDCG: most users 0
    b = rng.random(3000) * (rng.random(3000) < 0.12)
    means = resampled_means([a, b], 4000, seed=1)
    ours = interval(means[:, 1] - means[:, 0])
    theirs = scipy.stats.bootstrap(
        (b - a,), np.mean, n_resamples=2000, method=method, batch=500, rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.06 * (theirs.high - theirs.low))


@given(st.lists(st.floats(-1, 1), min_size=19, max_size=60), st.floats(-1, 1))
def test_p_is_below_the_level_only_where_the_interval_excludes_0(samples, shift):
    moved = np.array(samples) + shift
    low, high = interval(moved)
    assert 2 / (len(moved) + 1) <= p_value(moved) <= 1
    assert not (p_value(moved) < 0.05 and low <= 0 <= high and low < high)


def test_p_values_without_a_difference_are_even():
    rng = np.random.default_rng(0)
    p = [p_value(rng.normal(size=400) + rng.normal()) for _ in range(400)]
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01


def test_no_difference_at_all_has_p_1():
    assert p_value(np.zeros(100)) == 1


def test_holm_of_a_published_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.sampled_from([0.001, 0.004, 0.01, 0.02, 0.03, 0.2, 1.0]), max_size=8))
def test_holm_rejects_what_its_procedure_rejects(p_values):
    adjusted = holm(p_values)
    for alpha in (0.0105, 0.0505, 0.1005):
        assert [p <= alpha for p in adjusted] == rejected_by_holm(p_values, alpha)


@pytest.mark.parametrize(("num_users", "num_resamples"), [(0, 3), (3, 0)])
def test_nothing_to_resample_is_refused(num_users, num_resamples):
    with pytest.raises(ValueError, match="must be >= 1"):
        resampled_means(np.zeros((2, num_users)), num_resamples, seed=0)


def test_values_of_no_users_are_refused():
    with pytest.raises(ValueError, match=r"must be \[P, U\]"):
        resampled_means([1.0, 2.0], 5, seed=0)


def test_users_without_a_value_are_left_out_of_the_mean_of_each_resample():
    values = np.array([[1.0, np.nan, 3.0, 5.0], [1.0, 2.0, 3.0, 4.0]])
    (counts_RU,) = resample_users(4, 30, seed=3)
    exists = np.array([1.0, 0.0, 1.0, 1.0])
    expected = counts_RU @ np.array([1.0, 0, 3, 5]) / (counts_RU @ exists)
    means = resampled_means(values, 30, seed=3)
    np.testing.assert_allclose(means[:, 0], expected)
    np.testing.assert_allclose(means[:, 1], counts_RU @ values[1] / 4)


def test_a_metric_of_nobody_has_no_mean():
    assert np.isnan(resampled_means(np.full((1, 3), np.nan), 5, seed=0)).all()
