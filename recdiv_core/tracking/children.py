"""The trials of a sweep in MLflow: child runs of the sweep's run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mlflow.entities import Run

from recdiv_core.config import Config
from recdiv_core.schema import Manifest
from recdiv_core.tracking.description import comparable_params
from recdiv_core.tracking.runs import RunHandle, finish_run
from recdiv_core.tracking.store import client_of

MAX_EARLIER: Final = 1000
"""Trials of earlier sweeps that are read, the oldest first."""


def children(parent: RunHandle) -> list[Run]:
    """Return all runs of a sweep, the oldest first."""
    client = client_of(parent.uri)
    runs: list[Run] = []
    token: str | None = None
    while token != "":
        page = client.search_runs(
            [parent.experiment_id],
            f"tags.`mlflow.parentRunId` = '{parent.run_id}'",
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        runs += page
        token = page.token or ""
    return runs


def finished_trials(
    parent: RunHandle, config: Config, manifest: Manifest, swept: Sequence[str]
) -> list[Run]:
    """Return the finished trials of other sweeps that differ in the swept settings alone.

    Their data and all other settings are equal. Trials that were stopped early are left out.
    """
    shared = comparable_params(config, swept)
    runs = client_of(parent.uri).search_runs(
        [parent.experiment_id],
        "attributes.status = 'FINISHED' and tags.`recdiv.kind` = 'trial' and "
        f"tags.`recdiv.manifest` = '{manifest.fingerprint}'",
        max_results=MAX_EARLIER,
        order_by=["attributes.start_time ASC"],
    )
    return [
        run
        for run in runs
        if run.data.tags.get("mlflow.parentRunId") != parent.run_id
        and "recdiv.stopped_early" not in run.data.tags
        and shared.items() <= run.data.params.items()
    ]


def close_stale_children(parent: RunHandle) -> int:
    """Mark trials that are still RUNNING as KILLED; return how many there were.

    A trial that its scheduler stopped has no chance to close its own run.
    """
    stale = [run for run in children(parent) if run.info.status == "RUNNING"]
    for run in stale:
        finish_run(RunHandle(parent.uri, parent.experiment_id, run.info.run_id), "KILLED")
    return len(stale)
