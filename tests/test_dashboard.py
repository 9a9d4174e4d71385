"""MLflow's page of a store: what is refused, and what a browser shows behind the link."""

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from recdiv_core.config import Config, override
from recdiv_core.errors import UserError
from recdiv_core.report.dashboard import serve
from tests.test_report import write_sweep

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --window-size=1920,1000 "
    "--virtual-time-budget=30000 --dump-dom"
)


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path):
    uri = f"sqlite:///{tmp_path}/none.db"
    with pytest.raises(UserError, match="there is no such database; run `recdiv tune"):
        serve(override(Config(), {"tracking.uri": uri}), 5000)
    assert not (tmp_path / "none.db").exists()


def test_a_port_that_is_taken_is_refused(mlflow_uri: str):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port} is taken; another: make dashboard"):
            serve(override(Config(), {"tracking.uri": mlflow_uri}), port)


@pytest.mark.parametrize("port", [-1, 0, 65_536])
def test_a_number_that_is_no_port_is_refused(port: int):
    with pytest.raises(UserError, match=f"--port {port}: allowed are 1 to 65535"):
        serve(Config(), port)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: chromium)")
def test_the_link_shows_the_trials_and_their_figures_in_a_browser(mlflow_uri, manifest, tmp_path):
    config = override(Config(), {"tracking.uri": mlflow_uri, "data.name": "browsed"})
    own = manifest.model_copy(update={"name": "browsed"})
    sweep = write_sweep(config, own, "autumn", {"plain": 0.0, "bent": 0.3})
    from recdiv_core.report.report import report

    made = report(config, parent_run_id=sweep.run_id, out=tmp_path, slates=False)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    root, link = f"http://127.0.0.1:{port}", str(made["dashboard"]).replace(":5000", f":{port}")
    command = ["-m", "pipelines.dashboard", "--port", str(port), f"tracking.uri={mlflow_uri}"]
    server = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        assert link in server.stderr.readline()
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{root}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(1)
        browser = [str(CHROMIUM), *FLAGS.split(), f"--user-data-dir={tmp_path}/profile", link]
        page = subprocess.run(browser, capture_output=True, text=True, timeout=120, check=True)
    finally:
        server.terminate()
        server.communicate(timeout=120)  # it ends slowly on a busy machine
    shown = ("plain", "bent", "best/val/ndcg_at_10", "best/val/coverage_at_10")
    assert [text for text in shown if text not in page.stdout] == []
