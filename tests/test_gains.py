"""Multipliers of asked gains: a problem with a known solution, and what always holds."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.config import Config, override
from recdiv_core.errors import UserError
from recdiv_core.losses.diversity import REGULARISERS
from recdiv_core.training.gains import MOST, hard_sums
from recdiv_core.training.launch import run
from tests.slate_worlds import random_slates, replaced
from tests.step_worlds import NUM_ITEMS, USERS, Training, assert_equal_weights, gains_of, trained

YES = torch.tensor(True)
NOWHERE = torch.zeros(NUM_ITEMS)


def observe(gains, *values, is_valid=YES):
    gains.observe(torch.tensor(values, dtype=torch.float64), NOWHERE, is_valid)


def multipliers(gains):
    return gains.tensors["multiplier"].tolist()


def test_a_quadratic_problem_ends_at_its_known_solution():
    # least (x - 0.4)^2 / 2 subject to x >= 0.5: x = 0.5, and the multiplier is its slope there
    gains = gains_of({"ild": 0.25}, reference_steps=100)
    x = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    for _ in range(6000):
        weight = gains.weights()["ild"]
        loss = (1 - weight) * (x - 0.4).square() / 2 + weight * (1 - x)
        (slope,) = torch.autograd.grad(loss, x)
        with torch.no_grad():
            x -= 0.1 * slope
        observe(gains, x.item())
    assert x.item() == pytest.approx(0.5, abs=1e-3)
    assert multipliers(gains) == pytest.approx([0.1], abs=1e-3)


def test_a_constraint_that_holds_anyway_has_no_multiplier():
    gains = gains_of({"ild": 0.25, "category_entropy": 0.25}, reference_steps=4)
    for _ in range(4):
        observe(gains, 0.4, 0.4)
    for _ in range(30):
        observe(gains, 0.6, 0.4)
    held, missed = multipliers(gains)
    assert held == 0
    assert missed > 0


def test_a_multiplier_falls_to_0_once_its_constraint_holds():
    gains = gains_of({"ild": 0.25}, reference_steps=4)
    for value in [0.4] * 30 + [0.6] * 60:
        observe(gains, value)
    assert multipliers(gains) == [0.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(1, 8))
def test_multipliers_are_never_negative_and_bounded_and_0_while_the_reference_is_measured(
    values, reference_steps
):
    gains = gains_of({"ild": 0.1}, reference_steps=reference_steps)
    for step, value in enumerate(values, start=1):
        observe(gains, value)
        (multiplier,) = multipliers(gains)
        assert 0 <= multiplier <= MOST * (1 + 1e-12)
        assert multiplier == 0 or step > reference_steps
        weight = float(gains.weights()["ild"])
        assert weight == pytest.approx(multiplier / (1 + multiplier))


def test_coverage_is_that_of_an_evaluation_with_the_running_exposure():
    gains = gains_of({"coverage": 0.1})
    shown = torch.zeros(NUM_ITEMS)
    shown[:4] = 6.0
    gains.observe(torch.zeros(1, dtype=torch.float64), shown, YES)
    wanted = 4 / NUM_ITEMS * (1 - math.exp(-3 * len(USERS) / 4))
    assert gains.tensors["reference"].tolist() == pytest.approx([wanted])


def test_a_step_that_overflowed_changes_nothing():
    gains = gains_of({"ild": 0.1})
    for _ in range(3):
        observe(gains, 0.4)
    before = dict(gains.tensors)
    observe(gains, math.nan, is_valid=torch.tensor(False))
    assert all(torch.equal(gains.tensors[name], value) for name, value in before.items())


@pytest.mark.parametrize("seed", range(5))
def test_values_are_those_of_the_hard_slates(seed):
    names = ["ild", "category_entropy", "category_coverage", "coverage"]
    soft = random_slates(seed)
    found = hard_sums(soft, names)
    hard = torch.zeros_like(soft.membership_BM)
    hard[:, : soft.slate_size] = 1
    exact = replaced(soft, membership_BM=hard)
    wanted = [float((1 - REGULARISERS[name](exact)).sum()) for name in names[:3]]
    assert found.tolist() == pytest.approx([*wanted, 0.0])


def test_a_batch_in_parts_moves_weights_and_multipliers_as_the_whole_batch_does():
    asked = {"asked": {"ild": 0.5, "coverage": 0.5}, "num_steps": 4}
    whole = trained(USERS, **asked)
    assert min(whole["multiplier"].tolist()) > 0
    assert_equal_weights(trained(USERS[:3], [], USERS[3:], **asked), whole)


def test_asked_gains_change_the_weights_only_after_the_reference():
    plain, asking = Training(), Training(asked={"ild": 0.5})
    for step in range(3):
        plain.step(USERS)
        asking.step(USERS)
        # the reference takes one step, and its multiplier counts from the third
        same = [torch.equal(asking.weights()[n], w) for n, w in plain.weights().items()]
        assert all(same) == (step < 2)


ASKED = {"loss.min_gains": {"ild": 0.1}, "loss.diversity_warmup": 0.2}


def test_gains_are_refused_without_a_model_to_gain_on():
    with pytest.raises(UserError, match=r"^loss.min_gains needs train.init_from: [^\n]*$"):
        run(override(Config(), ASKED))


def test_gains_are_refused_beside_a_weight():
    with pytest.raises(UserError, match=r"^loss.min_gains=[^\n]* loss.diversity_weight=0.3; give"):
        override(Config(), ASKED, {"loss.diversity_weight": 0.3})
