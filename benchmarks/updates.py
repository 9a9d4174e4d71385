"""Measure what a day costs and what it keeps: an append, and an update beside a full retrain.

    python -m benchmarks.updates --quick

Append: the log is the built-in shop's first 30 days, one Parquet file a day. Each command runs as a
process of its own, as a shop runs it: `prepare` of all 30 days, and `prepare data.base=...` of the
last day on 29. Both results have the same digest, or the benchmark fails. `append_cost_share` is
the median wall time of the append over that of the preparation.

Update: a month of the built-in shop with its feedback loop on (month.py), the arm `with` alone;
8 days with --quick. `update_ndcg_share` and `update_cost_share` compare the updates with
preparations and trainings from scratch on the same days. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks import month, month_metrics
from benchmarks.month_arm import QUICK, Size
from recdiv_core.cluster.start import start_ray
from recdiv_core.config import Config
from recdiv_core.data.digest import digest
from recdiv_core.shop.generate import generate

logger = logging.getLogger(__name__)

DAYS = 30
DAY_MS = 86_400_000


def write_days(home: Path, num_events: int) -> int:
    """Write the log of the first days, one file a day, and the catalogue; return the rows."""
    import ray

    start_ray(Config())
    clicks, items = generate(home / "source", num_events=num_events, seed=0)
    ray.shutdown()
    log = pq.read_table(clicks)
    day_N = pc.divide(pc.subtract(log["timestamp"], pc.min(log["timestamp"])), DAY_MS).to_numpy()
    for name in ("log", "base", "new"):
        (home / name).mkdir()
    for day in range(DAYS):
        rows = log.filter(pa.array(day_N.astype(int) == day))
        pq.write_table(rows, home / "log" / f"day-{day:02d}.parquet")
    for path in sorted((home / "log").iterdir()):
        last = path.stem == f"day-{DAYS - 1:02d}"
        (home / ("new" if last else "base") / path.name).hardlink_to(path)
    table = pq.read_table(items)
    pq.write_table(table, home / "items.parquet")
    return int((day_N < DAYS).sum())


def run(*settings: str) -> tuple[float, dict[str, Any]]:
    """Run `prepare`; return its wall time in seconds and what it prints."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.prepare", *settings],
        check=True,
        capture_output=True,
        text=True,
    )
    return time.monotonic() - started, json.loads(done.stdout.splitlines()[-1])


def measure(home: Path, rounds: int) -> dict[str, Any]:
    """Return the wall times of both commands, in seconds, and what the append changed."""
    items = f"data.items={home / 'items.parquet'}"
    run(f"data.clicks={home / 'base'}", items, f"data.out={home / 'before'}")
    times: dict[str, list[float]] = {"scratch": [], "append": []}
    told: dict[str, Any] = {}
    for number in range(rounds):
        whole, after = home / f"whole-{number}", home / f"after-{number}"
        took, _ = run(f"data.clicks={home / 'log'}", items, f"data.out={whole}")
        times["scratch"].append(took)
        base = f"data.base={home / 'before'}"
        took, told = run(base, f"data.clicks={home / 'new'}", items, f"data.out={after}")
        times["append"].append(took)
        assert digest(whole.resolve()) == digest(after.resolve()), "the two differ"
    return {**{name: statistics.median(own) for name, own in times.items()}, "told": told}


def main() -> None:
    """Print the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="300,000 impressions, once")
    parser.add_argument("--events", type=int, default=0, help="impressions of the whole shop")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    num_events = args.events or (300_000 if args.quick else 4_000_000)
    to_stderr = contextlib.redirect_stdout(sys.stderr)  # Ray forwards the prints of its workers
    with to_stderr, tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        num_rows = write_days(home, num_events)
        found = measure(home, 1 if args.quick else 3)
        size = QUICK if args.quick else Size()
        loops = month.run(home / "month", size, ["with"], minutes=math.inf)
    result = {
        "append_cost_share": found["append"] / found["scratch"],
        **month_metrics.yardstick_shares(loops[0].rows),
        "scratch_s": found["scratch"],
        "append_s": found["append"],
        "rows": num_rows,
        "users": found["told"]["num_users"],
        "changed_users": found["told"]["num_changed_users"],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
