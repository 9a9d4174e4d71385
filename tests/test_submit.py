import json
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import ray

from recdiv_core.cluster.submit import check_command, list_tree, submit
from recdiv_core.errors import UserError

KEPT = ["run.storage=s3://bucket/runs", "tracking.uri=https://mlflow.example"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("pipelines/tune.py", "pipelines/prepare.py", "tune_spaces/tradeoff.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "pipelines" / "presets").mkdir()
    (tmp_path / "pipelines" / "presets" / "base.yaml").write_text("eval.k: 20\n")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    return tmp_path


def test_a_right_command_passes_whatever_further_options_it_has(tree: Path):
    check_command(["tune", "--preset", "base", "--space", "tradeoff", *KEPT, "seed=1"], tree)
    check_command(["prepare", "--limit", "10", "data.out=/shared/shop"], tree)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ([], "pipeline '' is not in .*; allowed: prepare, tune"),
        (["tuna"], "pipeline 'tuna' is not in"),
        (["tune", "--space", "tradeof", *KEPT], "--space tradeof is not in"),
        (["tune", "--preset", "bas", *KEPT], "bas.yaml is not a file"),
        (["tune", *KEPT, "loss.diversity_wieght=1"], "did you mean 'loss.diversity_weight'"),
        (["tune", "--preset"], "expected one argument"),
        (["tune"], "tracking.uri is empty"),
        (["tune", KEPT[1]], "run.storage=runs is relative"),
        (["tune", *KEPT, "data.prepared=prepared"], "data.prepared=prepared is relative"),
        (["tune", *KEPT, "--checkpoint", "runs/a"], "--checkpoint=runs/a is relative"),
        (["prepare"], "data.out is empty"),
    ],
)
def test_a_wrong_command_is_answered_before_anything_is_shipped(
    tree: Path, command: list[str], message: str
):
    with pytest.raises(ValueError, match=message):
        check_command(command, tree)


def test_a_directory_that_is_not_the_project_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=f"{tmp_path} has no directory pipelines .*--working-dir"):
        check_command(["train", *KEPT], tmp_path)


def test_a_config_file_is_checked_and_shipped_with_the_tree(tree: Path):
    file = tree / "shop.yaml"
    file.write_text("run.storage: s3://bucket/runs\ntracking: {uri: https://mlflow.example}\n")
    command = ["tune", "--space", "tradeoff", "--config"]
    check_command([*command, "shop.yaml"], tree)
    check_command([*command, "./shop.yaml"], tree)
    assert "shop.yaml" in list_tree(tree)
    with pytest.raises(UserError, match=r"--config none.yaml is not a file in --working-dir"):
        check_command([*command, "none.yaml"], tree)
    with pytest.raises(UserError, match=r"shop.yaml would not be shipped: give a path below"):
        check_command([*command, str(file)], tree)
    file.write_text("evla.k: 20\n")
    with pytest.raises(UserError, match=r"shop.yaml: unknown key 'evla.k'"):
        check_command([*command, "shop.yaml"], tree)


def test_a_config_file_that_git_ignores_is_refused(tree: Path):
    (tree / ".gitignore").write_text("*.yaml\n")
    (tree / "shop.yaml").write_text("seed: 1\n")
    with pytest.raises(UserError, match=r"shop.yaml would not be shipped"):
        check_command(["prepare", "data.out=/shared/shop", "--config", "shop.yaml"], tree)


def test_paths_of_a_config_file_must_be_shared_too(tree: Path):
    (tree / "shop.yaml").write_text("data: {clicks: log.csv, out: /shared/shop}\n")
    with pytest.raises(UserError, match=r"data.clicks=log.csv is relative: the job runs elsewhere"):
        check_command(["prepare", "--config", "shop.yaml"], tree)


def test_the_tree_is_what_git_sees(tree: Path):
    (tree / ".gitignore").write_text("data/\n")
    (tree / "data").mkdir()
    (tree / "data" / "clicks.csv").write_text("large")
    (tree / "gone.py").touch()
    subprocess.run(["git", "add", "gone.py"], cwd=tree, check=True)
    (tree / "gone.py").unlink()
    assert list_tree(tree) == [
        ".gitignore",
        "pipelines/prepare.py",
        "pipelines/presets/base.yaml",
        "pipelines/tune.py",
        "tune_spaces/tradeoff.py",
    ]


def test_a_tree_that_is_too_large_names_its_largest_file(tree: Path):
    (tree / "clicks.csv").write_bytes(bytes(2**20))
    with pytest.raises(ValueError, match=r"the largest: clicks.csv \(1.0 MiB\)"):
        list_tree(tree, max_mib=0.5)


def test_a_directory_outside_git_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="not a git repository"):
        list_tree(tmp_path)


def test_a_variable_without_a_value_is_refused_before_anything_is_shipped(tree: Path):
    with pytest.raises(ValueError, match="--env HF_TOKEN is not NAME=VALUE"):
        submit(["tune"], "http://127.0.0.1:9", tree, ["A=b=c", "HF_TOKEN"])


class Refusing(BaseHTTPRequestHandler):
    """A head node whose agent is away: it takes the files, and no job."""

    def answer(self, status: int, text: str) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self) -> None:
        version = {"version": "4", "ray_version": ray.__version__, "ray_commit": "c"}
        self.answer(200, json.dumps({**version, "session_name": "s"}))

    def do_PUT(self) -> None:
        self.answer(200, "")

    def do_POST(self) -> None:
        self.answer(500, "Traceback ...\nNo available agent to submit job")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_a_cluster_that_refuses_a_job_is_answered_with_its_reason(tree: Path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(UserError, match=r"refused the job: No available agent"):
            submit(["tune", *KEPT], address, tree, [])
        server.shutdown()
