"""What training for diversity buys over re-ranking: diverse runs against a plain one, re-ranked.

    python -m pipelines.tune --space tradeoff data.prepared=DIR run.name=one
    python -m benchmarks.fronts runs/one/plain runs/one/trials/*
    python -m benchmarks.fronts --quick runs/one/plain runs/one/trials/*

Each directory is that of a finished training run (`run.storage`/`run.name`). Runs of one seed are
compared; one of them has w = 0 and is the baseline, let it be of the same epochs as the others. Two
sets of points are judged: the baseline re-ranked (MMR and logit adjustment, alone and together),
and all runs with none and with light MMR. What stands on either front is chosen on validation and
judged on test, once, by the same users; the reference of the hypervolumes is (0, 0). Their
difference carries a 95 % interval of the paired bootstrap over users; a resample has fewer distinct
users and so less coverage, whose interval tells the sign of the difference and not its size.
`ild_behaviour` measures slates in vectors that no penalty is computed from: who bought what in the
train events (truncated SVD), no text.

Prints one JSON line: {"hypervolume": {axis: ...}, "matched": {mix: {budget: ...}}, "seeds": [...]}.
`matched` holds each mix at 99 and 95 % of the baseline's NDCG, as ratios to the baseline: between
two neighbouring weights, the baseline one of them, figures are interpolated (weights on validation,
figures on test); and the hypervolume of its own points, not re-ranked, on test.
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

from recdiv_core import pareto
from recdiv_core.config import Config
from recdiv_core.data.plan import train_examples
from recdiv_core.evaluate import slates_of_split
from recdiv_core.metrics import diversity
from recdiv_core.metrics.bootstrap import (
    interval,
    resample_users,
    resampled_coverage,
    resampled_means,
)
from recdiv_core.metrics.exposure import coverage, gini
from recdiv_core.metrics.facts import CatalogueFacts, catalogue_facts
from recdiv_core.metrics.judged import judge
from recdiv_core.metrics.tally import USER_METRICS
from recdiv_core.slates import SlatePolicy
from recdiv_core.training.build import Dataset, build_model, load_dataset, slate_policy
from recdiv_core.training.checkpoint import load_weights, read_config, read_progress

logger = logging.getLogger("benchmarks.fronts")

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
        mix: of its regularisers.
        weight: of them; of a conditioned model that at its dial.
        checkpoint: its last, whose weights stand for it.
        config: it was trained with.
        epoch_s: seconds of its last epoch.
    """

    mix: str
    weight: float
    checkpoint: Path
    config: Config
    epoch_s: float

    @property
    def is_plain(self) -> bool:
        """Whether it knows nothing of diversity."""
        return not self.config.loss.diversity_weight


@dataclass(frozen=True, eq=False)
class Shop:
    """A prepared data set.

    Attributes:
        dataset: whose slates are judged.
        behaviour: its catalogue with other vectors to measure likeness in.
    """

    dataset: Dataset
    behaviour: CatalogueFacts


@dataclass(frozen=True, eq=False)
class Judged:
    """A model under one policy, on all users of a split.

    Attributes:
        users: metric -> [U] values, in the order of the split.
        slates_UK: [U, K] int32.
        figures: metric -> mean, or figure of all slates together.
    """

    users: Mapping[str, np.ndarray]
    slates_UK: np.ndarray
    figures: Mapping[str, float]


def main() -> None:
    """Judge all runs and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="run.storage/run.name of finished runs")
    parser.add_argument("--quick", action="store_true", help="fewer resamples: wider intervals")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    num_resamples = 100 if arguments.quick else 1000
    runs = [read_run(place) for place in arguments.runs]
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
    """Judge the runs of one seed: points, hypervolumes, and each mix at matched accuracy."""
    plain = [run for run in runs if run.is_plain]
    trials = [run for run in runs if not run.is_plain]
    if len(plain) != 1 or not trials:
        raise SystemExit(
            f"seed={runs[0].config.seed}: one run with w = 0 and others with more; got "
            f"{len(plain)} and {len(trials)}"
        )
    shop = load_shop(Path(plain[0].config.data.prepared))
    sides = {
        "post_hoc": [(plain[0], policy) for policy in policies(plain[0], POST_HOC)],
        "trained": [(run, policy) for run in (*plain, *trials) for policy in policies(run, LIGHT)],
    }
    val = {name: judge_points(points, shop, "val") for name, points in sides.items()}
    alone = [(run, policies(run, LIGHT)[0]) for run in (*plain, *trials)]
    val_alone = val["trained"][:: len(LIGHT)]
    test_alone = judge_points(alone, shop, "test")
    fronts = {name: judge_fronts(points, val[name], shop) for name, points in sides.items()}
    counts_RU = resample_users(len(test_alone[0].slates_UK), num_resamples, seed=0)
    num_items = len(shop.dataset.catalogue)
    return {
        "seed": plain[0].config.seed,
        "num_users": len(test_alone[0].slates_UK),
        "points": [
            {"mix": run.mix, "w": run.weight, **point.figures, "epoch_s": run.epoch_s}
            for run, point in zip((*plain, *trials), test_alone, strict=True)
        ],
        "hypervolume": {
            axis: compare_volumes(
                {name: front[axis] for name, front in fronts.items()},
                axis,
                counts_RU,
                num_items=num_items,
            )
            for axis in AXES
        },
        "matched": matched(trials, val_alone, test_alone),
    }


def judge_fronts(
    points: Sequence[tuple[Run, SlatePolicy]], val: Sequence[Judged], shop: Shop
) -> dict[str, list[Judged]]:
    """Judge on test what stands on a front of validation: axis -> its points."""
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
    """Read a run by its last checkpoint."""
    found = [path.parent for path in place.glob("checkpoint_*/checkpoint.json")]
    if not found:
        raise SystemExit(f"{place} holds no checkpoint: give the directories of training runs")
    checkpoint = max(found)
    progress = read_progress(checkpoint)
    if not progress.is_finished:
        raise SystemExit(f"{place} is not finished")
    config = read_config(checkpoint)
    mix = " + ".join(
        name if weight == 1 else f"{weight:g} {name}"
        for name, weight in config.loss.diversity.items()
    )
    weight = config.loss.diversity_weight
    if config.loss.conditioned:
        mix, weight = f"conditioned, {mix}", weight * config.model.diversity
    return Run(mix, weight, checkpoint, config, progress.metrics.get("train/epoch_s", 0.0))


def policies(run: Run, settings: Iterable[Mapping[str, Any]]) -> list[SlatePolicy]:
    """Return how slates are made under each setting of the re-ranker."""
    plain = slate_policy(run.config)
    return [replace(plain, **setting) for setting in settings]


def judge_points(points: Sequence[tuple[Run, SlatePolicy]], shop: Shop, split: str) -> list[Judged]:
    """Judge models under policies; those of one model, which stand together, in one go."""
    judged: list[Judged] = []
    for run in dict.fromkeys(run for run, _ in points):
        own = [policy for other, policy in points if other is run]
        judged += judge_model(run, own, shop, split)
        logger.info("seed %d, %s: %d of %d", run.config.seed, split, len(judged), len(points))
    return judged


def judge_model(run: Run, own: Sequence[SlatePolicy], shop: Shop, split: str) -> list[Judged]:
    """Judge one model under several policies."""
    dataset = shop.dataset
    model = build_model(run.config, dataset)
    load_weights(run.checkpoint, model)
    values: list[dict[str, list[torch.Tensor]]] = [{} for _ in own]
    slates: list[list[torch.Tensor]] = [[] for _ in own]
    for batch in slates_of_split(
        model,
        dataset,
        split,
        own,
        max_history=run.config.model.max_history,
        batch_size=run.config.eval.batch_size,
        dial=run.config.model.diversity,
    ):
        for index, (slates_BK, targets_BT) in enumerate(batch):
            k = own[index].k
            seen = judge(slates_BK, targets_BT, dataset.facts, k=k)
            for name in {*FIGURES} & {*USER_METRICS}:
                values[index].setdefault(name, []).append(USER_METRICS[name](seen))
            other = diversity.ild(judge(slates_BK, targets_BT, shop.behaviour, k=k))
            values[index].setdefault("ild_behaviour", []).append(other)
            slates[index].append(seen.items_BK)
    judged: list[Judged] = []
    for by_name, made in zip(values, slates, strict=True):
        users = {name: torch.cat(parts).numpy() for name, parts in by_name.items()}
        slates_UK = torch.cat(made)
        shown = slates_UK[slates_UK >= 0]
        exposure_V = torch.bincount(shown, minlength=len(dataset.catalogue))
        figures = {name: float(each.mean()) for name, each in users.items()}
        figures |= {"coverage": coverage(exposure_V), "gini": gini(exposure_V)}
        judged.append(
            Judged(users, slates_UK.int().numpy(), {name: figures[name] for name in FIGURES})
        )
    return judged


def compare_volumes(
    fronts: Mapping[str, Sequence[Judged]], axis: str, counts_RU: np.ndarray, *, num_items: int
) -> dict[str, Any]:
    """Compare the hypervolumes of two fronts on the same resamples of users."""
    volumes = {name: volume_of(points, axis) for name, points in fronts.items()}
    resampled = {
        name: resampled_volumes(points, axis, counts_RU, num_items=num_items)
        for name, points in fronts.items()
    }
    low, high = interval(resampled["trained"] - resampled["post_hoc"])
    return {
        **volumes,
        "ratio": volumes["trained"] / volumes["post_hoc"],
        "difference": volumes["trained"] - volumes["post_hoc"],
        "low": low,
        "high": high,
    }


def volume_of(points: Sequence[Judged], axis: str) -> float:
    """Return the hypervolume of points on NDCG and the axis, from (0, 0)."""
    pairs = [(point.figures["ndcg"], point.figures[axis]) for point in points]
    return pareto.hypervolume(pairs, (0.0, 0.0), ("max", "max"))


def resampled_volumes(
    points: Sequence[Judged], axis: str, counts_RU: np.ndarray, *, num_items: int
) -> np.ndarray:
    """Return the hypervolume in each resample, [R]."""
    ndcg_RP = resampled_means([point.users["ndcg"] for point in points], counts_RU)
    if axis == "coverage":
        slates = [point.slates_UK for point in points]
        other_RP = resampled_coverage(slates, counts_RU, num_items=num_items)
    else:
        other_RP = resampled_means([point.users[axis] for point in points], counts_RU)
    pairs_RPX = np.stack([ndcg_RP, other_RP], axis=2)
    return np.array([pareto.hypervolume(pairs, (0.0, 0.0), ("max", "max")) for pairs in pairs_RPX])


def matched(
    trials: Sequence[Run], val: Sequence[Judged], test: Sequence[Judged]
) -> dict[str, dict[str, Any]]:
    """Return each mix at a given accuracy, as ratios of its test figures to the baseline's.

    `val` and `test` hold the baseline first, then the trials.
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
        # a conditioned model is to stand by itself: its dial 0 for the plain one
        alone = of_test[1:] if trials[own[0]].config.loss.conditioned else of_test
        found[mix]["hypervolume"] = {axis: volume_of(alone, axis) for axis in AXES}
        found[mix]["epoch_s"] = statistics.median(trials[index].epoch_s for index in own)
    return found


def at_budget(
    val: Sequence[Judged], test: Sequence[Judged], weights: Sequence[float], floor: float
) -> dict[str, float]:
    """Interpolate where validation NDCG falls to the floor; the last weight where it does not."""
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
    """Load a prepared data set, and the second yardstick of likeness."""
    dataset = load_dataset(prepared)
    behaviour = catalogue_facts(
        behaviour_vectors(dataset),
        dataset.categories_VL,
        torch.tensor(dataset.catalogue.popularity_V),
        num_train_users=max(1, dataset.manifest.num_train_users),
        num_categories=dataset.catalogue.num_categories,
    )
    return Shop(dataset, behaviour)


def behaviour_vectors(dataset: Dataset) -> torch.Tensor:
    """Embed items by who met them in the train events: [V, BEHAVIOUR_DIM], no text.

    Each user counts by 1 / root of the events, so that who buys much does not decide alone.
    """
    train = train_examples(pq.read_table(dataset.prepared / "train"))
    users = np.repeat(np.arange(len(train.lengths)), train.lengths)
    weights = 1 / np.sqrt(train.lengths[users])
    shape = (len(dataset.catalogue), len(train.lengths))
    met_VU = scipy.sparse.csr_matrix((weights, (train.items, users)), shape=shape)
    svd = TruncatedSVD(BEHAVIOUR_DIM, random_state=0)
    return torch.from_numpy(svd.fit_transform(met_VU))


def pool_volumes(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Put the comparisons of several seeds side by side."""
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
    """Average each mix over seeds; with several, the standard deviation beside it."""
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
