"""A store that is away, breaks off or refuses: a real MLflow server that loses replies."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

from recdiv_core.config import Config, flatten, override
from recdiv_core.errors import UserError
from recdiv_core.schema import Manifest
from recdiv_core.tracking import runs as tracking
from recdiv_core.tracking import store as tracking_store
from recdiv_core.tracking.store import client_of, is_connection_fault, patiently, with_password
from tests.mlflow_server import Server, serve


@pytest.fixture(scope="module")
def one_server(mlflow_uri: str) -> Iterator[Server]:
    server = serve(mlflow_uri)
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def server(one_server: Server) -> Server:
    one_server.to_lose.clear()
    one_server.requests.clear()
    return one_server


@pytest.fixture(autouse=True)
def _retries_of_mlflow(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")


def config_of(uri: str, name: str) -> Config:
    return override(Config(), {"tracking.uri": uri, "run.name": name})


def runs_named(uri: str, name: str) -> list[str]:
    client = MlflowClient(tracking_uri=uri)
    found = client.search_runs(["1"], f"tags.`recdiv.run_name` = '{name}'")
    return [run.info.status for run in found]


@pytest.mark.parametrize("retries", ["0", "2"])
def test_a_lost_reply_leaves_one_run(
    server: Server, manifest: Manifest, retries: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", retries)
    name = f"lost-{retries}"
    first = manifest.model_copy(update={"name": "first"})
    server.to_lose += ["runs/create"]
    run = tracking.start_run(config_of(server.uri, name), name=name, kind="train", manifest=first)
    assert runs_named(server.uri, name) == ["RUNNING"]
    assert client_of(server.uri).get_run(run.run_id).data.tags["recdiv.run_name"] == name


def test_what_is_logged_twice_stands_once(server: Server, manifest: Manifest):
    first = manifest.model_copy(update={"name": "first"})
    config = config_of(server.uri, "twice")
    run = tracking.start_run(config, name="twice", kind="train", manifest=first)
    server.to_lose += ["runs/log-batch"]
    tracking.log_metrics(run, {"val/ndcg_at_10": 0.25}, step=1)
    history = client_of(server.uri).get_metric_history(run.run_id, "val/ndcg_at_10")
    assert [(point.step, point.value) for point in history] == [(1, 0.25)]


def test_a_refusal_of_the_server_is_asked_once(server: Server):
    with pytest.raises(MlflowException, match="No Experiment with id=999"):
        client_of(server.uri).get_experiment("999")
    assert server.asked("experiments/get") == 1


def test_an_error_that_is_no_faults_of_a_connection_is_met_once(mlflow_uri: str):
    calls: list[int] = []

    def refuse() -> None:
        calls.append(1)
        raise PermissionError("the artefact store refuses")

    with pytest.raises(PermissionError):
        patiently(mlflow_uri, refuse)
    assert len(calls) == 1


def test_a_connection_that_always_breaks_is_given_up_while_the_store_answers(server: Server):
    server.to_lose += ["experiments/get"] * 10
    with pytest.raises(MlflowException, match="failed with exception"):
        client_of(server.uri).get_experiment("1")
    assert server.asked("experiments/get") == tracking_store.ATTEMPTS


@pytest.mark.parametrize(
    ("error", "is_fault"),
    [
        (requests.exceptions.ConnectionError("reset"), True),
        (requests.exceptions.ReadTimeout("slow"), True),
        (ConnectionResetError("reset"), True),
        (PermissionError("read only"), False),
        (MlflowException("gone", error_code=0), False),
        (MlflowException("API request to endpoint /a failed with error code 502 != 200"), True),
        (MlflowException("API request to endpoint /a failed with error code 500 != 200"), False),
        (OperationalError("", {}, sqlite3.OperationalError("database is locked")), True),
        (OperationalError("", {}, sqlite3.OperationalError("no such table: runs")), False),
        (OperationalError("", {}, OSError("server closed the connection")), True),
    ],
    ids=str,
)
def test_a_fault_of_the_connection_is_told_from_an_answer(error: Exception, is_fault: bool):
    assert is_connection_fault(error) is is_fault


def test_a_run_is_closed_where_the_artefact_store_refuses(
    manifest: Manifest, mlflow_uri: str, tmp_path: Path
):
    (tmp_path / "file").touch()
    client = MlflowClient(tracking_uri=mlflow_uri)
    client.create_experiment("refused", (tmp_path / "file" / "artefacts").as_uri())
    own = manifest.model_copy(update={"name": "refused"})
    with pytest.raises(UserError, match=r"tracking\.uri=sqlite:.*: run [0-9a-f]{32}: "):
        tracking.start_run(config_of(mlflow_uri, "r"), name="r", kind="train", manifest=own)
    experiment = client.get_experiment_by_name("refused")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"


def test_a_run_whose_driver_was_lost_early_is_completed_when_it_is_resumed(
    manifest: Manifest, mlflow_uri: str
):
    config = config_of(mlflow_uri, "early")
    client = MlflowClient(tracking_uri=mlflow_uri)
    experiment = tracking.experiment_id(mlflow_uri, "first")
    made = client.create_run(experiment, tags={"recdiv.run_name": "early"})
    handle = tracking.RunHandle(mlflow_uri, experiment, made.info.run_id)
    tracking.reopen_run(handle, config, manifest)
    there = client.get_run(handle.run_id)
    assert there.data.params.keys() == flatten(config).keys()
    assert there.inputs.dataset_inputs
    tracking.reopen_run(handle, override(config, {"train.max_failures": 9}), manifest)
    assert client.get_run(handle.run_id).data.params == there.data.params


def test_the_password_of_a_database_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "p@ss")
    assert with_password("postgresql://me@host/runs") == "postgresql://me:p%40ss@host/runs"
    assert with_password("postgresql://me:own@host/runs") == "postgresql://me:own@host/runs"
    assert with_password("http://host") == "http://host"
    assert with_password("sqlite:////a.db") == "sqlite:////a.db"
