"""Compare training for diversity with re-ranking, on all kinds of diversity at once.

    python -m benchmarks.fronts --quick
    python -m benchmarks.fronts runs/prepared/shop
    python -m benchmarks.fronts runs/prepared/shop --seeds 0 1 2 --epochs 15 5

`recdiv tune --space tradeoff` runs for each seed, on the built-in shop with `--quick`. Two sets of
points are compared: all trained models with the light re-ranking of `eval.dials`, and the model at
w = 0 under as many settings of MMR, MSD, DPP and beam, each with logit adjustments and lifts. Each
front is chosen on validation and measured once on test, on the same users.
`joint_hypervolume_ratio` is the hypervolume of NDCG, coverage, ILD and diversity index of the first
front over that of the second. It counts from 90 % of the NDCG of w = 0, the loosest budget of the
operating points, and from 0 on the other axes. `difference` is the first volume minus the second,
as a share of the second. `point` is the recommended trial: relative changes against w = 0 on test,
and `coverage_gap_closed`, the share of what w = 0 lacks to the most coverage that can be shown.
`interval` is over users (95 %) for one seed, else over seeds. `true_tastes` is the share of the
planted tastes that slates serve, at w = 0 and at the point (built-in shop, tastes.py). Prints one
JSON line.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.axis_fronts import Run, read_run
from benchmarks.tastes import planted_tastes, tastes_served
from recdiv_core.config import Config, override
from recdiv_core.data.clicklog import prepare
from recdiv_core.evaluation.evaluate import tally_dials
from recdiv_core.evaluation.per_user import judge_users
from recdiv_core.fronts.choice import OPERATING, choose
from recdiv_core.fronts.trials import Trial
from recdiv_core.metrics import pareto
from recdiv_core.metrics.bootstrap import interval
from recdiv_core.metrics.jackknife import UserResults, sample_metrics
from recdiv_core.metrics.repeats import half_width
from recdiv_core.metrics.tally import USER_METRICS, count_users, finish
from recdiv_core.models.baselines import Baseline
from recdiv_core.models.recommender import Recommender
from recdiv_core.search_space import Objective
from recdiv_core.slates.dataset import Dataset, load_dataset
from recdiv_core.slates.dials import dial_policies
from recdiv_core.slates.loading import load_model
from recdiv_core.slates.policy import SlatePolicy, slate_policy
from recdiv_core.slates.scoring import held_out_of_split
from recdiv_core.sweep import run as sweep
from tune_spaces.tradeoff import SPACE

logger = logging.getLogger("benchmarks.fronts")

AXES: Final = ("ndcg", "coverage", "ild", "diversity_index")
UPWARD: Final = ("max",) * len(AXES)
METHODS: Final = ("mmr", "msd", "dpp", "beam")
ADJUSTMENTS: Final = ((0.0, 0.0), (0.1, 0.0), (0.25, 0.0), (0.0, 0.4), (0.0, 0.6))
"""Logit adjustments and lifts of the re-ranked model with w = 0."""
QUICK: Final = {"data.demo_events": 40_000, "train.batch_size": 64, "train.warmup_steps": 20}
NUM_DRAWS: Final = {True: 100, False: 1000}
"""Samples of the users behind an interval; True = `--quick`."""
MOST_POINTS: Final = 24
"""Most members of a front that are measured on test: those that add most hypervolume."""


@dataclass(frozen=True, eq=False)
class Point:
    """A model under one setting of re-ranking.

    Attributes:
        run: the trained model.
        policy: how its slates are made.
        val: metric with cut-off -> value on validation.
    """

    run: Run
    policy: SlatePolicy
    val: Mapping[str, float]


def main() -> None:
    """Sweep, compare and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("prepared", nargs="?", help="prepared data set; none = the built-in shop")
    parser.add_argument("--quick", action="store_true", help="one seed, a small built-in shop")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", nargs=2, type=int, default=[15, 5], help="of the base, a trial")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    shop = QUICK if args.quick else {}
    seeds = args.seeds[:1] if args.quick else args.seeds
    to_stderr = contextlib.redirect_stdout(sys.stderr)  # Ray forwards the prints of its workers
    with to_stderr, tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        own = {"data.source": "demo", "data.out": str(place / "shop"), **shop}
        prepared = args.prepared or str(prepare(override(Config(), own))["prepared"])
        found: list[dict[str, Any]] = []
        for seed in seeds:
            runs = train(place, prepared, seed, args.epochs, shop)
            found.append(compare_seed(runs, num_draws=NUM_DRAWS[args.quick]))
    print(json.dumps(pooled(found)))


def train(
    place: Path, prepared: str, seed: int, epochs: Sequence[int], more: Mapping[str, Any]
) -> list[Run]:
    """Run the sweep of one seed; return the baseline at w = 0, then the trials."""
    name = f"seed{seed}"
    settings = {
        "run.storage": str(place / "runs"),
        "run.name": name,
        "tracking.uri": f"sqlite:///{place}/mlflow.db",
        "data.prepared": prepared,
        "scaling.num_workers": 1,
        "seed": seed,
        **{key: value for key, value in more.items() if not key.startswith("data.")},
    }
    space = replace(
        SPACE,
        fixed={**SPACE.fixed, "train.epochs": epochs[1]},
        warm_start={**(SPACE.warm_start or {}), "train.epochs": epochs[0]},
    )
    sweep.run(override(Config(), {**space.fixed, **settings}), space, "tradeoff")
    runs = place / "runs" / name
    return [read_run(runs / "plain"), *map(read_run, sorted((runs / "trials").iterdir()))]


def compare_seed(runs: Sequence[Run], *, num_draws: int) -> dict[str, Any]:
    """Compare the trained runs of a seed with the re-ranked baseline, the first of them."""
    dataset = load_dataset(Path(runs[0].config.data.prepared))
    trained: list[Point] = []
    for run in runs:
        model = load_model(run.config, dataset, run.checkpoint)
        own = slate_policy(run.config, dataset, model.lifts)
        policies = [own, *dial_policies(run.config, dataset, model.lifts)]
        trained += judged_on_val(run, model, dataset, policies)
    plain = trained[0]
    model = load_model(runs[0].config, dataset, runs[0].checkpoint)
    policies = reranked(replace(plain.policy, lifts=model.lifts), len(trained))
    again = judged_on_val(runs[0], model, dataset, policies)
    least = min(OPERATING) * axes_of(plain)[0]
    fronts = {"trained": front(trained, least), "reranked": front([plain, *again], least)}
    recommended = recommend(trained, len(dataset.catalogue)) or plain
    wanted = list(dict.fromkeys([plain, recommended, *fronts["trained"], *fronts["reranked"]]))
    test = judged_on_test(wanted, dataset)
    sides = [[test[point] for point in side] for side in fronts.values()]
    return {
        "seed": runs[0].config.seed,
        "num_points": {"trained": len(trained), "reranked": 1 + len(again)},
        "front": {name: len(side) for name, side in fronts.items()},
        **compare_volumes(test[plain], *sides, num_draws=num_draws),
        "point": changes(test[plain], test[recommended]),
        "true_tastes": {
            name: true_tastes(point, test[point], dataset)
            for name, point in (("plain", plain), ("point", recommended))
        },
        "recommended": {
            "mix": recommended.run.mix,
            "w": recommended.run.weight,
            "method": recommended.policy.method,
            "diversity": recommended.policy.diversity,
            "lift": recommended.policy.lift,
        },
    }


def reranked(plain: SlatePolicy, most: int) -> list[SlatePolicy]:
    """Return up to `most` settings of the re-rankers: each with the same dials and adjustments."""
    num_dials = max(1, most // (len(METHODS) * len(ADJUSTMENTS)))
    # more light dials than strong ones: a front needs points that cost little accuracy
    dials = [round(((place + 1) / (num_dials + 1)) ** 1.5, 3) for place in range(num_dials)]
    return [
        replace(plain, method=method, diversity=dial, logit_adjustment=factor, lift=lift)
        for method, dial, (factor, lift) in itertools.product(METHODS, dials, ADJUSTMENTS)
    ]


def judged_on_val(
    run: Run, model: Recommender | Baseline, dataset: Dataset, policies: Sequence[SlatePolicy]
) -> list[Point]:
    """Evaluate a model under policies on validation, in one pass over its scores."""
    share = held_out_of_split(model, dataset, "val", run.config)
    tallies = tally_dials(share, dataset, policies)
    logger.info("seed %d: %s, w = %g", run.config.seed, run.mix, run.weight)
    return [
        Point(run, policy, {**finish(tally), **count_users(tally)})
        for policy, tally in zip(policies, tallies, strict=True)
    ]


def judged_on_test(points: Sequence[Point], dataset: Dataset) -> dict[Point, UserResults]:
    """Evaluate points on test, keeping every user apart."""
    metrics = {name: USER_METRICS[name] for name in AXES if name in USER_METRICS}
    judged: dict[Point, UserResults] = {}
    for run in dict.fromkeys(point.run for point in points):
        model = load_model(run.config, dataset, run.checkpoint)
        batches = [
            replace(held_out, scores_BV=held_out.scores_BV.clone())
            for held_out in held_out_of_split(model, dataset, "test", run.config)
        ]
        for point in (point for point in points if point.run is run):
            slates = [
                (
                    *replace(batch, scores_BV=batch.scores_BV.clone()).slates(
                        dataset, point.policy
                    ),
                    batch.histories,
                )
                for batch in batches
            ]
            judged[point] = judge_users(slates, dataset, metrics, k=point.policy.k)
    return judged


def true_tastes(point: Point, judged: UserResults, dataset: Dataset) -> float | None:
    """Return the share of the planted tastes that a point serves on test; None = unknown."""
    tastes = planted_tastes(dataset.prepared)
    if not tastes:
        return None
    rows = pq.read_table(dataset.prepared / "test").to_pylist()
    ids = [  # the users that judge_users keeps, in their order
        row["user_id"]
        for row in rows
        if not point.policy.filter_seen or set(row["targets"]) - set(row["history"])
    ]
    categories = pq.read_table(dataset.prepared / "catalogue.parquet")["category"].to_pylist()
    return tastes_served(judged.slates_UK, ids, categories, tastes)


def front(points: Sequence[Point], least: float) -> list[Point]:
    """Return the points of a validation front with an NDCG above `least`; at most MOST_POINTS."""
    values = [axes_of(point) for point in points]
    above = [place for place, axes in enumerate(values) if axes[0] > least]
    members = [above[place] for place in pareto.front([values[row] for row in above], UPWARD)]
    kept = most_volume([values[member] for member in members], MOST_POINTS, least)
    return [points[members[place]] for place in kept]


def most_volume(values: Sequence[Sequence[float]], most: int, least: float = 0.0) -> list[int]:
    """Return the rows of at most so many points, each adding the most hypervolume in turn.

    >>> most_volume([[1.0, 0.1], [0.1, 1.0], [0.8, 0.8]], 2)
    [2, 0]
    """
    chosen: list[int] = []
    left = list(range(len(values)))
    while left and len(chosen) < most:
        before = [values[row] for row in chosen]
        best = max(left, key=lambda row: hypervolume([*before, values[row]], least))
        chosen.append(best)
        left.remove(best)
    return chosen


def axes_of(point: Point) -> list[float]:
    """Return the validation metrics of a point, in the order of AXES."""
    return [point.val[f"{name}_at_{point.policy.k}"] for name in AXES]


def hypervolume(values: Any, least: float = 0.0) -> float:
    """Return the volume that points dominate, from `least` on the first axis and 0 on the others.

    >>> hypervolume([[1.0, 0.5], [0.4, 1.0]], least=0.5)
    0.25
    """
    num_axes = len(values[0])
    return pareto.hypervolume(values, (least, *(0.0,) * (num_axes - 1)), ("max",) * num_axes)


def recommend(points: Sequence[Point], num_items: int) -> Point | None:
    """Choose the point that a report recommends; the first point is the baseline."""
    k = points[0].policy.k
    trials = [
        Trial(
            run_id=str(place),
            name=str(place),
            status="FINISHED",
            params={},
            val=point.val,
            test={},
            curves={},
            best_epoch=1,
            duration_s=None,
            is_plain=not place,
        )
        for place, point in enumerate(points)
    ]
    objectives = [Objective(f"val/{name}_at_{k}", "max", reference=0.0) for name in AXES]
    chosen = choose(trials, objectives, num_items=num_items).recommended
    return None if chosen is None else points[int(chosen.run_id)]


def compare_volumes(
    plain: UserResults,
    trained: Sequence[UserResults],
    again: Sequence[UserResults],
    *,
    num_draws: int,
) -> dict[str, Any]:
    """Compare the hypervolumes of two fronts on the same users, with intervals."""
    judged = [plain, *trained, *again]
    observed_PX = np.array([[each.value(name) for name in AXES] for each in judged])
    drawn_RPX = sample_metrics(judged, AXES, num_draws, seed=0).clip(min=0.0)

    def volumes(points_PX: Any) -> tuple[float, float]:
        least = min(OPERATING) * points_PX[0, 0]
        one, other = points_PX[1 : 1 + len(trained)], points_PX[1 + len(trained) :]
        return hypervolume(one, least), hypervolume(other, least)

    one, other = volumes(observed_PX)
    drawn = [volumes(points_PX) for points_PX in drawn_RPX]
    return {
        "joint_hypervolume_ratio": one / other,
        "interval": list(interval([mine / theirs for mine, theirs in drawn])),
        "difference": (one - other) / other,
        "difference_interval": list(interval([(mine - its) / other for mine, its in drawn])),
    }


def changes(plain: UserResults, point: UserResults) -> dict[str, float]:
    """Return the changes of a point against w = 0, relative and as a share of the coverage gap."""
    before = {name: plain.value(name) for name in AXES}
    gains = {name: point.value(name) / before[name] - 1 for name in AXES}
    most = min(1.0, plain.slates_UK.size / plain.num_items)
    closed = (point.value("coverage") - before["coverage"]) / max(most - before["coverage"], 1e-9)
    return {
        "ndcg": gains["ndcg"],
        "coverage": gains["coverage"],
        "coverage_gap_closed": closed,
        "ild": gains["ild"],
        "diversity_index": gains["diversity_index"],
    }


def pooled(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the line to print: means over seeds, and an interval over users or over seeds."""
    ratios = [each["joint_hypervolume_ratio"] for each in found]
    ratio, has_seeds = statistics.mean(ratios), len(ratios) > 1
    half = half_width(ratios) if has_seeds else 0.0
    return {
        "joint_hypervolume_ratio": ratio,
        "interval": [ratio - half, ratio + half] if has_seeds else found[0]["interval"],
        "point": {
            name: statistics.mean(each["point"][name] for each in found)
            for name in found[0]["point"]
        },
        "interval_over": "seeds" if has_seeds else "users",
        "seeds": list(found),
        "versions": {"torch": torch.__version__},
    }


if __name__ == "__main__":
    main()
