"""Runs in MLflow: opened, fed and closed from the driver and the Train controller.

Not the store itself (tracking_store.py), and not for workers: they talk through `ray.train.report`
alone. The one idea: no global state. Every call names its tracking URI, in a RunHandle that can be
pickled to another process, and every URI and artefact location is absolute, because Ray changes the
working directory of its processes.

    experiment = a data set; parent run = a sweep; child run = a trial
    params  = the flattened config, JSON where the value is not a string
    metrics = `train/loss`, `val/ndcg_at_10` per epoch; `best/val/...`, `test/...` once; of a sweep
              `front/hypervolume` per point that ended
    tags    = recdiv.kind, run_name, data, manifest, facts, code_version, seed, command, ray_job_id
    inputs  = the prepared data set, by the digest of its manifest; artefacts: config.yaml, ...
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import math
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

import recdiv_core
from recdiv_core.config import Config, flatten, to_yaml
from recdiv_core.errors import UserError
from recdiv_core.schema import Manifest
from recdiv_core.storage.credentials import redact, without_secrets
from recdiv_core.storage.places import joined
from recdiv_core.tracking.store import (
    client_of,
    database_path,
    patiently,
    tracking_uri,
    with_password,
)

logger = logging.getLogger(__name__)

Kind = Literal["train", "sweep", "trial"]
Ending = Literal["FINISHED", "FAILED", "KILLED"]

MAX_PARAMS: Final = 100  # MLflow's limit of params in one request
MAX_EARLIER: Final = 1000
"""Trials of earlier sweeps that are looked at, the oldest first."""
ID_TAG: Final = "recdiv.id"
"""Tag with an id of a run that is known before MLflow gives it its own."""
OF_THE_PLACE: Final = (
    "run.",
    "tracking.",
    "data.",
    "split.",
    "scaling.address",
    "scaling.max_concurrent_trials",
    "scaling.cpus_per_worker",
    "scaling.threads_per_worker",
    "train.max_failures",
    "train.keep_checkpoints",
)
"""Keys that change no figure of a run on the same prepared data."""
MAX_PARAM_LENGTH: Final = 6000  # MLflow's limit, in characters
MAX_DIGEST_LENGTH: Final = 36  # MLflow's limit
EXPERIMENT_NOTE: Final = (
    "One data set. A run that can be unfolded is a sweep, with its front in `report/report.html`; "
    "the runs below it are its trials, judged by `best/val/...` and, once, by `test/...`."
)


@dataclass(frozen=True)
class RunHandle:
    """Where a run is kept: all that is needed to log to it, from any process."""

    uri: str
    experiment_id: str
    run_id: str


def experiment_id(uri: str, name: str) -> str:
    """Return the id of an experiment; create or restore it when it is not there.

    The first use of a database makes its tables here (several seconds), hence in the driver.
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
                experiment = client.get_experiment_by_name(name)  # another process was first
        assert experiment is not None
        if experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment.experiment_id)
    except (MlflowException, SQLAlchemyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"tracking.uri={redact(uri)}: experiment {name!r}: {reason}") from error
    return experiment.experiment_id


def experiment_ids(uri: str, name: str = "") -> list[str]:
    """Return the ids of all experiments, or of the one with this name."""
    query = f"name = {_quoted(name)}" if name else None
    client = client_of(uri)
    return [e.experiment_id for e in client.search_experiments(filter_string=query)]


def start_run(
    config: Config,
    *,
    name: str,
    kind: Kind,
    manifest: Manifest,
    parent_run_id: str = "",
    tags: Mapping[str, str] | None = None,
) -> RunHandle:
    """Open a run in the experiment of its data set, with the config and where it all came from.

    Args:
        config: logged flattened.
        name: shown in the dashboard; the tag `recdiv.run_name` keeps `run.name`.
        kind: tag `recdiv.kind`.
        manifest: of the prepared data set; its name is the experiment's.
        parent_run_id: the sweep that this run is a trial of.
        tags: further tags, such as a sweep's `recdiv.objectives`.
    """
    uri = tracking_uri(config)
    experiment = experiment_id(uri, manifest.name)
    all_tags = _provenance(config, name, kind, manifest) | dict(tags or {})
    if parent_run_id:
        all_tags["mlflow.parentRunId"] = parent_run_id
    run_id = _create_once(uri, experiment, all_tags, name)
    handle = RunHandle(uri, experiment, run_id)
    _complete(handle, config, manifest)
    return handle


def _create_once(uri: str, experiment: str, tags: Mapping[str, str], name: str) -> str:
    """Create a run and return its id; one, though the reply may be lost and the call made again.

    It bears an id of our own, by which it is looked for before it is created again. MLflow's own
    client repeats a request without looking: the runs that come of it are deleted.
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


def _complete(handle: RunHandle, config: Config, manifest: Manifest) -> None:
    """Describe a run that is open; where its store refuses, it is closed.

    Raises:
        UserError: the store of params or of artefacts refuses.
    """
    try:
        _describe(handle, config, manifest)
    except BaseException as error:
        with contextlib.suppress(MlflowException, OSError):  # the first error tells more
            finish_run(handle, "FAILED")
        if isinstance(error, MlflowException | OSError):
            shown, reason = redact(handle.uri), redact(str(error)).partition("\n")[0]
            raise UserError(f"tracking.uri={shown}: run {handle.run_id}: {reason}") from error
        raise


def _describe(handle: RunHandle, config: Config, manifest: Manifest) -> None:
    """Log what a run says of itself and does not say yet: its params, its data, its config.

    A driver may be lost after it has created the run and before it has logged them.
    """
    client = client_of(handle.uri)
    there = client.get_run(handle.run_id)
    settings = {key: _param_text(value) for key, value in flatten(config).items()}
    params = [Param(k, text) for k, text in settings.items() if k not in there.data.params]
    for start in range(0, len(params), MAX_PARAMS):
        client.log_batch(handle.run_id, params=params[start : start + MAX_PARAMS])
    if params or not (there.inputs and there.inputs.dataset_inputs):
        client.log_text(handle.run_id, to_yaml(config), "config.yaml")
        client.log_inputs(handle.run_id, [_dataset_input(config, manifest)])


def find_run(uri: str, experiment: str, tags: Mapping[str, str]) -> RunHandle | None:
    """Return the newest run with all these tags, such as `{"recdiv.run_name": "a"}`."""
    clauses = [f"tags.`{key}` = {_quoted(value)}" for key, value in tags.items()]
    runs = client_of(uri).search_runs(
        [experiment],
        " and ".join(clauses),
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    return RunHandle(uri, experiment, runs[0].info.run_id) if runs else None


def run_of(uri: str, config: Config) -> RunHandle:
    """Return the newest MLflow run of a training run or trial, by its config.

    Raises:
        UserError: the store has none.
    """
    client = client_of(uri)
    wanted = {"run.name": config.run.name, "run.storage": config.run.storage}
    clauses = [f"params.`{key}` = {_quoted(value)}" for key, value in wanted.items()]
    found = client.search_runs(
        experiment_ids(uri),
        " and ".join(clauses),
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    if not found:
        raise UserError(
            f"tracking.uri={redact(uri)} has no run of run.name={config.run.name} in "
            f"run.storage={config.run.storage}"
        )
    return RunHandle(uri, found[0].info.experiment_id, found[0].info.run_id)


def run_directory(uri: str, run_id: str) -> str:
    """Return the directory, a path or URI, of a training run or trial, by the id of its MLflow run.

    Raises:
        UserError: no such run, or one that does not say where it is.
    """
    try:
        params = client_of(uri).get_run(run_id).data.params
    except MlflowException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"tracking.uri={redact(uri)} has no run {run_id}: {reason}") from None
    if not (params.get("run.storage") and params.get("run.name")):
        raise UserError(f"the MLflow run {run_id} has no run.storage and run.name: not of train")
    return joined(params["run.storage"], params["run.name"])


def reopen_run(handle: RunHandle, config: Config, manifest: Manifest) -> None:
    """Mark a run as RUNNING again, after it was found and before it is logged to."""
    client_of(handle.uri).update_run(handle.run_id, status="RUNNING")
    _complete(handle, config, manifest)


def log_metrics(handle: RunHandle, metrics: Mapping[str, float], step: int) -> None:
    """Log the finite figures of one step in one request.

    A figure that is not finite would be drawn as 0 or as infinity: the tag
    `recdiv.not_finite.<metric>` holds the last step where it happened instead.
    """
    now_ms = int(time.time() * 1000)
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    client_of(handle.uri).log_batch(
        handle.run_id,
        metrics=[Metric(name, float(value), now_ms, step) for name, value in finite.items()],
        tags=[
            RunTag(f"recdiv.not_finite.{name}", str(step)) for name in metrics if name not in finite
        ],
    )


def has_logged(handle: RunHandle, metrics: Sequence[str], step: int) -> bool:
    """Tell whether a run has a figure of one of these metrics at this step."""
    client = client_of(handle.uri)
    return any(
        point.step == step
        for name in metrics
        for point in client.get_metric_history(handle.run_id, name)
    )


def log_course(handle: RunHandle, courses: Mapping[str, Sequence[float]]) -> None:
    """Log of each curve what is not there yet, a value a step, the first at step 1."""
    client = client_of(handle.uri)
    logged = {name: len(client.get_metric_history(handle.run_id, name)) for name in courses}
    for step in range(max(map(len, courses.values()), default=0)):
        figures = {n: own[step] for n, own in courses.items() if logged[n] <= step < len(own)}
        if figures:
            log_metrics(handle, figures, step=step + 1)


def set_tags(handle: RunHandle, tags: Mapping[str, str]) -> None:
    """Set tags of a run, in one request."""
    client_of(handle.uri).log_batch(
        handle.run_id, tags=[RunTag(key, value) for key, value in tags.items()]
    )


def tag_of(handle: RunHandle, key: str) -> str:
    """Return a tag of a run, the empty text where it has none of this name."""
    return client_of(handle.uri).get_run(handle.run_id).data.tags.get(key, "")


def log_artifact(handle: RunHandle, path: Path, directory: str = "") -> None:
    """Copy a file to the run's artefacts, into `directory`."""
    client = client_of(handle.uri)
    client.log_artifact(handle.run_id, str(path), directory or None)


def finish_run(handle: RunHandle, status: Ending) -> None:
    """Close a run; closing it again with the same status changes nothing."""
    client = client_of(handle.uri)
    if client.get_run(handle.run_id).info.status != status:
        client.set_terminated(handle.run_id, status)


@contextlib.contextmanager
def machine_watched(handle: RunHandle) -> Iterator[None]:
    """Log how busy this machine is (processors, memory, disk, network) to a run, as `system/...`.

    Of the driver's machine, every ten seconds; it ends where the store does not answer.
    """
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
    monitor = SystemMetricsMonitor(handle.run_id, resume_logging=True, tracking_uri=handle.uri)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def children(handle: RunHandle) -> list[Run]:
    """Return all runs of a sweep, the oldest first."""
    client = client_of(handle.uri)
    runs: list[Run] = []
    token: str | None = None
    while token != "":
        page = client.search_runs(
            [handle.experiment_id],
            f"tags.`mlflow.parentRunId` = '{handle.run_id}'",
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

    Of the same data and with all other settings, as they were logged, those of `config`; trials
    that were stopped early are none.
    """
    settings = {
        key: _param_text(value)
        for key, value in flatten(config).items()
        if not key.startswith(OF_THE_PLACE) and key not in swept
    }
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
        and settings.items() <= run.data.params.items()
    ]


def param_value(text: str) -> object:
    """Read back a param as it was written: JSON, or the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def close_stale_children(parent: RunHandle) -> int:
    """Mark the trials left RUNNING as KILLED and return how many there were.

    A trial that its scheduler stopped has no chance to close its own run.
    """
    stale = [run for run in children(parent) if run.info.status == "RUNNING"]
    for run in stale:
        finish_run(RunHandle(parent.uri, parent.experiment_id, run.info.run_id), "KILLED")
    return len(stale)


def _artifact_location(uri: str, name: str) -> str | None:
    """Return `mlruns/<name>` beside a SQLite database; others decide for themselves."""
    path = database_path(uri)
    directory = re.sub(r"[^\w.-]+", "_", name).strip(".") or "_"
    return None if path is None else (path.parent / "mlruns" / directory).as_uri()


def _provenance(config: Config, name: str, kind: Kind, manifest: Manifest) -> dict[str, str]:
    command = redact(" ".join(sys.argv))
    facts = {
        "users": manifest.num_users,
        "items": manifest.num_items,
        "events": manifest.num_events,
        "cold users": manifest.num_cold_users,
        "cold items": manifest.num_cold_items,
        "categories": len(manifest.categories),
        "examples": manifest.num_examples,
        "split": manifest.split,
    }
    tags = {
        "mlflow.user": os.environ.get("USER", "unknown"),
        "mlflow.source.name": Path(sys.argv[0]).name,
        "recdiv.kind": kind,
        "recdiv.run_name": config.run.name or name,
        "recdiv.data": manifest.name,
        "recdiv.manifest": manifest.fingerprint,
        "recdiv.facts": json.dumps(facts, ensure_ascii=False),
        "recdiv.seed": str(config.seed),
        "recdiv.command": command,
        "recdiv.code_version": _code_version(),
    }
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("metadata", {})
    if "job_submission_id" in job:
        tags["recdiv.ray_job_id"] = job["job_submission_id"]
    return tags


def _dataset_input(config: Config, manifest: Manifest) -> DatasetInput:
    facts = {"users": manifest.num_users, "items": manifest.num_items, **manifest.num_examples}
    dataset = Dataset(
        name=manifest.name,
        digest=manifest.fingerprint[:MAX_DIGEST_LENGTH],
        source_type="local",
        source=json.dumps({"uri": config.data.prepared}),
        profile=json.dumps(facts),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _code_version() -> str:
    """Return the commit that this file is part of (`-dirty` when changed), else the version."""
    here = Path(recdiv_core.__file__)

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", "-C", str(here.parent), *arguments], capture_output=True, text=True, check=False
        )

    try:
        is_ours = git("ls-files", "--error-unmatch", here.name).returncode == 0
    except FileNotFoundError:  # no git on this machine
        is_ours = False
    if not is_ours:
        return importlib.metadata.version("recdiv")
    dirty = "-dirty" if git("status", "--porcelain", "--", ".").stdout else ""
    return git("rev-parse", "HEAD").stdout.strip() + dirty


def _param_text(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = without_secrets(text) if "://" in text else text
    return text if len(text) <= MAX_PARAM_LENGTH else text[: MAX_PARAM_LENGTH - 3] + "..."


def _quoted(value: str) -> str:
    """Quote for MLflow's filter, which knows both quotes and no escape."""
    return f'"{value}"' if "'" in value else f"'{value}'"
