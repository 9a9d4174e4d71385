"""A run whose MLflow server goes away for a while loses none of its figures."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.conftest import LONG, PATIENCE_S, free_port, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.slow]

AWAY_S = 20
"""Longer than MLflow's own client tries, shorter than recdiv waits."""


class Server:
    """A real MLflow server that can be stopped and started again on its port and database."""

    def __init__(self, place: Path) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.database = f"sqlite:///{place}/server.db"
        self.log = (place / "server.log").open("ab")

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        places = ["--backend-store-uri", self.database, "--port", str(self.port)]
        self.process = subprocess.Popen(
            [*command, *places],
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=self.log,
            stderr=self.log,
            cwd=Path(self.log.name).parent,
        )
        wait_until(self.answers)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        family = [self.process, *psutil.Process(self.process.pid).children(recursive=True)]
        for process in family:
            process.kill()
        self.process.wait()
        wait_until(lambda: not self.answers())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()
    server.log.close()


def test_figures_of_an_outage_arrive_when_the_server_is_back(
    shop, trained, start, server, tmp_path
):
    away, mine = shop._replace(uri=server.uri), "tags.`recdiv.run_name` = 'outage'"
    driver = start("train", *away.arguments("run.name=outage", *LONG))
    wait_until(lambda: [run for run in away.runs(mine) if "val/ndcg_at_10" in run.data.metrics])
    server.kill()
    time.sleep(AWAY_S)
    server.start()
    assert driver.wait(timeout=PATIENCE_S) == 0
    said = (tmp_path / "train-0.log").read_text()
    assert f"{server.uri} does not answer: waiting" in said

    (logged,) = away.runs(mine)
    assert logged.info.status == "FINISHED"
    assert [epoch for epoch, _ in away.curve(logged.info.run_id, "val/ndcg_at_10")] == [1, 2, 3, 4]
    name = "test/ndcg_at_10"
    assert logged.data.metrics[name] == pytest.approx(trained["metrics"][name], abs=1e-6)
