"""Compare the default model with the best tuned baseline, on two unlike logs.

    python -m benchmarks.models --quick
    python -m benchmarks.models --beauty DIR --out runs/models

Amazon Beauty is read from `clicks.parquet` and `items.parquet` of `--beauty`; without them its
result is null. Complete Journey comes from its package (benchmarks/completejourney.py). For each
log the script prepares the data, trains the defaults at w = 0 with each seed, and runs
`tune --space baselines`. Validation chooses the epoch and the baseline; all printed values are from
test. With --quick it trains one epoch of one seed and fits few baselines with their defaults, which
checks that the script runs. Work in `--out` is resumed; without `--out` it is thrown away. Prints
one JSON line, by log:

- `ndcg`, `hit`, `coverage`: metrics of the model at 10, mean of the seeds.
- `best_baseline`, `best_baseline_settings`: NDCG@10 of the best baseline, and its settings.
- `ratio`: `ndcg` over `best_baseline`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.completejourney import prepare_settings, write_files
from recdiv_core.config import Config, override
from recdiv_core.data.clicklog import prepare
from recdiv_core.fronts.reading import read_sweep, sweep_run
from recdiv_core.sweep import run as sweep
from recdiv_core.tracking.store import tracking_uri
from recdiv_core.training import launch
from tune_spaces.baselines import SPACE

BEAUTY_PLACES: Final = ("data/beauty", "shared/data/beauty", "../shared/data/beauty")
QUICK_KINDS: Final = ("popular", "item_knn", "graph")

Fitted = tuple[Mapping[str, object], Mapping[str, float], Mapping[str, float]]
"""Settings, validation metrics and test metrics of a baseline; metrics without `val/`, `test/`."""


def best_fitted(fitted: Sequence[Fitted]) -> Fitted:
    """Return the baseline with the highest NDCG@10 on validation; the first of equal ones."""
    return max(fitted, key=lambda each: each[1]["ndcg_at_10"])


def compared(models: Sequence[Mapping[str, float]], fitted: Sequence[Fitted]) -> dict[str, object]:
    """Return the result of a log.

    Args:
        models: test metrics of the model, by seed.
        fitted: the baselines.
    """
    means = {
        name: statistics.fmean(test[f"{name}_at_10"] for test in models)
        for name in ("ndcg", "hit", "coverage")
    }
    settings, _, test = best_fitted(fitted)
    best = test["ndcg_at_10"]
    return {
        **{name: round(value, 5) for name, value in means.items()},
        "best_baseline": round(best, 5),
        "best_baseline_settings": settings,
        "ratio": round(means["ndcg"] / best, 4) if best else None,
    }


def train_model(config: Config, seeds: int) -> list[Mapping[str, float]]:
    """Train the defaults with each seed; return the test metrics."""
    return [
        below("test/", launch.run(override(config, {"seed": seed, "run.name": f"model-{seed}"})))
        for seed in range(seeds)
    ]


def fit_quickly(config: Config) -> list[Fitted]:
    """Fit few baselines with their defaults."""
    found: list[Fitted] = []
    for kind in QUICK_KINDS:
        settings = {"model.kind": kind}
        result = launch.run(override(config, settings, {"run.name": kind}))
        found.append((settings, below("best/val/", result), below("test/", result)))
    return found


def tune_baselines(config: Config) -> list[Fitted]:
    """Run `tune --space baselines`."""
    config = override(config, SPACE.fixed, {"run.name": "baselines"})
    result = sweep.run(config, SPACE, "baselines")
    handle = sweep_run(tracking_uri(config), config, str(result["parent_run_id"]))
    trials = read_sweep(handle, curves=False).trials
    return [(trial.params, trial.val, trial.test) for trial in trials if trial.val and trial.test]


def below(prefix: str, result: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of a run whose names start with a prefix, without it."""
    metrics: Mapping[str, float] = result["metrics"]
    return {key.removeprefix(prefix): metrics[key] for key in metrics if key.startswith(prefix)}


def measure(
    data: Mapping[str, object], place: Path, *, quick: bool, seeds: int
) -> dict[str, object]:
    """Prepare a log in a directory, train the model and fit the baselines."""
    here = {
        "run.storage": str(place / "runs"),
        "tracking.uri": f"sqlite:///{place}/mlflow.db",
        "data.out": str(place / "prepared"),
    }
    prepared = str(prepare(override(Config(), data, here))["prepared"])
    config = override(Config(), here, {"data.prepared": prepared, "data.out": ""})
    if quick:
        config = override(config, {"train.epochs": 1})
    models = train_model(config, 1 if quick else seeds)
    return compared(models, fit_quickly(config) if quick else tune_baselines(config))


def logs(beauty: Path | None, place: Path) -> dict[str, dict[str, object] | None]:
    """Return the settings of `prepare` for each log; None = its files are missing."""
    places = [beauty] if beauty else [Path(name) for name in BEAUTY_PLACES]
    found = next((each for each in places if (each / "clicks.parquet").is_file()), None)
    raw = place / "raw"
    if not (raw / "users.parquet").is_file():
        write_files(raw)
    return {
        "beauty": found
        and {
            "data.clicks": str(found / "clicks.parquet"),
            "data.items": str(found / "items.parquet"),
            "data.columns.timestamp": "order",
            "data.name": "beauty",
            "split.protocol": "leave_last_out",
        },
        "completejourney": prepare_settings(raw),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one epoch, few baselines")
    parser.add_argument("--beauty", type=Path, help="directory of Amazon Beauty's two files")
    parser.add_argument("--out", type=Path, help="directory for data and runs, kept and resumed")
    parser.add_argument("--seeds", type=int, default=3, help="trainings per log (default: 3)")
    args = parser.parse_args()
    to_stderr = contextlib.redirect_stdout(sys.stderr)  # Ray forwards the prints of its workers
    with to_stderr, tempfile.TemporaryDirectory() as scratch:
        place = (args.out or Path(scratch)).absolute()
        result = {
            name: data and measure(data, place / name, quick=args.quick, seeds=args.seeds)
            for name, data in logs(args.beauty, place).items()
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
