"""What the Train controller tells MLflow while a single run trains.

Workers never talk to MLflow; the controller gets the report of all ranks and logs rank 0's, whose
figures are global sums already. (Trials of a sweep are logged by the sweep's driver: sweep.py.)
"""

from __future__ import annotations

from typing import Any, Final

from ray.train import Checkpoint, UserCallback

from recdiv_core.config import Config
from recdiv_core.schema import Manifest
from recdiv_core.tracking.runs import (
    RunHandle,
    experiment_id,
    find_run,
    has_logged,
    log_metrics,
    reopen_run,
    start_run,
)
from recdiv_core.tracking.store import tracking_uri

PREFIXES: Final = ("train/", "val/", "best/", "test/")


class TrackingCallback(UserCallback):
    """Log each report to an MLflow run.

    Args:
        handle: the run, opened by the driver.
    """

    def __init__(self, handle: RunHandle) -> None:
        self.handle = handle

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None
    ) -> None:
        """Log the figures of one report."""
        log_report(self.handle, metrics[0])


def log_report(handle: RunHandle, report: dict[str, Any]) -> None:
    """Log the figures of a report under its epoch; those with a prefix (`val/`), no bookkeeping.

    The last report of a run repeats the last epoch beside `test/`, and the first one after a
    restart the epoch before (`is_repeated`); those are logged again only where they never were: a
    driver can be lost between a checkpoint and the logging of its figures.
    """
    step = int(report.get("epoch", 0))
    figures = {name: value for name, value in report.items() if name.startswith(PREFIXES)}
    epochs = [name for name in figures if name.startswith(("train/", "val/"))]
    may_be_there = "is_repeated" in report or any(name.startswith("test/") for name in report)
    if may_be_there and has_logged(handle, epochs, step):
        figures = {name: value for name, value in figures.items() if name not in epochs}
    if figures:
        log_metrics(handle, figures, step=step)


def open_run(config: Config, manifest: Manifest) -> RunHandle:
    """Open the MLflow run of `run.name`: the one that exists, when the run is resumed."""
    uri = tracking_uri(config)
    experiment = experiment_id(uri, manifest.name)
    tags = {"recdiv.run_name": config.run.name, "recdiv.kind": "train"}
    handle = find_run(uri, experiment, tags)
    if handle is not None:
        reopen_run(handle, config, manifest)
        return handle
    return start_run(config, name=config.run.name, kind="train", manifest=manifest)
