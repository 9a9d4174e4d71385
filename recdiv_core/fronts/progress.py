"""Log the hypervolume of a running sweep's front, which shows whether more trials still help.

MLflow is the memory: earlier trials are read once per process, and only missing steps are logged.
So the curve of a resumed sweep goes on where it stopped. The report draws the curve.
"""

from __future__ import annotations

from dataclasses import replace

from recdiv_core.fronts import trials
from recdiv_core.fronts.points import ended_points
from recdiv_core.fronts.reading import HYPERVOLUME, read_sweep, read_trial
from recdiv_core.fronts.trials import Sweep
from recdiv_core.tracking.runs import RunHandle, log_curves


class Progress:
    """The hypervolume of a running sweep, logged to its run after each point."""

    def __init__(self, parent: RunHandle) -> None:
        self.parent = parent
        self.sweep: Sweep | None = None

    def read(self) -> None:
        """Read the trials that have ended, before the first trial of this process starts."""
        if self.sweep is None:
            self.sweep = read_sweep(self.parent, curves=False)

    def update(self, ended: RunHandle) -> None:
        """Log the hypervolume after a trial whose run is closed, or after its point's last seed."""
        assert self.sweep is not None
        others = [trial for trial in self.sweep.trials if trial.run_id != ended.run_id]
        own = read_trial(ended, self.sweep)
        self.sweep = replace(self.sweep, trials=(*others, own))
        reached = trials.hypervolumes(ended_points(self.sweep), self.sweep.objectives)
        log_curves(self.parent, {HYPERVOLUME: [volume for _, volume in reached]})
