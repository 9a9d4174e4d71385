"""Jobs on a real Ray cluster of this machine, with token authentication, through the real CLI."""

import concurrent.futures
import contextlib
import json
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import psutil
import pytest

from tests.cluster.conftest import PATIENCE_S, free_port, wait_until

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
TOKEN = "0123456789abcdef0123456789abcdef"

GREET = """
import json, os, sys, time
print("first half", flush=True)
time.sleep(4)
print("second half", flush=True)
print(json.dumps({"argv": sys.argv[1:], "name": os.environ["NAME"], "files": os.listdir(".")}))
"""
LINGER = """
import signal, sys, time
from pathlib import Path

def stop(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, stop)
try:
    print("at work", flush=True)
    Path(sys.argv[1]).write_text("at work")
    time.sleep(100)
except KeyboardInterrupt:
    time.sleep(5)  # longer than Ray waits on its own accord
    Path(sys.argv[1]).write_text("tidied up")
    sys.exit(130)
"""


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError:
        return True  # it asks for the token
    except OSError:
        return False


def processes_of(temp_dir: str) -> list[psutil.Process]:
    """Return the processes of the cluster: each has its directory on its command line."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(temp_dir in part for part in process.info["cmdline"] or ())
    ]


def is_removed(directory: str) -> bool:
    """Remove a directory; False where somebody wrote to it meanwhile, as a Ray that ends does."""
    shutil.rmtree(directory, ignore_errors=True)
    return not Path(directory).exists()


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of a cluster of its own: `ray start --head`, gone without leftovers."""
    temp_dir = tempfile.mkdtemp(prefix="rd", dir="/tmp")  # short: Ray's socket paths are limited
    said = tmp_path_factory.mktemp("head") / "said"
    port = free_port()
    options = {
        "port": 0,
        "dashboard-port": port,
        "dashboard-agent-listen-port": 0,
        "dashboard-agent-grpc-port": 0,
        "metrics-export-port": 0,
        "ray-client-server-port": free_port(),
        "temp-dir": temp_dir,
        "num-cpus": 1,
        "object-store-memory": 100 * 2**20,
    }
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block"]
    command += ["--disable-usage-stats", *(f"--{name}={value}" for name, value in options.items())]
    with said.open("wb") as file:
        head = subprocess.Popen(command, env=environment(), stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not answers(f"http://127.0.0.1:{port}/api/version"):
            assert head.poll() is None, said.read_text()
            assert time.monotonic() < deadline, "the dashboard does not answer"
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
        assert head.poll() is None, said.read_text()
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait(timeout=60)
        _, alive = psutil.wait_procs(processes_of(temp_dir), timeout=30)
        assert not alive
        wait_until(lambda: is_removed(temp_dir))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a git working tree with two small pipelines and a file that git ignores."""
    path = tmp_path_factory.mktemp("tree")
    (path / "pipelines").mkdir()
    (path / "pipelines" / "__init__.py").touch()
    (path / "pipelines" / "greet.py").write_text(GREET)
    (path / "pipelines" / "linger.py").write_text(LINGER)
    (path / ".gitignore").write_text("mlflow.db\n")
    (path / "mlflow.db").write_text("not to be shipped")
    subprocess.run(["git", "init", "--quiet"], cwd=path, check=True)
    return path


def environment(**changes: str) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # the job's `python`
    return os.environ | {"PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN} | changes


def submit(
    address: str, tree: Path, *command: str, **changes: str
) -> subprocess.CompletedProcess[str]:
    options = ["--address", address, "--working-dir", str(tree), "--env", "NAME=Ada"]
    return subprocess.run(
        [sys.executable, "-m", "pipelines.submit", *options, "--", *command],
        cwd=ROOT,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def ask(address: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines.submit", "--address", address, *options],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


@pytest.fixture(scope="module")
def preparation(
    dashboard: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Future[subprocess.CompletedProcess[str]]]:
    """Submit the working tree itself, to prepare what is not there, while other tests run."""
    out = tmp_path_factory.mktemp("untold") / "shop"
    places = ["data.clicks=/nowhere/clicks.csv", "data.items=/nowhere/items.csv"]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        yield pool.submit(submit, dashboard, ROOT, "prepare", *places, f"data.out={out}")


class CutOnce(socketserver.BaseRequestHandler):
    """Pass bytes to the dashboard and back; drop the first connection that carries the log."""

    server: "Proxy"

    def handle(self):
        with socket.create_connection(("127.0.0.1", self.server.upstream)) as upstream:
            there = threading.Thread(target=self.pump, args=(self.request, upstream), daemon=True)
            there.start()
            self.pump(upstream, self.request)

    def pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the other side has hung up
            while data := source.recv(65_536):
                sink.sendall(data)
                if b"first half" in data and not self.server.has_cut:
                    self.server.has_cut = True
                    break
        for end in (source, sink):
            with contextlib.suppress(OSError):  # it was closed already
                end.shutdown(socket.SHUT_RDWR)


class Proxy(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, upstream: int) -> None:
        super().__init__(("127.0.0.1", 0), CutOnce)
        self.upstream = upstream
        self.has_cut = False


@pytest.mark.faults
@pytest.mark.slow
def test_a_job_is_followed_through_a_lost_connection(dashboard: str, tree: Path):
    with Proxy(int(dashboard.rpartition(":")[2])) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        done = submit(f"http://127.0.0.1:{proxy.server_address[1]}", tree, "greet", "seed=1")
        proxy.shutdown()
    assert done.returncode == 0, done.stderr
    assert "connecting again" in done.stderr
    assert done.stderr.splitlines().count("first half") == 1
    assert done.stderr.splitlines().count("second half") == 1
    (line,) = done.stdout.splitlines()
    outcome = json.loads(line)
    assert outcome["job_id"].startswith("raysubmit_")
    assert outcome["status"] == "SUCCEEDED"
    assert outcome["result"]["argv"] == ["seed=1", "scaling.address=auto"]
    assert outcome["result"]["name"] == "Ada"
    assert sorted(outcome["result"]["files"]) == [".gitignore", "pipelines"]


@pytest.mark.usefixtures("preparation")
def test_a_job_is_listed_stopped_and_followed_again(dashboard: str, tree: Path, tmp_path: Path):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        mark = tmp_path / "mark"
        submitted = pool.submit(submit, dashboard, tree, "linger", str(mark))
        wait_until(lambda: mark.is_file() or submitted.done())
        assert mark.is_file(), submitted.result().stderr
        listed = ask(dashboard, "--list")
        (job,) = [j for j in json.loads(listed.stdout)["jobs"] if j["command"][:6] == "linger"]
        stopped = ask(dashboard, "--stop", job["job_id"])
        at_first = submitted.result()
    again = ask(dashboard, "--follow", job["job_id"])
    too_late = ask(dashboard, "--stop", job["job_id"])

    assert job["command"] == f"linger {mark}"
    assert job["status"] == "RUNNING"
    assert f"{job['job_id']}  RUNNING" in listed.stderr
    assert stopped.returncode == 0, stopped.stderr
    ending = {"job_id": job["job_id"], "status": "STOPPED", "exit_status": 130, "result": None}
    assert json.loads(stopped.stdout) == ending
    assert mark.read_text() == "tidied up"
    assert f"--address {dashboard} --stop {job['job_id']}" in at_first.stderr
    for followed in (at_first, again):
        assert followed.returncode == 130
        assert followed.stderr.splitlines().count("at work") == 1
        assert json.loads(followed.stdout) == ending
    assert too_late.returncode == 2
    assert "the job has ended already, STOPPED" in too_late.stderr


def test_a_job_that_the_cluster_does_not_know_is_refused(dashboard: str):
    done = ask(dashboard, "--stop", "raysubmit_none")
    assert done.returncode == 2
    assert "--stop raysubmit_none: the cluster knows no such job" in done.stderr


def test_a_cluster_that_wants_a_token_says_so(dashboard: str, tree: Path):
    done = submit(dashboard, tree, "greet", RAY_AUTH_MODE="disabled")
    assert done.returncode == 2
    assert "set RAY_AUTH_MODE=token" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_working_tree_itself_runs_as_a_job_whose_exit_status_is_returned(preparation):
    done = preparation.result()
    assert done.returncode == 2
    assert done.stderr.count("error: data.items=/nowhere/items.csv does not exist") == 1
    assert json.loads(done.stdout) | {"job_id": ""} == {
        "job_id": "",
        "status": "FAILED",
        "exit_status": 2,
        "result": None,
    }
