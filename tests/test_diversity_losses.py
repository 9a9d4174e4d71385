import math
from dataclasses import fields
from itertools import product

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from recdiv_core.items.labels import labels_of_padded
from recdiv_core.losses.diversity import (
    OVER_ALL,
    REGULARISERS,
    calibration,
    category_coverage,
    category_entropy,
    distil,
    dpp,
    ild,
    penalty,
    user_adaptive,
)
from recdiv_core.losses.soft_topk import soft_topk, standardise
from tests.oracles import (
    categories_of_slate,
    divergence_from_history,
    evenness_of_values,
    ild_of_slate,
    log_det_by_dimension,
)
from tests.slate_worlds import (
    NUM_CANDIDATES,
    NUM_CATEGORIES,
    NUM_ITEMS,
    K,
    descend,
    hard_membership,
    hard_slates,
    lists_of,
    random_slates,
    replaced,
    shop_history,
    shop_traits,
)

each_regulariser = pytest.mark.parametrize("name", REGULARISERS)


@each_regulariser
@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 12),
    spread=st.sampled_from([0.0, 0.3, 1.0]),
    softness=st.sampled_from([0.0, 0.5, 1.0]),
    turned=st.booleans(),
)
def test_a_penalty_lies_in_0_to_1(name, seed, k, spread, softness, turned):
    hard, _ = hard_membership(seed, k=k)
    soft = torch.from_numpy(np.random.default_rng(seed).random(hard.shape))
    membership = softness * soft + (1 - softness) * hard
    slates = random_slates(seed, membership=membership, k=k, spread=spread)
    signs = torch.arange(NUM_ITEMS)[:, None] % 2 * -2.0 * turned + 1
    opposed = replaced(slates, embeddings_VD=slates.traits.embeddings_VD * signs)
    values = REGULARISERS[name](opposed)
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
    assert ild(slates).tolist() == pytest.approx(expected)


def test_ild_of_soft_slates_is_the_mean_cosine_of_pairs_by_their_mass():
    slates = random_slates(16)
    vectors = slates.traits.embeddings_VD[slates.candidates_BM]
    mass = slates.membership_BM[:, :, None] * slates.membership_BM[:, None, :]
    mass = mass * (1 - torch.eye(NUM_CANDIDATES))
    cosines = vectors @ vectors.transpose(1, 2)
    expected = (mass * cosines).sum((1, 2)) / mass.sum((1, 2))
    torch.testing.assert_close(ild(slates), expected)


@pytest.mark.parametrize("seed", range(8))
def test_category_entropy_of_hard_slates_is_1_minus_the_diversity_index(seed):
    membership, places = hard_membership(seed)
    slates = random_slates(seed, membership=membership)
    labels = lists_of(slates.traits.categories)
    expected = [
        1 - categories_of_slate(slate, labels, NUM_CATEGORIES, K)["diversity_index"]
        for slate in hard_slates(slates, places)
    ]
    assert category_entropy(slates).tolist() == pytest.approx(expected, abs=1e-12)


@each_regulariser
def test_a_penalty_passes_gradcheck(name):
    slates, few = random_slates(1), 7  # candidates
    slates = replaced(
        slates, candidates_BM=slates.candidates_BM[:, :few], taught_BM=slates.taught_BM[:, :few]
    )
    scores = torch.from_numpy(np.random.default_rng(1).normal(size=(3, few)))

    def of_scores(values):
        return REGULARISERS[name](replaced(slates, membership_BM=soft_topk(values, K, 0.2)))

    assert torch.autograd.gradcheck(of_scores, scores.requires_grad_(), eps=1e-4)


@each_regulariser
def test_gradients_reach_the_scores_alone(name):
    slates = random_slates(2)
    membership = slates.membership_BM.clone().requires_grad_()
    constants = {
        "embeddings_VD": slates.traits.embeddings_VD.clone().requires_grad_(),
        "exposure_V": slates.exposure_V.clone().requires_grad_(),
        "history_BG": slates.history_BG.clone().requires_grad_(),
    }
    REGULARISERS[name](replaced(slates, membership_BM=membership, **constants)).sum().backward()
    assert membership.grad.any()
    assert all(constant.grad is None for constant in constants.values())


@each_regulariser
def test_a_penalty_does_not_depend_on_the_order_of_candidates(name):
    slates = random_slates(3)
    order = torch.randperm(NUM_CANDIDATES, generator=torch.Generator().manual_seed(0))
    shuffled = replaced(
        slates,
        membership_BM=slates.membership_BM[:, order],
        candidates_BM=slates.candidates_BM[:, order],
        taught_BM=slates.taught_BM[:, order],
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


@each_regulariser
def test_a_single_candidate_has_a_finite_penalty_in_0_to_1(name):
    membership = torch.ones(3, 1, dtype=torch.float64, requires_grad=True)
    slates = random_slates(5, membership=membership)
    values = REGULARISERS[name](replaced(slates, candidates_BM=slates.candidates_BM[:, :1]))
    values.sum().backward()
    assert values.min() >= 0
    assert values.max() <= 1
    assert membership.grad.isfinite().all()


@each_regulariser
def test_memberships_of_0_and_1_have_finite_gradients(name):
    membership, _ = hard_membership(5)
    slates = random_slates(5, membership=membership.float().requires_grad_(), dtype=torch.float32)
    REGULARISERS[name](slates).sum().backward()
    assert slates.membership_BM.grad.isfinite().all()


def test_ild_of_equal_vectors_is_1():
    values = ild(random_slates(6, spread=0.0))
    torch.testing.assert_close(values, torch.ones(3).double())


def test_ild_of_zero_vectors_is_0():
    slates = random_slates(6)
    flat = replaced(slates, embeddings_VD=torch.zeros_like(slates.traits.embeddings_VD))
    assert ild(flat).tolist() == [0, 0, 0]


def test_ild_of_slates_of_one_item_is_0():
    membership, _ = hard_membership(7, k=1)
    assert ild(random_slates(7, membership=membership, k=1)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("k", "num_categories"), [(1, 5), (4, 1)])
def test_category_entropy_is_0_where_one_category_is_all_there_can_be(k, num_categories):
    slates = random_slates(8, k=k)
    labels = torch.zeros(NUM_ITEMS, 1, dtype=torch.int64)
    single = replaced(slates, categories=labels_of_padded(labels), num_categories=num_categories)
    assert category_entropy(single).tolist() == [0, 0, 0]


def test_category_entropy_is_1_for_one_category_and_0_for_an_even_spread():
    slates = random_slates(9)
    flat = replaced(slates, membership_BM=torch.full((3, NUM_CANDIDATES), K / NUM_CANDIDATES))
    one = replaced(flat, categories=labels_of_padded(torch.zeros(NUM_ITEMS, 1, dtype=torch.int64)))
    labels = torch.zeros(NUM_ITEMS, 1, dtype=torch.int64)
    labels[slates.candidates_BM[0], 0] = torch.arange(NUM_CANDIDATES) % 4
    even = replaced(flat, categories=labels_of_padded(labels), num_categories=10)
    assert category_entropy(one).tolist() == pytest.approx([1, 1, 1])
    assert category_entropy(even)[0].item() == pytest.approx(0, abs=1e-6)


def test_the_mix_is_an_average_by_weight():
    slates = random_slates(13)
    mixed = penalty(slates, {"ild": 3.0, "category_entropy": 1.0, "exposure": 0.0})
    expected = 0.75 * ild(slates) + 0.25 * category_entropy(slates)
    torch.testing.assert_close(mixed, expected)


@pytest.mark.parametrize("mix", [{}, {"ild": 0.0}, {"novelty": 1.0}, {"ild": 1.0, "spread": 0.0}])
def test_a_mix_without_weight_or_with_an_unknown_name_is_refused(mix):
    with pytest.raises(ValueError, match="allowed names are ild, category_entropy, exposure, "):
        penalty(random_slates(14), mix)


def test_the_limit_of_category_entropy_is_the_smaller_of_k_and_categories():
    slates = random_slates(15, membership=torch.full((3, NUM_CANDIDATES), K / NUM_CANDIDATES))
    labels = torch.zeros(NUM_ITEMS, 1, dtype=torch.int64)
    labels[slates.candidates_BM[0, : NUM_CANDIDATES // 2], 0] = 1
    value = category_entropy(replaced(slates, categories=labels_of_padded(labels)))[0]
    assert value.item() == pytest.approx(1 - math.log(2) / math.log(NUM_CATEGORIES), abs=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_category_coverage_of_hard_slates_is_1_minus_the_metric(seed):
    membership, places = hard_membership(seed)
    slates = random_slates(seed, membership=membership)
    labels = lists_of(slates.traits.categories)
    expected = [
        1 - categories_of_slate(slate, labels, NUM_CATEGORIES, K)["category_coverage"]
        for slate in hard_slates(slates, places)
    ]
    assert category_coverage(slates).tolist() == pytest.approx(expected, abs=1e-5)


def test_category_coverage_is_the_mean_over_slates_that_hold_each_item_by_chance():
    slates = random_slates(20)
    few = replaced(
        slates,
        membership_BM=slates.membership_BM[:, :6],
        candidates_BM=slates.candidates_BM[:, :6],
        num_categories=8,  # the limit is k = 4, out of reach of 3 labels: nothing is clipped
    )
    expected = [0.0] * 3
    for user, held in product(range(3), product([0, 1], repeat=6)):
        chance = math.prod(
            q if is_held else 1 - q
            for q, is_held in zip(few.membership_BM[user].tolist(), held, strict=True)
        )
        items = few.candidates_BM[user][torch.tensor(held) == 1]
        covered = set(few.traits.categories[items].flatten().tolist()) - {-1}
        expected[user] += chance * (1 - len(covered) / K)
    assert category_coverage(few).tolist() == pytest.approx(expected, abs=1e-5)


def test_category_coverage_does_not_press_once_a_category_is_there():
    membership = torch.tensor([[1.0, 0.5, 0.5]]).double().requires_grad_()
    slates = replaced(
        random_slates(21),
        membership_BM=membership,
        candidates_BM=torch.arange(3)[None],
        categories=labels_of_padded(torch.tensor([[0], [0], [1]]).repeat(10, 1)),
    )
    category_coverage(slates).sum().backward()
    assert membership.grad[0, 1].item() == pytest.approx(0, abs=1e-5)
    assert membership.grad[0, 2].item() == pytest.approx(-1 / NUM_CATEGORIES)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dim", [3, 40])
def test_dpp_over_pairs_of_items_is_dpp_over_dimensions(seed, dim):
    slates = random_slates(seed)
    vectors = np.random.default_rng(seed).normal(size=(NUM_ITEMS, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[::7] = 0
    wide = replaced(slates, embeddings_VD=torch.from_numpy(vectors))
    expected = []
    for q, items in zip(slates.membership_BM.numpy(), slates.candidates_BM.numpy(), strict=True):
        bound = np.log1p(q * (vectors[items] ** 2).sum(1)).sum()
        expected.append(1 - log_det_by_dimension(q, vectors[items]) / bound)
    assert dpp(wide).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_dpp_of_hard_slates_is_their_volume_as_a_share_of_k_log_2(seed):
    membership, places = hard_membership(seed)
    slates = random_slates(seed, membership=membership)
    vectors = np.random.default_rng(seed).normal(size=(NUM_ITEMS, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = [
        1 - log_det_by_dimension(np.ones(K), vectors[slate]) / (K * math.log(2))
        for slate in hard_slates(slates, places)
    ]
    values = dpp(replaced(slates, embeddings_VD=torch.from_numpy(vectors)))
    assert values.tolist() == pytest.approx(expected)


def test_dpp_is_the_mean_volume_of_slates_that_hold_each_item_by_chance():
    slates = random_slates(22)
    q = slates.membership_BM[0, :6]
    vectors = slates.traits.embeddings_VD[slates.candidates_BM[0, :6]]
    mean = 0.0
    for held in product([False, True], repeat=6):
        chance = torch.where(torch.tensor(held), q, 1 - q).prod()
        chosen = vectors[torch.tensor(held)]
        mean += chance * torch.linalg.det(torch.eye(3).double() + chosen.T @ chosen)
    few = replaced(
        slates, membership_BM=q[None], candidates_BM=slates.candidates_BM[:1, :6], slate_size=2
    )
    bound = torch.log1p(q * vectors.square().sum(1)).sum()
    assert dpp(few).item() == pytest.approx((1 - mean.log() / bound).item())


def test_dpp_of_orthogonal_vectors_is_0_at_any_softness_and_of_equal_ones_known():
    hard, _ = hard_membership(8)
    soft = torch.full_like(hard, K / NUM_CANDIDATES)
    orthogonal = replaced(random_slates(23), embeddings_VD=torch.eye(NUM_ITEMS).double())
    for membership in (hard, soft):
        values = dpp(replaced(orthogonal, membership_BM=membership))
        torch.testing.assert_close(values, torch.zeros(3).double(), rtol=0, atol=1e-9)
    equal = dpp(random_slates(23, membership=hard, spread=0.0))
    assert equal.tolist() == pytest.approx([1 - math.log2(1 + K) / K] * 3)


def test_vectors_of_zeros_are_no_similarity():
    slates = random_slates(24)
    flat = replaced(slates, embeddings_VD=torch.zeros_like(slates.traits.embeddings_VD))
    assert dpp(flat).tolist() == pytest.approx([0, 0, 0], abs=1e-9)


def test_slates_of_one_item_are_as_diverse_as_can_be():
    membership, _ = hard_membership(7, k=1)
    slates = random_slates(7, membership=membership, k=1)
    assert dpp(slates).tolist() == pytest.approx([0, 0, 0], abs=1e-9)


def test_what_lies_deeper_than_the_shortlist_hardly_counts():
    rng = np.random.default_rng(25)
    vectors = rng.normal(size=(300, 20)) + 1.0
    traits = shop_traits(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), 100)
    scores = standardise(torch.from_numpy(rng.normal(size=(3, 200))).float())
    candidates = torch.from_numpy(np.stack([rng.permutation(300)[:200] for _ in range(3)]))
    slates = replaced(
        random_slates(25),
        membership_BM=soft_topk(scores, 10, 0.1),
        candidates_BM=candidates,
        slate_size=10,
        **{field.name: getattr(traits, field.name) for field in fields(traits)},
    )
    whole = replaced(slates, slate_size=50)  # whose shortlist holds all 200
    torch.testing.assert_close(dpp(slates), dpp(whole), rtol=0, atol=5e-3)


@pytest.mark.parametrize("seed", range(8))
def test_calibration_of_hard_slates_is_their_divergence_from_the_history(seed):
    membership, places = hard_membership(seed)
    slates = random_slates(seed, membership=membership)
    labels = lists_of(slates.traits.categories)
    expected = [
        divergence_from_history(slate, labels, history)
        for slate, history in zip(
            hard_slates(slates, places), slates.history_BG.tolist(), strict=True
        )
    ]
    assert calibration(slates).tolist() == pytest.approx(expected)


def test_calibration_is_0_in_proportion_1_when_all_is_missing_and_0_without_a_history():
    slates = replaced(
        random_slates(28),
        membership_BM=torch.ones(3, 4).double(),
        candidates_BM=torch.arange(4).expand(3, -1),
        categories=labels_of_padded(torch.tensor([[0], [0], [0], [1]] * 8)[:NUM_ITEMS]),
        history_BG=torch.tensor([[0.75, 0.25, 0], [0, 0, 1], [0, 0, 0]]).double(),
    )
    assert calibration(slates).tolist() == pytest.approx([0, 1, 0], abs=1e-12)


def test_user_adaptive_is_category_entropy_by_the_breadth_of_the_history():
    tastes = [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]]
    slates = replaced(random_slates(29), history_BG=torch.tensor(tastes).double())
    breadths = torch.tensor([0, 1, math.log(2) / math.log(3)]).double()
    torch.testing.assert_close(user_adaptive(slates), breadths * category_entropy(slates))


def test_user_adaptive_without_a_history_is_category_entropy():
    slates = replaced(random_slates(30), history_BG=torch.zeros(3, NUM_CATEGORIES).double())
    torch.testing.assert_close(user_adaptive(slates), category_entropy(slates))


@pytest.mark.parametrize("attribute", ["brand", "colour", "price"])
@pytest.mark.parametrize("seed", range(4))
def test_attribute_entropy_of_hard_slates_is_1_minus_that_of_the_known_values(attribute, seed):
    membership, places = hard_membership(seed)
    slates = random_slates(seed, membership=membership)
    index = slates.traits.attributes[attribute]
    expected = [
        1 - evenness_of_values(index[slate].tolist(), int(index.max()) + 1, K)
        for slate in hard_slates(slates, places)
    ]
    assert REGULARISERS[f"{attribute}_entropy"](slates).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("values", "expected"), [(-1, 0.0), (0, 0.0)])
def test_an_attribute_of_fewer_than_two_values_gives_0(values, expected):
    slates = replaced(random_slates(31), attributes={"brand": torch.full((NUM_ITEMS,), values)})
    assert REGULARISERS["brand_entropy"](slates).tolist() == [expected] * 3


def test_a_slate_without_a_known_value_gives_1_and_an_unknown_item_counts_neither_way():
    brands = torch.full((NUM_ITEMS,), -1)
    brands[:2] = torch.tensor([0, 1])
    slates = replaced(
        random_slates(32),
        membership_BM=torch.ones(2, 3).double(),
        candidates_BM=torch.tensor([[7, 8, 9], [0, 1, 9]]),
        attributes={"brand": brands},
    )
    assert REGULARISERS["brand_entropy"](slates).tolist() == pytest.approx([1, 0])


def test_an_attribute_that_the_catalogue_does_not_have_is_named():
    slates = random_slates(33)
    brand = {"brand": slates.traits.attributes["brand"]}
    with pytest.raises(ValueError, match=r"colour_entropy.*no attribute 'colour'; it has brand"):
        REGULARISERS["colour_entropy"](replaced(slates, attributes=brand))
    with pytest.raises(ValueError, match="it has none"):
        REGULARISERS["brand_entropy"](replaced(slates, attributes={}))


def shop_metric(name, slates, vectors):
    """Return the mean of a hard metric over slates of the shop, larger = more diverse."""
    traits = shop_traits(vectors, 1)
    labels = lists_of(traits.categories)
    history = shop_history(len(slates)).tolist()
    values = {name: index.tolist() for name, index in traits.attributes.items()}
    users = list(zip(slates, history, strict=True))
    per_user = {
        "ild": lambda slate, _: ild_of_slate(slate, vectors),
        "dpp": lambda slate, _: log_det_by_dimension(np.ones(K), vectors[slate]) / math.log(2) / K,
        "category_entropy": lambda slate, _: categories_of_slate(slate, labels, 8, K)[
            "diversity_index"
        ],
        "category_coverage": lambda slate, _: categories_of_slate(slate, labels, 8, K)[
            "category_coverage"
        ],
        "calibration": lambda slate, taste: -divergence_from_history(slate, labels, taste),
        "brand_entropy": lambda slate, _: evenness_of_values(
            [values["brand"][i] for i in slate], 4, K
        ),
        "colour_entropy": lambda slate, _: evenness_of_values(
            [values["colour"][i] for i in slate], 4, K
        ),
        "price_entropy": lambda slate, _: evenness_of_values(
            [values["price"][i] for i in slate], 2, K
        ),
    }[name]
    return np.mean([per_user(slate, taste) for slate, taste in users])


@pytest.mark.parametrize(
    ("name", "gain"),
    [
        ("ild", 0.2),
        ("dpp", 0.1),
        ("category_entropy", 0.1),
        ("category_coverage", 0.1),
        ("calibration", 0.2),
        ("brand_entropy", 0.1),
        ("colour_entropy", 0.1),
        ("price_entropy", 0.1),
    ],
)
def test_training_on_a_regulariser_raises_the_hard_metric_it_stands_for(name, gain):
    before, after, vectors = descend(name)
    assert shop_metric(name, after, vectors) > shop_metric(name, before, vectors) + gain


def test_training_on_user_adaptive_widens_the_slates_of_users_of_broad_taste_alone():
    before, after, vectors = descend("user_adaptive")
    assert after[::2] == before[::2]
    narrow = shop_metric("category_entropy", before[1::2], vectors)
    assert shop_metric("category_entropy", after[1::2], vectors) > narrow + 0.1


def test_what_looks_at_all_slates_is_what_stands_in_aggregate():
    defined = {
        name for name, regulariser in REGULARISERS.items() if "aggregate" in regulariser.__module__
    }
    assert defined == OVER_ALL


@pytest.mark.parametrize("seed", range(4))
def test_distil_of_hard_slates_is_the_share_that_the_teacher_would_not_show(seed):
    membership, places = hard_membership(seed)
    slates = random_slates(seed, membership=membership)
    expected = [
        1 - sum(bool(taught[place]) for place in own) / K
        for taught, own in zip(slates.taught_BM, places, strict=True)
    ]
    assert distil(slates).tolist() == pytest.approx(expected)
    assert distil(replaced(slates, taught_BM=membership > 0)).tolist() == [0.0] * 3


def test_distil_of_a_user_with_fewer_items_than_places_can_be_0():
    slates = random_slates(0)
    two = torch.zeros_like(slates.membership_BM)
    two[:, :2] = 1
    left = replaced(slates, membership_BM=two, taught_BM=two > 0)
    assert distil(left).tolist() == [0.0] * 3


def test_distil_of_a_user_with_nothing_left_is_1():
    slates = random_slates(0)
    nothing = torch.zeros_like(slates.membership_BM)
    left = replaced(slates, membership_BM=nothing, taught_BM=nothing > 0)
    assert distil(left).tolist() == [1.0] * 3
