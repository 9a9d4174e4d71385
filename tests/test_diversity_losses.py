import math
from itertools import chain

import numpy as np
import pytest
import torch

from recdiv_core.losses.aggregate import exposure_share
from recdiv_core.losses.diversity import REGULARISERS, penalty
from recdiv_core.losses.soft_topk import soft_topk
from tests.oracles import categories_of_slate, ild_of_slate
from tests.slate_worlds import (
    NUM_CANDIDATES,
    NUM_CATEGORIES,
    NUM_ITEMS,
    K,
    descend,
    hard_membership,
    hard_slates,
    random_slates,
    replaced,
)

each_regulariser = pytest.mark.parametrize("name", REGULARISERS)


@pytest.mark.parametrize("seed", range(8))
@each_regulariser
def test_a_penalty_lies_in_0_to_1(name, seed):
    values = REGULARISERS[name](random_slates(seed))
    assert values.shape == (3,)
    assert values.min() >= 0
    assert values.max() <= 1


@pytest.mark.parametrize("seed", range(8))
def test_ild_of_hard_slates_is_1_minus_the_metric(seed):
    membership, places = hard_membership(seed)
    slates = random_slates(seed, membership=membership)
    expected = [
        1 - ild_of_slate(slate, slates.traits.embeddings_VD.numpy())
        for slate in hard_slates(slates, places)
    ]
    assert REGULARISERS["ild"](slates).tolist() == pytest.approx(expected)


def test_ild_of_soft_slates_is_the_mean_cosine_of_pairs_by_their_mass():
    slates = random_slates(16)
    vectors = slates.traits.embeddings_VD[slates.candidates_BM]
    mass = slates.membership_BM[:, :, None] * slates.membership_BM[:, None, :]
    mass = mass * (1 - torch.eye(NUM_CANDIDATES))
    cosines = vectors @ vectors.transpose(1, 2)
    expected = (mass * cosines).sum((1, 2)) / mass.sum((1, 2))
    torch.testing.assert_close(REGULARISERS["ild"](slates), expected)


@pytest.mark.parametrize("seed", range(8))
def test_category_entropy_of_hard_slates_is_1_minus_the_diversity_index(seed):
    membership, places = hard_membership(seed)
    slates = random_slates(seed, membership=membership)
    labels = [
        [label for label in row if label >= 0] for row in slates.traits.categories_VL.tolist()
    ]
    expected = [
        1 - categories_of_slate(slate, labels, NUM_CATEGORIES, K)["diversity_index"]
        for slate in hard_slates(slates, places)
    ]
    assert REGULARISERS["category_entropy"](slates).tolist() == pytest.approx(expected, abs=1e-12)


@each_regulariser
def test_a_penalty_passes_gradcheck(name):
    slates = random_slates(1)
    scores = torch.from_numpy(np.random.default_rng(1).normal(size=(3, NUM_CANDIDATES)))

    def of_scores(values):
        return REGULARISERS[name](replaced(slates, membership_BM=soft_topk(values, K, 0.2)))

    assert torch.autograd.gradcheck(of_scores, scores.requires_grad_(), eps=1e-4)


@each_regulariser
def test_gradients_reach_the_scores_alone(name):
    slates = random_slates(2)
    membership = slates.membership_BM.clone().requires_grad_()
    vectors = slates.traits.embeddings_VD.clone().requires_grad_()
    exposure = slates.exposure_V.clone().requires_grad_()
    changed = replaced(slates, membership_BM=membership, embeddings_VD=vectors, exposure_V=exposure)
    REGULARISERS[name](changed).sum().backward()
    assert membership.grad.any()
    assert vectors.grad is None
    assert exposure.grad is None


@each_regulariser
def test_a_penalty_does_not_depend_on_the_order_of_candidates(name):
    slates = random_slates(3)
    order = torch.randperm(NUM_CANDIDATES, generator=torch.Generator().manual_seed(0))
    shuffled = replaced(
        slates,
        membership_BM=slates.membership_BM[:, order],
        candidates_BM=slates.candidates_BM[:, order],
    )
    torch.testing.assert_close(REGULARISERS[name](shuffled), REGULARISERS[name](slates))


@each_regulariser
def test_float32_agrees_with_float64(name):
    narrow = REGULARISERS[name](random_slates(4, dtype=torch.float32))
    torch.testing.assert_close(
        narrow.double(), REGULARISERS[name](random_slates(4)), rtol=0, atol=1e-5
    )


@each_regulariser
def test_a_user_with_nothing_left_to_be_shown_has_a_finite_penalty(name):
    membership = torch.zeros(3, NUM_CANDIDATES, dtype=torch.float64, requires_grad=True)
    values = REGULARISERS[name](random_slates(5, membership=membership))
    values.sum().backward()
    assert values.isfinite().all()
    assert membership.grad.isfinite().all()


def test_ild_of_equal_vectors_is_1():
    values = REGULARISERS["ild"](random_slates(6, spread=0.0))
    torch.testing.assert_close(values, torch.ones(3).double())


def test_ild_of_zero_vectors_is_0():
    slates = random_slates(6)
    flat = replaced(slates, embeddings_VD=torch.zeros_like(slates.traits.embeddings_VD))
    assert REGULARISERS["ild"](flat).tolist() == [0, 0, 0]


def test_ild_of_slates_of_one_item_is_0():
    membership, _ = hard_membership(7, k=1)
    assert REGULARISERS["ild"](random_slates(7, membership=membership, k=1)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("k", "num_categories"), [(1, 5), (4, 1)])
def test_category_entropy_is_0_where_one_category_is_all_there_can_be(k, num_categories):
    slates = random_slates(8, k=k)
    labels = torch.zeros(NUM_ITEMS, 1, dtype=torch.int64)
    single = replaced(slates, categories_VL=labels, num_categories=num_categories)
    assert REGULARISERS["category_entropy"](single).tolist() == [0, 0, 0]


def test_category_entropy_is_1_for_one_category_and_0_for_an_even_spread():
    slates = random_slates(9)
    flat = replaced(slates, membership_BM=torch.full((3, NUM_CANDIDATES), K / NUM_CANDIDATES))
    one = replaced(flat, categories_VL=torch.zeros(NUM_ITEMS, 1, dtype=torch.int64))
    labels = torch.zeros(NUM_ITEMS, 1, dtype=torch.int64)
    labels[slates.candidates_BM[0], 0] = torch.arange(NUM_CANDIDATES) % 4
    even = replaced(flat, categories_VL=labels, num_categories=10)
    assert REGULARISERS["category_entropy"](one).tolist() == pytest.approx([1, 1, 1])
    assert REGULARISERS["category_entropy"](even)[0].item() == pytest.approx(0, abs=1e-6)


def test_exposure_costs_more_for_items_that_hold_more():
    slates = random_slates(10)
    rising = torch.arange(1.0, NUM_ITEMS + 1).double()
    candidates = torch.arange(NUM_CANDIDATES).expand(3, -1)
    membership = torch.zeros(3, NUM_CANDIDATES).double()
    membership[range(3), [0, 5, 11]] = 1.0
    costs = REGULARISERS["exposure"](
        replaced(
            slates,
            exposure_V=rising / rising.sum(),
            candidates_BM=candidates,
            membership_BM=membership,
        )
    ).tolist()
    assert costs == sorted(costs)
    assert costs[0] < costs[1] < costs[2]


def test_exposure_that_is_equal_gives_no_order_between_items():
    slates = random_slates(11)
    equal = torch.full((NUM_ITEMS,), 1 / NUM_ITEMS).double()
    membership = slates.membership_BM.clone().requires_grad_()
    values = REGULARISERS["exposure"](replaced(slates, exposure_V=equal, membership_BM=membership))
    values.sum().backward()
    torch.testing.assert_close(values, values[:1].expand(3))
    torch.testing.assert_close(membership.grad, torch.zeros_like(membership), rtol=0, atol=1e-12)


def test_exposure_is_1_for_the_item_that_holds_all_and_0_for_the_others():
    slates = random_slates(12)
    places = torch.zeros(NUM_ITEMS).double()
    places[slates.candidates_BM[0, 3]] = 1.0
    membership = torch.zeros(3, NUM_CANDIDATES).double()
    membership[:, 3] = 1.0
    taken = slates.candidates_BM[:, 3] == slates.candidates_BM[0, 3]
    values = REGULARISERS["exposure"](replaced(slates, exposure_V=places, membership_BM=membership))
    assert values.tolist() == pytest.approx(taken.double().tolist())


def test_the_mix_is_an_average_by_weight():
    slates = random_slates(13)
    mixed = penalty(slates, {"ild": 3.0, "category_entropy": 1.0, "exposure": 0.0})
    expected = 0.75 * REGULARISERS["ild"](slates) + 0.25 * REGULARISERS["category_entropy"](slates)
    torch.testing.assert_close(mixed, expected)


@pytest.mark.parametrize("mix", [{}, {"ild": 0.0}, {"novelty": 1.0}, {"ild": 1.0, "spread": 0.0}])
def test_a_mix_without_weight_or_with_an_unknown_name_is_refused(mix):
    with pytest.raises(ValueError, match="allowed names are ild, category_entropy, exposure, "):
        penalty(random_slates(14), mix)


def test_coverage_costs_nothing_for_an_item_in_no_slate_and_1_for_one_in_many():
    slates = random_slates(16)
    share = torch.full((NUM_ITEMS,), 1.0).double()
    never, seldom, often = slates.candidates_BM[0, :3].tolist()
    share[[never, seldom, often]] = torch.tensor([0.0, 3.0, 60.0]).double()
    share[share == 1.0] = 37.0 / (NUM_ITEMS - 3)
    membership = torch.eye(3, NUM_CANDIDATES).double()
    values = REGULARISERS["coverage"](
        replaced(
            slates,
            exposure_V=share / share.sum(),
            num_places=100.0,
            candidates_BM=slates.candidates_BM[:1].expand(3, -1),
            membership_BM=membership,
        )
    )
    assert values.tolist() == pytest.approx([0, 1 - math.exp(-1), 1], abs=1e-6)


def test_coverage_is_the_slope_of_the_share_of_the_catalogue_that_is_hardly_shown():
    slates = random_slates(17)
    num_slates = (slates.exposure_V * slates.traits.num_places).requires_grad_()
    hardly_shown = (-num_slates / 3).exp().mean()
    (slope_V,) = torch.autograd.grad(hardly_shown, num_slates)
    cost = 1 + 3 * NUM_ITEMS * slope_V[slates.candidates_BM]
    expected = (slates.membership_BM * cost).sum(1) / K
    torch.testing.assert_close(REGULARISERS["coverage"](slates), expected)


def test_shares_of_exposure_are_places_over_their_sum():
    assert exposure_share(torch.tensor([0.0, 10.0, 30.0])).tolist() == [0, 0.25, 0.75]


def test_before_any_slate_all_items_hold_an_equal_share():
    assert exposure_share(torch.zeros(4)).tolist() == [0.25] * 4


def test_training_on_ild_raises_the_ild_of_the_hard_slates():
    before, after, vectors = descend("ild")
    narrow = np.mean([ild_of_slate(slate, vectors) for slate in before])
    wide = np.mean([ild_of_slate(slate, vectors) for slate in after])
    assert wide > narrow + 0.2


def test_training_on_category_entropy_raises_the_diversity_index_of_the_hard_slates():
    before, after, _ = descend("category_entropy")
    labels = [[item % 8] for item in range(40)]
    indices = [
        np.mean([categories_of_slate(slate, labels, 8, K)["diversity_index"] for slate in slates])
        for slates in (before, after)
    ]
    assert indices[1] > indices[0] + 0.1


@pytest.mark.parametrize("name", ["exposure", "coverage"])
def test_training_on_exposure_or_coverage_raises_the_coverage_of_the_hard_slates(name):
    before, after, _ = descend(name)
    assert len(set(chain(*after))) > 1.2 * len(set(chain(*before)))


def test_the_limit_of_category_entropy_is_the_smaller_of_k_and_categories():
    slates = random_slates(15, membership=torch.full((3, NUM_CANDIDATES), K / NUM_CANDIDATES))
    labels = torch.zeros(NUM_ITEMS, 1, dtype=torch.int64)
    labels[slates.candidates_BM[0, : NUM_CANDIDATES // 2], 0] = 1
    value = REGULARISERS["category_entropy"](replaced(slates, categories_VL=labels))[0]
    assert value.item() == pytest.approx(1 - math.log(2) / math.log(NUM_CATEGORIES), abs=1e-6)
