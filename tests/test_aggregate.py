import math
from itertools import chain

import pytest
import torch

from recdiv_core.losses.aggregate import (
    coverage,
    exposure,
    exposure_share,
    mutual_information,
    popularity_power,
)
from tests.oracles import divergence_from_popularity_power, items_shared
from tests.slate_worlds import (
    NUM_CANDIDATES,
    NUM_ITEMS,
    K,
    descend,
    hard_membership,
    hard_slates,
    random_slates,
    replaced,
    shop_traits,
)


def test_exposure_costs_more_for_items_that_hold_more():
    slates = random_slates(10)
    rising = torch.arange(1.0, NUM_ITEMS + 1).double()
    candidates = torch.arange(NUM_CANDIDATES).expand(3, -1)
    membership = torch.zeros(3, NUM_CANDIDATES).double()
    membership[range(3), [0, 5, 11]] = 1.0
    costs = exposure(
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
    values = exposure(replaced(slates, exposure_V=equal, membership_BM=membership))
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
    values = exposure(replaced(slates, exposure_V=places, membership_BM=membership))
    assert values.tolist() == pytest.approx(taken.double().tolist())


def test_coverage_costs_nothing_for_an_item_in_no_slate_and_1_for_one_in_many():
    slates = random_slates(16)
    share = torch.full((NUM_ITEMS,), 1.0).double()
    never, seldom, often = slates.candidates_BM[0, :3].tolist()
    share[[never, seldom, often]] = torch.tensor([0.0, 3.0, 60.0]).double()
    share[share == 1.0] = 37.0 / (NUM_ITEMS - 3)
    membership = torch.eye(3, NUM_CANDIDATES).double()
    values = coverage(
        replaced(
            slates,
            exposure_V=share / share.sum(),
            candidates_BM=slates.candidates_BM[:1].expand(3, -1),
            membership_BM=membership,
        )
    )
    assert values.tolist() == pytest.approx([0, 1 - math.exp(-1), 1], abs=1e-6)


def test_coverage_is_the_slope_of_the_share_of_the_catalogue_that_is_hardly_shown():
    slates = random_slates(17)
    num_slates = (slates.exposure_V * slates.num_places).requires_grad_()
    hardly_shown = (-num_slates / 3).exp().mean()
    (slope_V,) = torch.autograd.grad(hardly_shown, num_slates)
    cost = 1 + 3 * NUM_ITEMS * slope_V[slates.candidates_BM]
    expected = (slates.membership_BM * cost).sum(1) / K
    torch.testing.assert_close(coverage(slates), expected)


def test_shares_of_exposure_are_places_over_their_sum():
    assert exposure_share(torch.tensor([0.0, 10.0, 30.0])).tolist() == [0, 0.25, 0.75]


def test_before_any_slate_all_items_hold_an_equal_share():
    assert exposure_share(torch.zeros(4)).tolist() == [0.25] * 4


@pytest.mark.parametrize("name", ["exposure", "coverage"])
def test_training_on_exposure_or_coverage_raises_the_coverage_of_the_hard_slates(name):
    before, after, _ = descend(name)
    assert len(set(chain(*after))) > 1.2 * len(set(chain(*before)))


@pytest.mark.parametrize("seed", range(4))
def test_mutual_information_of_hard_slates_is_their_divergence_from_the_mean_slate(seed):
    membership, places = hard_membership(seed)
    slates = random_slates(seed, membership=membership)
    common = slates.exposure_V.tolist()
    floor = 1e-3 / NUM_ITEMS
    divergences = [
        sum(math.log(1 / K / max(common[item], floor)) / K for item in slate)
        for slate in hard_slates(slates, places)
    ]
    expected = [min(1, max(0, 1 - value / math.log(NUM_ITEMS))) for value in divergences]
    assert mutual_information(slates).tolist() == pytest.approx(expected)


def test_mutual_information_is_1_for_the_slate_that_everybody_is_shown():
    slates = random_slates(18)
    same = slates.candidates_BM[:1].expand(3, -1)
    common = torch.zeros(NUM_ITEMS).double()
    common[same[0]] = slates.membership_BM[0] / K
    values = mutual_information(
        replaced(
            slates,
            membership_BM=slates.membership_BM[:1].expand(3, -1),
            candidates_BM=same,
            exposure_V=common,
        )
    )
    assert values.tolist() == pytest.approx([1, 1, 1], abs=1e-3)


def test_its_gradient_is_that_of_the_mutual_information_of_user_and_item():
    membership = torch.rand(3, NUM_ITEMS, generator=torch.Generator().manual_seed(0)).double()
    membership = (membership / membership.sum(1, keepdim=True)).requires_grad_()
    common = membership.mean(0)
    own_entropy = -(membership * membership.log()).sum(1).mean()
    information = -(common * common.log()).sum() - own_entropy
    (whole,) = torch.autograd.grad(information, membership)
    slates = replaced(
        random_slates(19),
        membership_BM=membership,
        candidates_BM=torch.arange(NUM_ITEMS).expand(3, -1),
        exposure_V=common.detach(),
    )
    (ours,) = torch.autograd.grad(mutual_information(slates).mean(), membership)
    # a constant over a slate moves no place from one item to another
    along = [gradient - gradient.mean(1, keepdim=True) for gradient in (whole, ours)]
    torch.testing.assert_close(along[1] * -math.log(NUM_ITEMS), along[0])


def test_popularity_power_is_the_slope_of_the_divergence_from_the_target():
    slates = random_slates(20)
    floored = (slates.exposure_V + 0.01).requires_grad_()
    popularity = slates.traits.popularity_share_V.double()
    target = popularity.sqrt() / popularity.sqrt().sum()
    (slope_V,) = torch.autograd.grad((floored * (floored / target).log()).sum(), floored)
    costs = popularity_power(
        replaced(
            slates,
            exposure_V=floored.detach(),
            membership_BM=torch.eye(3, NUM_CANDIDATES).double(),
        )
    )
    slopes = slope_V[slates.candidates_BM[range(3), range(3)]]
    ratio = (costs[1] - costs[0]) / (slopes[1] - slopes[0])
    assert ratio > 0
    expected = ratio * (slopes[2] - slopes[0])  # popularity is float32
    torch.testing.assert_close(costs[2] - costs[0], expected, rtol=1e-4, atol=1e-5)


def test_popularity_power_where_all_are_as_popular_is_exposure():
    slates = random_slates(21)
    flat = replaced(slates, num_events_V=torch.full((NUM_ITEMS,), 7))
    torch.testing.assert_close(popularity_power(flat), exposure(flat))


def test_popularity_power_gives_no_order_between_items_that_hold_their_due():
    slates = random_slates(22)
    popularity = slates.traits.popularity_share_V.double()
    due = popularity.sqrt() / popularity.sqrt().sum()
    values = popularity_power(replaced(slates, exposure_V=due))
    torch.testing.assert_close(values, values[:1].expand(3))


def test_popularity_power_of_items_that_nobody_bought_is_finite():
    num_events = torch.zeros(NUM_ITEMS, dtype=torch.int64)
    num_events[0] = 1_000_000_000
    values = popularity_power(replaced(random_slates(23), num_events_V=num_events))
    assert values.min() >= 0
    assert values.max() <= 1


def test_training_on_mutual_information_makes_the_hard_slates_of_users_differ():
    before, after, _ = descend("mutual_information")
    assert len(set(chain(*after))) > 1.2 * len(set(chain(*before)))
    assert items_shared(after) < 0.8 * items_shared(before)


def test_training_on_popularity_power_brings_hard_exposure_nearer_to_its_target():
    before, after, vectors = descend("popularity_power", num_steps=160)
    popularity = shop_traits(vectors, 1).popularity_share_V.tolist()
    divergences = [
        divergence_from_popularity_power(slates, popularity, 0.5) for slates in (before, after)
    ]
    assert divergences[1] < 0.7 * divergences[0]
