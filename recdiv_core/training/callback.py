"""What Ray Train's controller logs to MLflow while a single run trains.

Workers never talk to MLflow. The controller, a process of Ray, gets the reports of all ranks and
logs those of rank 0, whose metrics are global sums already. (The driver of a sweep logs its trials:
sweep/tracking.py.)
"""

from __future__ import annotations

from typing import Any

from ray.train import Checkpoint, UserCallback

from recdiv_core.cluster.start import start_logging
from recdiv_core.config import DIALS_FILE, Config
from recdiv_core.schema import Manifest
from recdiv_core.tracking.find import find_run
from recdiv_core.tracking.runs import (
    RunHandle,
    experiment_id,
    has_logged,
    log_metrics,
    log_text,
    reopen_run,
    start_run,
)
from recdiv_core.tracking.step_curve import StepCurve
from recdiv_core.tracking.store import tracking_uri


class TrackingCallback(UserCallback):
    """Log each report to an MLflow run.

    Args:
        handle: the run, opened by the driver.
    """

    def __init__(self, handle: RunHandle) -> None:
        self.handle = handle
        self.curve = StepCurve(handle)

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None
    ) -> None:
        """Log the metrics of one report."""
        start_logging()
        log_report(self.handle, metrics[0])
        self.curve.log(metrics[0])


def log_report(handle: RunHandle, report: dict[str, Any]) -> None:
    """Log the metrics of a report, those with a prefix such as `val/`, and the file of its dials.

    Metrics of an epoch are logged at its step. `best/` and `test/` have one value per run: they are
    logged at step 0, and MLflow draws them as one bar per run.

    Two reports repeat an epoch: the last one of a run, and the first one after a restart
    (`is_repeated`). The epoch is logged then only if it is missing: a driver can be lost after a
    checkpoint and before its metrics are logged.
    """
    step = int(report.get("epoch", 0))
    epoch = {name: v for name, v in report.items() if name.startswith(("train/", "val/"))}
    once = {name: v for name, v in report.items() if name.startswith(("best/", "test/"))}
    may_be_logged = "is_repeated" in report or any(name.startswith("test/") for name in report)
    if epoch and not (may_be_logged and has_logged(handle, list(epoch), step)):
        log_metrics(handle, epoch, step=step)
    if once:
        log_metrics(handle, once, step=0)
    if DIALS_FILE in report:
        log_text(handle, report[DIALS_FILE], DIALS_FILE)


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
