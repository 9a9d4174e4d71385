"""Whether more trials still help: the hypervolume of a sweep's front, logged while it runs.

What the value is, trials.py says; the report draws it. The one idea: the store is the memory. What
the runs of earlier trials hold is read once a process, and only steps that the parent run lacks are
logged, so that the curve of an interrupted sweep goes on as if nothing had happened.
"""

from __future__ import annotations

from dataclasses import replace

from recdiv_core.fronts import trials
from recdiv_core.fronts.points import ended_points
from recdiv_core.fronts.reading import COURSE, read_sweep, read_trial
from recdiv_core.fronts.trials import Sweep
from recdiv_core.tracking.runs import RunHandle, log_curves


class Course:
    """The curve of a running sweep.

    Args:
        parent: run of the sweep.
    """

    def __init__(self, parent: RunHandle) -> None:
        self.parent = parent
        self.sweep: Sweep | None = None

    def read(self) -> None:
        """Read what has ended so far; before any trial of this process begins."""
        if self.sweep is None:
            self.sweep = read_sweep(self.parent, curves=False)

    def go_on(self, ended: RunHandle) -> None:
        """Log the hypervolume after a trial, whose run is closed; of several seeds, a point."""
        assert self.sweep is not None
        others = [trial for trial in self.sweep.trials if trial.run_id != ended.run_id]
        own = read_trial(ended, self.sweep)
        self.sweep = replace(self.sweep, trials=(*others, own))
        reached = trials.course(ended_points(self.sweep), self.sweep.objectives)
        log_curves(self.parent, {COURSE: [volume for _, volume in reached]})
