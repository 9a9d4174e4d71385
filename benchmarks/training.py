"""Measure the speed-up of a second worker, the wait for data, and the overhead of Ray.

    python -m benchmarks.training
    python -m benchmarks.training --quick
    python -m benchmarks.training --prepared DIR --batch-size 1024

Real runs of `launch.run` on the built-in shop or on a prepared data set, with one thread per
worker. The arms take turns, in two rounds or three. The epochs of the first WARM_UP_S seconds of a
run do not count, because Ray's own processes still start beside the workers then. The arms are one
worker, two workers with the same global batch (half each), two workers with twice the batch, and a
bare loop. The bare loop (bare_training.py) takes the same steps in one process without Ray and
reads the shards itself. Two bare loops at once share only the machine, so they are the upper bound
for two workers here. Prints one JSON line:

- `two_workers_vs_one`: users per second of two workers over one.
- `two_workers_twice_the_batch_vs_one`: the same with twice the batch over one.
- `two_apart_vs_one`: users per second of two bare loops together over one alone.
- `data_wait_share`: share of an epoch with two workers that is wait for data, in [0, 1].
- `ray_vs_bare_torch`: users per second of one Ray worker over the bare loop.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import ray
import torch

from recdiv_core.cluster.start import start_ray
from recdiv_core.config import Config, override
from recdiv_core.data.clicklog import prepare
from recdiv_core.data.text_vectors import ensure_vectors
from recdiv_core.schema import read_manifest
from recdiv_core.training.launch import run

WARM_UP_S = 6.0
ROUNDS_S = 290.0
"""Seconds for all rounds: a third one starts only if it ends in time at the pace of the second."""

RUNS = {"1": (1, 1), "2": (2, 1), "2, twice the batch": (2, 2)}
"""Name -> workers, and the global batch as a multiple of --batch-size."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small shop, one round: noisier")
    parser.add_argument("--prepared", type=Path, help="a prepared data set, else the built-in shop")
    parser.add_argument("--batch-size", type=int, default=256)
    args = parser.parse_args()
    to_stderr = contextlib.redirect_stdout(sys.stderr)  # Ray forwards the prints of its workers
    with to_stderr, tempfile.TemporaryDirectory() as directory:
        result = measure(Path(directory), args.prepared, args.batch_size, quick=args.quick)
    print(json.dumps(result))


def measure(place: Path, given: Path | None, batch_size: int, *, quick: bool) -> dict[str, object]:
    """Return the medians of all rounds, and their ratios.

    Args:
        place: empty directory.
        given: prepared data set; None = the built-in shop.
        batch_size: users per step of one worker.
        quick: a small shop, one round.
    """
    rounds, epochs = (1, 20) if quick else (3, 4)
    settings = {
        "run.storage": str(place / "runs"),
        "tracking.uri": f"sqlite:///{place}/mlflow.db",
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "train.select": "last",
        "eval.dials": [],  # nothing after the last epoch is measured
        "scaling.threads_per_worker": 1,
        "data.prepared": str(given or make_shop(place, quick=quick)),
    }
    config = override(Config(), settings)
    start_ray(config)
    prepared = Path(config.data.prepared)
    ensure_vectors(prepared, read_manifest(prepared))
    rates, waits = take_rounds(config, rounds)
    ray.shutdown()
    medians = {name: statistics.median(values) for name, values in rates.items()}
    twice = medians["2, twice the batch"] / medians["1"]
    return {
        "two_workers_vs_one": round(medians["2"] / medians["1"], 3),
        "two_workers_twice_the_batch_vs_one": round(twice, 3),
        "two_apart_vs_one": round(medians["apart"] / medians["bare"], 3),
        "data_wait_share": round(statistics.median(waits), 4),
        "ray_vs_bare_torch": round(medians["1"] / medians["bare"], 3),
        "users_per_s": {name: round(value) for name, value in medians.items()},
        "epochs": {name: len(values) for name, values in rates.items()},
        "batch_size": batch_size,
        "data": "built-in shop" if given is None else given.name,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, 1 thread a worker",
        "versions": {
            "ray": ray.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def take_rounds(config: Config, rounds: int) -> tuple[dict[str, list[float]], list[float]]:
    """Run all arms in turn, round after round, while there is time.

    Returns:
        rates: arm -> users per second of each epoch.
        waits: share of an epoch that two workers wait for data.
    """
    rates: dict[str, list[float]] = {name: [] for name in ("bare", "apart", *RUNS)}
    waits: list[float] = []
    started = time.monotonic()

    def say(index: int, name: str, speeds: list[float]) -> None:
        speed, passed_s = statistics.median(speeds), time.monotonic() - started
        print(f"{passed_s:.0f} s: round {index + 1}, {name}: {speed:.0f} users/s", file=sys.stderr)

    for index in range(rounds):
        begun = time.monotonic()
        found = {"bare": bare_in_process(config)}
        say(index, "bare", found["bare"])
        with ThreadPoolExecutor(2) as pool:
            pairs = pool.map(bare_in_process, [config, config])
            found["apart"] = [sum(pair) for pair in zip(*pairs, strict=True)]
        say(index, "apart", found["apart"])
        for number, (name, (workers, times)) in enumerate(RUNS.items()):
            this = {
                "scaling.num_workers": workers,
                "train.batch_size": times * config.train.batch_size,
                "run.name": f"run-{index}-{number}",
            }
            found[name], shares = curves(override(config, this))
            waits += shares if name == "2" else []
            say(index, f"workers {name}", found[name])
        for name, own in found.items():
            rates[name] += own
        ended = time.monotonic()
        if index and ended - started + (ended - begun) > ROUNDS_S:
            break
    return rates, waits


def make_shop(place: Path, *, quick: bool) -> Path:
    """Prepare the built-in shop; return where."""
    events = 30_000 if quick else 150_000
    values = {"data.source": "demo", "data.demo_events": events, "data.out": str(place / "shop")}
    return Path(str(prepare(override(Config(), values))["prepared"]))


def curves(config: Config) -> tuple[list[float], list[float]]:
    """Train; return users per second and the share of waiting, of each epoch after the warm-up."""
    result = run(config)
    client = mlflow.MlflowClient(config.tracking.uri)

    def curve(name: str) -> list[float]:
        points = client.get_metric_history(result["mlflow_run_id"], f"train/{name}")
        return [point.value for point in sorted(points, key=lambda point: point.step)]

    rates, waits, seconds = curve("users_per_s"), curve("data_wait_s"), curve("epoch_s")
    ends = itertools.accumulate(seconds)
    num_warm = min(len(seconds) - 1, sum(end < WARM_UP_S for end in ends) + 1)
    shares = [wait / length for wait, length in zip(waits, seconds, strict=True)]
    return rates[num_warm:], shares[num_warm:]


def bare_in_process(config: Config) -> list[float]:
    """Return users per second of a bare loop in its own process, like a worker."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bare_training"],
        input=config.model_dump_json(),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
