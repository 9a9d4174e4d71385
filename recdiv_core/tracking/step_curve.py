"""The curve of a training within its epochs (`step/loss` and others) in an MLflow run.

A resumed run repeats steps since its last checkpoint. The curve has each step once: a repeated step
gives the same values, so it is not logged again. These metrics are a convenience: a store that does
not answer costs a point of the curve, never the run, and nobody waits for it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from recdiv_core.storage.credentials import redact
from recdiv_core.tracking.runs import RunHandle, log_metrics
from recdiv_core.tracking.store import with_password

logger = logging.getLogger(__name__)

PREFIX: Final = "step/"


class StepCurve:
    """The `step/...` metrics of one run."""

    def __init__(self, handle: RunHandle) -> None:
        self.handle = handle
        self._last_step: int | None = None  # logged; None until the run has been asked

    def log(self, report: Mapping[str, Any]) -> None:
        """Log the `step/...` metrics of a report at its `step`, unless the run has that step."""
        metrics = {name: value for name, value in report.items() if name.startswith(PREFIX)}
        if not metrics:
            return
        step = int(report["step"])
        try:
            if self._last_step is None:
                self._last_step = self._logged_step(next(iter(metrics)))
            if step > self._last_step:
                log_metrics(self.handle, metrics, step=step, waits=False)
                self._last_step = step
        except (MlflowException, SQLAlchemyError, OSError) as error:
            reason = redact(str(error).splitlines()[0])
            logger.warning("the metrics of step %d are missing in MLflow: %s", step, reason)

    def _logged_step(self, name: str) -> int:
        client = MlflowClient(tracking_uri=with_password(self.handle.uri))
        points = client.get_metric_history(self.handle.run_id, name)
        return max((int(point.step or 0) for point in points), default=0)
