"""The MLflow runs of a sweep: one parent, and a child for each trial.

The driver of the sweep opens, logs to and closes all of them, because a trial that the scheduler
stops has no chance to. A resumed sweep keeps its runs.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from recdiv_core.config import DIALS_FILE, Config
from recdiv_core.fronts.progress import Progress
from recdiv_core.schema import Manifest
from recdiv_core.search_space import SearchSpace
from recdiv_core.sweep.trial import trial_settings
from recdiv_core.tracking.find import find_run
from recdiv_core.tracking.runs import (
    RunHandle,
    experiment_id,
    finish_run,
    reopen_run,
    set_tags,
    start_run,
)
from recdiv_core.tracking.store import tracking_uri
from recdiv_core.training.callback import log_report
from recdiv_core.training.selection import Selected, next_selected
from recdiv_core.wording import dial

logger = logging.getLogger(__name__)


def open_parent(
    config: Config, space: SearchSpace, name: str, manifest: Manifest, *, reopen: bool
) -> RunHandle:
    """Open the run of a sweep, or find the one with this name; `reopen` = the sweep is resumed."""
    uri = tracking_uri(config)
    experiment = experiment_id(uri, manifest.name)
    tags = {"recdiv.run_name": config.run.name, "recdiv.kind": "sweep"}
    handle = find_run(uri, experiment, tags)
    if handle is not None:
        if reopen:
            reopen_run(handle, config, manifest)
        return handle
    described = {
        "recdiv.space": name,
        "recdiv.objectives": json.dumps([dataclasses.asdict(o) for o in space.objectives]),
        "recdiv.parameters": json.dumps([*space.keys, *(["seed"] if space.seeds else [])]),
        "recdiv.seeds": json.dumps(space.seeds),
    }
    return start_run(config, name=config.run.name, kind="sweep", manifest=manifest, tags=described)


def open_trial(
    config: Config, manifest: Manifest, parent: RunHandle, dials: Mapping[str, object]
) -> RunHandle:
    """Open the child run of a trial, or find the one that it had before the sweep was resumed.

    MLflow's lists show it with its dials in its name.
    """
    tags = {
        "recdiv.run_name": config.run.name,
        "recdiv.kind": "trial",
        "mlflow.parentRunId": parent.run_id,
    }
    handle = find_run(parent.uri, parent.experiment_id, tags)
    if handle is not None:
        reopen_run(handle, config, manifest)
        return handle
    return start_run(
        config,
        name=" ".join([config.run.name, *(dial(key, value) for key, value in dials.items())]),
        kind="trial",
        manifest=manifest,
        parent_run_id=parent.run_id,
    )


def trial_name(trial: Trial) -> str:
    """Name a trial of a search after its id in Tune; MLflow and the disk have the same name."""
    return f"trial-{trial.trial_id}"


def grid_trial_name(trial: Trial) -> str:
    """Name a trial of a grid after its number.

    A killed driver may lose a trial that Tune has not saved. The restored grid starts the same
    point under the same number, and so continues the trial's run.
    """
    return f"trial-{int(trial.experiment_tag.partition('_')[0]) - 1:05d}"


class TrialTracking(tune.Callback):
    """Log every trial from the driver of the sweep, and close its run however it ends."""

    def __init__(
        self, config: Config, space: SearchSpace, root: str, parent: RunHandle, manifest: Manifest
    ) -> None:
        self.config, self.root, self.parent, self.manifest = config, root, parent, manifest
        self.shown = [objective.metric for objective in space.objectives]
        self.handles: dict[str, RunHandle] = {}
        self.best: dict[str, Selected] = {}
        self.progress = Progress(parent)

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Open the trial's run, unless an interrupted sweep has opened it."""
        name = str(trial)
        self.progress.read()
        if name not in self.handles:
            settings = trial_settings(self.config, trial.config, self.root, name)
            self.handles[name] = open_trial(settings, self.manifest, self.parent, trial.config)
            swept = ", ".join(f"{key}={value}" for key, value in trial.config.items())
            logger.info("%s: %s", name, swept)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Log an epoch, and keep the selected one."""
        name = str(trial)
        log_report(self.handles[name], _metrics_of(result))
        train, objective = self.config.train, f"val/{self.config.eval.objective_at_k}"
        before = self.best.get(name)
        metrics = _metrics_of(result)
        self.best[name] = next_selected(train.select, objective, metrics, before, train.tie)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Close the run; a trial that was stopped early counts with its selected epoch so far."""
        name = str(trial)
        handle = self.handles.pop(name)
        last = trial.last_result or {}
        if "best/epoch" not in last and name in self.best:
            # stopped early: it counts with its selected epoch so far, and has no test metrics
            best = self.best[name].metrics
            metrics = {f"best/{key}": v for key, v in best.items() if key.startswith("val/")}
            log_report(handle, {**metrics, "best/epoch": best["epoch"], "epoch": best["epoch"]})
            set_tags(handle, {"recdiv.stopped_early": "true"})
        best = self.best[name].metrics if name in self.best else {}
        shown = ", ".join(f"{metric} {best[metric]:.4f}" for metric in self.shown if best)
        logger.info("%s ended: %s", name, shown or "no epoch was evaluated")
        finish_run(handle, "FINISHED")
        self.progress.update(handle)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Close the run of a trial that failed."""
        name = str(trial)
        handle = self.handles.pop(name, None)
        if handle is not None:
            logger.error("%s failed: see %s", name, trial.error_file)
            finish_run(handle, "FAILED")
            self.progress.update(handle)  # the point is complete if this was its last seed


def _metrics_of(result: Mapping[str, Any]) -> dict[str, Any]:
    prefixes = ("train/", "val/", "test/", "best/")
    return {k: v for k, v in result.items() if k.startswith(prefixes) or k in ("epoch", DIALS_FILE)}
