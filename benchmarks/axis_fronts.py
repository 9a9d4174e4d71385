"""Compare training with re-ranking on one kind of diversity at a time; fronts.py takes all at once.

    recdiv tune --space tradeoff data.prepared=DIR run.name=one
    python -m benchmarks.axis_fronts runs/one/plain runs/one/trials/*
    python -m benchmarks.axis_fronts --quick runs/one/plain runs/one/trials/*

Each argument is the directory of a finished training run (`run.storage`/`run.name`). Runs of the
same seed are compared. One of them has w = 0 and is the baseline; it needs as many epochs as the
others. The two sets of points are the re-ranked baseline (MMR and logit adjustment, alone and
together) and all runs without and with light MMR. Each front is chosen on validation and evaluated
once on test, on the same users. Hypervolumes have the reference (0, 0). Differences of hypervolumes
have a 95 % interval over users, also for coverage (recdiv_core/metrics/jackknife.py).
`ild_behaviour` is the ILD of slates in vectors that no penalty uses. They come from the train
events by truncated SVD, without text.

Prints one JSON line: {"hypervolume": {axis: ...}, "matched": {mix: {budget: ...}}, "seeds": [...]}.
`matched` gives each mix at 99 and 95 % of the baseline's NDCG, as ratios to the baseline. Test
metrics are interpolated between two neighbouring weights, which are chosen on validation; the
baseline is the weight 0. It also gives the test hypervolume of the mix without re-ranking.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
import scipy.sparse
import torch
from sklearn.decomposition import TruncatedSVD

from recdiv_core.config import Config
from recdiv_core.data.reading import train_examples
from recdiv_core.errors import UserError
from recdiv_core.evaluation.per_user import judge_users
from recdiv_core.items.traits import ItemTraits
from recdiv_core.metrics import diversity, pareto
from recdiv_core.metrics.bootstrap import interval, resampled_means
from recdiv_core.metrics.jackknife import UserResults, sample_metrics
from recdiv_core.metrics.slate_batch import Background
from recdiv_core.metrics.tally import SYSTEM_METRICS, USER_METRICS
from recdiv_core.slates.checkpoint import chosen_checkpoint, read_config, read_progress
from recdiv_core.slates.dataset import Dataset, load_dataset
from recdiv_core.slates.loading import load_model
from recdiv_core.slates.policy import SlatePolicy, slate_policy
from recdiv_core.slates.scoring import held_out_of_split

logger = logging.getLogger("benchmarks.axis_fronts")

POST_HOC: Final = tuple(
    {"method": "mmr", "diversity": dial, "logit_adjustment": tau}
    for tau in (0.0, 0.1, 0.2, 0.4)
    for dial in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7)
)
LIGHT: Final = tuple(
    {"method": "mmr", "diversity": dial, "logit_adjustment": 0.0} for dial in (0.0, 0.2, 0.4)
)
AXES: Final = ("coverage", "ild", "ild_behaviour", "diversity_index")
FIGURES: Final = ("ndcg", "hit", *AXES, "gini", "novelty")
BUDGETS: Final = (0.99, 0.95)
BEHAVIOUR_DIM: Final = 64


@dataclass(frozen=True, eq=False)
class Run:
    """One trained model, at one dial if it has one.

    Attributes:
        mix: names and weights of the regularisers.
        weight: diversity weight, >= 0; times the dial for a conditioned model.
        checkpoint: directory of the last checkpoint.
        config: config of the training.
        epoch_s: seconds of the last epoch.
    """

    mix: str
    weight: float
    checkpoint: Path
    config: Config
    epoch_s: float

    @property
    def is_plain(self) -> bool:
        """Whether it was trained without a diversity penalty."""
        return not self.config.loss.diversity_weight


@dataclass(frozen=True, eq=False)
class Shop:
    """A prepared data set.

    Attributes:
        dataset: the prepared data set.
        behaviour: the catalogue's traits with vectors from the train events instead of text.
    """

    dataset: Dataset
    behaviour: ItemTraits


@dataclass(frozen=True, eq=False)
class Judged:
    """A model under one policy, on all users of a split.

    Attributes:
        users: results of each user.
        figures: metric -> mean over users, or value of a system metric.
    """

    users: UserResults
    figures: Mapping[str, float]


def main() -> None:
    """Evaluate all runs and print the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="run.storage/run.name of finished runs")
    parser.add_argument("--quick", action="store_true", help="fewer resamples: wider intervals")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    num_resamples = 100 if arguments.quick else 1000
    try:
        runs = [read_run(place) for place in arguments.runs]
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    by_seed = {
        run.config.seed: [r for r in runs if r.config.seed == run.config.seed] for run in runs
    }
    found = [judge_seed(own, num_resamples=num_resamples) for own in by_seed.values()]
    print(
        json.dumps(
            {
                "hypervolume": {
                    axis: pool_volumes([seed["hypervolume"][axis] for seed in found])
                    for axis in AXES
                },
                "matched": pool_matched([seed["matched"] for seed in found]),
                "seeds": found,
                "resamples": num_resamples,
                "versions": {"torch": torch.__version__, "numpy": np.__version__},
            }
        )
    )


def judge_seed(runs: Sequence[Run], *, num_resamples: int) -> dict[str, Any]:
    """Evaluate the runs of one seed: points, hypervolumes, and each mix at matched accuracy."""
    plain = [run for run in runs if run.is_plain]
    trials = [run for run in runs if not run.is_plain]
    if len(plain) != 1 or not trials:
        raise SystemExit(
            f"seed={runs[0].config.seed}: one run with w = 0 and others with more; got "
            f"{len(plain)} and {len(trials)}"
        )
    shop = load_shop(Path(plain[0].config.data.prepared))
    sides = {
        "post_hoc": [(plain[0], policy) for policy in policies(plain[0], shop, POST_HOC)],
        "trained": [
            (run, policy) for run in (*plain, *trials) for policy in policies(run, shop, LIGHT)
        ],
    }
    val = {name: judge_points(points, shop, "val") for name, points in sides.items()}
    alone = [(run, policies(run, shop, LIGHT)[0]) for run in (*plain, *trials)]
    val_alone = val["trained"][:: len(LIGHT)]
    test_alone = judge_points(alone, shop, "test")
    fronts = {name: judge_fronts(points, val[name], shop) for name, points in sides.items()}
    return {
        "seed": plain[0].config.seed,
        "num_users": len(test_alone[0].users.slates_UK),
        "points": [
            {"mix": run.mix, "w": run.weight, **point.figures, "epoch_s": run.epoch_s}
            for run, point in zip((*plain, *trials), test_alone, strict=True)
        ],
        "hypervolume": {
            axis: compare_volumes(
                {name: front[axis] for name, front in fronts.items()},
                axis,
                num_resamples,
            )
            for axis in AXES
        },
        "matched": matched(trials, val_alone, test_alone),
    }


def judge_fronts(
    points: Sequence[tuple[Run, SlatePolicy]], val: Sequence[Judged], shop: Shop
) -> dict[str, list[Judged]]:
    """Evaluate the points of a validation front on test: axis -> points."""
    chosen = {
        axis: pareto.front(
            [(point.figures["ndcg"], point.figures[axis]) for point in val], ("max", "max")
        )
        for axis in AXES
    }
    wanted = sorted({index for indices in chosen.values() for index in indices})
    judged = judge_points([points[index] for index in wanted], shop, "test")
    test = dict(zip(wanted, judged, strict=True))
    return {axis: [test[index] for index in indices] for axis, indices in chosen.items()}


def read_run(place: Path) -> Run:
    """Read a run from its last checkpoint."""
    checkpoint = chosen_checkpoint(place)
    progress = read_progress(checkpoint)
    config = read_config(checkpoint)
    mix = " + ".join(
        name if weight == 1 else f"{weight:g} {name}"
        for name, weight in config.loss.diversity.items()
    )
    weight = config.loss.diversity_weight
    if config.loss.conditioned:
        mix, weight = f"conditioned, {mix}", weight * config.model.diversity
    return Run(mix, weight, checkpoint, config, progress.metrics.get("train/epoch_s", 0.0))


def policies(run: Run, shop: Shop, settings: Iterable[Mapping[str, Any]]) -> list[SlatePolicy]:
    """Return the slate policy of each setting of the re-ranker."""
    plain = slate_policy(run.config, shop.dataset)
    return [replace(plain, **setting) for setting in settings]


def judge_points(points: Sequence[tuple[Run, SlatePolicy]], shop: Shop, split: str) -> list[Judged]:
    """Evaluate models under policies; a model is loaded once for all its policies."""
    judged: list[Judged] = []
    for run in dict.fromkeys(run for run, _ in points):
        own = [policy for other, policy in points if other is run]
        judged += judge_model(run, own, shop, split)
        logger.info("seed %d, %s: %d of %d", run.config.seed, split, len(judged), len(points))
    return judged


def judge_model(run: Run, own: Sequence[SlatePolicy], shop: Shop, split: str) -> list[Judged]:
    """Evaluate one model under several policies."""
    dataset = shop.dataset
    model = load_model(run.config, dataset, run.checkpoint)
    metrics = {name: USER_METRICS[name] for name in FIGURES if name in USER_METRICS}
    metrics["ild_behaviour"] = lambda seen: diversity.ild(replace(seen, traits=shop.behaviour))
    made: list[list[tuple[torch.Tensor, torch.Tensor, Background]]] = [[] for _ in own]
    for held_out in held_out_of_split(model, dataset, split, run.config):
        for policy, slates in zip(own, made, strict=True):  # users are scored once for all policies
            again = replace(held_out, scores_BV=held_out.scores_BV.clone())
            slates.append((*again.slates(dataset, policy), again.histories))
    judged = [
        judge_users(slates, dataset, metrics, k=policy.k)
        for policy, slates in zip(own, made, strict=True)
    ]
    return [Judged(users, {name: users.value(name) for name in FIGURES}) for users in judged]


def compare_volumes(
    fronts: Mapping[str, Sequence[Judged]], axis: str, num_resamples: int
) -> dict[str, Any]:
    """Compare the hypervolumes of two fronts on the same users."""
    volumes = {name: volume_of(points, axis) for name, points in fronts.items()}
    drawn_RPX = drawn_pairs([*fronts["trained"], *fronts["post_hoc"]], axis, num_resamples)
    cut = len(fronts["trained"])
    gains = [hypervolume(pairs[:cut]) - hypervolume(pairs[cut:]) for pairs in drawn_RPX]
    low, high = interval(gains)
    return {
        **volumes,
        "ratio": volumes["trained"] / volumes["post_hoc"],
        "difference": volumes["trained"] - volumes["post_hoc"],
        "low": low,
        "high": high,
    }


def volume_of(points: Sequence[Judged], axis: str) -> float:
    """Return the hypervolume of points on NDCG and the axis, from (0, 0)."""
    return hypervolume([(point.figures["ndcg"], point.figures[axis]) for point in points])


def hypervolume(pairs: Any) -> float:
    """Return the area that pairs of (NDCG, axis) dominate, from (0, 0)."""
    return pareto.hypervolume(pairs, (0.0, 0.0), ("max", "max"))


def drawn_pairs(points: Sequence[Judged], axis: str, num_draws: int) -> np.ndarray:
    """Return (NDCG, axis) of points in resamples of the users, [R, P, 2]."""
    names = ("ndcg", axis)
    if axis in SYSTEM_METRICS:
        return sample_metrics([point.users for point in points], names, num_draws, seed=0)
    values_PU = [point.users.users[name] for point in points for name in names]
    return resampled_means(values_PU, num_draws, seed=0).reshape(num_draws, len(points), 2)


def matched(
    trials: Sequence[Run], val: Sequence[Judged], test: Sequence[Judged]
) -> dict[str, dict[str, Any]]:
    """Return each mix at given accuracies, as ratios of its test metrics to the baseline's.

    `val` and `test` list the baseline first, then the trials.
    """
    found: dict[str, dict[str, Any]] = {}
    for mix in dict.fromkeys(run.mix for run in trials):
        own = [index for index, run in enumerate(trials) if run.mix == mix]
        own.sort(key=lambda index: trials[index].weight)
        places = [0, *(index + 1 for index in own)]
        weights = [0.0, *(trials[index].weight for index in own)]
        of_val, of_test = [val[place] for place in places], [test[place] for place in places]
        found[mix] = {
            str(budget): at_budget(of_val, of_test, weights, budget * val[0].figures["ndcg"])
            for budget in BUDGETS
        }
        # the front of a conditioned model has its own dial 0 instead of the baseline
        alone = of_test[1:] if trials[own[0]].config.loss.conditioned else of_test
        found[mix]["hypervolume"] = {axis: volume_of(alone, axis) for axis in AXES}
        found[mix]["epoch_s"] = statistics.median(trials[index].epoch_s for index in own)
    return found


def at_budget(
    val: Sequence[Judged], test: Sequence[Judged], weights: Sequence[float], floor: float
) -> dict[str, float]:
    """Interpolate at the weight where validation NDCG reaches the floor, else use the last one."""
    ndcg = [point.figures["ndcg"] for point in val]
    last = next((i for i in range(1, len(ndcg)) if ndcg[i] < floor), len(ndcg))
    share = 0.0
    if last < len(ndcg):
        share = (ndcg[last - 1] - floor) / (ndcg[last - 1] - ndcg[last])
    after = min(last, len(ndcg) - 1)

    def between(before: float, behind: float) -> float:
        return before + share * (behind - before)

    ratios = {
        name: between(test[last - 1].figures[name], test[after].figures[name])
        / test[0].figures[name]
        for name in FIGURES
    }
    return {"w": between(weights[last - 1], weights[after]), **ratios}


def load_shop(prepared: Path) -> Shop:
    """Load a prepared data set, and traits with behaviour vectors."""
    dataset = load_dataset(prepared)
    behaviour = replace(dataset.traits, embeddings_VD=behaviour_vectors(dataset))
    return Shop(dataset, behaviour)


def behaviour_vectors(dataset: Dataset) -> torch.Tensor:
    """Embed items by the users of their train events: [V, BEHAVIOUR_DIM], without text.

    The weight of a user is 1 / root of the events, so users with many events do not dominate.
    """
    train = train_examples(pq.read_table(dataset.prepared / "train"))
    users = np.repeat(np.arange(len(train.lengths)), train.lengths)
    weights = 1 / np.sqrt(train.lengths[users])
    shape = (len(dataset.catalogue), len(train.lengths))
    met_VU = scipy.sparse.csr_matrix((weights, (train.items, users)), shape=shape)
    svd = TruncatedSVD(BEHAVIOUR_DIM, random_state=0)
    return torch.from_numpy(svd.fit_transform(met_VU))


def pool_volumes(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Combine the comparisons of several seeds."""
    ratios = [each["ratio"] for each in found]
    return {
        "ratio": statistics.mean(ratios),
        "ratio_sd": statistics.stdev(ratios) if len(ratios) > 1 else None,
        "differences": [
            [round(each[name], 6) for name in ("difference", "low", "high")] for each in found
        ],
        "excludes_0": all(each["low"] > 0 for each in found),
    }


def pool_matched(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Average each mix over seeds; several seeds also give a standard deviation."""
    pooled: dict[str, Any] = {}
    for mix in found[0]:
        pooled[mix] = {}
        for budget in map(str, BUDGETS):
            columns = {
                name: [each[mix][budget][name] for each in found] for name in ("w", *FIGURES)
            }
            pooled[mix][budget] = {
                name: [round(statistics.mean(values), 4)]
                + ([round(statistics.stdev(values), 4)] if len(values) > 1 else [])
                for name, values in columns.items()
            }
        pooled[mix]["hypervolume"] = {
            axis: statistics.mean(each[mix]["hypervolume"][axis] for each in found) for axis in AXES
        }
        pooled[mix]["epoch_s"] = round(statistics.median(e[mix]["epoch_s"] for e in found), 1)
    return pooled


if __name__ == "__main__":
    main()
