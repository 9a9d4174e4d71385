"""Tracking on a real MLflow store: one SQLite file for the whole session."""

import json
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from recdiv_core.config import Config, flatten, from_tree, override
from recdiv_core.schema import Manifest
from recdiv_core.tracking import runs as tracking
from recdiv_core.tracking.children import children, close_stale_children, finished_trials
from recdiv_core.tracking.description import param_value
from recdiv_core.tracking.find import find_run, run_directory
from recdiv_core.tracking.runs import RunHandle
from recdiv_core.tracking.store import tracking_uri


@pytest.fixture
def client(mlflow_uri: str) -> MlflowClient:
    return MlflowClient(tracking_uri=mlflow_uri)


@pytest.fixture
def config(mlflow_uri: str) -> Config:
    return override(Config(), {"tracking.uri": mlflow_uri, "run.name": "first", "seed": 7})


@pytest.fixture
def run(config: Config, manifest: Manifest) -> RunHandle:
    return tracking.start_run(config, name="first", kind="train", manifest=manifest)


def uri_of(text: str) -> str:
    return tracking_uri(override(Config(), {"tracking.uri": text}))


def test_default_is_a_database_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert uri_of("") == f"sqlite:///{tmp_path}/mlflow.db"


def test_a_relative_database_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert uri_of("sqlite:///there/runs.db") == f"sqlite:///{tmp_path}/there/runs.db"


@pytest.mark.parametrize("text", ["mlruns", "/tmp/mlruns", "file:///tmp/mlruns", "redis://h/0"])
def test_other_stores_are_refused(text: str):
    with pytest.raises(ValueError, match=r"tracking\.uri=.*allowed: .*sqlite:///.*http"):
        uri_of(text)


@pytest.mark.parametrize("text", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(text: str):
    with pytest.raises(ValueError, match="names no file"):
        uri_of(text)


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_server_that_does_not_answer_is_said_to(scheme: str):
    with pytest.raises(ValueError, match=r"tracking\.uri=.*(not answer|cannot be opened)"):
        uri_of(f"{scheme}://127.0.0.1:1/runs")


@pytest.mark.parametrize("scheme", ["http", "postgresql", "redis"])
def test_a_refusal_hides_the_password(scheme: str):
    with pytest.raises(ValueError, match=r"tracking\.uri=") as refused:
        uri_of(f"{scheme}://me:secret@127.0.0.1:1/runs")
    assert "secret" not in str(refused.value)


def test_a_file_that_is_no_database_is_said_to_be(tmp_path):
    (tmp_path / "notes.db").write_text("not a database at all" * 100)
    with pytest.raises(ValueError, match=r"notes\.db: the database cannot be opened"):
        uri_of(f"sqlite:///{tmp_path}/notes.db")


def test_a_database_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be opened"):
        uri_of(f"sqlite:///{tmp_path}/file/runs.db")


def test_artefacts_lie_beside_the_database_whatever_the_name(mlflow_uri, client):
    experiment = client.get_experiment(tracking.experiment_id(mlflow_uri, "../shop \u5e97"))
    beside = Path(mlflow_uri.removeprefix("sqlite:///")).parent / "mlruns" / "_shop_\u5e97"
    assert experiment.artifact_location == beside.as_uri()


def test_an_experiment_is_made_once(mlflow_uri):
    assert tracking.experiment_id(mlflow_uri, "twice") == tracking.experiment_id(
        mlflow_uri, "twice"
    )


def test_a_deleted_experiment_is_restored(mlflow_uri, client):
    number = tracking.experiment_id(mlflow_uri, "deleted")
    client.delete_experiment(number)
    assert tracking.experiment_id(mlflow_uri, "deleted") == number
    assert client.get_experiment(number).lifecycle_stage == "active"


def test_a_run_carries_the_whole_config(run, client, config):
    params = client.get_run(run.run_id).data.params
    assert params.keys() == flatten(config).keys()
    assert params["seed"] == "7"
    assert json.loads(params["loss.diversity"]) == config.loss.diversity


def test_a_run_says_where_it_came_from(run, client, manifest):
    tags = client.get_run(run.run_id).data.tags
    assert tags["recdiv.kind"] == "train"
    assert tags["recdiv.manifest"] == manifest.fingerprint
    assert tags["recdiv.data"] == manifest.name
    assert tags["recdiv.seed"] == "7"
    assert tags["recdiv.code_version"]
    assert json.loads(tags["recdiv.facts"])["users"] == manifest.num_users


def test_a_run_names_its_data_by_digest_and_keeps_its_config(run, client, config, manifest):
    (used,) = client.get_run(run.run_id).inputs.dataset_inputs
    assert used.dataset.name == manifest.name
    assert manifest.fingerprint.startswith(used.dataset.digest)
    assert json.loads(used.dataset.profile)["items"] == manifest.num_items
    kept = Path(client.download_artifacts(run.run_id, "config.yaml"))
    assert from_tree(yaml.safe_load(kept.read_text())) == config


def test_a_ray_job_is_named_in_the_tags(config, manifest, client, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": {"job_submission_id": "j1"}}')
    run = tracking.start_run(config, name="job", kind="train", manifest=manifest)
    assert client.get_run(run.run_id).data.tags["recdiv.ray_job_id"] == "j1"


def test_a_password_is_not_logged(config, manifest, client, monkeypatch):
    address = "s3+http://me:secret@host/clicks"
    monkeypatch.setattr(sys, "argv", ["train", f"data.clicks={address}"])
    config = override(config, {"data.clicks": address})
    run = tracking.start_run(config, name="secret", kind="train", manifest=manifest)
    data = client.get_run(run.run_id).data
    assert data.params["data.clicks"] == "s3+http://host/clicks"
    assert "secret@" not in json.dumps(data.tags)


def test_a_long_value_is_cut_at_the_limit(config, manifest, client):
    config = override(config, {"data.clicks": "x" * 7000})
    run = tracking.start_run(config, name="long", kind="train", manifest=manifest)
    logged = client.get_run(run.run_id).data.params["data.clicks"]
    assert len(logged) == 6000
    assert logged.endswith("x...")


def test_a_run_is_found_again_by_its_name(run, mlflow_uri):
    tags = {"recdiv.run_name": "first", "recdiv.kind": "train"}
    assert find_run(mlflow_uri, run.experiment_id, tags) is not None
    assert find_run(mlflow_uri, run.experiment_id, {"recdiv.run_name": "it's"}) is None


def test_a_reopened_run_is_running_and_can_be_closed(run, client, config, manifest):
    tracking.finish_run(run, "FAILED")
    tracking.reopen_run(run, config, manifest)
    assert client.get_run(run.run_id).info.status == "RUNNING"
    tracking.finish_run(run, "FINISHED")
    assert client.get_run(run.run_id).info.status == "FINISHED"


def test_closing_twice_keeps_the_first_end(run, client):
    tracking.finish_run(run, "FINISHED")
    first_end = client.get_run(run.run_id).info.end_time
    tracking.finish_run(run, "FINISHED")
    assert client.get_run(run.run_id).info.end_time == first_end


def test_metrics_keep_their_step_through_a_pickled_handle(run, client):
    tracking.log_metrics(pickle.loads(pickle.dumps(run)), {"val/ndcg_at_10": 0.05}, step=3)
    history = client.get_metric_history(run.run_id, "val/ndcg_at_10")
    assert [(point.step, point.value) for point in history] == [(3, 0.05)]


def test_a_figure_that_is_not_finite_is_tagged_instead(run, client):
    tracking.log_metrics(run, {"train/loss": float("nan"), "train/penalty": 0.5}, step=2)
    data = client.get_run(run.run_id).data
    assert data.metrics == {"train/penalty": 0.5}
    assert data.tags["recdiv.not_finite.train/loss"] == "2"


def test_only_children_left_running_are_killed(run, config, manifest, client):
    stale, done = (
        tracking.start_run(
            config, name=name, kind="trial", manifest=manifest, parent_run_id=run.run_id
        )
        for name in ("stale", "done")
    )
    tracking.finish_run(done, "FINISHED")
    assert close_stale_children(run) == 1
    assert [child.info.status for child in children(run)] == ["KILLED", "FINISHED"]
    assert client.get_run(run.run_id).info.status == "RUNNING"
    assert client.get_run(stale.run_id).info.end_time is not None


def test_an_artefact_is_found_from_another_directory(run, client, tmp_path, monkeypatch):
    (tmp_path / "note.txt").write_text("hello")
    tracking.log_artifact(run, tmp_path / "note.txt", "report")
    monkeypatch.chdir(tmp_path)
    copy = client.download_artifacts(run.run_id, "report/note.txt", str(tmp_path))
    assert Path(copy).read_text() == "hello"


@pytest.mark.slow
def test_four_processes_lose_no_metric(run, client):
    code = (
        "import sys, json; from recdiv_core import tracking;"
        "run = tracking.RunHandle(*json.loads(sys.argv[1]));"
        "[tracking.log_metrics(run, {f'train/{sys.argv[2]}_{i}': 1.0 for i in range(15)}, step)"
        " for step in range(10)]"
    )
    handle = json.dumps([run.uri, run.experiment_id, run.run_id])
    writers = [subprocess.Popen([sys.executable, "-c", code, handle, str(i)]) for i in range(4)]
    assert [writer.wait() for writer in writers] == [0, 0, 0, 0]
    metrics = client.get_run(run.run_id).data.metrics
    assert len(metrics) == 60
    assert all(len(client.get_metric_history(run.run_id, name)) == 10 for name in metrics)


def test_the_directory_of_a_run_is_found_by_its_id(config: Config, manifest: Manifest):
    placed = override(config, {"run.storage": "/shared/runs", "run.name": "wide-s1"})
    run = tracking.start_run(placed, name="wide-s1", kind="train", manifest=manifest)
    assert run_directory(run.uri, run.run_id) == "/shared/runs/wide-s1"


def test_an_id_that_is_unknown_is_said_to_be(mlflow_uri: str, client: MlflowClient):
    with pytest.raises(ValueError, match=r"tracking\.uri=.* has no run 0000"):
        run_directory(mlflow_uri, "0" * 32)
    experiment = tracking.experiment_id(mlflow_uri, "first")
    foreign = client.create_run(experiment).info.run_id
    with pytest.raises(ValueError, match=r"has no run\.storage and run\.name"):
        run_directory(mlflow_uri, foreign)


def write_finished(
    config: Config,
    manifest: Manifest,
    parent: str,
    status: tracking.Ending = "FINISHED",
    **tags: str,
) -> str:
    """Write a trial and return its id."""
    trial = tracking.start_run(
        config, name="t", kind="trial", manifest=manifest, parent_run_id=parent
    )
    tracking.set_tags(trial, {f"recdiv.{key}": value for key, value in tags.items()})
    tracking.finish_run(trial, status)
    return trial.run_id


def test_finished_trials_of_other_sweeps_differ_in_what_is_swept_alone(
    config: Config, manifest: Manifest
):
    own = manifest.model_copy(update={"name": "searched", "fingerprint": "a" * 64})
    swept = ["loss.diversity_weight"]
    first, second = (
        tracking.start_run(config, name=name, kind="sweep", manifest=own) for name in ("a", "b")
    )
    elsewhere = {"run.name": "x", "run.storage": "/else/where", "train.max_failures": 9}
    moved = override(config, {"loss.diversity_weight": 0.25, **elsewhere})
    found = [
        write_finished(moved, own, first.run_id),
        write_finished(config, own, first.run_id),
    ]
    other_data = own.model_copy(update={"fingerprint": "b" * 64})
    write_finished(moved, other_data, first.run_id)
    write_finished(moved, own, first.run_id, "FAILED")
    write_finished(moved, own, first.run_id, stopped_early="true")
    write_finished(moved, own, second.run_id)  # of the sweep that asks
    for key, value in {"train.epochs": 3, "seed": 8, "loss.diversity": {"ild": 2.0}}.items():
        write_finished(override(moved, {key: value}), own, first.run_id)
    earlier = finished_trials(second, config, own, swept)
    assert [run.info.run_id for run in earlier] == found
    params = earlier[0].data.params
    assert param_value(params["loss.diversity_weight"]) == 0.25


@pytest.mark.parametrize("value", [0.25, True, None, {"ild": 1.0}, [1, 2], "mmr"])
def test_a_param_is_read_back_as_it_was(value: object):
    text = value if isinstance(value, str) else json.dumps(value)
    assert param_value(text) == value


def test_the_load_of_the_machine_is_logged_with_the_run(run, client, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")

    def logged() -> list[float]:
        history = client.get_metric_history(run.run_id, "system/cpu_utilization_percentage")
        return [point.step for point in history]

    for least in (1, 2):  # again, as a resumed run does it
        with tracking.machine_watched(run):
            deadline = time.monotonic() + 30
            while len(logged()) < least and time.monotonic() < deadline:
                time.sleep(0.1)
    steps = logged()
    assert len(steps) >= 2
    assert len(set(steps)) == len(steps), "no step twice"
