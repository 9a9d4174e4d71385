"""A run that loses a worker, or its driver, ends with the figures of one that lost nothing."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from recdiv_core.cluster.jobs import last_json_line
from tests.cluster.conftest import (
    LONG,
    PATIENCE_S,
    ROOT,
    family_of,
    kill_driver,
    run,
    wait_until,
)

pytestmark = [pytest.mark.ray, pytest.mark.faults]

ROOM_FOR_TWO = "1000k"
"""Room for the first checkpoints of a run, not for the next beside them."""

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


def last_json(log: Path) -> dict:
    """Return what a script printed; lines of Ray's own may stand behind it in its log."""
    result = last_json_line(log.read_text())
    assert result is not None
    return result


def has_passed(place: Path, step: int) -> bool:
    return any(found["step"] > step for found in checkpoints(place))


def train_workers(pid: int) -> list[psutil.Process]:
    """Return the training workers among a process's descendants."""
    return [process for process, line in family_of(pid) if "ray::RayTrainWorker" in line]


@pytest.mark.slow  # CI loses a worker and then the driver, see below
def test_a_killed_worker_costs_nothing_but_time(shop, trained):
    killed: list[int] = []

    def kill_in_mid_epoch() -> None:
        wait_until(lambda: has_passed(shop.storage / "worker-lost", last_step // 3))
        victim = train_workers(os.getpid())[0]
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


def test_a_run_goes_on_after_its_worker_and_then_its_driver_are_killed(shop, trained, start):
    arguments = shop.arguments("run.name=driver-lost", *LONG)
    driver = start("train", *arguments)
    place = shop.storage / "driver-lost"
    wait_until(lambda: has_passed(place, int(trained["metrics"]["step"]) // 4))
    lost = train_workers(driver.pid)
    lost[0].send_signal(signal.SIGKILL)
    before = {worker.pid for worker in lost}
    wait_until(lambda: {worker.pid for worker in train_workers(driver.pid)} - before)
    step = checkpoints(place)[-1]["step"]
    wait_until(lambda: has_passed(place, step))
    assert driver.poll() is None, "the driver started other workers, and they went on"
    kill_driver(driver)
    (logged,) = shop.runs("tags.`recdiv.run_name` = 'driver-lost'")
    assert logged.info.status == "RUNNING"
    assert len(shop.curve(logged.info.run_id, "train/loss")) < 4

    assert_same_figures(run("train", *arguments), trained)

    (logged,) = shop.runs("tags.`recdiv.run_name` = 'driver-lost'")
    assert logged.info.status == "FINISHED"
    epochs = [epoch for epoch, _ in shop.curve(logged.info.run_id, "train/loss")]
    assert epochs == [1, 2, 3, 4], "no hole, and the first epoch was not trained again"
    steps = [step for step, _ in shop.curve(logged.info.run_id, "step/loss")]
    assert steps
    assert steps == sorted(set(steps)), "a repeated step is not logged again"


@pytest.mark.slow
def test_an_interrupted_run_is_marked_and_goes_on(shop, trained, start):
    arguments = shop.arguments("run.name=interrupted", *LONG)
    driver = start("train", *arguments)
    wait_until(lambda: has_passed(shop.storage / "interrupted", 0))
    driver.send_signal(signal.SIGINT)
    assert driver.wait(timeout=PATIENCE_S) == 130
    (logged,) = shop.runs("tags.`recdiv.run_name` = 'interrupted'")
    assert logged.info.status == "KILLED"

    assert_same_figures(run("train", *arguments), trained)

    (logged,) = shop.runs("tags.`recdiv.run_name` = 'interrupted'")
    assert logged.info.status == "FINISHED"


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over(shop, trained, start):
    arguments = shop.arguments("run.name=damaged", *LONG, "train.keep_checkpoints=3")
    driver = start("train", *arguments)
    place = shop.storage / "damaged"
    wait_until(lambda: has_passed(place, int(trained["metrics"]["step"]) // 3))
    kill_driver(driver)
    newest = max(place.glob("checkpoint_*/model.pt"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)

    assert_same_figures(run("train", *arguments), trained)
    assert max(place.glob("checkpoint_*/model.pt")) != newest


@pytest.mark.slow
def test_a_run_that_diverges_stops_and_is_marked(shop):
    arguments = ["run.name=diverged", "train.learning_rate=1e30", "train.max_failures=0"]
    with pytest.raises(Exception, match="training diverged"):
        run("train", *shop.arguments(*arguments))
    (logged,) = shop.runs("tags.`recdiv.run_name` = 'diverged'")
    assert logged.info.status == "FAILED"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs mount namespaces")
def test_a_full_disk_fails_a_run_that_goes_on_once_there_is_room(shop, trained, tmp_path):
    storage, first, second = (tmp_path / name for name in ("small", "first.log", "second.log"))
    storage.mkdir()
    arguments = shop.arguments("run.name=full", *LONG, f"run.storage={storage}")
    train = shlex.join([sys.executable, "-m", "pipelines.train", *arguments])
    steps = [
        f"mount -t tmpfs -o size={ROOM_FOR_TWO} none {storage}",
        f"{train} > {first} 2>&1",
        "test $? = 1",
        f"mount -o remount,size=1g {storage}",
        f"{train} > {second} 2>&1",
    ]
    done = subprocess.run(["unshare", "--mount", "sh", "-c", "\n".join(steps)], cwd=ROOT)
    assert done.returncode == 0
    assert "No space left on device" in first.read_text()
    assert_same_figures(last_json(second), trained)
    (logged,) = shop.runs("tags.`recdiv.run_name` = 'full'")
    assert logged.info.status == "FINISHED"
