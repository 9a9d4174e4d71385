"""Which trials of a sweep are stopped early: those that others have left behind.

The rule itself is `pareto.left_behind`; here is when it is asked. At a few epochs, the rungs, a
trial's figures are compared with what the other trials had at the same epoch: a trial that another
beats clearly on every objective ends, one that is best at anything goes on, however inaccurate.
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
"""Each rung is at so many times the epochs of the one before."""
MARGIN: Final = 0.01
"""Share of another's gains that a trial may be behind on every objective."""

Points = dict[int, dict[str, list[float]]]
"""Rung -> trial -> its figures there."""


class FrontScheduler(FIFOScheduler):
    """Run trials in order; stop those that are left behind at a rung.

    Never at the last epoch: it brings the test figures.

    Args:
        objectives: of the sweep.
        grace_epochs: the first rung.
        epochs: of a trial.
        margin: see `pareto.left_behind`.
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
        self.rungs = _rungs(grace_epochs, epochs)
        self.points: Points = {}

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Compare a trial with the others at a rung."""
        epoch = int(result["epoch"])
        is_again = "is_repeated" in result or "best/epoch" in result  # the last report of a trial
        if epoch not in self.rungs or is_again:
            return TrialScheduler.CONTINUE
        figures = [float(result[objective.metric]) for objective in self.objectives]
        rung = self.points.setdefault(epoch, {})
        rung[trial.trial_id] = figures
        behind = pareto.left_behind(
            list(rung.values()),
            [objective.reference for objective in self.objectives],
            [objective.direction for objective in self.objectives],
            self.margin,
        )
        is_behind = list(rung).index(trial.trial_id) in behind
        return TrialScheduler.STOP if is_behind else TrialScheduler.CONTINUE


class RungMemory(tune.Callback):
    """Save a scheduler's points with the sweep, which Tune (2.60) does for callbacks alone."""

    def __init__(self, scheduler: FrontScheduler) -> None:
        self.scheduler = scheduler

    def get_state(self) -> dict[str, Points]:
        """Return what to save."""
        return {"points": self.scheduler.points}

    def set_state(self, state: dict[str, Points]) -> None:
        """Put back what was saved."""
        self.scheduler.points = state["points"]


def _rungs(grace_epochs: int, epochs: int) -> list[int]:
    rungs: list[int] = []
    rung = max(1, grace_epochs)
    while rung < epochs:
        rungs.append(rung)
        rung = math.ceil(GROWTH * rung)
    return rungs
