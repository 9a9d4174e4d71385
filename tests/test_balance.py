import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.losses.balance import (
    AUGMENTATION,
    BALANCES,
    epsilon_constraint,
    observe,
    start_balance,
    tchebycheff,
    weigh,
    weighted_sum,
)

DIALS = [0.0, 0.1, 0.5, 0.8, 1.0]


def scalars(*values):
    return torch.tensor(values, dtype=torch.float64).unbind()


@pytest.mark.parametrize("w", DIALS)
def test_a_weighted_sum_is_weighed_by_the_dial(w):
    assert weighted_sum(w) == (1 - w, w)


@given(
    w=st.floats(0, 1),
    relevance=st.floats(0, 3),
    penalty=st.floats(0, 1),
    multiplier=st.floats(0, 1e6),
)
def test_weights_are_shares(w, relevance, penalty, multiplier):
    state = start_balance(relevance, penalty, multiplier)
    for kind in BALANCES:
        weights = weigh(kind, w, state)
        assert min(weights) >= 0
        assert sum(weights) == pytest.approx(1.0)


def test_the_weights_are_those_of_the_balance_of_that_name():
    state = start_balance(relevance=0.6, penalty=0.7, multiplier=3.0)
    assert weigh("weighted_sum", 0.3, state) == weighted_sum(0.3)
    wanted = tchebycheff(0.3, *scalars(0.6, 0.7))
    assert weigh("tchebycheff", 0.3, state) == wanted
    assert weigh("epsilon_constraint", 0.3, state) == (0.25, 0.75)


@pytest.mark.parametrize("kind", ["weighted_sum", "tchebycheff"])
def test_at_the_ends_of_the_dial_one_objective_has_all_the_weight(kind):
    for state in (start_balance(0.9, 0.1), start_balance(0.1, 0.9), start_balance(0.0, 0.0)):
        assert weigh(kind, 0.0, state) == (1.0, 0.0)
        assert weigh(kind, 1.0, state) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("relevance", "penalty"), [(0.9, 0.3), (0.4, 0.8), (0.6, 0.2), (0.55, 0.95)]
)
def test_tchebycheff_weighs_by_the_gradient_of_its_augmented_maximum(relevance, penalty):
    w = 0.4
    values = torch.tensor([relevance, penalty], dtype=torch.float64, requires_grad=True)
    weighted = torch.tensor([1 - w, w]) * values
    (weighted.max() + AUGMENTATION * weighted.sum()).backward()
    wanted = values.grad / values.grad.sum()
    found = tchebycheff(w, *scalars(relevance, penalty))
    assert [each.item() for each in found] == pytest.approx(wanted.tolist())


def test_where_both_are_equal_relevance_counts_as_the_worse():
    assert tchebycheff(0.5, *scalars(0.6, 0.6))[0] > 0.9


def descend(objectives, start, *, weigh, num_steps, lr):
    """Train a toy as train_step does: weights from the values of the step before."""
    x = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    state = start_balance()
    for step in range(num_steps):
        values = objectives(x)
        a, b = weigh(state)
        (grad,) = torch.autograd.grad(a * values[0] + b * values[1], x)
        with torch.no_grad():
            x -= lr * (1 - step / num_steps) * grad
        state = observe(
            state,
            relevance=values[0].detach(),
            penalty=values[1].detach(),
            min_diversity=0.75,
            rate=0.05,
            is_counted=torch.tensor(True),
        )
    return SimpleNamespace(**{name: float(value) for name, value in vars(state).items()})


def concave_front(x):
    """Fonseca & Fleming, 1995: a front that bends towards the origin nowhere."""
    centre = 1 / math.sqrt(2)
    return 1 - (-(x - centre).square().sum()).exp(), 1 - (-(x + centre).square().sum()).exp()


@pytest.mark.parametrize("w", [0.45, 0.5, 0.55])
def test_tchebycheff_reaches_the_inside_of_a_concave_front_and_no_weighted_sum_does(w):
    start, num_steps, lr = (0.05, -0.1), 300, 0.1
    summed = descend(
        concave_front, start, weigh=lambda _: weighted_sum(w), num_steps=num_steps, lr=lr
    )
    worst = descend(
        concave_front,
        start,
        weigh=lambda state: tchebycheff(w, state.relevance, state.penalty),
        num_steps=num_steps,
        lr=lr,
    )
    assert min(summed.relevance, summed.penalty) < 0.02  # at an end
    assert (1 - w) * worst.relevance == pytest.approx(w * worst.penalty, abs=0.005)
    along = math.sqrt(-math.log(1 - worst.relevance)) + math.sqrt(-math.log(1 - worst.penalty))
    assert along == pytest.approx(2.0, abs=0.005)  # on the front: distances to the centres add up


def test_tchebycheff_does_not_keep_a_weakly_dominated_point():
    def objectives(x):  # relevance is the worse wherever one goes; the penalty is free to fall
        return 0.9 + x[0].square(), 0.5 * x[1].square()

    reached = descend(
        objectives,
        (0.5, 1.0),
        weigh=lambda state: tchebycheff(0.5, state.relevance, state.penalty),
        num_steps=500,
        lr=0.9,
    )
    assert reached.relevance == pytest.approx(0.9, abs=1e-6)
    assert reached.penalty < 0.1


def test_an_epsilon_constraint_settles_on_the_constraint_at_the_least_relevance_loss():
    def objectives(x):  # least at x = 1; penalty <= 0.25 asks for x = 0.5, at multiplier 1
        return (x[0] - 1).square() + x[1].square(), x[0].square()

    reached = descend(
        objectives,
        (0.9, 0.3),
        weigh=lambda state: epsilon_constraint(state.multiplier),
        num_steps=1000,
        lr=0.1,
    )
    assert reached.penalty == pytest.approx(0.25, abs=1e-3)
    assert reached.relevance == pytest.approx(0.25, abs=1e-3)
    assert reached.multiplier == pytest.approx(1.0, abs=1e-2)


def test_a_constraint_that_holds_by_itself_costs_nothing():
    def objectives(x):
        return (x[0] - 0.2).square(), x[0].square()

    reached = descend(
        objectives,
        (0.9,),
        weigh=lambda state: epsilon_constraint(state.multiplier),
        num_steps=500,
        lr=0.1,
    )
    assert reached.relevance == pytest.approx(0.0, abs=1e-6)
    assert reached.multiplier == 0.0


def after(state, *, relevance=0.5, penalty, rate=0.5, min_diversity=0.7, is_counted=True):
    """Return the floats of a state after a step."""
    state = observe(
        state,
        relevance=torch.tensor(relevance, dtype=torch.float64),
        penalty=torch.tensor(penalty, dtype=torch.float64),
        min_diversity=min_diversity,
        rate=rate,
        is_counted=torch.tensor(is_counted),
    )
    return {name: float(value) for name, value in vars(state).items()}


@pytest.mark.parametrize(
    ("penalty", "multiplier"), [(0.7, 2.2), (0.3, 2.0), (0.1, 1.9), (0.0, 1.85)]
)
def test_the_multiplier_climbs_by_what_the_constraint_is_missed_by(penalty, multiplier):
    state = start_balance(relevance=0.6, penalty=0.9, multiplier=2.0)
    wanted = {"relevance": 0.5, "penalty": penalty, "multiplier": multiplier}
    assert after(state, penalty=penalty) == pytest.approx(wanted)


def test_the_multiplier_does_not_fall_below_0():
    state = start_balance(multiplier=0.1)
    assert after(state, penalty=0.0, min_diversity=0.2)["multiplier"] == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["relevance", "penalty"])
def test_a_step_that_is_not_finite_leaves_the_state(name, bad):
    values = {"relevance": 0.5, "penalty": 0.9} | {name: bad}
    kept = {"relevance": 0.6, "penalty": 0.4, "multiplier": 2.0}
    assert after(start_balance(**kept), **values) == kept


def test_a_step_that_the_loss_scaler_skipped_leaves_the_state():
    kept = {"relevance": 0.6, "penalty": 0.4, "multiplier": 2.0}
    assert after(start_balance(**kept), penalty=0.9, is_counted=False) == kept


@pytest.mark.parametrize("w", [-0.1, 1.1, math.nan])
def test_a_dial_out_of_range_is_named(w):
    for call in (
        lambda: weighted_sum(w),
        lambda: tchebycheff(w, *scalars(0.5, 0.5)),
    ):
        with pytest.raises(ValueError, match=r"loss\.diversity_weight="):
            call()


def test_arguments_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"loss\.balance=none is unknown"):
        weigh("none", 0.5, start_balance())
