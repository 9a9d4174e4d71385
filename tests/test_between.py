import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from recdiv_core.items.labels import labels_of_padded
from recdiv_core.items.traits import describe_items
from recdiv_core.metrics import diversity
from recdiv_core.metrics.between import (
    between_diversity,
    distances_from_mix,
    sum_shares,
    total_diversity,
)
from recdiv_core.metrics.slate_batch import SlateBatch, match_slates
from tests.oracles import between_users
from tests.worlds import pad, random_world, traits_of


def slates_of(slates: list[list[int]], categories: list[list[int]], num: int) -> SlateBatch:
    size = len(categories)
    traits = describe_items(
        torch.eye(size),
        labels_of_padded(pad(categories)),
        torch.ones(size).long(),
        num_train_users=3,
        num_categories=num,
    )
    return match_slates(pad(slates), torch.zeros(len(slates), 1).long(), traits, k=4)


def split(slates: SlateBatch) -> tuple[float, float]:
    within = float(diversity.gini_simpson(slates).mean())
    return within, between_diversity(sum_shares(slates), within, slates.num_users)


@pytest.mark.parametrize(
    ("slates", "within", "between"),
    [
        ([[0, 2], [0, 2]], 0.5, 0.0),  # all see the same mix
        ([[0, 1], [2, 3]], 0.0, 0.5),  # each user sees a category of their own
        ([[0, 2], [0, 1]], 0.25, 0.125),
        ([[4], [0, 1]], 0.0, 0.5),  # a slate without a category is a category of its own
        ([[], [4]], 0.0, 0.0),
        ([[0, 1, 2, 3]], 0.5, 0.0),  # one user alone
    ],
)
def test_the_split_by_hand(slates, within, between):
    found = split(slates_of(slates, [[0], [0], [1], [1], []], 2))
    assert found == pytest.approx((within, between), abs=1e-15)


def test_a_shop_without_categories_has_no_diversity_to_split():
    slates = slates_of([[0, 1], [1]], [[], []], 0)
    assert split(slates) == (0.0, 0.0)
    assert total_diversity(sum_shares(slates), 2) == 0


@given(seed=st.integers(0, 10_000), k=st.integers(1, 10))
def test_between_equals_the_mean_over_all_pairs_and_the_mean_distance_from_the_mix(seed, k):
    world = random_world(seed, num_users=9)
    slates = match_slates(pad(world.slates), torch.zeros(9, 1).long(), traits_of(world), k=10)
    slates = slates.cut(k)
    expected = between_users([slate[:k] for slate in world.slates], world.categories)
    assert split(slates)[1] == pytest.approx(expected, abs=1e-12)
    distances = distances_from_mix(slates, sum_shares(slates), 9)
    assert float(distances.mean()) == pytest.approx(expected, abs=1e-12)


def test_the_spread_of_the_distances_is_that_of_the_metric_over_samples_of_users():
    rng = np.random.default_rng(0)
    categories = [[item % 4] for item in range(12)]

    def draw(num_users: int) -> SlateBatch:
        sizes = rng.integers(1, 5, num_users)
        return slates_of([rng.permutation(12)[:size].tolist() for size in sizes], categories, 4)

    found = [split(draw(150))[1] for _ in range(200)]
    slates = draw(150)
    distances = distances_from_mix(slates, sum_shares(slates), 150)
    assert float(distances.std()) / 150**0.5 == pytest.approx(np.std(found), rel=0.25)
