"""Metrics of training within an epoch: at which steps they are fetched, and what they are.

Fetching waits for the device, and a report waits for all ranks. So both happen every few seconds,
not every step. The clocks of ranks differ; therefore rank 0 measures the time, and all ranks agree
at one fetch on the step of the next.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch
import torch.distributed as dist

from recdiv_core.training.step import StepSums

EARLY: Final = 0.5
"""Share of the interval after which a fetch is also logged; an earlier one only sets the pace."""


class StepLog:
    """The steps of an epoch at which metrics are fetched; the same on all ranks.

    Args:
        every_s: seconds between two logs, > 0.
        device: device of the training.
        clock: seconds, from any start.

    Attributes:
        due: number of finished steps at which the next fetch is due.
    """

    def __init__(
        self, every_s: float, device: torch.device, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.every_s, self.device, self.clock = every_s, device, clock
        self.due = 0
        self._steps_in_interval = 1  # until a step has been timed
        self._since_s, self._since_step = 0.0, 0

    def start(self, num_done: int) -> None:
        """Begin an interval after `num_done` steps; at the start of an epoch."""
        self._since_s, self._since_step = self.clock(), num_done
        self.due = num_done + self._steps_in_interval

    def fetched(self, num_done: int) -> tuple[float | None, int]:
        """Set the step of the next fetch; a collective call.

        Returns:
            the seconds since the last log, or None where it is too early for another log; and the
            number of steps since.
        """
        seconds = _of_rank_0(self.clock() - self._since_s, self.device)
        num_steps = num_done - self._since_step
        per_step = max(seconds, 1e-6) / num_steps
        self._steps_in_interval = max(1, round(self.every_s / per_step))
        if seconds >= EARLY * self.every_s:
            self.start(num_done)
            return seconds, num_steps
        self.due = num_done + max(1, round((self.every_s - seconds) / per_step))
        return None, num_steps


def step_metrics(
    sums: Sequence[StepSums], seconds: float, learning_rate: float
) -> dict[str, float]:
    """Return the metrics of the last steps, named `step/...`.

    Args:
        sums: of these steps.
        seconds: time that they took.
        learning_rate: rate of the towers at the last step.
    """
    return {
        **means(sums, "step/"),
        "step/learning_rate": learning_rate,
        "step/users_per_s": sum(each.num_users for each in sums) / seconds,
    }


def means(sums: Sequence[StepSums], prefix: str) -> dict[str, float]:
    """Divide the sums of steps: mean losses per position and user, mean gradient norm.

    Skipped steps do not count: their values may be NaN. If all were skipped the means are NaN,
    which is not logged.
    """
    sums = [each for each in sums if not each.is_skipped]
    if not sums:
        names = ("loss", "relevance", "penalty", "grad_norm")
        return {f"{prefix}{name}": math.nan for name in names}
    weight = max(1e-12, sum(each.weight for each in sums))
    return {
        f"{prefix}loss": sum(s.loss for s in sums) / max(1.0, sum(s.num_users for s in sums)),
        f"{prefix}relevance": sum(each.relevance for each in sums) / weight,
        f"{prefix}penalty": sum(each.penalty for each in sums)
        / max(1.0, sum(each.num_penalised for each in sums)),
        f"{prefix}grad_norm": float(np.mean([each.grad_norm for each in sums])),
    }


def _of_rank_0(value: float, device: torch.device) -> float:
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    dist.broadcast(tensor, src=0)
    return float(tensor)
