"""A small finished sweep: a prepared shop, checkpoints on disk, runs in MLflow."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from recdiv_core.config import Config, override
from recdiv_core.data.shards import staged_file
from recdiv_core.schema import EVAL_EXAMPLE, NO_QUERY, TRAIN_EXAMPLE, Manifest, read_manifest
from recdiv_core.slates.checkpoint import Progress, save_checkpoint
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.slates.loading import build_model
from recdiv_core.tracking import runs as tracking
from recdiv_core.tracking.runs import RunHandle
from tests.worlds import write_dataset

NUM_ITEMS, NUM_USERS, K = 60, 132, 4
# Japanese, markup, Arabic
HOSTILE = (
    "\u30c6\u30b9\u30c8 </script><script>alert(1)</script> & <b>\u0635\u0627\u0628\u0648\u0646"
)
OBJECTIVES = [
    {"metric": f"val/ndcg_at_{K}", "direction": "max", "reference": 0.0},
    {"metric": f"val/coverage_at_{K}", "direction": "max", "reference": 0.0},
]
TRIALS = {"plain": (0.0, 0.050, 0.40), "bent": (0.3, 0.049, 0.55), "wide": (0.9, 0.030, 0.60)}
"""Name -> weight, accuracy and coverage on validation; the values are made up."""


@dataclass(frozen=True)
class SweptShop:
    """A sweep: its parent run, its data, and the directory of its trials."""

    sweep: RunHandle
    prepared: Path
    storage: Path
    config: Config
    users: list[dict[str, Any]]
    """Rows of the test split, as written."""


def write_swept_shop(place: Path, uri: str, manifest: Manifest) -> SweptShop:
    """Write a shop and a sweep of three trials with random weights."""
    prepared, storage = place / "prepared", place / "runs" / "trials"
    users = write_shop(prepared, manifest)
    own = read_manifest(prepared)
    base = override(
        Config(),
        {
            "tracking.uri": uri,
            "data.prepared": str(prepared),
            "run.storage": str(storage),
            "model.dim": 8,
            "model.num_layers": 1,
            "model.max_history": 5,
            "eval.k": K,
            "eval.batch_size": 64,
        },
    )
    tags = {
        "recdiv.space": "tradeoff",
        "recdiv.objectives": json.dumps(OBJECTIVES),
        "recdiv.parameters": json.dumps(["loss.diversity_weight"]),
    }
    sweep = tracking.start_run(base, name="swept", kind="sweep", manifest=own, tags=tags)
    for seed, (name, (weight, ndcg, coverage)) in enumerate(TRIALS.items()):
        config = override(base, {"run.name": name, "loss.diversity_weight": weight})
        write_checkpoint(config, seed)
        trial = tracking.start_run(
            config, name=name, kind="trial", manifest=own, parent_run_id=sweep.run_id
        )
        figures = {f"ndcg_at_{K}": ndcg, f"coverage_at_{K}": coverage, f"ild_at_{K}": 0.5}
        best = {f"best/val/{key}": value for key, value in figures.items()}
        test = {f"test/{key}": 0.9 * value for key, value in figures.items()}
        val = {f"val/{key}": value for key, value in figures.items()}
        tracking.log_metrics(trial, {**best, **test, **val, "train/loss": 3.0}, step=1)
        tracking.finish_run(trial, "FINISHED")
    tracking.finish_run(sweep, "FINISHED")
    return SweptShop(sweep, prepared, storage, base, users)


def write_shop(prepared: Path, manifest: Manifest) -> list[dict[str, Any]]:
    """Write a prepared data set with a test split, hostile titles and brands; return its users."""
    prepared.mkdir(parents=True)
    sizes = {"train": 0, "val": 0, "test": NUM_USERS}
    own = manifest.model_copy(update={"num_examples": sizes, "name": "swept shop"})
    write_dataset(prepared, own, num_items=NUM_ITEMS, num_queries=2)
    items = pq.read_table(prepared / "catalogue.parquet")
    titles = ["" if item == 7 else f"{item} {HOSTILE}" for item in range(NUM_ITEMS)]
    brands = [None if item % 5 == 0 else f"<i>B{item % 3}</i>" for item in range(NUM_ITEMS)]
    items = items.set_column(items.column_names.index("title"), "title", pa.array(titles))
    pq.write_table(items.append_column("brand", pa.array(brands)), prepared / "catalogue.parquet")
    rng = np.random.default_rng(0)
    users = [
        {
            "user_id": f"<u{user}>",
            "history": rng.integers(0, NUM_ITEMS, rng.integers(0, 15)).tolist(),
            "targets": rng.permutation(NUM_ITEMS)[: rng.integers(1, 9)].tolist(),
            "query": NO_QUERY if user % 2 else 1,
            "is_cold_user": user % 4 == 0,
        }
        for user in range(NUM_USERS)
    ]
    (prepared / "tokens.arrow").touch()
    for split, schema in (("train", TRAIN_EXAMPLE), ("val", EVAL_EXAMPLE), ("test", EVAL_EXAMPLE)):
        (prepared / split).mkdir()
        table = pa.Table.from_pylist(users if split == "test" else [], schema)
        pq.write_table(table, prepared / split / "part-00000.parquet", row_group_size=16)
    events = [user["history"] + user["targets"] for user in users]
    staged = {
        "user_id": [user["user_id"] for user in users],
        "items": events,
        "times": [list(range(len(items))) for items in events],
    }
    (prepared / "stage").mkdir()
    pq.write_table(pa.table(staged), staged_file(prepared, 0))
    return users


def write_checkpoint(config: Config, seed: int) -> None:
    """Write a finished run with random weights to the storage of its config."""
    prepared = Path(config.data.prepared)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # noqa: TID251
        model = build_model(config, load_dataset(prepared))
    checkpoint = Path(config.run.storage) / config.run.name / "checkpoint_1"
    checkpoint.mkdir(parents=True)
    save_checkpoint(
        checkpoint,
        config=config,
        manifest=read_manifest(prepared),
        progress=Progress(is_finished=True),
        weights=model.state_dict(),
        training={},
    )
