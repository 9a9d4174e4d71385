# pyright: strict
"""Balance: how two objectives, relevance and the diversity penalty, become one direction.

Both are minimised: relevance r, nats divided by log V, and penalty p in [0, 1]; w, the dial, is 0
for pure relevance and 1 for pure diversity. Scalarisations weigh the two *losses* of a step. They
look at the last step's global values, never at this batch's, so that all ranks and parts use the
same two numbers. Combinations join the two flat *gradients* of a step; not being linear, they come
after both gradients are summed over parts and reduced over ranks. They are homogeneous: gradients
times a loss scale give the result times that scale, and one that is not finite gives one that is
not finite, for the loss scaler to see. Shapes: P parameters, flat.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch

Weights = tuple[float, float]
"""Of relevance and penalty; >= 0, sum to 1."""

Combination = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]

AUGMENTATION: Final = 0.01
"""Weight of the plain sum beside the maximum of Tchebycheff: enough to move the objective that is
not the worst where it is free to improve, too little to bend the front (Steuer & Choo)."""


@dataclass(frozen=True)
class BalanceState:
    """What scalarisations remember, the same on all ranks; plain floats, part of a checkpoint.

    Attributes:
        relevance: global r of the last step; at the start 1, that of a uniform guess.
        penalty: global p of the last step; at the start 1, the worst.
        multiplier: of the constraint, >= 0; at the start 0.
    """

    relevance: float = 1.0
    penalty: float = 1.0
    multiplier: float = 0.0


def observe(
    state: BalanceState,
    *,
    relevance: float,
    penalty: float,
    min_diversity: float,
    rate: float,
) -> BalanceState:
    """Take in a step's global values.

    The multiplier climbs the dual: `m <- max(0, m + rate * (p - (1 - min_diversity)))`. It grows
    while the slates are less diverse than asked, and falls when they are more; asked for more than
    can be had, it grows by at most rate a step for ever. A step whose values are not finite (which
    the loss scaler skips) is not taken in.

    Args:
        state: before the step.
        relevance: r, over all ranks and parts.
        penalty: p, likewise.
        min_diversity: least 1 - p to be reached, in [0, 1].
        rate: of the multiplier, >= 0; slower than the learning of the model, else it swings.
    """
    if not (math.isfinite(relevance) and math.isfinite(penalty)):
        return state
    excess = penalty - (1 - min_diversity)
    multiplier = max(0.0, state.multiplier + rate * excess)
    return replace(state, relevance=relevance, penalty=penalty, multiplier=multiplier)


def weighted_sum(w: float) -> Weights:
    """Weigh by the dial: `(1 - w) r + w p`. Reaches the convex part of a front alone."""
    _check_dial(w)
    return 1 - w, w


def tchebycheff(
    w: float, relevance: float, penalty: float, ideal: tuple[float, float] = (0.0, 0.0)
) -> Weights:
    """Weigh so that a step lowers the worse of the two distances to an ideal point.

    The gradient of `max_i w_i (f_i - z_i) + rho * sum_i w_i (f_i - z_i)`, w_i = (1 - w, w), scaled
    to weights that sum to 1: nearly all weight on the objective that is worse by its weight, and
    the small sum so that no weakly dominated point is kept, where that one cannot improve but the
    other can. Every point of a front, concave parts too, is the optimum of some w: where
    `(1 - w) (r - z_r) = w (p - z_p)`; but for stretches so flat or steep that one objective gains
    100 times (1 / rho) what the other loses. Steuer & Choo, 1983, An Interactive Weighted
    Tchebycheff Procedure for Multiple Objective Programming. At w = 0 and 1 the plain weighted sum.
    Equal distances: relevance counts as the worse.

    Args:
        w: dial in [0, 1].
        relevance: last known global r.
        penalty: last known global p.
        ideal: z, below what either reaches by itself; the nearer to that, the more evenly w divides
            the front.
    """
    _check_dial(w)
    distance_r = (1 - w) * (relevance - ideal[0])
    distance_p = w * (penalty - ideal[1])
    a = (1 - w) * (AUGMENTATION + (distance_r >= distance_p))
    b = w * (AUGMENTATION + (distance_r < distance_p))
    return a / (a + b), b / (a + b)


def epsilon_constraint(multiplier: float) -> Weights:
    """Weigh by the multiplier of `min r subject to 1 - p >= min_diversity`.

    `(1, m) / (1 + m)`: the gradient of the Lagrangian `r + m (p - (1 - min_diversity))`, scaled so
    that a large multiplier is no large step. Haimes, Lasdon & Wismer, 1971, for the constraint;
    Arrow, Hurwicz & Uzawa, 1958, for climbing the dual (`observe`). The dial is not used. The
    penalty is needed at weight 0 too: the multiplier rises from it.
    """
    if not multiplier >= 0:
        raise ValueError(f"multiplier={multiplier} must be at least 0")
    return 1 / (1 + multiplier), multiplier / (1 + multiplier)


def mgda(
    relevance_P: torch.Tensor, penalty_P: torch.Tensor, w: float = 0.5, *, normalise: bool = True
) -> torch.Tensor:
    """Find the direction that lowers both objectives, as far as one does.

    The point nearest to 0 on the segment between a and b: `gamma a + (1 - gamma) b`, `gamma =
    clip((b - a) . b / |a - b|^2, 0, 1)`. Its inner product with either gradient is never negative;
    it is 0 only where no direction lowers both (Pareto-stationary: a gradient of 0, or gradients
    exactly opposed). Desideri, 2012; Sener & Koltun, 2018, Multi-Task Learning as Multi-Objective
    Optimization.

    MGDA by itself ignores the scale of a preference and obeys that of the losses: the shorter
    gradient decides. Hence the two gradients g are first brought to their geometric mean length
    (normalise), after which MGDA of two is their bisector; and the dial stretches them, `a = s /
    (1 - w) g_r`, `b = s / w g_p`, `s = w^2 + (1 - w)^2`. At w = 0.5 that changes nothing; for
    gradients at right angles the result is `(1 - w) g_r + w g_p`, and where they conflict the one
    that is preferred keeps more of its way. At w = 0 and 1 one gradient alone, as it is.

    Args:
        relevance_P: [P] gradient of r, over all ranks and parts.
        penalty_P: [P] gradient of p, likewise.
        w: dial in [0, 1].
        normalise: whether to bring both to one length.

    Raises:
        ValueError: w out of range, or gradients that are not [P] both.
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
    """Take out of each gradient what works against the other, then add.

    With `a = (1 - w) g_r` and `b = w g_p`: where `a . b < 0`, `a' = a - (a . b) / |b|^2 b` and
    `b' = b - (a . b) / |a|^2 a`, each by the other's original; the result is `a' + b'`, else
    `a + b`. Yu et al., 2020, Gradient Surgery for Multi-Task Learning, of two tasks, where the
    random order of the paper makes no difference. Projection does not depend on length, so that it
    is the same to weigh before it or after, but for w = 0 and 1: there one gradient is 0, nothing
    conflicts, and the other is returned as it is. In conflict neither gradient opposes the other's
    projection; a gradient of 0 changes nothing; exactly opposed ones give 0.

    Args:
        relevance_P: [P] gradient of r, over all ranks and parts.
        penalty_P: [P] gradient of p, likewise.
        w: dial in [0, 1].

    Raises:
        ValueError: w out of range, or gradients that are not [P] both.
    """
    _check_dial(w)
    _check_gradients(relevance_P, penalty_P)
    a, b = (1 - w) * relevance_P, w * penalty_P
    conflict = _dot(a, b).clamp_max(0.0)
    factor_a = 1 - _divide(conflict, _dot(a, a))
    factor_b = 1 - _divide(conflict, _dot(b, b))
    return factor_a.to(a.dtype) * a + factor_b.to(b.dtype) * b


SCALARISATIONS: Final = ("weighted_sum", "tchebycheff", "epsilon_constraint")
"""Balances that weigh losses, before one backward; see `loss_weights`."""

COMBINATIONS: Final[dict[str, Combination]] = {"mgda": mgda, "pcgrad": pcgrad}
"""Balances that join gradients, after a backward for each objective."""

BALANCES: Final = (*SCALARISATIONS, *COMBINATIONS)


def loss_weights(
    kind: str, w: float, state: BalanceState, *, ideal: tuple[float, float] = (0.0, 0.0)
) -> Weights:
    """Weigh the losses of a step by the scalarisation of that name.

    Raises:
        ValueError: a kind that is no scalarisation.
    """
    if kind == "weighted_sum":
        return weighted_sum(w)
    if kind == "tchebycheff":
        return tchebycheff(w, state.relevance, state.penalty, ideal)
    if kind == "epsilon_constraint":
        return epsilon_constraint(state.multiplier)
    raise ValueError(f"loss.balance={kind} weighs no losses: {', '.join(SCALARISATIONS)} do")


def _dot(a_P: torch.Tensor, b_P: torch.Tensor) -> torch.Tensor:
    return (a_P * b_P).sum(dtype=torch.float64)


def _divide(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Divide by what is >= 0; by 0 gives 0, NaN stays NaN."""
    return torch.where(b == 0, torch.zeros_like(b), a / b)


def _check_dial(w: float) -> None:
    if not 0 <= w <= 1:
        raise ValueError(f"loss.diversity_weight={w} must be in [0, 1]")


def _check_gradients(relevance_P: torch.Tensor, penalty_P: torch.Tensor) -> None:
    if relevance_P.ndim != 1 or relevance_P.shape != penalty_P.shape:
        raise ValueError(
            f"gradients {tuple(relevance_P.shape)} and {tuple(penalty_P.shape)} must be [P] both"
        )
