"""Compare search with random trials, and measure the savings and losses of early stopping.

    python -m benchmarks.search runs/plain
    python -m benchmarks.search --quick runs/plain
    python -m benchmarks.search runs/plain --sweep ID --uri sqlite:///mlflow.db

Nothing is trained. **Search**: the run's model is evaluated once on all validation users under each
of 2,079 settings of re-ranker, dial and logit adjustment. A `FrontSearch` then proposes trials one
after another, as in Tune, and reads their metrics from this table. Re-ranking one model is a
smaller and smoother problem than training many. `gained` is the hypervolume above the model alone,
as a share of the gain of all settings together, mean over seeds. `difference` compares `gained`
with random trials of the same seeds, with a 95 % t interval. There are two sets of objectives: NDCG
and coverage, and the same with ILD.

**Stopping** (with --sweep, of a sweep without early stopping): the learning curves are replayed to
the schedulers, one trial after another in random orders. `saved` is the share of epochs not
trained. `lost` is the share of the hypervolume of all last epochs that the remaining trials miss.
`asha` is Ray's scheduler with the hypervolume of the single trial as its metric. A stopped trial is
not replaced by another, so the saved epochs are not reused. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, get_args

import numpy as np
import torch
from mlflow import MlflowClient
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from scipy import stats

from benchmarks.rerank_fronts import LOGIT
from recdiv_core.cluster.start import quieten
from recdiv_core.config import Config
from recdiv_core.evaluation.evaluate import tally_split
from recdiv_core.evaluation.systems import NamedRun, find_run
from recdiv_core.fronts.reading import read_sweep
from recdiv_core.metrics import pareto
from recdiv_core.metrics.tally import Tally, finish
from recdiv_core.search_space import Objective, Search, SearchSpace
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.slates.loading import load_model
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import held_out_of_split
from recdiv_core.sweep.early_stopping import FrontScheduler
from recdiv_core.sweep.search import Budget, FrontSearch
from recdiv_core.tracking.runs import RunHandle
from tune_spaces import FRONT

METHODS: Final = ("mmr", "msd", "dpp", "ssd", "xquad", "calibrated", "alpha", "beam", "exposure")
DIALS: Final = tuple(step / 20 for step in range(21))
TAUS: Final = tuple(step / 10 for step in range(11))
PARAMETERS: Final = {
    "rerank.method": tune.choice(list(METHODS)),
    "rerank.diversity": tune.randint(0, len(DIALS)),
    "rerank.logit_adjustment": tune.randint(0, len(TAUS)),
}
"""Parameters of the search. Dials are indexes of DIALS and TAUS, so each trial is in the table."""
OBJECTIVES: Final = {"two": FRONT[:2], "three": FRONT[:3]}
BUDGETS: Final = (32, 64)
MARGINS: Final = (0.0, 0.01, 0.02, 0.05)
ORDERS: Final = 50

Figures = Mapping[str, float]
Table = Mapping[tuple[str, int, int], Figures]


def main() -> None:
    """Evaluate, search, replay and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="3 seeds, one budget")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--sweep", default="", help="MLflow run of a sweep without early stopping")
    parser.add_argument("--uri", default="sqlite:///mlflow.db", help="tracking URI of that run")
    parser.add_argument("run", help="directory of a training run")
    args = parser.parse_args()
    torch.set_num_threads(1)
    quieten()
    plain, table = judge_all(find_run(args.run, {}, lambda: ""))
    seeds, budgets = (3, BUDGETS[:1]) if args.quick else (args.seeds, BUDGETS)
    searched = {
        name: {
            budget: compare_searches(plain, table, objectives, budget=budget, seeds=range(seeds))
            for budget in budgets
        }
        for name, objectives in OBJECTIVES.items()
    }
    result = {"search": searched, "num_settings": len(table), "seeds": seeds}
    if args.sweep:
        result["stopping"] = replay_all(args.uri, args.sweep)
    print(json.dumps(result))


def judge_all(run: NamedRun) -> tuple[Figures, Table]:
    """Return the validation metrics of the model alone and under every setting."""
    dataset = load_dataset(Path(run.config.data.prepared))
    model = load_model(run.config, dataset, run.checkpoint)
    alone = replace(slate_policy(run.config, dataset), method="none", diversity=0.0)

    def judged(policies: Sequence[Any]) -> list[Figures]:
        zero = Tally.zeros(dataset.traits, k=alone.k)
        tallies = [zero for _ in policies]
        for held_out in held_out_of_split(model, dataset, "val", run.config):
            for index, policy in enumerate(policies):  # users are scored once for all policies
                own = replace(held_out, scores_BV=held_out.scores_BV.clone())
                tallies[index] += tally_split([own], dataset, policy)
        return [{f"val/{name}": v for name, v in finish(tally).items()} for tally in tallies]

    table: dict[tuple[str, int, int], Figures] = {}
    for method, tau in itertools.product(METHODS, range(len(TAUS))):
        adjustment = TAUS[tau] * run.config.model.temperature
        policies = [
            replace(alone, method=method, diversity=dial, logit_adjustment=adjustment)
            for dial in DIALS
        ]
        for dial, figures in enumerate(judged(policies)):
            table[method, dial, tau] = figures
        print(f"{method}, {LOGIT} {TAUS[tau]}: judged", file=sys.stderr)
    return judged([alone])[0], table


def compare_searches(
    plain: Figures,
    table: Table,
    objectives: tuple[Objective, ...],
    *,
    budget: int,
    seeds: Sequence[int],
) -> Mapping[str, Mapping[str, object]]:
    """Return the gain of each search, and its difference from random trials."""
    lowest, highest = volume([plain], objectives), volume(list(table.values()), objectives)
    gained: dict[str, list[float]] = {}
    for search in get_args(Search)[1:]:
        space = SearchSpace("", PARAMETERS, objectives, search=search, num_samples=budget)
        found = [
            volume(
                [plain, *drive(FrontSearch(space, Config(seed=seed), {}, Budget()), table, budget)],
                objectives,
            )
            for seed in seeds
        ]
        gained[search] = [(each - lowest) / (highest - lowest) for each in found]
        print(f"{search}: {budget} trials, {len(seeds)} times", file=sys.stderr)
    return {
        search: {"gained": round(float(np.mean(own)), 4)}
        | ({} if search == "random" else {"difference": interval(own, gained["random"])})
        for search, own in gained.items()
    }


def drive(search: FrontSearch, table: Table, budget: int) -> list[Figures]:
    """Run a search one trial after another; return the metrics of all trials."""
    tried: list[Figures] = []
    for number in map(str, range(budget)):
        sample = search.suggest(number)
        assert sample is not None
        method, dial, tau = (sample[key] for key in PARAMETERS)
        figures = table[method, dial, tau]
        best = {f"best/{name}": value for name, value in figures.items()}
        search.on_trial_complete(number, {"epoch": 0, "best/epoch": 0, **figures, **best})
        tried.append(figures)
    return tried


def interval(own: Sequence[float], other: Sequence[float]) -> list[float]:
    """Return the mean difference, seed by seed, and its 95 % t interval."""
    differences = np.subtract(own, other)
    mean, error = float(differences.mean()), float(stats.sem(differences))
    half = error * float(stats.t.ppf(0.975, len(differences) - 1))
    return [round(value, 4) for value in (mean, mean - half, mean + half)]


def volume(figures: Sequence[Figures], objectives: Sequence[Objective]) -> float:
    """Return the hypervolume."""
    return pareto.hypervolume(
        [[own[objective.metric] for objective in objectives] for own in figures],
        [objective.reference for objective in objectives],
        [objective.direction for objective in objectives],
    )


def replay_all(uri: str, run_id: str) -> dict[str, object]:
    """Return the savings and losses of each scheduler on a sweep's trials."""
    experiment = MlflowClient(tracking_uri=uri).get_run(run_id).info.experiment_id
    sweep = read_sweep(RunHandle(uri, experiment, run_id))
    curves = [
        [
            {name: dict(trial.curves[name])[epoch] for name in trial.curves} | {"epoch": epoch}
            for epoch, _ in trial.curves[sweep.objectives[0].metric]
        ]
        for trial in sweep.trials
        if trial.status == "FINISHED"
    ]
    epochs = max(len(curve) for curve in curves)
    result: dict[str, object] = {"trials": len(curves), "epochs": epochs}
    for name, objectives in (("two", sweep.objectives[:2]), ("all", sweep.objectives)):
        schedulers: dict[str, Callable[[], FIFOScheduler]] = {
            f"margin {margin}": lambda margin=margin, objectives=objectives: FrontScheduler(
                objectives, grace_epochs=1, epochs=epochs, margin=margin
            )
            for margin in MARGINS
        }
        schedulers["asha"] = lambda: ASHAScheduler(
            time_attr="epoch",
            metric="alone",
            mode="max",
            max_t=epochs - 1,
            grace_period=1,
            reduction_factor=3,
            stop_last_trials=False,
        )
        result[name] = {
            label: replay(curves, make, objectives) for label, make in schedulers.items()
        }
    return result


def replay(
    curves: Sequence[Sequence[Figures]],
    make: Callable[[], FIFOScheduler],
    objectives: Sequence[Objective],
) -> dict[str, float]:
    """Return the shares of epochs saved and hypervolume lost, mean over orders."""
    whole = volume([curve[-1] for curve in curves], objectives)
    saved, lost = [], []
    for seed in range(ORDERS):
        scheduler, trained, ended = make(), 0, []
        for index in np.random.default_rng(seed).permutation(len(curves)).tolist():
            trial: Any = SimpleNamespace(trial_id=str(index))
            scheduler.on_trial_add(None, trial)  # pyright: ignore[reportArgumentType]
            for figures in curves[index]:
                alone = math.prod(figures[o.metric] - o.reference for o in objectives)
                trained += 1
                decision = scheduler.on_trial_result(
                    None,  # pyright: ignore[reportArgumentType]
                    trial,
                    {**figures, "alone": alone},
                )
                if decision == TrialScheduler.STOP:
                    break
            else:
                ended.append(curves[index][-1])
        saved.append(1 - trained / sum(map(len, curves)))
        lost.append(1 - volume(ended, objectives) / whole)
    return {"saved": round(float(np.mean(saved)), 4), "lost": round(float(np.mean(lost)), 4)}


if __name__ == "__main__":
    main()
