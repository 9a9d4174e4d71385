"""One local Ray and one small shop for all tests that need a cluster: each start costs seconds."""

import contextlib
import io
import json
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import psutil
import pytest
import ray
from ray.util import placement_group_table

from recdiv_core.cluster.start import ENVIRONMENT, IDLE_ENDS_AFTER_MS, start_local
from recdiv_core.config import override

ROOT = Path(__file__).parents[2]
PATIENCE_S = 400

LONG = (
    "scaling.num_workers=2",
    "train.epochs=4",
    "train.batch_size=6",
    "train.warmup_steps=10",
    # each takes a quarter of a second, so there is time to kill a process
    "train.checkpoint_every_steps=6",
    "train.log_every_s=0.5",
    "model.dropout=0.3",
)


# one trial after the other in one process of Tune's
SWEPT = ("run.name=swept", "model.blend=[]", "scaling.max_concurrent_trials=1")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    os.environ.update(ENVIRONMENT)
    os.environ[IDLE_ENDS_AFTER_MS] = "1200000"  # the next file of tests uses the process again
    start_local(num_cpus=2)
    yield
    ray.shutdown()


class Shop(NamedTuple):
    """A prepared shop, and the storage of its runs."""

    prepared: Path
    storage: Path
    uri: str

    def arguments(self, *more: str) -> list[str]:
        return [
            f"data.prepared={self.prepared}",
            f"run.storage={self.storage}",
            f"tracking.uri={self.uri}",
            "model.dim=16",
            "train.batch_size=64",
            "scaling.num_workers=1",  # each takes seconds to start
            *more,
        ]

    def runs(self, filter_string: str) -> list[Any]:
        client = mlflow.MlflowClient(self.uri)
        experiments = [found.experiment_id for found in client.search_experiments()]
        return list(client.search_runs(experiments, filter_string))

    def curve(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        history = mlflow.MlflowClient(self.uri).get_metric_history(run_id, metric)
        return [(point.step, point.value) for point in history]


@pytest.fixture(scope="session")
def shop(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory, mlflow_uri: str) -> Shop:
    """Return the small built-in shop, prepared and encoded once."""
    from recdiv_core.config import Config
    from recdiv_core.data.clicklog import prepare
    from recdiv_core.data.text_vectors import ensure_vectors
    from recdiv_core.schema import read_manifest

    root = tmp_path_factory.mktemp("shop")
    values = {"data.source": "demo", "data.demo_events": 4000, "data.num_shards": 2}
    made = prepare(override(Config(), {**values, "data.out": str(root / "prepared")}))
    prepared = Path(str(made["prepared"]))
    ensure_vectors(prepared, read_manifest(prepared))
    return Shop(prepared, root / "runs", mlflow_uri)


@pytest.fixture(scope="session")
def trained(shop: Shop) -> dict[str, Any]:
    """Return the output of `train` for a run with dropout and checkpoints inside its epochs."""
    return run("train", *shop.arguments("run.name=undisturbed", *LONG))


@pytest.fixture(scope="session")
def fitted(shop: Shop) -> dict[str, Any]:
    """Return the output of `train` for a baseline."""
    return run("train", *shop.arguments("run.name=fitted", "model.kind=ease"))


class Halted(NamedTuple):
    """The state of a sweep after a signal."""

    exit_status: int
    sweep: str
    trials: set[str]


@pytest.fixture(scope="session")
def swept(shop: Shop) -> dict[str, Any]:
    """Return the output of `tune` for a sweep of two trials."""
    return run("tune", "--space", "smoke", *shop.arguments(*SWEPT))


def run(script: str, *arguments: str) -> dict[str, Any]:
    """Run a script on the Ray of this session; return the JSON line, its only output."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", [script, *arguments])
        patch.delitem(sys.modules, f"pipelines.{script}", raising=False)  # runpy warns of it
        runpy.run_module(f"pipelines.{script}", run_name="__main__")
    (line,) = printed.getvalue().splitlines()
    return json.loads(line)


def reserved() -> list[dict[str, Any]]:
    """Return the placement groups that hold resources for workers."""
    groups = placement_group_table().values()
    return [group for group in groups if group["state"] != "REMOVED"]


def figures_of(metrics: dict[str, float], prefix: str) -> dict[str, float]:
    """Return a run's metrics of a split (`test/`); `evaluate` returns the same and more."""
    return {
        name.removeprefix(prefix): value
        for name, value in metrics.items()
        if name.startswith(prefix)
    }


def train_steps(
    model: Any,
    dataset: Any,
    config: Any,
    *,
    num_steps: int,
    first_step: int = 0,
    texts: Any = None,
) -> None:
    """Train a model in this process with the steps of a run of one worker."""
    import torch

    from recdiv_core.training.build import build_objective
    from recdiv_core.training.feed import Feed
    from recdiv_core.training.step import train_step
    from tests.worlds import read_train

    model.train()
    alone = {"rank": 0, "world_size": 1}
    objective = build_objective(config, dataset, model)
    feed = Feed(config, dataset, objective, texts, **alone)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.train.learning_rate)
    shown_V = torch.zeros(len(dataset.catalogue))
    last_step = first_step + num_steps
    steps = read_train(
        dataset.prepared,
        batch_size=feed.batch_size,
        seed=config.seed,
        start_step=first_step,
        epochs=last_step,  # an epoch has at least one step
    )
    for step, examples in zip(range(first_step, last_step), steps, strict=False):
        parts = feed.parts(examples, step)
        train_step(
            model,
            parts,
            objective,
            optimizer,
            torch.amp.GradScaler("cpu", enabled=False),
            precision=torch.float32,
            clip_norm=config.train.clip_norm,
            shown_V=shown_V,
            negatives=None,
            texts=feed.step_texts(parts),
        )


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a script with its own Ray; processes end with the test."""
    with drivers_in(tmp_path) as start:
        yield start


@contextlib.contextmanager
def drivers_in(place: Path) -> Iterator[Start]:
    """Yield a function that starts a script with its own Ray; kill what runs at the end."""
    drivers: list[subprocess.Popen[bytes]] = []

    def start(script: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (place / f"{script}-{len(drivers)}.log").open("wb") as log:
            command = [sys.executable, "-m", f"pipelines.{script}", *arguments]
            driver = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )
        drivers.append(driver)
        return driver

    yield start
    for driver in drivers:
        if driver.poll() is None:
            kill_driver(driver)


def halt(shop: Shop, start: Start, name: str, arguments: list[str], blow: signal.Signals) -> Halted:
    """Start a sweep of two trials, send its driver a signal in a trial, wait for its end."""
    driver = start("tune", "--space", "smoke", *arguments)
    running = "attributes.status = 'RUNNING' and tags.`recdiv.kind` = 'trial'"
    wait_until(lambda: shop.runs(running))
    driver.send_signal(blow)
    exit_status = driver.wait(timeout=PATIENCE_S)
    (parent,) = shop.runs(f"tags.`recdiv.run_name` = '{name}'")
    children = shop.runs(f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    return Halted(exit_status, parent.info.status, {child.info.status for child in children})


def wait_until(holds: Callable[[], object]) -> None:
    """Wait until a condition holds; a loaded machine takes minutes to start Ray."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"the condition did not hold within {PATIENCE_S} s"
        time.sleep(0.05)


def free_port() -> int:
    """Return a free port above those of Ray's workers, below those of outgoing connections.

    A port that the system gives may belong to somebody's connection before Ray takes it.
    """
    for port in random.sample(range(20_000, 32_000), k=100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port from 20000 to 31999 is free")


def family_of(pid: int) -> list[tuple[psutil.Process, str]]:
    """Return a process's living descendants, each with its command line."""
    family = []
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # the process has just ended
            family.append((process, " ".join(process.cmdline())))
    return family


def kill_driver(driver: subprocess.Popen[bytes]) -> None:
    """Kill a driver with -9, and wait until the Ray that it started is gone."""
    # Ray's two agents check for their node once a minute; the next run needs nothing of theirs
    working = [process for process, line in family_of(driver.pid) if "Agent" not in line]
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    psutil.wait_procs(working, timeout=60)
