"""Sameness of slates, against counting by hand and slow twins."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recdiv_core.evaluation.sameness import (
    NEAR,
    Shelf,
    against_history,
    describe,
    look,
    near_clusters,
    places_lost,
    same_slates,
    shelves,
    spread,
    starved,
    verdict,
)
from recdiv_core.items.labels import labels_of_padded
from recdiv_core.items.traits import describe_items

property_test = settings(deadline=None, derandomize=True)


def unit(rows):
    vectors = np.array(rows, dtype=np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def traits(vectors, categories):
    return describe_items(
        torch.from_numpy(vectors),
        labels_of_padded(torch.tensor(categories)),
        torch.ones(len(vectors), dtype=torch.int64),
        num_train_users=5,
        num_categories=max(max(row) for row in categories) + 1,
    )


def slow_clusters(vectors, exposure):
    """Join whoever is near, until nothing changes."""
    label = {item: item for item in range(len(vectors)) if exposure[item] and vectors[item].any()}
    for _ in label:
        for one in label:
            for other in label:
                if one != other and float(vectors[one] @ vectors[other]) >= NEAR:
                    label[one] = label[other] = min(label[one], label[other])
    return label


@property_test
@given(st.integers(0, 500))
def test_clusters_are_those_of_the_slow_twin(seed):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, 4))
    vectors = unit(centres[rng.integers(0, 5, 14)] + 0.15 * rng.normal(size=(14, 4)))
    vectors[rng.random(14) < 0.1] = 0
    products = vectors @ vectors.T
    if np.abs(products - NEAR).min() < 1e-5:
        return  # rounding decides
    exposure = rng.integers(0, 3, 14)
    found, expected = near_clusters(vectors, exposure), slow_clusters(vectors, exposure)
    for one in range(14):
        for other in range(14):
            if one != other:
                together = one in expected and expected[one] == expected.get(other)
                assert together == (found[one] >= 0 and found[one] == found[other])


def test_places_lost_are_those_behind_the_first_of_a_cluster():
    cluster = np.array([0, 0, 0, 1, 1, -1, -1])
    slates = np.array([[0, 5, 1, 2], [3, 4, 0, 6], [5, 6, 0, 3], [5, -1, -1, -1]])
    assert places_lost(slates, cluster).tolist() == [2, 1, 0, 0]


def test_the_same_items_in_another_order_are_the_same_slate():
    slates = np.array([[1, 2, 3], [3, 1, 2], [1, 2, -1], [4, 5, 6], [2, 1, -1], [2, 3, 1]])
    is_same, sizes = same_slates(slates)
    assert is_same.tolist() == [True, True, True, False, True, True]
    assert sizes.tolist() == [3, 2]


def test_empty_slates_are_not_the_same_slate():
    is_same, sizes = same_slates(np.full((3, 2), -1))
    assert not is_same.any()
    assert not len(sizes)


def test_a_slate_is_compared_with_as_many_items_of_the_history():
    own = traits(np.eye(8, dtype=np.float32), [[item % 4] for item in range(8)])
    slates = np.array([[0, 4, 1, 2], [0, 1, 2, 3], [0, 4, 1, -1], [0, 4, 1, 2]])
    histories = np.array([[1, 2, 3, -1], [0, 4, 1, 5], [2, 3, 0, 1], [1, 2, -1, -1]])
    narrowed, broadened = against_history(slates, histories, own)
    # the first: 0, 4, 1 hold two categories, 1, 2, 3 hold three; the last: 0, 4 and 1, 2
    assert narrowed.tolist() == [1, 0, 1, 1]
    assert broadened.tolist() == [0, 1, 0, 0]


def test_a_user_without_a_history_is_not_compared():
    own = traits(np.eye(4, dtype=np.float32), [[0], [1], [2], [-1]])
    slates, histories = np.array([[0, 1], [0, 1]]), np.array([[-1, -1], [3, -1]])
    narrowed, broadened = against_history(slates, histories, own)
    assert np.isnan(narrowed).all()
    assert np.isnan(broadened).all()


def test_spread_is_that_of_each_slate_alone():
    rng = np.random.default_rng(0)
    vectors = unit(rng.normal(size=(9, 3)))
    own = traits(vectors, [[item % 3] for item in range(9)])
    slates = np.array([[0, 1, 2], [0, 3, 6], [4, -1, -1]])
    categories, ild = spread(slates, own)
    assert categories.tolist() == [3, 1, 1]
    pairs = [1 - float(vectors[a] @ vectors[b]) for a, b in ((0, 3), (0, 6), (3, 6))]
    assert ild[1] == pytest.approx(np.mean(pairs), abs=1e-6)
    assert ild[2] == 0


def test_a_category_without_its_share_is_starved():
    categories = labels_of_padded(torch.tensor([[0, -1], [1, -1], [2, 0], [3, -1]]))
    found = shelves(np.array([10, 2, 0, 0]), np.array([4, 4, 4, 0]), categories)
    assert found == [
        Shelf(0, pytest.approx(0.5), pytest.approx(10 / 12)),
        Shelf(1, pytest.approx(1 / 3), pytest.approx(2 / 12)),
        Shelf(2, pytest.approx(1 / 6), 0.0),
    ]
    assert [shelf.category for shelf in starved(found)] == [2]


def test_nothing_shown_and_nothing_wanted_is_no_category():
    none = labels_of_padded(torch.tensor([[0], [1]]))
    assert shelves(np.zeros(2, np.int64), np.zeros(2, np.int64), none) == []


def test_a_segment_is_described_by_its_own_users():
    vectors = unit([[1, 0], [1, 0.01], [0, 1], [-1, 0]])
    own = traits(vectors, [[0], [0], [1], [1]])
    slates = np.array([[0, 1], [0, 1], [2, 3]])
    exposure = np.bincount(slates.ravel(), minlength=4)
    found = look(slates, np.full((3, 2), -1), own, vectors, exposure)
    first = describe(found, np.array([True, True, False]))
    assert first["num_users"] == 2
    assert first["with_doubles"] == first["same_slate"] == 1
    assert first["categories"] == 1
    assert first["verdict"] == (
        "100 % of slates are equal to another slate; near-identical items in 100 % of slates"
    )
    last = describe(found, np.array([False, False, True]))
    assert last["with_doubles"] == last["same_slate"] == 0
    assert last["verdict"] == "varied"


def test_a_narrow_verdict_needs_more_who_lose_than_who_gain():
    figures = {"with_doubles": 0.0, "same_slate": 0.0, "narrowed": 0.4, "broadened": 0.3}
    assert verdict(figures) == "varied"
