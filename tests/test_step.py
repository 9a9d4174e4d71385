import functools
import itertools
import math

import pytest
import torch

from recdiv_core.losses.diversity import OVER_ALL, REGULARISERS, penalty
from recdiv_core.losses.relevance import RELEVANCE, softmax
from recdiv_core.slates.making import make_slates
from recdiv_core.slates.policy import SlatePolicy
from recdiv_core.training.part_losses import part_losses
from recdiv_core.training.parts import Part
from recdiv_core.training.step import fetch_sums, train_step
from recdiv_core.training.step_slates import soft_slates
from tests.step_worlds import (
    ALL,
    NUM_ITEMS,
    USERS,
    Training,
    assert_equal_weights,
    fresh_model,
    objective,
    part,
    trained,
    traits,
    warm_model,
)

SPLITS = {
    "halves": [USERS[:4], USERS[4:]],
    "uneven": [USERS[:1], USERS[1:]],
    "quarters": [USERS[:2], USERS[2:4], USERS[4:6], USERS[6:]],
    "with an empty part": [USERS, []],
    "with an empty part first": [[], USERS[:3], [], USERS[3:]],
}


WAYS = {
    "softmax": {},
    "items left out": {"left_out_X": torch.arange(0, 16, 2)},  # some are targets too
    "sampled": {"relevance": "sampled_softmax"},
    "in batch": {"relevance": "sampled_softmax", "negatives": "in_batch", "logq_alpha": 0.5},
    "mixed": {"relevance": "sampled_softmax", "negatives": "mixed"},
    "w = 0": {"diversity_weight": 0.0},
}


@functools.cache
def whole(**changes):
    """Return what `trained` does of the whole batch; several tests compare with it."""
    return trained(USERS, **changes)


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
def test_a_batch_in_parts_moves_the_weights_as_the_whole_batch_does(split):
    assert_equal_weights(trained(*split, diversity_weight=0.5), whole(diversity_weight=0.5))


@pytest.mark.parametrize("changes", WAYS.values(), ids=WAYS)
def test_so_does_a_batch_in_parts_in_every_way_of_training(changes):
    changes = {"diversity_weight": 0.5, **changes}
    split = [USERS[:1], [], USERS[1:]]  # uneven, with an empty part
    assert_equal_weights(trained(*split, **changes), whole(**changes))


def test_the_ways_that_are_tested_are_all_there_are():
    assert {way.get("relevance", "softmax") for way in WAYS.values()} == set(RELEVANCE)


@pytest.mark.parametrize("name", [name for name in WAYS if name not in ("softmax", "w = 0")])
def test_each_way_leads_elsewhere_than_the_plain_one(name):
    plain = whole(diversity_weight=0.5)
    other = whole(**{"diversity_weight": 0.5, **WAYS[name]})
    moved = (other["item_tower.ids.weight"] - plain["item_tower.ids.weight"]).abs().max()
    assert moved > 1e-5


def test_the_figures_of_a_step_do_not_depend_on_parts():
    together = Training(diversity_weight=0.5).step(USERS)
    parts = Training(diversity_weight=0.5).step(*SPLITS["quarters"])
    assert vars(parts) == pytest.approx(vars(together), rel=1e-5)


def test_a_step_reports_weighted_nats_positions_and_users():
    model = fresh_model()
    packed = part(USERS).packed
    states, items = model(packed.items_RW, packed.position_RW, packed.segment_RW, packed.queries_RW)
    loss = softmax(states[packed.target_place_N], items, packed.targets_N, packed.weights_N)
    sums = Training(model).step(USERS)
    assert sums.relevance == pytest.approx(loss.item(), rel=1e-6)
    assert sums.weight == pytest.approx(sum(0.5 + item % 3 for user in USERS for item in user))
    assert sums.num_users == 8
    assert sums.penalty == 0


def test_the_gradient_is_of_the_mean_loss_as_a_share_of_a_uniform_guess():
    model = fresh_model()
    packed = part(USERS).packed
    states, items = model(packed.items_RW, packed.position_RW, packed.segment_RW, packed.queries_RW)
    log_p = (states[packed.target_place_N] @ items.T).log_softmax(1)
    nats = -log_p.gather(1, packed.targets_N[:, None])[:, 0]
    loss = (nats * packed.weights_N).sum() / packed.weights_N.sum() / math.log(NUM_ITEMS)
    expected = torch.autograd.grad(loss, list(model.parameters()))
    before = [p.detach().clone() for p in model.parameters()]
    Training(model, lr=1.0).step(USERS)
    moved = [old - new.detach() for old, new in zip(before, model.parameters(), strict=True)]
    torch.testing.assert_close(moved, list(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"mix": {"ild": 5.0}},
        {"slate_size": 5, "slate_candidates": 16},
        {"slate_temperature": 2.0},
        {"traits": traits(torch.ones(NUM_ITEMS, 4))},
    ],
)
def test_at_weight_0_no_setting_of_diversity_changes_a_bit(changes):
    plain = whole()
    configured = trained(USERS, **changes)
    assert all(torch.equal(configured[name], value) for name, value in plain.items())


def test_at_weight_0_no_places_are_counted():
    training = Training()
    training.step(USERS)
    assert training.shown_V.tolist() == [0] * NUM_ITEMS


@pytest.mark.parametrize("name", ALL)
def test_a_weight_above_0_changes_the_weights(name):
    # half the relevance moves as far as all of it at half the rate: what is left is the penalty's
    plain = whole(num_steps=3, lr=0.025)["item_tower.ids.weight"]
    diverse = trained(USERS, num_steps=3, lr=0.05, diversity_weight=0.5, mix={name: 1.0})
    assert (diverse["item_tower.ids.weight"] - plain).abs().max() > 1e-6


@pytest.mark.parametrize("name", ["ild", "category_entropy"])
def test_at_weight_1_training_lowers_the_penalty(name):
    training = Training(diversity_weight=1.0, mix={name: 1.0}, lr=0.2)
    penalties = [training.step(USERS).penalty for _ in range(30)]
    assert penalties[-1] < 0.9 * penalties[0]


def test_the_running_places_are_those_of_the_hard_slates_and_fade():
    training = Training(diversity_weight=0.5)
    model = training.model
    packed = part(USERS).packed
    states, items = model(packed.items_RW, packed.position_RW, packed.segment_RW, packed.queries_RW)
    scores = (states[packed.last_place_B] @ items.T).detach()
    scores[packed.seen_user_S, packed.seen_item_S] = -torch.inf
    shown = scores.topk(3, dim=1).indices.flatten().bincount(minlength=NUM_ITEMS)
    training.shown_V.fill_(10.0)
    training.step(USERS)
    torch.testing.assert_close(training.shown_V, 9.9 + shown)


def test_seen_items_hold_no_places():
    training = Training(diversity_weight=0.5, slate_candidates=NUM_ITEMS)
    training.step([[1, 2, 3], list(range(1, NUM_ITEMS))])
    assert training.shown_V[[1, 2, 3]].tolist() == [0, 0, 0]
    assert training.shown_V[0] >= 1  # all that the second user has left
    assert training.shown_V.sum() == 3 + 1


def test_soft_slates_hold_k_unseen_items_or_all_that_are_left():
    packed = part([[1, 2, 3], list(range(1, NUM_ITEMS)), list(range(NUM_ITEMS))]).packed
    model = fresh_model()
    states, items = model(packed.items_RW, packed.position_RW, packed.segment_RW, packed.queries_RW)
    exposure = torch.full((NUM_ITEMS,), 1 / NUM_ITEMS)
    wanted = objective(slate_candidates=NUM_ITEMS)
    slates, _ = soft_slates(states, items, Part(packed), wanted, exposure)
    by_item = torch.zeros(3, NUM_ITEMS).scatter(1, slates.candidates_BM, slates.membership_BM)
    assert by_item.sum(1).tolist() == pytest.approx([3, 1, 0], abs=1e-4)
    assert by_item[packed.seen_user_S, packed.seen_item_S].max() == 0


@pytest.mark.parametrize("method", ["mmr", "calibrated"])
def test_distil_is_taught_the_slates_of_the_re_ranker(method):
    packed = part([[1, 2, 3], list(range(2, NUM_ITEMS)), list(range(NUM_ITEMS))]).packed
    model = fresh_model()
    states, items = model(packed.items_RW, packed.position_RW, packed.segment_RW, packed.queries_RW)
    exposure = torch.full((NUM_ITEMS,), 1 / NUM_ITEMS)
    wanted = objective(teacher=(method, 0.6), slate_candidates=NUM_ITEMS, mix={"distil": 1.0})
    slates, _ = soft_slates(states, items, Part(packed), wanted, exposure)

    scores_BV = (states[packed.last_place_B] @ items.T).detach()
    policy = SlatePolicy(3, True, method, 0.6, NUM_ITEMS, 0.0)
    seen = packed.seen_user_S, packed.seen_item_S
    shown_BK, _ = make_slates(scores_BV, *seen, wanted.traits, torch.zeros(NUM_ITEMS), policy)
    taught = [
        set(candidates[is_taught].tolist())
        for candidates, is_taught in zip(slates.candidates_BM, slates.taught_BM, strict=True)
    ]
    assert taught == [set(row) - {-1} for row in shown_BK.tolist()]
    assert [len(own) for own in taught] == [3, 2, 0]


def test_users_with_little_left_to_be_shown_keep_everything_finite():
    training = Training(diversity_weight=0.5, slate_size=3, slate_candidates=NUM_ITEMS)
    everything = list(range(NUM_ITEMS))
    sums = training.step([everything, everything[1:], everything[2:]])
    assert math.isfinite(sums.penalty)
    assert all(value.isfinite().all() for value in training.weights().values())
    assert training.shown_V.isfinite().all()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_text", [True, False])
@pytest.mark.parametrize("name", ["sampled", "in batch", "mixed"])
def test_a_sampled_loss_that_reads_its_own_items_alone_moves_all_weights_alike(
    name, has_text, precision
):
    def after(*, reads_all):
        model = warm_model()
        if not has_text:
            model.text_VH = None
        training = Training(model, precision=precision, reads_all=reads_all, **WAYS[name])
        for split in SPLITS.values():
            training.step(*split)
        return training.weights()

    tolerance = 1e-6 if precision == torch.float32 else 1e-2
    assert_equal_weights(after(reads_all=False), after(reads_all=True), atol=tolerance)


def test_such_a_step_computes_the_vectors_of_these_items_alone():
    computed = []
    model = fresh_model()
    model.item_tower.project.register_forward_hook(lambda *call: computed.append(len(call[1][0])))
    training = Training(model, relevance="sampled_softmax", reads_all=False)
    training.step([[4, 5], [5, 4, 5]])
    assert computed == [len({0, *(4, 5), *(3, 9, 14)})]  # 0: the start, and a negative


def test_a_step_without_any_user_moves_nothing():
    training = Training(diversity_weight=0.5)
    before = training.weights()
    sums = training.step([])
    assert_equal_weights(training.weights(), before, atol=0)
    assert (sums.relevance, sums.penalty, sums.grad_norm) == (0, 0, 0)


@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_the_gradient_is_clipped_to_its_norm(precision):
    training = Training(lr=1.0, precision=precision)
    before = torch.cat([p.detach().flatten().clone() for p in training.model.parameters()])
    sums = training.step(USERS, clip_norm=1e-3)
    after = torch.cat([p.detach().flatten() for p in training.model.parameters()])
    assert sums.grad_norm > 1e-3
    assert (after - before).norm().item() == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize("relevance", ["softmax", "sampled_softmax"])
def test_a_tiny_batch_is_learnt_by_heart(relevance):
    training = Training(relevance=relevance)
    training.optimizer = torch.optim.Adam(training.model.parameters(), lr=0.03)
    users = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    losses = [training.step(users) for _ in range(60)]
    # the first event of a history cannot be foretold: one of three, log 3 nats each
    floor = sum((0.5 + first % 3) * math.log(3) for first in (1, 4, 7))
    assert losses[-1].relevance < 0.3 * losses[0].relevance + floor


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_mixed_precision_moves_the_weights_nearly_as_float32_does(precision, weight):
    start = fresh_model().state_dict()
    exact = whole(num_steps=1, diversity_weight=weight)
    mixed = trained(USERS, num_steps=1, diversity_weight=weight, precision=precision)
    for name, value in start.items():
        moved = (exact[name] - value).norm()
        assert mixed[name].dtype == torch.float32
        assert (mixed[name] - exact[name]).norm() <= 0.05 * moved + 1e-5


def test_a_gradient_that_overflows_is_skipped_and_halves_the_scale():
    training = Training(precision=torch.float16)
    training.step(USERS)
    before, scale = training.weights(), training.scaler.get_scale()
    training.model.session_tower.start.register_hook(lambda gradient: gradient * torch.inf)
    training.step(USERS)
    assert_equal_weights(training.weights(), before, atol=0)
    assert training.scaler.get_scale() == scale / 2


DIALS = [0.0, 0.5, 1.0, 0.1, 0.0, 0.25, 1.0, 0.0]


def conditioned_step(*split, model=None, diversity_weight=0.5, lr=0.05):
    """Step a conditioned model on users and dials in parts; return it with its sums."""
    training = Training(
        model or fresh_model(is_conditioned=True),
        diversity_weight=diversity_weight,
        is_conditioned=True,
        shared_dim=8,
        lr=lr,
    )
    sums = train_step(
        training.model,
        [part(users, dials) for users, dials in split],
        training.objective,
        training.optimizer,
        training.scaler,
        precision=torch.float32,
        clip_norm=1e9,
        shown_V=training.shown_V,
        negatives=None,
    )
    return training, fetch_sums([sums])[0]


@pytest.mark.parametrize("cuts", [(4,), (1,), (2, 4, 6), (0, 5)])
def test_a_conditioned_batch_in_parts_moves_the_weights_as_the_whole_batch_does(cuts):
    together, sums = conditioned_step((USERS, DIALS))
    bounds = [0, *cuts, len(USERS)]
    pieces = [(USERS[low:high], DIALS[low:high]) for low, high in itertools.pairwise(bounds)]
    parts, others = conditioned_step(*pieces)
    assert_equal_weights(parts.weights(), together.weights())
    torch.testing.assert_close(parts.shown_V, together.shown_V)
    assert vars(others) == pytest.approx(vars(sums), rel=1e-5)


def test_the_loss_of_each_user_is_that_of_its_own_weight():
    training, sums = conditioned_step((USERS, DIALS), lr=0.0)
    model, packed = training.model, part(USERS).packed
    dial_B = torch.tensor(DIALS)
    fields = (packed.items_RW, packed.position_RW, packed.segment_RW, packed.queries_RW)
    states, items = model(*fields, dial_RW=dial_B[packed.user_RW])
    users_N = packed.user_RW.flatten()[packed.target_place_N]
    log_p = (states[packed.target_place_N] @ items.T).log_softmax(1)
    nats = -log_p.gather(1, packed.targets_N[:, None])[:, 0]
    w_B = 0.5 * dial_B
    relevance = ((1 - w_B[users_N]) * packed.weights_N * nats).sum() / packed.weights_N.sum()
    exposure = torch.full((NUM_ITEMS,), 1 / NUM_ITEMS)
    slates, _ = soft_slates(states, items, Part(packed), training.objective, exposure)
    spread = (w_B * penalty(slates, ALL)).mean()
    expected = relevance / math.log(NUM_ITEMS) + spread
    assert sums.loss / sums.num_users == pytest.approx(expected.item(), rel=1e-5)
    assert sums.num_penalised == sum(dial > 0 for dial in DIALS)


def test_users_at_dial_0_hold_no_places():
    training, sums = conditioned_step((USERS, [0.0] * len(USERS)))
    assert training.shown_V.sum() == 0
    assert (sums.penalty, sums.num_penalised) == (0, 0)


def test_a_conditioned_batch_at_dial_0_learns_what_a_plain_model_learns():
    plain = whole(num_steps=1)
    training, _ = conditioned_step((USERS, [0.0] * len(USERS)))
    weights = training.weights()
    for name, value in plain.items():
        if name != "shown_V":
            torch.testing.assert_close(weights[name], value)


@pytest.mark.parametrize("name", REGULARISERS)
def test_a_dial_leaves_what_dial_0_looks_at_to_what_looks_at_all_slates(name):
    model = fresh_model(is_conditioned=True, seed=1)
    losses = part_losses(
        model,
        part(USERS, DIALS),
        objective(diversity_weight=0.5, is_conditioned=True, shared_dim=8, mix={name: 1.0}),
        exposure_V=torch.arange(NUM_ITEMS) / 120,
        negatives=None,
        fresh=None,
        autocast=torch.autocast("cpu", enabled=False),
    )
    losses.penalty.backward()
    assert model.dial.gate.weight.grad.abs().max() > 0
    # an item of a history has a gradient in any case, through the state
    never_met = [item for item in range(NUM_ITEMS) if not any(item in user for user in USERS)]
    moved = model.item_tower.ids.weight.grad[never_met].abs().max()
    assert (moved > 0) == (name in OVER_ALL)
    assert model.dial_items.ids.weight.grad[never_met].abs().max() > 0
