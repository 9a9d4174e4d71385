"""Settings of the test process, made before anything imports torch, transformers or ray."""

import os

import hypothesis
import pytest

from recdiv_core.schema import SCHEMA_VERSION, EncoderSource, Manifest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # else ray.init writes a token to ~/.ray

hypothesis.settings.register_profile("recdiv", deadline=None, derandomize=True)
hypothesis.settings.load_profile("recdiv")


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a SQLite store whose tables are made: that alone takes seconds."""
    from recdiv_core.tracking import experiment_id

    uri = f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlflow.db"
    experiment_id(uri, "first")
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
