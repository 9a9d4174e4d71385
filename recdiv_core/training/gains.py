"""Multipliers that make a training reach asked gains of diversity (`loss.min_gains`).

The constrained problem: least relevance loss, subject to `value_j >= (1 + gain_j) reference_j` for
each named regulariser j. Its Lagrangian has one multiplier per constraint, which rises while the
value is too low and falls to 0 where it is high enough (dual ascent). The values are metrics of the
*hard* slates of the training users, and gradients go through the soft slates: the
proxy-Lagrangian of Cotter et al., 2019, "Two-player games for efficient non-convex constrained
optimization". A training is short and its response lags, so a multiplier has a proportional part
beside the integral (Stooke et al., 2020, "Responsive safety in reinforcement learning by PID
Lagrangian methods"). All tensors stay on the device, and they are equal on all ranks because the
sums that they follow are global. step.py calls this. Shapes: C constraints, V items, A users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch

from recdiv_core.losses.aggregate import exposure_share
from recdiv_core.losses.diversity import OVER_ALL, REGULARISERS
from recdiv_core.losses.soft_slates import SoftSlates

INSIDE_UNIT: Final = 0.02
"""Unit of the multipliers of regularisers inside one slate."""

OVER_ALL_UNIT: Final = 0.2
"""Unit of the multiplier of `coverage`, which needs about ten times the weight."""

INTEGRAL: Final = 0.7
"""Rise of the exponent of a multiplier per window at the full shortfall."""

PROPORTIONAL: Final = 1.0
"""Exponent of a multiplier at the full shortfall, beside the integral."""

MOST: Final = 3.0
"""Largest multiplier; at a gain that cannot be reached, relevance keeps a quarter of the loss."""

WINDOWS: Final = 2
"""Windows of the running values in the steps that measure the reference."""


class Gains:
    """The multipliers of a training, and the running values that they follow.

    The loss is `(relevance + sum_j m_j penalty_j) / (1 + sum_j m_j)`. For the first
    `reference_steps` steps every m_j is 0; the running values after them are the references. Then
    `m_j = unit_j (exp(theta_j) - 1)` with `theta_j = max(0, integral_j + PROPORTIONAL short_j)`,
    where short_j in [-1, 1] is the missing share of the asked gain, below 0 = more than asked, and
    the integral, never below 0, adds up `INTEGRAL short_j / window`. So a multiplier is never
    negative, at most MOST, and 0 while its constraint has held for long.

    Args:
        asked: regulariser -> least relative gain, > 0.
        num_items: items of the catalogue.
        num_places: slate positions of one evaluation; coverage is that of so many.
        reference_steps: steps without diversity at the start, > 0.
        device: of the training.
        saved: `state()` of a checkpoint; empty for a new run.
    """

    def __init__(
        self,
        asked: Mapping[str, float],
        *,
        num_items: int,
        num_places: float,
        reference_steps: int,
        device: torch.device,
        saved: Mapping[str, Any],
    ) -> None:
        self.names = tuple(asked)
        self.num_places, self.reference_steps = num_places, reference_steps
        self.window = max(1.0, reference_steps / WINDOWS)
        self.num_steps = int(saved.get("num_steps", 0))

        def made(values: Sequence[float]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.float64, device=device)

        self.asked_C = made([asked[name] for name in self.names])
        self.is_over_all_C = torch.tensor([n in OVER_ALL for n in self.names], device=device)
        self.unit_C = torch.where(self.is_over_all_C, OVER_ALL_UNIT, INSIDE_UNIT).double()
        zeros = [0.0] * len(self.names)
        fresh = {name: made(zeros) for name in ("sums", "reference", "integral", "multiplier")}
        fresh |= {"mass": made([0.0]), "places": made([0.0] * num_items)}
        self.tensors = {name: saved.get(name, value).to(device) for name, value in fresh.items()}

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"num_steps": self.num_steps, **self.tensors}

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the weight of each penalty in the loss; relevance has 1 minus their sum."""
        multiplier_C = self.tensors["multiplier"]
        return dict(zip(self.names, multiplier_C / (1 + multiplier_C.sum()), strict=True))

    def observe(
        self, values_C: torch.Tensor, shown_V: torch.Tensor, is_valid: torch.Tensor
    ) -> None:
        """Update the multipliers after a step.

        Args:
            values_C: mean of each value over the users of the step; not read for `coverage`.
            shown_V: how often each item stood in the hard slates of the step.
            is_valid: [] bool; False = the gradient overflowed, and nothing changes.
        """
        before, keep = self.tensors, 1 - 1 / self.window
        now = dict(before)
        now["sums"] = before["sums"] * keep + values_C
        now["mass"] = before["mass"] * keep + 1
        now["places"] = before["places"] * keep + shown_V
        value_C = self._values(now)
        self.num_steps += 1
        if self.num_steps <= self.reference_steps:
            now["reference"] = value_C
        else:
            asked_C = self.asked_C * before["reference"]
            missing_C = before["reference"] + asked_C - value_C
            short_C = (missing_C / asked_C.clamp_min(1e-12)).clamp(-1, 1)
            integral_C = before["integral"] + INTEGRAL * short_C / self.window
            most_C = torch.log1p(MOST / self.unit_C)
            now["integral"] = torch.minimum(integral_C.clamp_min(0), most_C)
            exponent_C = (now["integral"] + PROPORTIONAL * short_C).clamp_min(0)
            now["multiplier"] = self.unit_C * torch.expm1(torch.minimum(exponent_C, most_C))
        self.tensors = {n: torch.where(is_valid, now[n], old) for n, old in before.items()}

    def _values(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the running values, [C], in [0, 1], higher = more diverse."""
        shown_V = exposure_share(tensors["places"]) * self.num_places
        coverage = -torch.expm1(-shown_V).mean()
        inside_C = tensors["sums"] / tensors["mass"].clamp_min(1e-12)
        return torch.where(self.is_over_all_C, coverage, inside_C)

    def report(self) -> dict[str, float]:
        """Return each multiplier, and the gain in the slates of training, `train/...`."""
        gain_C = self._values(self.tensors) / self.tensors["reference"].clamp_min(1e-12) - 1
        columns = {"multiplier": self.tensors["multiplier"].tolist(), "gain": gain_C.tolist()}
        return {
            f"train/{column}_{name}": value
            for column, values in columns.items()
            for name, value in zip(self.names, values, strict=True)
        }


def hard_sums(slates: SoftSlates, names: Sequence[str]) -> torch.Tensor:
    """Sum 1 - penalty over the hard slates of users, [C] float64; 0 for `coverage`.

    At memberships of 0 and 1 each regulariser inside a slate is 1 minus its metric, so these are
    the metrics of the slates that would be shown.
    """
    soft_AM = slates.membership_BM.detach()
    hard_AM = torch.zeros_like(soft_AM)
    hard_AM[:, : slates.slate_size] = (soft_AM[:, : slates.slate_size] > 0).to(hard_AM.dtype)
    hard = replace(slates, membership_BM=hard_AM)
    sums = [
        hard_AM.new_zeros(()) if name in OVER_ALL else (1 - REGULARISERS[name](hard)).sum()
        for name in names
    ]
    return torch.stack(sums).double()
