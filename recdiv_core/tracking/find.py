"""Find runs in MLflow: by tags, by config, by id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from mlflow.exceptions import MlflowException

from recdiv_core.config import Config
from recdiv_core.errors import UserError
from recdiv_core.storage.credentials import redact
from recdiv_core.storage.places import joined
from recdiv_core.tracking.runs import RunHandle
from recdiv_core.tracking.store import client_of

RECOMMENDED: Final = "recdiv.recommended"
"""Tag of a sweep's run (the RUN) and of the recommended trial's run (the share that it keeps)."""


def experiment_ids(uri: str, name: str = "") -> list[str]:
    """Return the ids of all experiments, or of the one with this name."""
    query = f"name = {_quoted(name)}" if name else None
    client = client_of(uri)
    return [e.experiment_id for e in client.search_experiments(filter_string=query)]


def find_run(uri: str, experiment: str, tags: Mapping[str, str]) -> RunHandle | None:
    """Return the newest run with all these tags, such as `{"recdiv.run_name": "a"}`."""
    return newest_run(uri, [experiment], "tags", tags)


def run_of(uri: str, config: Config) -> RunHandle:
    """Return the newest MLflow run of a training run or trial, by its config.

    Raises:
        UserError: the store has no such run.
    """
    place = {"run.name": config.run.name, "run.storage": config.run.storage}
    found = newest_run(uri, experiment_ids(uri), "params", place)
    if found is None:
        raise UserError(
            f"tracking.uri={redact(uri)} has no run of run.name={config.run.name} in "
            f"run.storage={config.run.storage}"
        )
    return found


def newest_run(
    uri: str, experiments: list[str], entity: Literal["tags", "params"], equal: Mapping[str, str]
) -> RunHandle | None:
    """Return the newest run of some experiments with these tags or params."""
    if not experiments:
        return None
    clauses = [f"{entity}.`{key}` = {_quoted(value)}" for key, value in equal.items()]
    runs = client_of(uri).search_runs(
        experiments,
        " and ".join(clauses),
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    return RunHandle(uri, runs[0].info.experiment_id, runs[0].info.run_id) if runs else None


def chosen_run(uri: str, run_id: str) -> str:
    """Return the RUN that a report recommended, if the MLflow run is a sweep; else the id itself.

    Raises:
        UserError: the report of the sweep recommends no trial, or there is none yet.
    """
    try:
        tags = client_of(uri).get_run(run_id).data.tags
    except MlflowException:
        return run_id  # `run_directory` tells why
    if tags.get("recdiv.kind") != "sweep":
        return run_id
    if not tags.get(RECOMMENDED):
        raise UserError(
            f"sweep {run_id} has no recommended trial: run `recdiv report --run {run_id}`, or name "
            "a trial of it"
        )
    return tags[RECOMMENDED]


def run_directory(uri: str, run_id: str) -> str:
    """Return the directory (path or URI) of a training run or trial, by the id of its MLflow run.

    Raises:
        UserError: the run does not exist, or its params do not name a directory.
    """
    try:
        params = client_of(uri).get_run(run_id).data.params
    except MlflowException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"tracking.uri={redact(uri)} has no run {run_id}: {reason}") from None
    if not (params.get("run.storage") and params.get("run.name")):
        raise UserError(
            f"the MLflow run {run_id} is no training run: it has no run.storage and run.name"
        )
    return joined(params["run.storage"], params["run.name"])


def _quoted(value: str) -> str:
    """Quote a text for MLflow's filter, which has two kinds of quotes and no escape."""
    return f'"{value}"' if "'" in value else f"'{value}'"
