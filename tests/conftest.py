"""Settings of the test process, made before anything imports torch, transformers or ray."""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import shutil
import sqlite3
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import hypothesis
import pytest

from recdiv_core.schema import SCHEMA_VERSION, EncoderSource, Manifest
from tests.command_line import run as run
from tests.log_capture import caplog as caplog

if TYPE_CHECKING:
    from tests.sweep_worlds import SweptShop

# collection imports six thousand modules, and nearly all that they make is kept
gc.disable()

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # else ray.init writes a token to ~/.ray

# each MLflow client looks for Spark along the whole path, which is slow under pytest
sys.modules.setdefault("pyspark", None)  # pyright: ignore[reportArgumentType]

# a test does not lose power: waiting for the disk takes milliseconds each time
os.fsync = lambda _: None

# `make test` tries fewer examples of each law than `make nightly`, which sets RECDIV_FUZZ
hypothesis.settings.register_profile(
    "recdiv",
    deadline=None,
    derandomize=True,
    max_examples=100 if "RECDIV_FUZZ" in os.environ else 10,
)
hypothesis.settings.load_profile("recdiv")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import the tests of a cluster only where they run: they import Ray Tune and its parts."""
    is_asked_for = "ray" in config.option.markexpr.replace("not ray", "")
    is_asked_for |= any("cluster" in argument for argument in config.args)
    return True if collection_path.name == "cluster" and not is_asked_for else None


def pytest_collection_finish() -> None:
    """Prepare for thousands of short tests."""
    # search what the imports have made for garbage no more, and the rest more rarely
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()
    # whatever a library has set, `caplog` reads what its loggers say
    for logger in logging.Logger.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.propagate = True


def pytest_sessionfinish() -> None:
    """Search for garbage once: pytest does it five times, among all that was imported."""
    gc.collect()
    gc.freeze()


def do_not_sync(connection: sqlite3.Connection, _: object) -> None:
    """Let SQLite commit without waiting for the disk, which takes milliseconds each time."""
    connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a SQLite store with tables; their creation takes seconds."""
    from sqlalchemy import Engine, event

    from recdiv_core.tracking.runs import experiment_id

    event.listen(Engine, "connect", do_not_sync)
    place = tmp_path_factory.getbasetemp()
    # one worker of a parallel run makes the tables, the others copy them
    shared = place.parent if "PYTEST_XDIST_WORKER" in os.environ else place
    with (shared / "tables.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "tables.db").exists():
            experiment_id(f"sqlite:///{shared}/tables.db", "first")
    uri = f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlflow.db"
    shutil.copy(shared / "tables.db", uri.removeprefix("sqlite:///"))
    return uri


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    """Return the manifest of a small prepared data set."""
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name="shop",
        fingerprint="f" * 64,
        num_users=200,
        num_items=50,
        num_events=1200,
        num_examples={"train": 200, "val": 150, "test": 140},
        num_events_by_split={"train": 900, "val": 150, "test": 150},
        num_cold_users=3,
        num_cold_items=2,
        quarantined={},
        dropped={"duplicates": 5},
        split={"protocol": "leave_last_out"},
        has_timestamps=False,
        categories=("A > B", "A > C"),
        encoder=EncoderSource(name="tiny", sha256="0" * 64, max_tokens=8, fields=("title",)),
        fragment_rows=16,
        sources=({"path": "clicks.csv", "bytes": 10},),
        settings={},
        seed=0,
        versions={},
    )


@pytest.fixture(scope="session")
def swept_shop(
    tmp_path_factory: pytest.TempPathFactory, mlflow_uri: str, manifest: Manifest
) -> SweptShop:
    """Return a finished sweep of three trials; a test that changes its files must copy them."""
    from tests.sweep_worlds import write_swept_shop

    return write_swept_shop(tmp_path_factory.mktemp("swept"), mlflow_uri, manifest)


class Bucket(NamedTuple):
    """A bucket of a local S3 server."""

    name: str
    endpoint: str
    """`host:port`"""

    @property
    def options(self) -> str:
        """Return the URI parameters that select this server."""
        return f"?endpoint_override={self.endpoint}&scheme=http"

    def uri(self, key: str) -> str:
        return f"s3://{self.name}/{key}{self.options}"


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Serve S3 on loopback with moto, in this process."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Return an empty bucket; its keys are in the environment."""
    from pyarrow.fs import S3FileSystem

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-key")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    name = f"shop-{uuid.uuid4().hex[:12]}"
    S3FileSystem(
        endpoint_override=s3_endpoint, scheme="http", allow_bucket_creation=True
    ).create_dir(name)
    return Bucket(name, s3_endpoint)
