"""The searcher that Ray Tune asks for a sweep's trials and tells what they reached.

Written against Tune's public `Searcher` interface. The points come from a grid or from an
Optuna study (study.py). A trial counts with the metrics of its selected epoch, as in the report. A
space with seeds trains each point once per seed; the study is told the means of a point. The whole
state is saved and restored with the sweep. early_stopping.py stops trials that fall behind.
"""

from __future__ import annotations

import logging
import math
import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from ray.tune.search import Searcher
from ray.tune.search.variant_generator import generate_variants

from recdiv_core.config import Config
from recdiv_core.metrics.repeats import means_of
from recdiv_core.search_space import SearchSpace
from recdiv_core.sweep.study import Study
from recdiv_core.training.selection import Selected, next_selected
from recdiv_core.wording import counted

logger = logging.getLogger(__name__)

FINISHED: Final = cast("dict[str, Any]", Searcher.FINISHED)


class FrontSearch(Searcher):
    """Search a space for the front of its objectives.

    `minimum` maps constrained metrics to the lowest value that keeps the constraint.
    """

    def __init__(
        self, space: SearchSpace, config: Config, minimum: Mapping[str, float], budget: Budget
    ) -> None:
        super().__init__()
        self.config, self.budget, self.seeds = config, budget, space.seeds
        self.needed = [*(objective.metric for objective in space.objectives), *minimum]
        is_grid = space.search == "grid"
        self.points = Grid(space, config.seed) if is_grid else Study(space, config.seed, minimum)
        self.num_trials = (
            len(self.points.left) if isinstance(self.points, Grid) else space.num_samples
        ) * max(1, len(space.seeds))
        self.selected: dict[str, Selected] = {}
        """Trial -> its selected epoch so far."""
        self.to_start: list[dict[str, Any]] = []
        """Settings of the newest point's seeds that have not started."""
        self.newest = ""
        self.point_of: dict[str, str] = {}
        """Trial -> its point, which has the name of its first trial."""
        self.ended: dict[str, dict[str, dict[str, float] | None]] = {}
        """Open point -> its ended trials -> their metrics; None = failed."""

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Return the settings of the next trial, or `Searcher.FINISHED`, which is a text."""
        if not self.to_start:
            settings = None if self.budget.is_used_up() else self.points.ask(trial_id)
            if settings is None:
                return FINISHED
            self.newest, self.ended[trial_id] = trial_id, {}
            self.to_start = [{**settings, "seed": seed} for seed in self.seeds] or [settings]
        self.point_of[trial_id] = self.newest
        return self.to_start.pop(0)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Note an epoch, and its metrics if it is the selected one so far."""
        self.budget.note_epoch(trial_id, int(result["epoch"]))
        metrics = {name: float(v) for name, v in result.items() if name.startswith("val/")}
        train, objective = self.config.train, f"val/{self.config.eval.objective_at_k}"
        before = self.selected.get(trial_id)
        self.selected[trial_id] = next_selected(train.select, objective, metrics, before, train.tie)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Take the metrics of a trial's selected epoch; tell the point when its seeds have ended.

        A trial without finite metrics has failed. A point counts with the means of its trials that
        did not fail.
        """
        if result and "epoch" in result:
            self.on_trial_result(trial_id, result)  # Tune leaves out a trial's last report
        selected = self.selected.pop(trial_id, None)
        metrics = {} if selected is None else dict(selected.metrics)
        if result and "best/epoch" in result:
            metrics = {name: result[f"best/{name}"] for name in metrics}
        point = self.point_of[trial_id]
        if point not in self.ended:  # told already: a resumed sweep retries failed trials
            return
        has_failed = error or not self._are_finite(metrics)
        self.ended[point][trial_id] = None if has_failed else metrics
        if len(self.ended[point]) == max(1, len(self.seeds)):
            trials = [own for own in self.ended.pop(point).values() if own is not None]
            self.points.tell(point, means_of(trials) if trials else None)

    def learn(self, settings: Mapping[str, Any], metrics: Mapping[str, float]) -> bool:
        """Take in a trial of an earlier sweep; return whether it is a new point of this space.

        Settings that are no parameters are ignored; `metrics` are those of the selected epoch, with
        the prefix `val/`.
        """
        assert isinstance(self.points, Study)
        return self._are_finite(metrics) and self.points.learn(settings, metrics)

    def _are_finite(self, metrics: Mapping[str, float]) -> bool:
        return all(math.isfinite(metrics.get(name, math.nan)) for name in self.needed)

    def save(self, checkpoint_path: str) -> None:
        """Save everything that is known; Tune calls this while the sweep runs."""
        Path(checkpoint_path).write_bytes(pickle.dumps(vars(self)))

    def restore(self, checkpoint_path: str) -> None:
        """Go on from what was saved."""
        self.__dict__.update(pickle.loads(Path(checkpoint_path).read_bytes()))


class Grid:
    """The points of a grid, in Tune's order; each is combined with each of `space.points`.

    Each `tune.grid_search` is walked; every other domain is drawn at random for each point.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.left: list[dict[str, Any]] = [
            variant["config"] | own
            for _ in range(space.num_samples)
            for _, variant in generate_variants(
                {"config": dict(space.parameters)}, random_state=random
            )
            for own in ([dict(point) for point in space.points] or [{}])
        ]

    def ask(self, name: str) -> dict[str, Any] | None:
        """Return the settings of the next point; None after the last one."""
        return self.left.pop(0) if self.left else None

    def tell(self, name: str, metrics: Mapping[str, float] | None) -> None:
        """Ignore what a point reached: a grid does not learn."""


class Budget:
    """Epochs and hours that a sweep may use before it starts no further trial.

    `max_epochs` of all trials together, and `max_hours` that the sweep's processes run; 0 = no
    limit.
    """

    def __init__(self, max_epochs: int = 0, max_hours: float = 0.0) -> None:
        self.max_epochs, self.limit_s = max_epochs, 3600 * max_hours
        self.epochs: dict[str, int] = {}
        self.before_s, self.started = 0.0, time.monotonic()

    def note_epoch(self, trial_id: str, epoch: int) -> None:
        """Note how many epochs a trial has trained."""
        self.epochs[trial_id] = epoch

    def is_used_up(self) -> bool:
        """Return whether no further trial may start, and log why."""
        if self.max_epochs and sum(self.epochs.values()) >= self.max_epochs:
            trained = counted(self.max_epochs, "epoch")
            logger.info("the trials have trained %s: no new trial starts", trained)
            return True
        if self.limit_s and self.used_s() >= self.limit_s:
            logger.info("the sweep has run %.2f hours: no new trial starts", self.used_s() / 3600)
            return True
        return False

    def used_s(self) -> float:
        """Return the seconds that the sweep has run; time between two processes does not count."""
        return self.before_s + time.monotonic() - self.started

    def __getstate__(self) -> dict[str, object]:
        """Return what to pickle: the seconds used, because another process has another clock."""
        return {**vars(self), "before_s": self.used_s()}

    def __setstate__(self, state: Mapping[str, object]) -> None:
        """Go on from what was pickled."""
        self.__dict__.update(state)
        self.started = time.monotonic()
