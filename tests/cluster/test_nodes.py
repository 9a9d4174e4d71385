"""A run on several machines that loses one, with and without notice (Ray's simulated nodes)."""

import contextlib
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.conftest import LONG, PATIENCE_S, ROOT, run, wait_until
from tests.cluster.test_resume import assert_same_figures, checkpoints, has_passed, last_json

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.slow]

RAY = Path(sys.executable).with_name("ray")


class Nodes:
    """The cluster of deploy/local_cluster.py: a head that only leads, and nodes to work on."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.process = process
        self.raylets: dict[str, psutil.Process] = {}
        for line in process.stdout:
            match line.split():
                case ["node", node, "raylet", pid]:
                    self.raylets[node] = psutil.Process(int(pid))
                case ["join", setting]:
                    self.setting = setting
                    self.address = setting.partition("=")[2]
                    return
        raise AssertionError("the cluster did not start")

    def at_work(self) -> str:
        """Return the node that training workers run on."""
        for node, raylet in self.raylets.items():
            for process in raylet.children(recursive=True):
                if "ray::RayTrainWorker" in " ".join(process.cmdline()):
                    return node
        raise AssertionError("nobody trains")

    def lose(self, node: str) -> None:
        """Kill a node as a machine dies: everything at once."""
        raylet = self.raylets.pop(node)
        for process in [raylet, *raylet.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def drain(self, node: str) -> None:
        """Announce that a node will be taken away, as a cloud's spot machines are."""
        why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "taken away"]
        where = ["--address", self.address, "--node-id", node]
        command = [RAY, "drain-node", *where, *why, "--deadline-remaining-seconds", "120"]
        subprocess.run(command, check=True, capture_output=True)

    def count(self) -> int:
        """Return how many nodes the head knows."""
        command = [RAY, "status", "--address", self.address]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return len(re.findall(r"^ 1 node_", said, re.MULTILINE))


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """Return a cluster of two nodes, either of which can hold a run."""
    command = [sys.executable, str(ROOT / "deploy" / "local_cluster.py"), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--nodes", "2", "--cpus", "4"], stdout=subprocess.PIPE, text=True
    )
    try:
        yield Nodes(process)
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)
        for left in psutil.wait_procs(family, timeout=60)[1]:
            left.kill()


def test_a_lost_node_costs_nothing_but_time(shop, trained, start, nodes, tmp_path):
    driver = start("train", *shop.arguments("run.name=node-lost", *LONG, nodes.setting))
    third = int(trained["metrics"]["step"]) // 3
    wait_until(lambda: has_passed(shop.storage / "node-lost", third))
    nodes.lose(nodes.at_work())
    assert driver.wait(timeout=PATIENCE_S) == 0
    assert_same_figures(last_json(tmp_path / "train-0.log"), trained)
    (logged,) = shop.runs("tags.`recdiv.run_name` = 'node-lost'")
    assert logged.info.status == "FINISHED"


def test_a_run_that_loses_a_worker_for_good_gives_the_metrics_of_one_worker(
    shop, start, nodes, tmp_path, monkeypatch
):
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "5")
    plain = (*LONG, "model.dropout=0")
    alone = run("train", *shop.arguments("run.name=alone", *plain, "scaling.num_workers=1"))
    # a node has room for one such worker
    elastic = (*plain, "scaling.min_workers=1", "scaling.cpus_per_worker=3", nodes.setting)
    driver = start("train", *shop.arguments("run.name=elastic", *elastic))
    third = int(alone["metrics"]["step"]) // 3
    wait_until(lambda: has_passed(shop.storage / "elastic", third))
    nodes.lose(nodes.at_work())
    assert driver.wait(timeout=PATIENCE_S) == 0
    log = tmp_path / "train-0.log"
    assert re.findall(r"elastic: training on (\d) workers", log.read_text()) == ["2", "1"]
    result = last_json(log)["metrics"]
    for name, value in alone["metrics"].items():
        if name.startswith(("val/", "test/")):
            assert result[name] == pytest.approx(value, abs=1e-4), name


def test_a_sweep_that_loses_a_node_loses_no_trial(shop, trained, start, nodes, tmp_path):
    # the first trial is the undisturbed run; one at a time, or the other may be on the lost node
    settings = (*LONG, "model.num_layers=2", "scaling.max_concurrent_trials=1")
    arguments = shop.arguments("run.name=node-lost-in-sweep", *settings, nodes.setting)
    driver = start("tune", "--space", "smoke", *arguments)
    first = shop.storage / "node-lost-in-sweep" / "trials" / "trial-00000"
    wait_until(lambda: has_passed(first, int(trained["metrics"]["step"]) // 3))
    nodes.lose(nodes.at_work())
    assert driver.wait(timeout=PATIENCE_S) == 0
    (parent,) = shop.runs("tags.`recdiv.run_name` = 'node-lost-in-sweep'")
    trials = shop.runs(f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert [trial.info.status for trial in trials] == ["FINISHED", "FINISHED"]
    figures = {trial.data.tags["recdiv.run_name"]: trial.data.metrics for trial in trials}
    known = {name: value for name, value in trained["metrics"].items() if "/" in name}
    assert_same_figures({"metrics": figures["trial-00000"]}, {"metrics": known})
    assert not shop.runs("attributes.status = 'RUNNING'")


def test_a_node_that_will_be_taken_away_leaves_a_checkpoint(
    shop, trained, start, nodes, tmp_path, monkeypatch
):
    monkeypatch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "0.2")
    settings = (*LONG, "scaling.preemptible=true", "train.max_failures=0")
    driver = start("train", *shop.arguments("run.name=noticed", *settings, nodes.setting))
    place = shop.storage / "noticed"
    wait_until(lambda: has_passed(place, 6))
    node = nodes.at_work()
    nodes.drain(node)
    log = tmp_path / "train-0.log"
    said = r"will be taken away: checkpoint at step (\d+)"
    wait_until(lambda: re.search(said, log.read_text()))
    step = int(re.findall(said, log.read_text())[0])
    wait_until(lambda: any(found["step"] >= step for found in checkpoints(place)))
    nodes.lose(node)
    assert driver.wait(timeout=PATIENCE_S) == 0
    assert_same_figures(last_json(tmp_path / "train-0.log"), trained)


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs mount namespaces")
def test_a_place_that_a_node_does_not_see_is_refused(shop, start, nodes, tmp_path):
    storage = tmp_path / "runs"
    storage.mkdir()
    join = f"{RAY} start --address={nodes.address} --num-cpus=1 --block"
    blind = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs none {storage} && exec {join}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: nodes.count() == 4)
        where = f"run.storage={storage}"
        driver = start("train", *shop.arguments("run.name=unseen", where, nodes.setting))
        assert driver.wait(timeout=PATIENCE_S) == 2
    finally:
        for process in [*psutil.Process(blind.pid).children(recursive=True), blind]:
            process.kill()
        blind.wait()
    said = (tmp_path / "train-0.log").read_text()
    assert f"error: run.storage={storage}: the node" in said
    assert "Traceback" not in said
    assert list(storage.iterdir()) == []
    assert not shop.runs("tags.`recdiv.run_name` = 'unseen'")
