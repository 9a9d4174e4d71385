import dataclasses
import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from recdiv_core.items.labels import labels_of_padded
from recdiv_core.items.traits import describe_items
from recdiv_core.metrics import exposure, finish
from recdiv_core.metrics.scorecard import finish_scorecard
from recdiv_core.metrics.slate_batch import match_slates
from tests.oracles import gini
from tests.worlds import pad, random_world, scorecard_tally, tally_of, with_background

EXPOSURES = st.lists(st.integers(0, 1000), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("counts", "coverage", "inequality"),
    [
        ([3, 3, 3, 3], 1.0, 0.0),
        ([0, 0, 0, 5], 0.25, 0.75),
        ([0, 0, 1, 1], 0.5, 0.5),
        ([1, 2, 3, 4], 1.0, 0.25),
        ([0, 0], 0.0, 0.0),
        ([7], 1.0, 0.0),
    ],
)
def test_exposure_by_hand(counts, coverage, inequality):
    assert exposure.coverage(torch.tensor(counts)) == coverage
    assert exposure.gini(torch.tensor(counts)) == pytest.approx(inequality, abs=1e-15)


@given(EXPOSURES)
def test_gini_equals_the_mean_difference_of_all_pairs(counts):
    assert exposure.gini(torch.tensor(counts)) == pytest.approx(gini(counts), abs=1e-12)


@given(EXPOSURES, st.integers(1, 50))
def test_gini_does_not_depend_on_order_or_on_the_number_of_users(counts, times):
    plain, other = torch.tensor(counts), times * torch.tensor(counts[::-1])
    assert exposure.gini(plain) == pytest.approx(exposure.gini(other), abs=1e-12)
    assert 0 <= exposure.gini(plain) + 1e-12 <= 1


@given(EXPOSURES)
def test_items_that_are_never_shown_raise_gini_and_lower_coverage(counts):
    shown, padded = torch.tensor([1, *counts]), torch.tensor([1, *counts, 0])
    assert exposure.gini(padded) > exposure.gini(shown)
    assert exposure.coverage(padded) < exposure.coverage(shown)


@pytest.mark.parametrize(
    ("slate", "expected"),
    [
        ([1], 2.0),  # a quarter of the users
        ([1, 2], 2.5),
        ([0], 3.0),  # unseen in training: as if one of 8 users
        ([3], 0.0),  # more events than users: met by all of them
        ([], 0.0),
    ],
)
def test_novelty_is_the_mean_self_information_in_bits(slate, expected):
    traits = describe_items(
        torch.zeros(4, 2),
        labels_of_padded(torch.zeros(4, 1, dtype=torch.int64)),
        torch.tensor([0, 2, 1, 20]),
        num_train_users=8,
        num_categories=1,
    )
    slates = match_slates(pad([slate, [1, 2, 3]]), torch.tensor([[0], [0]]), traits, k=3)
    novelty = exposure.novelty(slates).tolist()
    assert novelty == [expected, pytest.approx(5 / 3)]
    assert max(novelty) <= math.log2(8)


@pytest.mark.parametrize(
    ("counts", "effective", "evenness"),
    [
        ([3, 3, 3, 3], 1.0, 1.0),
        ([0, 0, 0, 5], 0.25, 0.0),
        ([0, 0, 1, 1], 0.5, 0.5),
        ([0, 0], 0.0, 0.0),
        ([7], 1.0, 0.0),
    ],
)
def test_entropy_of_exposure_by_hand(counts, effective, evenness):
    assert exposure.distributional_coverage(torch.tensor(counts)) == pytest.approx(effective)
    assert exposure.exposure_entropy(torch.tensor(counts)) == pytest.approx(evenness)


@given(EXPOSURES)
def test_the_effective_share_is_no_more_than_coverage(counts):
    shown = torch.tensor(counts)
    assert exposure.distributional_coverage(shown) <= exposure.coverage(shown) + 1e-12


@pytest.mark.parametrize(
    ("counts", "num_users", "expected"),
    [
        ([2, 2, 0, 0], 2, 0.0),  # the same slate twice
        ([1, 1, 1, 1], 2, 1.0),
        ([2, 1, 1, 0], 2, 0.5),
        ([1, 1, 0, 0], 1, 0.0),
    ],
)
def test_personalisation_by_hand(counts, num_users, expected):
    assert exposure.personalisation(torch.tensor(counts), num_users, k=2) == expected


def test_groups_of_popularity_by_hand():
    traits = describe_items(
        torch.zeros(6, 2),
        labels_of_padded(torch.zeros(6, 1, dtype=torch.int64)),
        torch.tensor([0, 50, 20, 10, 10, 10]),
        num_train_users=100,
        num_categories=1,
    )
    # 50, then 50 + 20 + 10 of 100; the first of equals goes first
    assert traits.popularity_group_V.tolist() == [2, 0, 1, 1, 2, 2]
    assert traits.popularity_rank_V.tolist() == [7, 1, 2, 3, 3, 3]
    assert traits.popularity_order_V.tolist() == [5, 0, 1, 2, 3, 4]
    slates = match_slates(pad([[1, 2, 4, 0], [0, 5]]), torch.tensor([[4], [1]]), traits, k=4)
    assert exposure.tail_share(slates).tolist() == [0.5, 1.0]
    assert exposure.popularity(slates).tolist() == [20.0, 5.0]
    assert exposure.unexpectedness(slates).tolist() == [0.25, 0.5]
    assert exposure.user_coverage(slates).tolist() == [1.0, 1.0]
    assert exposure.full_slates(slates).tolist() == [1.0, 0.0]
    assert exposure.serendipity(slates).tolist() == [0.0, 0.0]  # ranked third, as it is popular
    shifted = match_slates(pad([[4], [0]]), torch.tensor([[4], [0]]), traits, k=1)
    assert exposure.serendipity(shifted).tolist() == pytest.approx([2 / 6, 1.0])


def test_attention_falls_with_the_rank_as_in_ndcg():
    assert exposure.discounts(3).tolist() == pytest.approx([1, 1 / math.log2(3), 0.5])


def test_rare_items_at_the_end_of_slates_even_out_exposure_more_than_attention():
    world = random_world(5, num_users=30)
    common = [[0, 1, 2, 3, 4, 5 + user % 25] for user in range(30)]
    found = finish(tally_of(dataclasses.replace(world, slates=common), k=6))
    turned = [slate[::-1] for slate in common]
    other = finish(tally_of(dataclasses.replace(world, slates=turned), k=6))
    assert found["gini_at_6"] == other["gini_at_6"]
    assert found["attention_gini_at_6"] > other["attention_gini_at_6"]
    assert found["attention_coverage_at_6"] < other["attention_coverage_at_6"]


@given(st.integers(0, 10_000))
def test_with_one_position_attention_is_exposure(seed):
    found = finish_scorecard(scorecard_tally(with_background(random_world(seed), seed), k=1))
    assert found["attention_gini_at_1"] == pytest.approx(found["gini_at_1"], abs=1e-12)
    assert found["attention_coverage_at_1"] == pytest.approx(
        found["distributional_coverage_at_1"], abs=1e-12
    )
