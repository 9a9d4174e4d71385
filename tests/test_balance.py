import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from recdiv_core.losses.balance import (
    AUGMENTATION,
    BALANCES,
    COMBINATIONS,
    SCALARISATIONS,
    epsilon_constraint,
    mgda,
    observe,
    pcgrad,
    start_balance,
    tchebycheff,
    weigh,
    weighted_sum,
)

DIALS = [0.0, 0.1, 0.5, 0.8, 1.0]
INNER = DIALS[1:-1]
FREE, CONFLICT = 1, -1


def random_pair(seed, sign=0, size=7, stretch=1.0):
    """Draw two gradients: any, without conflict (1), or in conflict (-1); the second stretched."""
    a, b = torch.randn(2, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    flip = 1.0 if sign == 0 or sign * (a @ b) > 0 else -1.0
    return a, stretch * flip * b


def scalars(*values):
    return torch.tensor(values, dtype=torch.float64).unbind()


# --- scalarisations -----------------------------------------------------------------------------


@pytest.mark.parametrize("w", DIALS)
def test_a_weighted_sum_is_weighed_by_the_dial(w):
    assert weighted_sum(w) == (1 - w, w)


@given(
    w=st.floats(0, 1),
    relevance=st.floats(0, 3),
    penalty=st.floats(0, 1),
    multiplier=st.floats(0, 1e6),
    ideal=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_weights_are_shares(w, relevance, penalty, multiplier, ideal):
    state = start_balance(relevance, penalty, multiplier)
    for kind in SCALARISATIONS:
        weights = weigh(kind, w, state, ideal=ideal)
        assert min(weights) >= 0
        assert sum(weights) == pytest.approx(1.0)


def test_the_weights_are_those_of_the_scalarisation_of_that_name():
    state = start_balance(relevance=0.6, penalty=0.7, multiplier=3.0)
    assert weigh("weighted_sum", 0.3, state) == weighted_sum(0.3)
    wanted = tchebycheff(0.3, *scalars(0.6, 0.7), (0.5, 0.1))
    assert weigh("tchebycheff", 0.3, state, ideal=(0.5, 0.1)) == wanted
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
    w, ideal = 0.4, (0.3, 0.1)
    values = torch.tensor([relevance, penalty], dtype=torch.float64, requires_grad=True)
    distances = torch.tensor([1 - w, w]) * (values - torch.tensor(ideal))
    (distances.max() + AUGMENTATION * distances.sum()).backward()
    wanted = values.grad / values.grad.sum()
    found = tchebycheff(w, *scalars(relevance, penalty), ideal)
    assert [each.item() for each in found] == pytest.approx(wanted.tolist())


def test_at_equal_distances_relevance_counts_as_the_worse():
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


# --- combinations -------------------------------------------------------------------------------


def slow_mgda(a, b):
    """Search the segment for the point nearest to 0."""
    found = minimize_scalar(
        lambda gamma: float((gamma * a + (1 - gamma) * b).norm()),
        bounds=(0, 1),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return found.x * a + (1 - found.x) * b


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("stretch", [0.1, 1.0, 30.0])
def test_mgda_is_the_point_of_the_segment_nearest_to_0(seed, stretch):
    a, b = random_pair(seed, stretch=stretch)
    found = mgda(a, b, normalise=False)
    torch.testing.assert_close(found, slow_mgda(a, b), rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("w", INNER)
def test_mgda_with_a_dial_is_the_nearest_point_between_stretched_gradients(seed, normalise, w):
    a, b = random_pair(seed, stretch=3.0)
    spread, length = w**2 + (1 - w) ** 2, (a.norm() * b.norm()).sqrt()
    wanted = slow_mgda(
        spread / (1 - w) * (a * length / a.norm() if normalise else a),
        spread / w * (b * length / b.norm() if normalise else b),
    )
    torch.testing.assert_close(mgda(a, b, w, normalise=normalise), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("combine", [mgda, pcgrad])
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("w", INNER)
def test_a_combination_works_against_neither_gradient(combine, seed, w):
    a, b = random_pair(seed, CONFLICT, stretch=10.0)
    found = combine(a, b, w)
    assert found @ a >= -1e-12
    assert found @ b >= -1e-12
    assert found.norm() > 1e-3


def test_a_weighted_sum_can_work_against_one_gradient():
    a, b = random_pair(0, CONFLICT, stretch=10.0)
    assert (a + b) @ a < 0


@pytest.mark.parametrize("seed", range(4))
def test_normalised_mgda_of_two_is_their_bisector(seed):
    a, b = random_pair(seed, stretch=50.0)
    found = mgda(a, b)
    along_a, along_b = found @ a / a.norm(), found @ b / b.norm()
    torch.testing.assert_close(along_a, along_b)
    assert torch.linalg.matrix_rank(torch.stack([a, b, found]), rtol=1e-9) == 2


@pytest.mark.parametrize("w", INNER)
def test_mgda_of_gradients_at_right_angles_is_the_weighted_sum(w):
    a, b = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, -3.0]]).double()
    torch.testing.assert_close(mgda(a, b, w), (1 - w) * a + w * b)


@pytest.mark.parametrize("seed", range(4))
def test_mgda_turns_towards_the_penalty_as_the_dial_rises(seed):
    a, b = random_pair(seed, FREE)
    found = [mgda(a, b, w) for w in (0.05, 0.25, 0.5, 0.75, 0.95)]
    towards_b = [float(g @ b / g.norm()) for g in found]
    assert np.diff(towards_b).min() > -1e-12  # two dials past the clip differ by rounding alone
    assert towards_b[0] < towards_b[-1]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("w", DIALS)
def test_pcgrad_adds_gradients_that_do_not_conflict(seed, w):
    a, b = random_pair(seed, FREE)
    torch.testing.assert_close(pcgrad(a, b, w), (1 - w) * a + w * b, rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("w", INNER)
def test_pcgrad_adds_the_projections_of_gradients_that_conflict(seed, w):
    a, b = random_pair(seed, CONFLICT, stretch=10.0)
    projected_a = a - b * torch.linalg.lstsq(b[:, None], a[:, None]).solution[0]
    projected_b = b - a * torch.linalg.lstsq(a[:, None], b[:, None]).solution[0]
    assert abs(projected_a @ b) < 1e-9  # no conflict is left with the other's original
    torch.testing.assert_close(pcgrad(a, b, w), (1 - w) * projected_a + w * projected_b)


@pytest.mark.parametrize("combine", COMBINATIONS.values(), ids=COMBINATIONS)
@pytest.mark.parametrize("seed", range(2))
def test_at_the_ends_of_the_dial_one_gradient_is_left_as_it_is(combine, seed):
    a, b = random_pair(seed, CONFLICT)
    assert torch.equal(combine(a, b, 0.0), a)
    assert torch.equal(combine(a, b, 1.0), b)


@pytest.mark.parametrize("combine", COMBINATIONS.values(), ids=COMBINATIONS)
def test_equal_gradients_are_left_as_they_are(combine):
    a, _ = random_pair(1)
    torch.testing.assert_close(combine(a, a.clone(), 0.5), a)


@pytest.mark.parametrize("combine", COMBINATIONS.values(), ids=COMBINATIONS)
@pytest.mark.parametrize("length", [1.0, 0.2])
def test_gradients_exactly_opposed_cancel(combine, length):
    a, _ = random_pair(2)
    found = combine(a, -length * a, 0.3)
    torch.testing.assert_close(found, torch.zeros(7).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("w", INNER)
def test_a_gradient_of_0_is_stationary_for_mgda(normalise, w):
    a, zero = random_pair(3)[0], torch.zeros(7).double()
    for pair in ((a, zero), (zero, a), (zero, zero)):
        assert torch.equal(mgda(*pair, w, normalise=normalise), zero)


@pytest.mark.parametrize("w", INNER)
def test_a_gradient_of_0_leaves_the_other_to_pcgrad(w):
    a, zero = random_pair(4)[0], torch.zeros(7).double()
    assert torch.equal(pcgrad(a, zero, w), (1 - w) * a)
    assert torch.equal(pcgrad(zero, a, w), w * a)
    assert torch.equal(pcgrad(zero, zero, w), zero)


@pytest.mark.parametrize("combine", COMBINATIONS.values(), ids=COMBINATIONS)
@pytest.mark.parametrize("sign", [FREE, CONFLICT])
def test_a_loss_scale_scales_the_result(combine, sign):
    a, b = (g.float() for g in random_pair(5, sign))
    scaled = combine(65536 * a, 65536 * b, 0.3) / 65536
    torch.testing.assert_close(scaled, combine(a, b, 0.3))


@pytest.mark.parametrize("combine", COMBINATIONS.values(), ids=COMBINATIONS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_what_is_not_finite_stays_so_for_the_loss_scaler_to_see(combine, bad, which):
    pair = random_pair(6)
    pair[which][3] = bad
    assert not combine(*pair, 0.4).isfinite().all()


@pytest.mark.parametrize("combine", COMBINATIONS.values(), ids=COMBINATIONS)
def test_long_float32_gradients_agree_with_float64(combine):
    a, b = random_pair(7, CONFLICT, size=100_000)
    a, b = 1e-4 * a, 1e-4 * (b - 0.5 * a)
    narrow = combine(a.float(), b.float(), 0.4)
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow.double(), combine(a, b, 0.4), rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("combine", COMBINATIONS.values(), ids=COMBINATIONS)
def test_combining_the_sums_of_parts_is_the_step_of_the_whole_and_summing_combinations_is_not(
    combine,
):
    first, second = random_pair(8, CONFLICT), random_pair(9, CONFLICT, stretch=4.0)
    whole = [a + b for a, b in zip(first, second, strict=True)]
    assert whole[0] @ combine(*whole, 0.5) >= 0
    assert whole[1] @ combine(*whole, 0.5) >= 0
    of_parts = combine(*first, 0.5) + combine(*second, 0.5)
    assert not torch.allclose(of_parts, combine(*whole, 0.5), rtol=0.05)


@pytest.mark.parametrize("combine", COMBINATIONS.values(), ids=COMBINATIONS)
def test_following_a_combination_lowers_both_objectives_to_a_point_of_the_front(combine):
    x = torch.tensor([0.9, -0.6], dtype=torch.float64, requires_grad=True)
    values = [torch.stack(concave_front(x)).detach()]
    for _ in range(200):
        both = concave_front(x)
        grads = [torch.autograd.grad(value, x, retain_graph=True)[0] for value in both]
        with torch.no_grad():
            x -= 0.04 * combine(*grads, 0.5)
        values.append(torch.stack(concave_front(x)).detach())
    steps = torch.stack(values).diff(dim=0)
    assert steps.max() <= 1e-6
    assert abs(x[0] - x[1]) < 0.01  # the front is the stretch between the two centres


# --- the table ----------------------------------------------------------------------------------


def test_every_balance_weighs_losses_or_joins_gradients():
    assert BALANCES == ("weighted_sum", "tchebycheff", "epsilon_constraint", "mgda", "pcgrad")
    assert tuple(COMBINATIONS) == BALANCES[3:]
    for kind in SCALARISATIONS:
        assert weigh(kind, 0.5, start_balance())


@pytest.mark.parametrize("w", [-0.1, 1.1, math.nan])
def test_a_dial_out_of_range_is_named(w):
    grad = torch.zeros(3)
    for call in (
        lambda: weighted_sum(w),
        lambda: tchebycheff(w, *scalars(0.5, 0.5)),
        lambda: mgda(grad, grad, w),
        lambda: pcgrad(grad, grad, w),
    ):
        with pytest.raises(ValueError, match=r"loss\.diversity_weight="):
            call()


def test_arguments_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"loss\.balance=none is unknown"):
        weigh("none", 0.5, start_balance())
    for combine in COMBINATIONS.values():
        with pytest.raises(ValueError, match=r"\(3,\) and \(4,\)"):
            combine(torch.zeros(3), torch.zeros(4), 0.5)
