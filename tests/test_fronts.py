"""The arithmetic of benchmarks/fronts.py: accuracy matched by interpolation, volumes compared."""

import numpy as np
import pytest

from benchmarks.fronts import FIGURES, Judged, at_budget, compare_volumes, resampled_volumes
from recdiv_core.metrics.bootstrap import resample_users


def judged(ndcg, other, *, num_users=0):
    rng = np.random.default_rng(0)
    users = {
        "ndcg": ndcg + 0.01 * rng.normal(size=num_users),
        "ild": other + 0.01 * rng.normal(size=num_users),
    }
    figures = dict.fromkeys(FIGURES, other) | {"ndcg": ndcg}
    slates_UK = rng.integers(20, size=(num_users, 3))
    return Judged(users, slates_UK, figures)


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
    counts = resample_users(300, 200, seed=0)
    better = [judged(0.10, 0.5, num_users=300), judged(0.08, 0.9, num_users=300)]
    worse = [judged(0.10, 0.5, num_users=300)]
    found = compare_volumes({"trained": better, "post_hoc": worse}, "ild", counts, num_items=20)
    assert found["trained"] == pytest.approx(0.10 * 0.5 + 0.08 * 0.4)
    assert 0 < found["low"] < found["difference"] < found["high"]


def test_the_volume_of_one_point_is_the_product_of_its_resampled_figures():
    counts = resample_users(50, 20, seed=0)
    point = judged(0.1, 0.5, num_users=50)
    means = [[np.average(point.users[name], weights=row) for row in counts] for name in point.users]
    volumes = resampled_volumes([point], "ild", counts, num_items=20)
    np.testing.assert_allclose(volumes, np.prod(means, axis=0))
