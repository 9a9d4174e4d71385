"""Stop trials early that fall behind another trial on every objective.

At a few epochs a trial's metrics are compared with what the other trials had at the same epoch, by
`pareto.left_behind`. A trial that is best at any objective goes on: no trial is stopped for low
accuracy alone.
"""

from __future__ import annotations

import math
from typing import Any, Final

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from recdiv_core.metrics import pareto
from recdiv_core.search_space import Objective

GROWTH: Final = 1.5
"""Ratio of an epoch of comparison to the one before."""
MARGIN: Final = 0.01
"""Share of another trial's gains that a trial may fall short on every objective, in [0, 1)."""

Compared = dict[int, dict[str, list[float]]]
"""Epoch -> trial -> its objectives at that epoch."""


class FrontScheduler(FIFOScheduler):
    """Run trials in order; stop a trial that falls behind.

    No trial is stopped at its last epoch, which brings the test metrics. `grace_epochs` is the
    first epoch of comparison; for `margin` see `pareto.left_behind`.
    """

    def __init__(
        self,
        objectives: tuple[Objective, ...],
        *,
        grace_epochs: int,
        epochs: int,
        margin: float = MARGIN,
    ) -> None:
        super().__init__()
        self.objectives, self.margin = objectives, margin
        self.epochs = _epochs_of_comparison(grace_epochs, epochs)
        self.compared: Compared = {}

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Compare a trial with the others; return whether it goes on."""
        epoch = int(result["epoch"])
        is_repeated = "is_repeated" in result or "best/epoch" in result  # a trial's last report
        if epoch not in self.epochs or is_repeated:
            return TrialScheduler.CONTINUE
        others = self.compared.setdefault(epoch, {})
        others[trial.trial_id] = [float(result[o.metric]) for o in self.objectives]
        behind = pareto.left_behind(
            list(others.values()),
            [objective.reference for objective in self.objectives],
            [objective.direction for objective in self.objectives],
            self.margin,
        )
        is_behind = list(others).index(trial.trial_id) in behind
        return TrialScheduler.STOP if is_behind else TrialScheduler.CONTINUE


class SchedulerState(tune.Callback):
    """Save the scheduler's state with the sweep: Tune 2.60 saves callbacks, but no scheduler."""

    def __init__(self, scheduler: FrontScheduler) -> None:
        self.scheduler = scheduler

    def get_state(self) -> dict[str, Compared]:
        """Return what to save."""
        return {"compared": self.scheduler.compared}

    def set_state(self, state: dict[str, Compared]) -> None:
        """Restore what was saved."""
        self.scheduler.compared = state["compared"]


def _epochs_of_comparison(grace_epochs: int, epochs: int) -> list[int]:
    found: list[int] = []
    epoch = max(1, grace_epochs)
    while epoch < epochs:
        found.append(epoch)
        epoch = math.ceil(GROWTH * epoch)
    return found
