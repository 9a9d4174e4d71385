"""Measure the overhead of a sweep beside training: start-ups, checkpoints, tracking, the report.

    python -m benchmarks.sweep
    python -m benchmarks.sweep --quick
    python -m benchmarks.sweep --workers 2 --events 200000

A real sweep of 16 trials (4 with `--quick`) on the built-in shop, from one warm model, as `recdiv
tune` runs it. As many trials run at once as this machine's CPUs allow. `overhead` is the share of
the sweep's wall time, from the start of Ray to the report, without training or evaluation. A worker
that waits for data counts as overhead. Training in one of N concurrent trials counts as 1 / N.
`start_s` is the time from the creation of a trial's run in MLflow to its first step. It includes
the wait for data of the first epoch. It excludes the first round of trials, which starts cold.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import mlflow
import ray
from mlflow import MlflowClient
from mlflow.entities import Run
from ray import tune

from recdiv_core.config import Config, override
from recdiv_core.data.clicklog import prepare
from recdiv_core.sweep import run as sweep
from tune_spaces.tradeoff import SPACE

MIXES = ({"coverage": 1.0}, {"ild": 1.0}, {"exposure": 1.0}, {"ild": 1.0, "coverage": 1.0})
WEIGHTS = (0.02, 0.04, 0.08, 0.25)


def main() -> None:
    """Run a sweep, read its runs and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="4 trials on a small shop")
    parser.add_argument("--workers", type=int, default=1, help="of each trial")
    parser.add_argument("--events", type=int, default=200_000, help="of the shop")
    args = parser.parse_args()
    weights = WEIGHTS[:1] if args.quick else WEIGHTS
    space = replace(
        SPACE,
        parameters={
            "loss.diversity": tune.grid_search([dict(mix) for mix in MIXES]),
            "loss.diversity_weight": tune.grid_search(list(weights)),
        },
    )
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        shop = {
            "data.source": "demo",
            "data.demo_events": 20_000 if args.quick else args.events,
            "data.out": str(place / "shop"),
        }
        settings = {
            "run.storage": str(place / "runs"),
            "run.name": "sweep",
            "tracking.uri": f"sqlite:///{place}/mlflow.db",
            "data.prepared": str(prepare(override(Config(), shop))["prepared"]),
            "scaling.num_workers": args.workers,
            **space.fixed,
        }
        config = override(Config(), settings)
        ray.shutdown()
        started = time.monotonic()
        result = sweep.run(config, space, "tradeoff")
        wall_s = time.monotonic() - started
        at_once = sweep.concurrent_trials(config, ray.cluster_resources())
        client = MlflowClient(config.tracking.uri)
        runs = children(client, result["parent_run_id"])
        ray.shutdown()
    trials = [run for run in runs if str(run.info.run_name).startswith("trial-")]
    trained_s = {
        run.info.run_id: sum(curve(client, run, "epoch_s") + curve(client, run, "eval_s"))
        for run in runs
    }
    busy_s = sum(
        seconds / (at_once if run in trials else 1)
        for run in runs
        for seconds in [trained_s[run.info.run_id]]
    )
    starts = [start_s(client, run) for run in trials[at_once:]]
    print(
        json.dumps(
            {
                "overhead": round(1 - busy_s / wall_s, 3),
                "start_s": round(statistics.median(starts), 1),
                "slowest_start_s": round(max(starts), 1),
                "wall_s": round(wall_s),
                "trial_trained_s": round(
                    statistics.median(trained_s[run.info.run_id] for run in trials), 1
                ),
                "trials": len(trials),
                "trials_at_once": at_once,
                "workers": args.workers,
                "events": shop["data.demo_events"],
                "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
                "versions": {
                    "ray": ray.__version__,
                    "mlflow": mlflow.__version__,
                    "python": platform.python_version(),
                },
            }
        )
    )


def children(client: MlflowClient, parent_run_id: str) -> list[Run]:
    """Return the runs of a sweep, the oldest first."""
    parent = client.get_run(parent_run_id)
    found = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent_run_id}'"
    )
    return sorted(found, key=lambda run: run.info.start_time)


def curve(client: MlflowClient, run: Run, name: str) -> list[float]:
    """Return a metric of all epochs of a run."""
    points = client.get_metric_history(run.info.run_id, f"train/{name}")
    return [point.value for point in sorted(points, key=lambda point: point.step)]


def busy_of_epochs(client: MlflowClient, run: Run) -> list[float]:
    """Return the seconds of training and evaluation in each epoch of a run."""
    curves = (curve(client, run, name) for name in ("epoch_s", "eval_s", "data_wait_s"))
    return [train + evaluate - wait for train, evaluate, wait in zip(*curves, strict=True)]


def start_s(client: MlflowClient, run: Run) -> float:
    """Return the seconds from the creation of a run to its first step."""
    first = min(
        client.get_metric_history(run.info.run_id, "train/epoch_s"), key=lambda point: point.step
    )
    return (first.timestamp - run.info.start_time) / 1000 - busy_of_epochs(client, run)[0]


if __name__ == "__main__":
    main()
