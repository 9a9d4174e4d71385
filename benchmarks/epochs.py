"""Measure how fast an epoch is planned and read, by the size of row groups.

    python -m benchmarks.epochs
    python -m benchmarks.epochs --quick

Writes 400,000 users (40,000 with --quick) of 30 events on average into 8 shards, once for each size
of row groups (`data.fragment_rows`). Reads an epoch of them in this process, without Ray. Prints
one JSON line by size of row groups: bytes of all footers; seconds to list the row groups and to
plan an epoch; seconds to the first batch; seconds and CPU seconds to read the epoch; seconds to the
last batch of a run that resumes there; users per second.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdiv_core.data.plan import num_steps, plan_windows
from recdiv_core.data.reading import list_fragments, read_windows
from recdiv_core.schema import TRAIN_EXAMPLE

SIZES: Final = (16, 128, 1024, 8192)
NUM_SHARDS: Final = 8
BATCH_SIZE: Final = 1024


def write_users(place: Path, num_users: int, fragment_rows: int) -> None:
    """Write the train split as `prepare` does; users have geometrically distributed lengths."""
    rng = np.random.default_rng(0)
    (place / "train").mkdir(parents=True)
    for shard in range(NUM_SHARDS):
        count = num_users // NUM_SHARDS
        offsets = np.concatenate([[0], np.cumsum(rng.geometric(1 / 30, count))]).astype(np.int32)
        total = int(offsets[-1])
        columns = [
            pa.array([f"user-{shard}-{number}" for number in range(count)]),
            pa.ListArray.from_arrays(offsets, rng.integers(0, 20_000, total).astype(np.int32)),
            pa.ListArray.from_arrays(offsets, np.full(total, -1, np.int32)),
            pa.ListArray.from_arrays(offsets, np.ones(total, np.float32)),
            pa.nulls(count, pa.list_(pa.int64())),
        ]
        table = pa.table(dict(zip(TRAIN_EXAMPLE.names, columns, strict=True))).cast(TRAIN_EXAMPLE)
        path = place / "train" / f"part-{shard:05d}.parquet"
        pq.write_table(table, path, fragment_rows, use_dictionary=False, write_statistics=False)


def measure(prepared: Path) -> dict[str, float]:
    """Plan and read one epoch."""
    shards = sorted((prepared / "train").iterdir())
    started = time.perf_counter()
    fragments = list_fragments(prepared, "train")
    listed = time.perf_counter()
    alone = {"batch_size": BATCH_SIZE, "seed": 0}
    for _ in plan_windows(fragments, **alone):
        pass
    planned = time.perf_counter()
    cpu = time.process_time()
    steps = read_windows(plan_windows(fragments, **alone))
    num_users = len(next(steps)[0].lengths)
    first = time.perf_counter()
    num_users += sum(len(parts[0].lengths) for parts in steps)
    read, cpu = time.perf_counter(), time.process_time() - cpu
    last_step = num_steps(num_users, BATCH_SIZE) - 1
    list(read_windows(plan_windows(fragments, start_step=last_step, **alone)))
    resumed = time.perf_counter()
    return {
        "footer_bytes": sum(pq.read_metadata(shard).serialized_size for shard in shards),
        "bytes": sum(shard.stat().st_size for shard in shards),
        "list_s": round(listed - started, 3),
        "plan_s": round(planned - listed, 3),
        "first_batch_s": round(first - planned, 3),
        "epoch_s": round(read - planned, 3),
        "epoch_cpu_s": round(cpu, 3),
        "resumed_at_the_last_step_s": round(resumed - read, 3),
        "users_per_s": round(num_users / (read - planned)),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="40,000 users: noisier")
    num_users = 40_000 if parser.parse_args().quick else 400_000
    with tempfile.TemporaryDirectory() as directory:
        result: dict[str, object] = {}
        for size in SIZES:
            write_users(Path(directory, str(size)), num_users, size)
            result[str(size)] = measure(Path(directory, str(size)))
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs"
    print(json.dumps({"num_users": num_users, "fragment_rows": result, "machine": machine}))


if __name__ == "__main__":
    main()
