"""The arithmetic of benchmarks/fronts.py: points on all axes at once."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.fronts import (
    AXES,
    Point,
    changes,
    compare_volumes,
    front,
    most_volume,
    pooled,
    recommend,
    reranked,
)
from benchmarks.tastes import tastes_served
from recdiv_core.metrics.jackknife import UserResults
from recdiv_core.slates.policy import SlatePolicy

NUM_ITEMS = 50


def judged(ndcg: float, *, num_shown: int, ild: float = 0.4, index: float = 0.3, num_users=200):
    rng = np.random.default_rng(0)
    means = {"ndcg": ndcg, "ild": ild, "diversity_index": index}
    noise_U = 0.01 * rng.normal(size=num_users)
    users = {name: mean + noise_U - noise_U.mean() for name, mean in means.items()}
    slates_UK = np.arange(num_users * 3).reshape(num_users, 3) % num_shown
    return UserResults(users, slates_UK, NUM_ITEMS)


PLAIN = judged(0.20, num_shown=20)
DIVERSE = judged(0.19, num_shown=30, ild=0.5, index=0.36)


def point(*values: float) -> Point:
    policy = SimpleNamespace(k=10)
    val = {f"{name}_at_10": value for name, value in zip(AXES, values, strict=True)}
    return Point(SimpleNamespace(), policy, val)  # pyright: ignore[reportArgumentType]


def test_changes_are_relative_and_coverage_is_also_a_share_of_what_is_missing():
    found = changes(PLAIN, DIVERSE)
    assert found["ndcg"] == pytest.approx(-0.05)
    assert found["coverage"] == pytest.approx(0.5)  # 0.4 -> 0.6 of the catalogue
    assert found["coverage_gap_closed"] == pytest.approx(1 / 3)
    assert found["ild"] == pytest.approx(0.25)
    assert found["diversity_index"] == pytest.approx(0.2)


def test_few_users_cannot_be_shown_the_whole_catalogue():
    few = [judged(0.2, num_shown=shown, num_users=10) for shown in (12, 21)]
    # 10 users x 3 places of 50 items: at most 0.6
    assert changes(*few)["coverage_gap_closed"] == pytest.approx((0.42 - 0.24) / (0.6 - 0.24))


def test_equal_fronts_have_the_ratio_1_and_a_better_one_more():
    same = compare_volumes(PLAIN, [PLAIN, DIVERSE], [PLAIN, DIVERSE], num_draws=20)
    assert (same["joint_hypervolume_ratio"], same["difference"]) == (1, 0)
    assert same["interval"] == pytest.approx([1, 1])
    better = compare_volumes(PLAIN, [PLAIN, DIVERSE], [PLAIN], num_draws=50)
    low, high = better["interval"]
    assert 1 < low < better["joint_hypervolume_ratio"] < high
    low, high = better["difference_interval"]
    assert 0 < low < better["difference"] < high


def test_volumes_begin_at_the_loosest_budget_of_accuracy():
    costly = judged(0.9 * 0.20 - 0.02, num_shown=50, ild=0.9, index=0.9)
    alone = compare_volumes(PLAIN, [PLAIN, costly], [PLAIN], num_draws=5)
    assert alone["joint_hypervolume_ratio"] == 1


def test_the_points_that_add_most_volume_are_kept():
    values = [[1.0, 0.1], [0.1, 1.0], [0.8, 0.8], [0.79, 0.81]]
    assert most_volume(values, 1) == [2]
    assert sorted(most_volume(values, 9)) == [0, 1, 2, 3]


def test_a_front_holds_no_point_that_another_beats_on_all_axes():
    best, worse, other = point(0.3, 0.5, 0.4, 0.3), point(0.2, 0.5, 0.4, 0.3), point(0.1, 0.6, 0, 0)
    assert set(front([best, worse, other], 0.0)) == {best, other}
    assert front([best, worse, other], 0.15) == [best]


def test_the_recommended_point_is_that_of_a_report():
    plain, lost = point(0.300, 0.5, 0.4, 0.30), point(0.299, 0.9, 0.3, 0.40)
    good, costly = point(0.295, 0.6, 0.44, 0.33), point(0.2, 0.9, 0.9, 0.9)
    assert recommend([plain, lost, good, costly], 100) is good
    assert recommend([plain, lost], 100) is None


def test_as_many_settings_of_re_ranking_as_trained_points():
    plain = SlatePolicy(10, True, "none", 0.0, 100, 0.0)
    settings = reranked(plain, 180)
    assert len(settings) == 180
    assert all(0 < each.diversity < 1 for each in settings)
    assert {each.method for each in settings} == {"mmr", "msd", "dpp", "beam"}
    assert len({(each.method, each.diversity, each.adjustment) for each in settings}) == 180
    assert replace(settings[0], method="none", diversity=0.0) == plain


def test_several_seeds_are_pooled_with_an_interval_over_seeds():
    def seed(ratio: float):
        one = {"joint_hypervolume_ratio": ratio, "interval": [0.9, 1.4]}
        return {**one, "point": {"ndcg": ratio - 1}}

    one = pooled([seed(1.2)])
    assert (one["interval"], one["interval_over"]) == ([0.9, 1.4], "users")
    three = pooled([seed(1.1), seed(1.2), seed(1.3)])
    assert three["joint_hypervolume_ratio"] == pytest.approx(1.2)
    assert three["interval"] == pytest.approx([1.2 - 0.2484, 1.2 + 0.2484], abs=1e-3)
    assert three["point"]["ndcg"] == pytest.approx(0.2)


def test_a_slate_serves_the_weight_of_the_tastes_that_it_has_an_item_of():
    categories = ["A > B > C", "A > B > D", "A > Bc > E", "F > G > H"]
    tastes = {"one": {"A > B": 0.75, "F > G > H": 0.25}, "two": {"A > B > D": 1.0}}
    slates_UK = np.array([[2, 0, 1], [0, 2, -1]])
    assert tastes_served(slates_UK, ["one", "two"], categories, tastes) == 0.375
    assert tastes_served(slates_UK[:, :1], ["one", "two"], categories, tastes) == 0.0
    assert tastes_served(np.array([[1, 3, -1]] * 2), ["one", "two"], categories, tastes) == 1.0
