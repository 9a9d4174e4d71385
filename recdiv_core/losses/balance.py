# pyright: strict
"""Balance: the weights of relevance and the diversity penalty in the loss of a step.

Both are minimised: relevance r, nats divided by log V, and penalty p in [0, 1]. The dial w is 0 for
pure relevance and 1 for pure diversity. The weights come from the global values of the step before,
never from those of this batch, so that all ranks and parts use the same two weights. No function
here makes the host wait for the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

Weights = tuple[float, float] | tuple[torch.Tensor, torch.Tensor]
"""Weights of relevance and penalty; >= 0, sum to 1. Tensors are float64, on the state's device."""

AUGMENTATION: Final = 0.01
"""Weight of the plain sum beside the maximum of Tchebycheff: enough to improve the better objective
where it is free to improve, too little to change the front (Steuer & Choo)."""


@dataclass(frozen=True)
class BalanceState:
    """What a balance remembers of past steps: float64 scalars, the same on all ranks.

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
    w: float, relevance: torch.Tensor, penalty: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weigh so that a step lowers the worse of the two weighted losses.

    The gradient of `max_i w_i f_i + rho * sum_i w_i f_i`, w_i = (1 - w, w), scaled to weights that
    sum to 1. Nearly all weight is on the objective that is worse by its weight. The small sum keeps
    the other objective moving where it can improve and the worse one cannot, so that no weakly
    dominated point is kept. Every point of a front, concave parts too, is the optimum of some w,
    where `(1 - w) r = w p`. Excepted are stretches so flat or steep that one objective gains 100
    times (1 / rho) what the other loses. Steuer & Choo, 1983, An Interactive Weighted Tchebycheff
    Procedure for Multiple Objective Programming. At w = 0 and 1 this is the plain weighted sum.
    Where both are equal, relevance counts as the worse.

    Args:
        w: dial in [0, 1].
        relevance: float64, last known global r.
        penalty: float64, last known global p.
    """
    _check_dial(w)
    is_r_worse = ((1 - w) * relevance >= w * penalty).to(relevance.dtype)
    is_p_worse = ((1 - w) * relevance < w * penalty).to(relevance.dtype)
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


BALANCES: Final = ("weighted_sum", "tchebycheff", "epsilon_constraint")

STATEFUL: Final = BALANCES[1:]
"""Balances whose weights depend on the steps before."""


def weigh(kind: str, w: float, state: BalanceState) -> Weights:
    """Return the weights of the two losses of a step.

    Args:
        kind: a name of BALANCES.
        w: dial in [0, 1].
        state: before the step.

    Raises:
        ValueError: an unknown name.
    """
    if kind not in BALANCES:
        raise ValueError(f"loss.balance={kind} is unknown; allowed: {', '.join(BALANCES)}")
    if kind == "tchebycheff":
        return tchebycheff(w, state.relevance, state.penalty)
    if kind == "epsilon_constraint":
        return epsilon_constraint(state.multiplier)
    return weighted_sum(w)


def _check_dial(w: float) -> None:
    if not 0 <= w <= 1:
        raise ValueError(f"loss.diversity_weight={w} must be in [0, 1]")
