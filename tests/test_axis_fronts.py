"""The arithmetic of benchmarks/axis_fronts.py: accuracy matched on validation, volumes compared."""

import numpy as np
import pytest

from benchmarks.axis_fronts import FIGURES, Judged, at_budget, compare_volumes, drawn_pairs
from recdiv_core.metrics.bootstrap import resample_users
from recdiv_core.metrics.jackknife import UserResults


def judged(ndcg, other, *, num_users=2, num_items=20):
    rng = np.random.default_rng(0)
    users = {
        "ndcg": ndcg + 0.01 * rng.normal(size=num_users),
        "ild": other + 0.01 * rng.normal(size=num_users),
    }
    slates_UK = rng.integers(num_items, size=(num_users, 3))
    figures = dict.fromkeys(FIGURES, other) | {"ndcg": ndcg}
    return Judged(UserResults(users, slates_UK, num_items), figures)


VAL = [judged(0.10, 1.0), judged(0.098, 1.2), judged(0.090, 2.0)]
TEST = [judged(0.20, 10.0), judged(0.19, 12.0), judged(0.18, 20.0)]


def test_accuracy_is_matched_on_validation_and_read_off_on_test():
    # 0.094 lies halfway between the second weight and the third
    found = at_budget(VAL, TEST, [0.0, 0.1, 0.3], 0.094)
    assert found["w"] == pytest.approx(0.2)
    assert found["coverage"] == pytest.approx(16.0 / 10.0)
    assert found["ndcg"] == pytest.approx(0.185 / 0.20)


def test_the_baseline_is_one_of_the_neighbours():
    found = at_budget(VAL, TEST, [0.0, 0.1, 0.3], 0.099)
    assert found["w"] == pytest.approx(0.05)
    assert found["ild"] == pytest.approx(1.1)


def test_a_budget_that_no_weight_uses_up_gives_the_last_weight():
    found = at_budget(VAL, TEST, [0.0, 0.1, 0.3], 0.05)
    assert (found["w"], found["ild"]) == (0.3, 2.0)


def test_the_difference_of_volumes_lies_in_its_interval_and_that_away_from_0():
    better = [judged(0.10, 0.5, num_users=300), judged(0.08, 0.9, num_users=300)]
    worse = [judged(0.10, 0.5, num_users=300)]
    found = compare_volumes({"trained": better, "post_hoc": worse}, "ild", 200)
    assert found["trained"] == pytest.approx(0.10 * 0.5 + 0.08 * 0.4)
    assert 0 < found["low"] < found["difference"] < found["high"]


def test_the_pairs_of_a_point_are_the_means_of_its_users_drawn():
    (counts,) = resample_users(50, 20, seed=0)
    point = judged(0.1, 0.5, num_users=50)
    means = [
        [np.average(values, weights=row) for values in point.users.users.values()] for row in counts
    ]
    np.testing.assert_allclose(drawn_pairs([point], "ild", 20)[:, 0], means)


def test_the_coverage_of_a_pair_is_drawn_around_that_of_all_users():
    point = judged(0.1, 0.5, num_users=300, num_items=900)
    drawn = drawn_pairs([point], "coverage", 500)[:, 0, 1]
    assert drawn.mean() == pytest.approx(point.users.value("coverage"), abs=0.002)
    assert 0.005 < drawn.std() < 0.02
