"""A run that loses a worker, or its driver, ends with the figures of one that lost nothing."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.cluster.conftest import LONG, kill_driver, run, start

pytestmark = pytest.mark.ray

SAME = 1e-6
"""A step that is done again must draw the dropout that it drew the first time."""


def assert_same_figures(result, expected):
    figures = {
        name: value
        for name, value in expected["metrics"].items()
        if not name.endswith(("_s", "_per_s"))
    }
    assert {name: result["metrics"][name] for name in figures} == {
        name: pytest.approx(value, abs=SAME) for name, value in figures.items()
    }


def checkpoints(place: Path) -> list[dict]:
    """Read where the training stood at each checkpoint of a run, the oldest first."""
    found = []
    for path in sorted(place.glob("checkpoint_*/checkpoint.json")):
        try:
            found.append(json.loads(path.read_text()))
        except (FileNotFoundError, json.JSONDecodeError):
            continue  # it is being written, or removed
    return found


def wait_for_step(place: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while not any(found["step"] > step for found in checkpoints(place)):
        assert time.monotonic() < deadline, f"no checkpoint behind step {step} in {place}"
        time.sleep(0.05)


def train_workers() -> list[psutil.Process]:
    """Return the training workers among this process's descendants."""
    family = psutil.Process(os.getpid()).children(recursive=True)
    return [process for process in family if "ray::RayTrainWorker" in " ".join(process.cmdline())]


def test_a_killed_worker_costs_nothing_but_time(shop, trained):
    killed: list[int] = []

    def kill_in_mid_epoch() -> None:
        wait_for_step(shop.storage / "worker-lost", last_step // 3)
        victim = train_workers()[0]
        victim.send_signal(signal.SIGKILL)
        killed.append(victim.pid)

    last_step = int(trained["metrics"]["step"])
    killer = threading.Thread(target=kill_in_mid_epoch)
    killer.start()
    result = run("train", *shop.arguments("run.name=worker-lost", *LONG))
    killer.join()
    assert killed
    assert_same_figures(result, trained)
    (logged,) = shop.runs("tags.`recdiv.run_name` = 'worker-lost'")
    assert logged.info.status == "FINISHED"


def test_a_killed_driver_goes_on_from_its_last_checkpoint(shop, trained, tmp_path):
    arguments = shop.arguments("run.name=driver-lost", *LONG)
    driver = start("train", *arguments, log=tmp_path / "first.log")
    place = shop.storage / "driver-lost"
    wait_for_step(place, int(trained["metrics"]["step"]) // 2)
    kill_driver(driver)
    (logged,) = shop.runs("tags.`recdiv.run_name` = 'driver-lost'")
    assert logged.info.status == "RUNNING"
    before = len(shop.curve(logged.info.run_id, "train/loss"))
    assert 1 <= before < 4

    assert start("train", *arguments, log=tmp_path / "second.log").wait(timeout=180) == 0

    result = json.loads((place / "result.json").read_text())
    assert_same_figures(result, trained)
    (logged,) = shop.runs("tags.`recdiv.run_name` = 'driver-lost'")
    assert logged.info.status == "FINISHED"
    epochs = [epoch for epoch, _ in shop.curve(logged.info.run_id, "train/loss")]
    assert sorted(set(epochs)) == [1, 2, 3, 4]
    assert epochs.count(1) == 1  # the first epoch was not trained again
