# pyright: strict
"""Balance: how relevance and the diversity penalty become one training direction.

Both are minimised: relevance r, nats divided by log V, and penalty p in [0, 1]. The dial w is 0 for
pure relevance and 1 for pure diversity. Scalarisations weigh the two *losses* of a step (`weigh`).
They use the global values of the step before, never those of this batch, so that all ranks and
parts use the same two weights. Combinations join the two flat *gradients* of a step. They are not
linear, so they come after both gradients are summed over parts and reduced over ranks. They are
homogeneous: gradients times a loss scale give the result times that scale. A gradient that is not
finite gives a result that is not finite, which the loss scaler sees. No function here makes the
host wait for the device. Shapes: P parameters, flat.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch

Weights = tuple[float, float] | tuple[torch.Tensor, torch.Tensor]
"""Weights of relevance and penalty; >= 0, sum to 1. Tensors are float64, on the state's device."""

Combination = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]

AUGMENTATION: Final = 0.01
"""Weight of the plain sum beside the maximum of Tchebycheff: enough to improve the better objective
where it is free to improve, too little to change the front (Steuer & Choo)."""


@dataclass(frozen=True)
class BalanceState:
    """What scalarisations remember of past steps: float64 scalars, the same on all ranks.

    Attributes:
        relevance: global r of the last step; at the start 1, the loss of a uniform guess.
        penalty: global p of the last step; at the start 1, the worst.
        multiplier: multiplier of the constraint, >= 0; at the start 0.
    """

    relevance: torch.Tensor
    penalty: torch.Tensor
    multiplier: torch.Tensor


def start_balance(
    relevance: float = 1.0,
    penalty: float = 1.0,
    multiplier: float = 0.0,
    *,
    device: torch.device | str = "cpu",
) -> BalanceState:
    """Return the state before the first step, or one that was saved."""
    values = (relevance, penalty, multiplier)
    return BalanceState(
        *(torch.full((), value, dtype=torch.float64, device=device) for value in values)
    )


def observe(
    state: BalanceState,
    *,
    relevance: torch.Tensor,
    penalty: torch.Tensor,
    min_diversity: float,
    rate: float,
    is_counted: torch.Tensor,
) -> BalanceState:
    """Return the state after a step.

    The multiplier climbs the dual: `m <- max(0, m + rate * (p - (1 - min_diversity)))`. It grows
    while the slates are less diverse than `min_diversity`, and falls when they are more diverse. If
    that diversity cannot be reached, it grows by at most `rate` a step, without end. A step whose
    values are not finite leaves the state as it was.

    Args:
        state: before the step.
        relevance: float64 r, over all ranks and parts.
        penalty: float64 p, over all ranks and parts.
        min_diversity: smallest 1 - p to be reached, in [0, 1].
        rate: rate of the multiplier, >= 0; above the model's own rate of learning it oscillates.
        is_counted: bool, False for a step that the loss scaler skipped.
    """
    is_counted = is_counted & relevance.isfinite() & penalty.isfinite()
    multiplier = state.multiplier + rate * (penalty - (1 - min_diversity))
    return BalanceState(
        relevance=torch.where(is_counted, relevance, state.relevance),
        penalty=torch.where(is_counted, penalty, state.penalty),
        multiplier=torch.where(is_counted, multiplier.clamp_min(0.0), state.multiplier),
    )


def weigh_users(w: float, dial_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weights of the two losses of each user of a conditioned model, [B] each.

    A user at dial d is trained as a model of weight `w * d` would be.
    """
    return 1 - w * dial_B, w * dial_B


def weighted_sum(w: float) -> tuple[float, float]:
    """Weigh by the dial: `(1 - w) r + w p`. It reaches only the convex part of a front."""
    _check_dial(w)
    return 1 - w, w


def tchebycheff(
    w: float,
    relevance: torch.Tensor,
    penalty: torch.Tensor,
    ideal: tuple[float, float] = (0.0, 0.0),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weigh so that a step lowers the worse of the two distances to an ideal point.

    The gradient of `max_i w_i (f_i - z_i) + rho * sum_i w_i (f_i - z_i)`, w_i = (1 - w, w), scaled
    to weights that sum to 1. Nearly all weight is on the objective that is worse by its weight. The
    small sum keeps the other objective moving where it can improve and the worse one cannot, so
    that no weakly dominated point is kept. Every point of a front, concave parts too, is the
    optimum of some w, where `(1 - w) (r - z_r) = w (p - z_p)`. Excepted are stretches so flat or
    steep that one objective gains 100 times (1 / rho) what the other loses. Steuer & Choo, 1983, An
    Interactive Weighted Tchebycheff Procedure for Multiple Objective Programming. At w = 0 and 1
    this is the plain weighted sum. At equal distances relevance counts as the worse.

    Args:
        w: dial in [0, 1].
        relevance: float64, last known global r.
        penalty: float64, last known global p.
        ideal: z, below what either objective reaches by itself; the nearer z is to that, the more
            evenly w divides the front.
    """
    _check_dial(w)
    distance_r = (1 - w) * (relevance - ideal[0])
    distance_p = w * (penalty - ideal[1])
    is_r_worse = (distance_r >= distance_p).to(relevance.dtype)
    is_p_worse = (distance_r < distance_p).to(relevance.dtype)
    a = (1 - w) * (AUGMENTATION + is_r_worse)
    b = w * (AUGMENTATION + is_p_worse)
    return a / (a + b), b / (a + b)


def epsilon_constraint(multiplier: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weigh by the multiplier of `min r subject to 1 - p >= min_diversity`.

    `(1, m) / (1 + m)`, m >= 0: the gradient of the Lagrangian `r + m (p - (1 - min_diversity))`,
    scaled so that a large multiplier is no large step. Haimes, Lasdon & Wismer, 1971, for the
    constraint; Arrow, Hurwicz & Uzawa, 1958, for climbing the dual (`observe`). The dial is not
    used. The penalty is needed at weight 0 too: the multiplier rises from it.
    """
    return 1 / (1 + multiplier), multiplier / (1 + multiplier)


def mgda(
    relevance_P: torch.Tensor, penalty_P: torch.Tensor, w: float = 0.5, *, normalise: bool = True
) -> torch.Tensor:
    """Return a direction that lowers both objectives, if there is one.

    The point nearest to 0 on the segment between a and b: `gamma a + (1 - gamma) b`, `gamma =
    clip((b - a) . b / |a - b|^2, 0, 1)`. Its inner product with either gradient is never negative;
    it is 0 only where no direction lowers both (Pareto-stationary: a gradient of 0, or gradients
    exactly opposed). Desideri, 2012; Sener & Koltun, 2018, Multi-Task Learning as Multi-Objective
    Optimization.

    MGDA alone ignores preferences and depends on the scale of the losses: the shorter gradient
    decides. So both gradients g are first scaled to their geometric mean length (normalise), which
    makes MGDA of two gradients their bisector, and then by the dial: `a = s / (1 - w) g_r`,
    `b = s / w g_p`, `s = w^2 + (1 - w)^2`. At w = 0.5 the dial changes nothing. For orthogonal
    gradients the result is `(1 - w) g_r + w g_p`; where they conflict, the preferred gradient keeps
    more of its direction. At w = 0 and 1 the result is one gradient, unchanged.

    Args:
        relevance_P: [P] gradient of r, over all ranks and parts.
        penalty_P: [P] gradient of p, over all ranks and parts.
        w: dial in [0, 1].
        normalise: whether to scale both to one length.

    Raises:
        ValueError: w is out of range, or the gradients are not both [P].
    """
    _check_dial(w)
    _check_gradients(relevance_P, penalty_P)
    if w in (0.0, 1.0):
        return penalty_P.clone() if w else relevance_P.clone()
    norm_r, norm_p = _dot(relevance_P, relevance_P).sqrt(), _dot(penalty_P, penalty_P).sqrt()
    cosine = _divide(_divide(_dot(relevance_P, penalty_P), norm_r), norm_p)
    mean = norm_r.sqrt() * norm_p.sqrt()
    spread = w**2 + (1 - w) ** 2
    length_a = spread / (1 - w) * (mean if normalise else norm_r)
    length_b = spread / w * (mean if normalise else norm_p)
    gap = length_a**2 + length_b**2 - 2 * cosine * length_a * length_b
    gamma = _divide(length_b**2 - cosine * length_a * length_b, gap).clamp(0.0, 1.0)
    factor_r = gamma * _divide(length_a, norm_r)
    factor_p = (1 - gamma) * _divide(length_b, norm_p)
    return factor_r.to(relevance_P.dtype) * relevance_P + factor_p.to(penalty_P.dtype) * penalty_P


def pcgrad(relevance_P: torch.Tensor, penalty_P: torch.Tensor, w: float = 0.5) -> torch.Tensor:
    """Remove from each gradient the part that opposes the other, then add them.

    With `a = (1 - w) g_r` and `b = w g_p`: where `a . b < 0`, `a' = a - (a . b) / |b|^2 b` and
    `b' = b - (a . b) / |a|^2 a`, each by the other's original; the result is `a' + b'`. Otherwise
    it is `a + b`. Yu et al., 2020, Gradient Surgery for Multi-Task Learning; for two tasks the
    random order of the paper has no effect. Projection does not depend on length, so weighing
    before or after it is the same, except at w = 0 and 1: one gradient is then 0 and the other is
    returned unchanged. A gradient of 0 changes nothing; exactly opposed gradients give 0.

    Args:
        relevance_P: [P] gradient of r, over all ranks and parts.
        penalty_P: [P] gradient of p, over all ranks and parts.
        w: dial in [0, 1].

    Raises:
        ValueError: w is out of range, or the gradients are not both [P].
    """
    _check_dial(w)
    _check_gradients(relevance_P, penalty_P)
    a, b = (1 - w) * relevance_P, w * penalty_P
    conflict = _dot(a, b).clamp_max(0.0)
    factor_a = 1 - _divide(conflict, _dot(a, a))
    factor_b = 1 - _divide(conflict, _dot(b, b))
    return factor_a.to(a.dtype) * a + factor_b.to(b.dtype) * b


SCALARISATIONS: Final = ("weighted_sum", "tchebycheff", "epsilon_constraint")
"""Balances that weigh losses, before one backward; see `weigh`."""

STATEFUL: Final = SCALARISATIONS[1:]
"""Balances whose weights depend on the steps before."""

COMBINATIONS: Final[dict[str, Combination]] = {"mgda": mgda, "pcgrad": pcgrad}
"""Balances that join gradients after one backward per objective."""

BALANCES: Final = (*SCALARISATIONS, *COMBINATIONS)


def weigh(
    kind: str, w: float, state: BalanceState, *, ideal: tuple[float, float] = (0.0, 0.0)
) -> Weights:
    """Return the weights of the two losses of a step.

    A combination weighs gradients by itself; its weights here are those of the reported loss.

    Args:
        kind: a name of BALANCES.
        w: dial in [0, 1].
        state: before the step.
        ideal: see `tchebycheff`.

    Raises:
        ValueError: an unknown name.
    """
    if kind not in BALANCES:
        raise ValueError(f"loss.balance={kind} is unknown; allowed: {', '.join(BALANCES)}")
    if kind == "tchebycheff":
        return tchebycheff(w, state.relevance, state.penalty, ideal)
    if kind == "epsilon_constraint":
        return epsilon_constraint(state.multiplier)
    return weighted_sum(w)


def _dot(a_P: torch.Tensor, b_P: torch.Tensor) -> torch.Tensor:
    return (a_P * b_P).sum(dtype=torch.float64)


def _divide(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Divide by b >= 0; a division by 0 gives 0, and NaN stays NaN."""
    return torch.where(b == 0, torch.zeros_like(b), a / b)


def _check_dial(w: float) -> None:
    if not 0 <= w <= 1:
        raise ValueError(f"loss.diversity_weight={w} must be in [0, 1]")


def _check_gradients(relevance_P: torch.Tensor, penalty_P: torch.Tensor) -> None:
    if relevance_P.ndim != 1 or relevance_P.shape != penalty_P.shape:
        raise ValueError(
            f"gradients {tuple(relevance_P.shape)} and {tuple(penalty_P.shape)} must be [P] both"
        )
