"""Measure the trade-off of each re-ranker on one model: accuracy against four diversity metrics.

    python -m benchmarks.rerank_fronts runs/plain
    python -m benchmarks.rerank_fronts --quick runs/plain

The run's model is evaluated on all users of a split under each re-ranker and dial, in this process.
`at_cost` gives each re-ranker at 5 % less NDCG than the model alone. Metrics are interpolated
between two neighbouring dials; null = no dial lowers NDCG so far. Prints one JSON line: {"plain":
{figure: value}, "fronts": {re-ranker: {dial: {figure: value}}}, "at_cost": {re-ranker: {figure:
percent}}, ...}.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from recdiv_core.evaluation.per_user import judge_users
from recdiv_core.evaluation.systems import find_run
from recdiv_core.metrics import accuracy, diversity
from recdiv_core.rerank import RERANKERS
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.slates.loading import load_model
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import held_out_of_split

DIALS: Final = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
FEW: Final = (0.2, 0.5)
LOGIT: Final = "logit_adjustment"
"""A further method beside the re-rankers with tau as its dial; it reorders the whole catalogue."""
BUDGET: Final = 0.95
MEASURES: Final = {
    "ndcg": accuracy.ndcg,
    "ild": diversity.ild,
    "min_distance": diversity.ilmd,
    "diversity_index": diversity.diversity_index,
}
FIGURES: Final = (*MEASURES, "coverage")


def main() -> None:
    """Judge and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two dials")
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("run", help="directory of a training run")
    args = parser.parse_args()
    torch.set_num_threads(1)
    run = find_run(args.run, {}, lambda: "")
    dataset = load_dataset(Path(run.config.data.prepared))
    model = load_model(run.config, dataset, run.checkpoint)
    plain = replace(slate_policy(run.config, dataset), method="none", diversity=0.0)
    fronts: dict[str, dict[float, Mapping[str, float]]] = {}
    for method in (*RERANKERS, LOGIT):
        dials = (0.0,) if method == "none" else FEW if args.quick else DIALS
        policies = [
            replace(plain, logit_adjustment=dial * run.config.model.temperature)
            if method == LOGIT
            else replace(plain, method=method, diversity=dial)
            for dial in dials
        ]
        fronts[method] = {}
        for dial, policy in zip(dials, policies, strict=True):
            share = held_out_of_split(model, dataset, args.split, run.config)
            slates = ((*each.slates(dataset, policy), each.histories) for each in share)
            own = judge_users(slates, dataset, MEASURES, k=policy.k)
            fronts[method][dial] = {name: own.value(name) for name in FIGURES}
        print(f"{method}: {len(dials)} dials judged", file=sys.stderr)
    alone = fronts.pop("none")[0.0]
    print(
        json.dumps(
            {
                "plain": rounded(alone),
                "fronts": {m: {d: rounded(own) for d, own in f.items()} for m, f in fronts.items()},
                "at_cost": {m: at_cost(alone, [alone, *f.values()]) for m, f in fronts.items()},
                "split": args.split,
                "num_users": dataset.manifest.num_examples[args.split],
                "k": plain.k,
                "num_candidates": plain.num_candidates,
            }
        )
    )


def rounded(figures: Mapping[str, float]) -> dict[str, float]:
    """Return metrics rounded to four decimals."""
    return {name: round(value, 4) for name, value in figures.items()}


def at_cost(
    alone: Mapping[str, float], points: list[Mapping[str, float]]
) -> dict[str, float] | None:
    """Return gains in percent at the dial where NDCG falls to BUDGET; None = it never does."""
    wanted = BUDGET * alone["ndcg"]
    for before, after in itertools.pairwise(points):
        if after["ndcg"] <= wanted <= before["ndcg"]:
            fell = before["ndcg"] - after["ndcg"]
            share = (before["ndcg"] - wanted) / fell if fell else 0.0
            between = {n: before[n] + share * (after[n] - before[n]) for n in FIGURES}
            return {n: round(100 * (between[n] / alone[n] - 1), 1) for n in FIGURES if n != "ndcg"}
    return None


if __name__ == "__main__":
    main()
