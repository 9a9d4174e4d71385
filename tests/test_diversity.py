import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from recdiv_core.items.labels import labels_of_padded
from recdiv_core.items.traits import describe_items
from recdiv_core.metrics import diversity
from recdiv_core.metrics.slate_batch import USERS_AT_ONCE, SlateBatch, match_slates
from tests.oracles import categories_of_slate, ild_of_slate
from tests.worlds import pad, random_world, traits_of

CATEGORY_METRICS = {
    "category_coverage": diversity.category_coverage,
    "diversity_index": diversity.diversity_index,
    "homogeneity": diversity.homogeneity,
}


def slates_of(
    slates: list[list[int]],
    *,
    vectors: list[list[float]] | None = None,
    categories: list[list[int]] | None = None,
    num_categories: int = 4,
    k: int = 4,
) -> SlateBatch:
    """Return judged slates over 8 items; item i is in category i % 4 unless told otherwise."""
    traits = describe_items(
        torch.tensor(vectors) if vectors else torch.eye(8),
        labels_of_padded(pad(categories or [[item % 4] for item in range(8)])),
        torch.ones(8, dtype=torch.int64),
        num_train_users=1,
        num_categories=num_categories,
    )
    return match_slates(pad(slates), torch.zeros(len(slates), 1, dtype=torch.int64), traits, k=k)


def vectors(*first: list[float]) -> list[list[float]]:
    """Return the vectors of 8 items: those given, and zeros."""
    return [*first, *[[0.0] * len(first[0])] * (8 - len(first))]


@pytest.mark.parametrize(
    ("slate", "expected"),
    [
        ([0, 1], 2.0),  # opposite
        ([0, 2], 0.0),  # the same direction, another length
        ([0, 3], 1.0),  # orthogonal
        ([0, 5], 1.0),  # no vector: similar to nothing
        ([5, 6, 7], 1.0),
        ([0, 2, 3], 2 / 3),
        ([0], 0.0),
    ],
)
def test_ild_by_hand(slate, expected):
    given_vectors = vectors([1.0, 0.0], [-1.0, 0.0], [3.0, 0.0], [0.0, 0.5])
    ild = diversity.ild(slates_of([slate], vectors=given_vectors)).item()
    assert ild == pytest.approx(expected, abs=1e-15)


def test_ild_of_more_users_than_are_gathered_at_once():
    world = random_world(1, num_users=USERS_AT_ONCE + 7, width=4)
    slates = match_slates(pad(world.slates), torch.zeros(71, 1).long(), traits_of(world), k=4)
    expected = [ild_of_slate(slate, world.embeddings) for slate in world.slates]
    np.testing.assert_allclose(diversity.ild(slates).numpy(), expected, atol=1e-6)


@given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 1e3))
def test_ild_does_not_depend_on_order_or_length_of_vectors(seed, scale):
    rng = np.random.default_rng(seed)
    given_vectors = torch.from_numpy(rng.normal(size=(8, 3)))
    slate = rng.permutation(8)[:4].tolist()
    plain = diversity.ild(slates_of([slate], vectors=given_vectors.tolist()))
    other = diversity.ild(slates_of([slate[::-1]], vectors=(scale * given_vectors).tolist()))
    assert plain.item() == pytest.approx(other.item(), abs=1e-6)
    assert 0 <= plain.item() <= 2


@given(seed=st.integers(0, 10_000), size=st.integers(2, 4))
def test_showing_a_twin_of_every_item_lowers_ild_by_a_known_share(seed, size):
    rng = np.random.default_rng(seed)
    half = rng.normal(size=(4, 3))
    given_vectors = np.concatenate([half, half]).tolist()
    slate = list(range(size))
    once, twice = diversity.ild(
        slates_of([slate, slate + [item + 4 for item in slate]], vectors=given_vectors, k=8)
    ).tolist()
    assert twice == pytest.approx(once * (2 * size - 2) / (2 * size - 1), abs=1e-6)


@pytest.mark.parametrize(
    ("slate", "coverage", "index", "homogeneity"),
    [
        ([0, 1, 2, 3], 1.0, 1.0, 0.0),
        ([0, 4, 1, 5], 0.5, 0.5, math.log(2)),
        ([0, 4], 0.25, 0.0, math.log(2)),  # homogeneity: of the slate's real length
        ([0, 1], 0.5, 0.5, 0.0),
        ([0], 0.25, 0.0, 0.0),
        ([], 0.0, 0.0, 0.0),
    ],
)
def test_category_metrics_by_hand(slate, coverage, index, homogeneity):
    slates = slates_of([slate, [0, 1, 2, 3]])
    assert diversity.category_coverage(slates)[0].item() == coverage
    assert diversity.diversity_index(slates)[0].item() == pytest.approx(index, abs=1e-15)
    assert diversity.homogeneity(slates)[0].item() == pytest.approx(homogeneity, abs=1e-15)


@pytest.mark.parametrize(("k", "num_categories"), [(1, 4), (4, 1)])
def test_diversity_index_is_0_where_nothing_can_be_uneven(k, num_categories):
    slates = slates_of([[0, 1]], categories=[[0]] * 8, num_categories=num_categories, k=k)
    assert diversity.diversity_index(slates).tolist() == [0.0]


def test_an_item_shares_its_weight_among_its_labels():
    slates = slates_of([[0, 1]], categories=[[0, 1], [0], *[[3]] * 6], num_categories=4, k=4)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert diversity.diversity_index(slates).item() == pytest.approx(entropy / math.log(4))
    assert diversity.category_coverage(slates).item() == 0.5
    assert diversity.homogeneity(slates).item() == 0.0


def test_more_labels_than_places_stay_at_the_best_value():
    labels = [[0, 1], [2, 3], *[[0]] * 6]
    slates = slates_of([[0, 1]], categories=labels, num_categories=4, k=2)
    assert [metric(slates).item() for metric in CATEGORY_METRICS.values()] == [1.0, 1.0, 0.0]


def test_items_without_a_category_count_nothing():
    slates = slates_of([[0, 1, 2], [0, 1, 3]], categories=[[], [], [], *[[1]] * 5])
    assert diversity.category_coverage(slates).tolist() == [0.0, 0.25]
    assert diversity.diversity_index(slates).tolist() == [0.0, 0.0]
    assert diversity.homogeneity(slates).tolist() == pytest.approx([math.log(3)] * 2)


@given(seed=st.integers(0, 10_000), k=st.integers(1, 12))
def test_category_metrics_equal_their_slow_twin(seed, k):
    world = random_world(seed, num_users=5)
    targets = torch.zeros(5, 1, dtype=torch.int64)
    slates = match_slates(pad(world.slates), targets, traits_of(world), k=k)
    values = {name: metric(slates) for name, metric in CATEGORY_METRICS.items()}
    for user, slate in enumerate(world.slates):
        expected = categories_of_slate(slate[:k], world.categories, world.num_categories, k)
        got = {name: value[user].item() for name, value in values.items()}
        assert got == pytest.approx(expected, abs=1e-12)
        assert all(0 <= value <= max(1.0, math.log(k)) for value in got.values())
