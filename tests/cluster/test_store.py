"""What `train` writes to an S3 store is evaluated, recommended, compared and registered there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow.fs import FileSelector, S3FileSystem

from tests.cluster.conftest import ROOT, Shop
from tests.conftest import Bucket

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SECRET = "a-secret-key-that-nobody-sees"


def run(pipeline: str, *arguments: str, cwd: Path) -> tuple[dict, str]:
    """Run a pipeline in a process and on a Ray of its own; return its JSON and what it printed."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    done = subprocess.run(
        [sys.executable, "-m", f"pipelines.{pipeline}", *arguments],
        cwd=cwd,
        env={**kept, "AWS_EC2_METADATA_DISABLED": "true", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr


def test_a_run_in_a_store_is_of_use_and_its_keys_are_seen_nowhere(
    shop: Shop, bucket: Bucket, tmp_path: Path
):
    keys = f"s3://someone:{SECRET}@{bucket.name}"
    here = [f"data.prepared={shop.prepared}", f"tracking.uri={shop.uri}", "scaling.num_workers=1"]
    storage = f"{keys}/my runs{bucket.options}"
    named = ["run.name=popular", "model.kind=popular"]
    texts: list[str] = []

    trained, text = run("train", *here, *named, f"run.storage={storage}", cwd=tmp_path)
    texts.append(text)
    checkpoint = trained["checkpoint"]
    assert checkpoint.startswith(f"s3://{bucket.name}/my%20runs/popular/checkpoint_")
    assert checkpoint.endswith(bucket.options)

    own = checkpoint.replace(f"s3://{bucket.name}", keys)
    metrics, text = run("evaluate", "--checkpoint", own, cwd=tmp_path)
    texts.append(text)
    assert metrics["metrics"]["ndcg_at_10"] == pytest.approx(
        trained["metrics"]["test/ndcg_at_10"], abs=1e-6
    )

    out = tmp_path / "slates"
    slates, text = run("recommend", "--checkpoint", own, "--out", str(out), cwd=tmp_path)
    texts.append(text)
    assert slates["num_users"]

    whole = f"{keys}/my runs/popular{bucket.options}"
    compared, text = run("compare", whole, own, *here[1:], "--resamples", "1000", cwd=tmp_path)
    texts.append(text)
    assert compared["num_users"] == metrics["num_users"]

    registered, text = run("register", whole, "--name", "stored", *here[1:], cwd=tmp_path)
    texts.append(text)
    assert registered["version"] == 1

    assert not [text for text in texts if SECRET in text]
    mlflow_files = Path(shop.uri.removeprefix("sqlite:///")).parent
    files = [p for top in (tmp_path, mlflow_files) for p in top.rglob("*") if p.is_file()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    store = S3FileSystem(endpoint_override=bucket.endpoint, scheme="http")
    stored = [i for i in store.get_file_info(FileSelector(bucket.name, recursive=True)) if i.size]
    assert len(stored) > 3
    for info in stored:
        assert SECRET.encode() not in store.open_input_file(info.path).read()
