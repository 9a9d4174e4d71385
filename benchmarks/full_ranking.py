"""Measure time per user and memory of evaluating a large shop, from Parquet to all metrics.

    python -m benchmarks.full_ranking
    python -m benchmarks.full_ranking --users 1000000
    python -m benchmarks.full_ranking --quick

The prepared data set has random events and 100,000 items with 384 dimensions of text. The model has
64 dimensions and random weights. A user has eight events and one or two targets on average. One
process with one thread does the work of a worker of `pipelines.evaluate`. It reads a batch of
examples, scores the whole catalogue, makes slates of 10, and computes all metrics and groups.
Memory should not grow with the number of users. Prints one JSON line: {"us_a_user": {num_users:
microseconds of CPU time}, "wall_us_a_user", "peak_mib": {num_users: peak memory of the process},
...}.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.evaluation import memory_mib
from recdiv_core.config import Config
from recdiv_core.data.text_vectors import vectors_path
from recdiv_core.evaluation.groupings import item_groups
from recdiv_core.evaluation.scorecards import finish_split, scorecard_of
from recdiv_core.models.recommender import Recommender
from recdiv_core.schema import CATALOGUE, EVAL_EXAMPLE, NO_QUERY, SCHEMA_VERSION, Manifest
from recdiv_core.slates.dataset import Dataset, load_dataset
from recdiv_core.slates.loading import build_model
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import held_out_of_split

SIZES, FEW_USERS = (10_000, 100_000, 300_000), (2_000,)
NUM_ITEMS, TEXT_DIM, NUM_CATEGORIES, MEAN_EVENTS = 100_000, 384, 240, 8
ROWS_A_GROUP, ROWS_A_FILE = 1024, 65_536


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="2,000 users")
    parser.add_argument("--users", type=int, nargs="+", default=SIZES, metavar="NUMBER")
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = Config()
    with tempfile.TemporaryDirectory() as directory:
        prepared = Path(directory)
        write_shop(prepared)
        dataset = load_dataset(prepared)
        model = build_model(config, dataset)
        found: dict[int, dict[str, float]] = {}
        for num_users in FEW_USERS if args.quick else args.users:
            write_users(prepared, num_users)
            found[num_users] = measure(model, dataset, config)
    print(
        json.dumps(
            {
                **{
                    name: {num_users: figures[name] for num_users, figures in found.items()}
                    for name in ("us_a_user", "wall_us_a_user", "peak_mib", "num_figures")
                },
                "num_items": NUM_ITEMS,
                "dim": config.model.dim,
                "batch_size": config.eval.batch_size,
                "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, 1 thread",
                "versions": {"torch": torch.__version__, "python": platform.python_version()},
            }
        )
    )


def measure(model: Recommender, dataset: Dataset, config: Config) -> dict[str, float]:
    """Evaluate all users of the shop."""
    kinds = config.eval.slices
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # reset the peak
    started, cpu_started = time.perf_counter(), time.process_time()
    policy = slate_policy(config, dataset)
    share = held_out_of_split(model, dataset, "test", config)
    shown = (held_out.shown(dataset, policy) for held_out in share)
    scorecard = scorecard_of(shown, dataset, k=policy.k, cutoffs=(), kinds=kinds)
    figures = finish_split(scorecard, item_groups(kinds, dataset.catalogue))
    cpu_s, wall_s = time.process_time() - cpu_started, time.perf_counter() - started
    tally = scorecard.tallies[0]
    num_users = int(tally.num_users) + int(tally.num_users_without_targets)
    return {
        "us_a_user": round(1e6 * cpu_s / num_users, 1),
        "wall_us_a_user": round(1e6 * wall_s / num_users, 1),
        "peak_mib": round(memory_mib("VmHWM")),
        "num_figures": sum(map(len, (figures["metrics"], *figures["slices"].values()))),
    }


def write_shop(prepared: Path) -> None:
    """Write a prepared data set without examples."""
    rng = np.random.default_rng(0)
    manifest = Manifest.model_validate(
        {
            "schema_version": SCHEMA_VERSION,
            "name": "random",
            "fingerprint": "0" * 64,
            "num_users": 100_000,
            "num_items": NUM_ITEMS,
            "num_events": 100_000 * MEAN_EVENTS,
            "num_examples": {},
            "num_events_by_split": {},
            "num_cold_users": 0,
            "num_cold_items": 0,
            "quarantined": {},
            "dropped": {},
            "split": {},
            "has_timestamps": False,
            "categories": [f"category {index}" for index in range(NUM_CATEGORIES)],
            "encoder": {"name": "none", "sha256": "0" * 64, "max_tokens": 1, "fields": ["title"]},
            "fragment_rows": ROWS_A_GROUP,
            "sources": [],
            "settings": {},
            "seed": 0,
            "versions": {},
        }
    )
    (prepared / "manifest.json").write_text(manifest.model_dump_json(), encoding="utf-8")
    popularity = (100 * rng.random(NUM_ITEMS) ** 8).astype(np.int64)
    columns = [
        np.arange(NUM_ITEMS, dtype=np.int32),
        [f"i{item}" for item in range(NUM_ITEMS)],
        [f"item {item}" for item in range(NUM_ITEMS)],
        lists(rng.integers(NUM_CATEGORIES, size=NUM_ITEMS), np.ones(NUM_ITEMS, np.int64)),
        popularity,
        popularity == 0,
    ]
    pq.write_table(pa.table(columns, schema=CATALOGUE), prepared / "catalogue.parquet")
    for name, rows in (("tokens", NUM_ITEMS), ("queries", 0)):
        vectors = rng.standard_normal((rows, TEXT_DIM), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        path = vectors_path(prepared, manifest, name)
        path.parent.mkdir(exist_ok=True)
        np.save(path, vectors)


def write_users(prepared: Path, num_users: int) -> None:
    """Replace the test split, one file at a time."""
    rng = np.random.default_rng(1)
    (prepared / "test").mkdir(exist_ok=True)
    for path in (prepared / "test").glob("*.parquet"):
        path.unlink()
    for start in range(0, num_users, ROWS_A_FILE):
        users = np.arange(start, min(start + ROWS_A_FILE, num_users))
        lengths, num_targets = rng.poisson(MEAN_EVENTS, len(users)), rng.integers(1, 3, len(users))
        first = rng.integers(NUM_ITEMS - 1, size=len(users))
        pairs = np.stack([first, first + 1], axis=1)  # distinct
        table = pa.table(
            [
                [f"u{user}" for user in users],
                lists(rng.integers(NUM_ITEMS, size=lengths.sum()), lengths),
                lists(pairs[np.arange(2) < num_targets[:, None]], num_targets),
                np.full(len(users), NO_QUERY, np.int32),
                np.zeros(len(users), np.bool_),
                pa.nulls(len(users), pa.list_(pa.int64())),
                pa.nulls(len(users), pa.list_(pa.int64())),
            ],
            schema=EVAL_EXAMPLE,
        )
        path = prepared / "test" / f"part-{start // ROWS_A_FILE:05d}.parquet"
        pq.write_table(table, path, row_group_size=ROWS_A_GROUP)


def lists(values: np.ndarray, lengths: np.ndarray) -> Any:
    """Return a column of lists."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, values.astype(np.int32))


if __name__ == "__main__":
    main()
