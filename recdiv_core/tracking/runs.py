"""Runs in MLflow: opened, found, logged to and closed, from the driver and the Train controller.

Workers never call this module: they use `ray.train.report`. There is no global state. Every call
names its tracking URI, in a RunHandle that can be pickled. URIs and artefact locations are
absolute, because Ray changes the working directory of its processes.

    experiment = a data set; parent run = a sweep; child run = a trial
    params  = the flattened config; JSON unless the value is text
    metrics = `train/loss`, `val/ndcg_at_10` per epoch; `best/val/...`, `test/...` once per run;
              `front/hypervolume` of a sweep, per point that ended
    tags    = recdiv.kind, run_name, data, manifest, facts, code_version, seed, command, ray_job_id
    inputs  = the prepared data set, by the digest of its manifest; artefacts: config.yaml,
              dials.json (metrics under each entry of `eval.dials`), ...
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from recdiv_core.config import Config, to_yaml
from recdiv_core.errors import UserError
from recdiv_core.schema import Manifest
from recdiv_core.storage.credentials import redact
from recdiv_core.tracking.description import Kind, dataset_input, params_of, tags_of
from recdiv_core.tracking.store import (
    client_of,
    database_path,
    patiently,
    tracking_uri,
    with_password,
)

Ending = Literal["FINISHED", "FAILED", "KILLED"]

MAX_PARAMS: Final = 100
"""Params in one request, MLflow's limit."""
ID_TAG: Final = "recdiv.id"
"""Tag with an id that we give a run before MLflow gives it its own."""
FILE_TAG: Final = "recdiv.file."
"""Start of the tags that name the artefacts of `log_text`."""
EXPERIMENT_NOTE: Final = (
    "One data set. A run that can be unfolded is a sweep, with its front in `report/report.html`; "
    "the runs below it are its trials. `best/val/...` compares trials; `test/...` is measured once."
)


@dataclass(frozen=True)
class RunHandle:
    """Address of a run: all that any process needs to log to it."""

    uri: str
    experiment_id: str
    run_id: str


def experiment_id(uri: str, name: str) -> str:
    """Return the id of an experiment; create or restore it if needed.

    The first call for a database creates its tables, which takes seconds: call it in the driver.
    Artefacts of a SQLite store are kept beside the database, in `mlruns/<name>`.
    """
    client = client_of(uri)
    try:
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            try:
                place = _artifact_location(uri, name)
                note = {"mlflow.note.content": EXPERIMENT_NOTE}
                return client.create_experiment(name, place, tags=note)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                experiment = client.get_experiment_by_name(name)  # another process created it
        assert experiment is not None
        if experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment.experiment_id)
    except (MlflowException, SQLAlchemyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"tracking.uri={redact(uri)}: experiment {name!r}: {reason}") from error
    return experiment.experiment_id


def start_run(
    config: Config,
    *,
    name: str,
    kind: Kind,
    manifest: Manifest,
    parent_run_id: str = "",
    tags: Mapping[str, str] | None = None,
) -> RunHandle:
    """Open a run in the experiment of its data set, with its params, tags and inputs.

    The name of the data set is the experiment's. `name` is shown in MLflow's pages; the tag
    `recdiv.run_name` keeps `run.name`. `tags` are further ones, such as a sweep's
    `recdiv.objectives`.
    """
    uri = tracking_uri(config)
    experiment = experiment_id(uri, manifest.name)
    all_tags = tags_of(config, name, kind, manifest) | dict(tags or {})
    if parent_run_id:
        all_tags["mlflow.parentRunId"] = parent_run_id
    run_id = _create_once(uri, experiment, all_tags, name)
    handle = RunHandle(uri, experiment, run_id)
    _complete(handle, config, manifest, is_new=True)
    return handle


def _create_once(uri: str, experiment: str, tags: Mapping[str, str], name: str) -> str:
    """Create one run and return its id, even if a reply is lost and the call is repeated.

    The run has a tag with an id of ours, which is searched before the call is repeated. MLflow's
    client repeats requests without searching: runs that it creates twice are deleted.
    """
    own = uuid.uuid4().hex
    client = MlflowClient(tracking_uri=with_password(uri))
    has_been_asked = False

    def made() -> list[str]:
        found = client.search_runs([experiment], f"tags.`{ID_TAG}` = '{own}'")
        return [run.info.run_id for run in found]

    def create() -> str:
        nonlocal has_been_asked
        if has_been_asked and (found := made()):
            return found[0]
        has_been_asked = True
        return client.create_run(experiment, tags={**tags, ID_TAG: own}, run_name=name).info.run_id

    run_id = patiently(uri, create)
    if database_path(uri) is None:
        for other in patiently(uri, made):
            if other != run_id:
                client_of(uri).delete_run(other)
    return run_id


def _complete(
    handle: RunHandle, config: Config, manifest: Manifest, *, is_new: bool = False
) -> None:
    """Describe an open run; close it if its store refuses.

    Raises:
        UserError: the store of params or artefacts refuses.
    """
    try:
        _describe(handle, config, manifest, is_new=is_new)
    except BaseException as error:
        with contextlib.suppress(MlflowException, OSError):  # the first error says more
            finish_run(handle, "FAILED")
        if isinstance(error, MlflowException | OSError):
            shown, reason = redact(handle.uri), redact(str(error)).partition("\n")[0]
            raise UserError(f"tracking.uri={shown}: run {handle.run_id}: {reason}") from error
        raise


def _describe(handle: RunHandle, config: Config, manifest: Manifest, *, is_new: bool) -> None:
    """Log the params, the inputs and the config of a run, unless they are there.

    A driver may be lost after it has created the run and before it has logged them.
    """
    client = client_of(handle.uri)
    there = None if is_new else client.get_run(handle.run_id)
    logged = there.data.params if there else {}
    params = [Param(k, text) for k, text in params_of(config).items() if k not in logged]
    for start in range(0, len(params), MAX_PARAMS):
        client.log_batch(handle.run_id, params=params[start : start + MAX_PARAMS])
    if params or not (there and there.inputs and there.inputs.dataset_inputs):
        client.log_text(handle.run_id, to_yaml(config), "config.yaml")
        client.log_inputs(handle.run_id, [dataset_input(config, manifest)])


def reopen_run(handle: RunHandle, config: Config, manifest: Manifest) -> None:
    """Mark a run that was found as RUNNING again, before anything is logged to it."""
    client_of(handle.uri).update_run(handle.run_id, status="RUNNING")
    _complete(handle, config, manifest)


def log_metrics(
    handle: RunHandle, metrics: Mapping[str, float], step: int, *, waits: bool = True
) -> None:
    """Log the finite metrics of one step in one request.

    MLflow draws a value that is not finite as 0 or as infinity: the tag
    `recdiv.not_finite.<metric>` holds the last step with such a value instead. `waits`: wait for a
    store that does not answer.
    """
    client = client_of(handle.uri) if waits else MlflowClient(with_password(handle.uri))
    now_ms = int(time.time() * 1000)
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    client.log_batch(
        handle.run_id,
        metrics=[Metric(name, float(value), now_ms, step) for name, value in finite.items()],
        tags=[
            RunTag(f"recdiv.not_finite.{name}", str(step)) for name in metrics if name not in finite
        ],
    )


def has_logged(handle: RunHandle, metrics: Sequence[str], step: int) -> bool:
    """Return whether a run has a value of one of these metrics at this step."""
    client = client_of(handle.uri)
    return any(
        point.step == step
        for name in metrics
        for point in client.get_metric_history(handle.run_id, name)
    )


def log_curves(handle: RunHandle, curves: Mapping[str, Sequence[float]]) -> None:
    """Log the values of each curve that are missing, one value per step, the first at step 1."""
    client = client_of(handle.uri)
    logged = {name: len(client.get_metric_history(handle.run_id, name)) for name in curves}
    for step in range(max(map(len, curves.values()), default=0)):
        missing = {n: own[step] for n, own in curves.items() if logged[n] <= step < len(own)}
        if missing:
            log_metrics(handle, missing, step=step + 1)


def set_tags(handle: RunHandle, tags: Mapping[str, str]) -> None:
    """Set tags of a run in one request."""
    client_of(handle.uri).log_batch(
        handle.run_id, tags=[RunTag(key, value) for key, value in tags.items()]
    )


def drop_tag(handle: RunHandle, key: str) -> None:
    """Take a tag off a run that has it."""
    if tag_of(handle, key):
        client_of(handle.uri).delete_tag(handle.run_id, key)


def tag_of(handle: RunHandle, key: str) -> str:
    """Return a tag of a run; empty if it has no such tag."""
    return client_of(handle.uri).get_run(handle.run_id).data.tags.get(key, "")


def log_artifact(handle: RunHandle, path: Path, directory: str = "") -> None:
    """Copy a file to `directory` among the run's artefacts."""
    client = client_of(handle.uri)
    client.log_artifact(handle.run_id, str(path), directory or None)


def log_text(handle: RunHandle, text: str, name: str) -> None:
    """Write a text as an artefact of the run; the tag `recdiv.file.<name>` tells that it exists."""
    client_of(handle.uri).log_text(handle.run_id, text, name)
    set_tags(handle, {f"{FILE_TAG}{name}": "true"})


def read_text(handle: RunHandle, name: str) -> str:
    """Return the text of an artefact."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with tempfile.TemporaryDirectory() as directory:
        place = client_of(handle.uri).download_artifacts(handle.run_id, name, directory)
        return Path(place).read_text(encoding="utf-8")


def finish_run(handle: RunHandle, status: Ending) -> None:
    """Close a run; a second call with the same status changes nothing."""
    client = client_of(handle.uri)
    if client.get_run(handle.run_id).info.status != status:
        client.set_terminated(handle.run_id, status)


@contextlib.contextmanager
def machine_watched(handle: RunHandle) -> Iterator[None]:
    """Log how busy the driver's machine is (CPU, memory, disk, network) to a run, as `system/...`.

    MLflow's monitor samples every ten seconds and stops if the store does not answer.
    """
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
    monitor = SystemMetricsMonitor(handle.run_id, resume_logging=True, tracking_uri=handle.uri)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def _artifact_location(uri: str, name: str) -> str | None:
    """Return `mlruns/<name>` beside a SQLite database; None = the store decides."""
    path = database_path(uri)
    directory = re.sub(r"[^\w.-]+", "_", name).strip(".") or "_"
    return None if path is None else (path.parent / "mlruns" / directory).as_uri()
