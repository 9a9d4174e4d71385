"""Measure search on the built-in shop: a trained model beside BM25, cosine and their sum.

    recdiv train --preset demo
    python -m benchmarks.queries CHECKPOINT [CHECKPOINT ...]
    python -m benchmarks.queries --quick CHECKPOINT

Only test requests with a query count, by NDCG@10. `adherence` is the share of the top 10 in the
query's category, which the built-in shop knows. Several checkpoints, such as seeds, are averaged.
`minus_bm25_cosine` and `minus_bm25` are the differences per request with 95 % bootstrap intervals;
--quick draws fewer resamples. Prints one JSON line: {"ndcg", "bm25_cosine", "cosine", "bm25",
"unseen_over_seen", "adherence", ...}.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from recdiv_core.config import Config, override
from recdiv_core.data.queries import mark_seen
from recdiv_core.models.baselines import Baseline
from recdiv_core.models.recommender import Recommender
from recdiv_core.shop.words import COLOURS, LEAF_PATHS, LEAVES
from recdiv_core.slates.checkpoint import read_config
from recdiv_core.slates.dataset import Dataset, load_dataset
from recdiv_core.slates.fitting import fit_baseline
from recdiv_core.slates.loading import load_model
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import held_out_of_split

K = 10
BASELINES = {"bm25_cosine": "hybrid", "cosine": "text_cosine", "bm25": "bm25"}
"""Name -> `model.kind`."""


def category_of(query: str, categories: tuple[str, ...]) -> int:
    """Return the index of the category that a query of the built-in shop names; -1 = none."""
    colour, _, noun = query.partition(" ")
    wanted = noun if colour in COLOURS else query
    paths = [path for leaf, path in zip(LEAVES, LEAF_PATHS, strict=True) if leaf.noun == wanted]
    return categories.index(paths[0]) if paths and paths[0] in categories else -1


def judge(model: Recommender | Baseline, dataset: Dataset, config: Config) -> dict[str, np.ndarray]:
    """Return NDCG, adherence, query and length of the history of each request with a query."""
    policy, texts = slate_policy(config, dataset), dataset.query_texts.to_pylist()
    first_V = np.array([own[0] for own in dataset.catalogue.category_lists.to_pylist()])
    wanted_Q = np.array([category_of(text, dataset.catalogue.categories) for text in texts])
    discount_K = 1 / np.log2(np.arange(policy.k) + 2.0)
    parts: list[dict[str, np.ndarray]] = []
    for held_out in held_out_of_split(model, dataset, "test", config):
        slates_BK, targets_BT = (each.numpy() for each in held_out.slates(dataset, policy))
        num_targets_B = (targets_BT >= 0).sum(axis=1)
        queries_B = held_out.examples.queries
        is_kept_B = (queries_B >= 0) & (num_targets_B > 0)
        is_hit_BK = (slates_BK[:, :, None] == targets_BT[:, None, :]).any(axis=2) & (slates_BK >= 0)
        ideal_B = discount_K.cumsum()[num_targets_B.clip(1, policy.k) - 1]
        is_in_BK = first_V[slates_BK] == wanted_Q[queries_B][:, None]
        columns = {
            "ndcg": (is_hit_BK * discount_K).sum(axis=1) / ideal_B,
            "adherence": is_in_BK.mean(axis=1),
            "query": queries_B,
            "length": held_out.examples.lengths,
        }
        parts.append({name: values[is_kept_B] for name, values in columns.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def interval(differences: np.ndarray, resamples: int) -> list[float]:
    """Return the mean of paired differences and its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(differences), (resamples, len(differences)))
    low, high = np.quantile(differences[rows].mean(axis=1), [0.025, 0.975])
    return [round(float(value), 4) for value in (differences.mean(), low, high)]


def main() -> None:
    """Run the measurement of the command line."""
    parser = argparse.ArgumentParser(description="Search on the built-in shop.")
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--quick", action="store_true", help="fewer resamples")
    given = parser.parse_args()
    torch.set_num_threads(1)
    config = override(read_config(given.checkpoints[0]), {"eval.k": K})
    dataset = load_dataset(Path(config.data.prepared))
    seeds = []
    for checkpoint in given.checkpoints:
        own = read_config(checkpoint)
        seeds.append(
            judge(load_model(own, dataset, checkpoint), dataset, override(own, {"eval.k": K}))
        )
    found = {name: np.mean([seed[name] for seed in seeds], axis=0) for name in seeds[0]}
    others = {}
    for name, kind in BASELINES.items():
        fit = override(Config(), {"model.kind": kind, "eval.k": K})
        others[name] = judge(fit_baseline(fit, dataset), dataset, fit)["ndcg"]
    is_seen = mark_seen(dataset.prepared, len(dataset.query_texts))[found["query"].astype(int)]
    has_history = found["length"] > 0
    ndcg, resamples = found["ndcg"], 1_000 if given.quick else 10_000
    means = {name: float(values.mean()) for name, values in others.items()}
    figures = {
        "ndcg": float(ndcg.mean()),
        **means,
        "unseen_over_seen": float(ndcg[~is_seen].mean() / ndcg[is_seen].mean()),
        "adherence": float(found["adherence"].mean()),
        "adherence_with_history": float(found["adherence"][has_history].mean()),
        "with_history": float(ndcg[has_history].mean()),
        "without_history": float(ndcg[~has_history].mean()),
        "by_seed": [round(float(seed["ndcg"].mean()), 4) for seed in seeds],
        "num_requests": len(ndcg),
        "num_unseen": int((~is_seen).sum()),
        "num_without_history": int((~has_history).sum()),
        "minus_bm25_cosine": interval(ndcg - others["bm25_cosine"], resamples),
        "minus_bm25": interval(ndcg - others["bm25"], resamples),
    }
    rounded = {key: round(v, 4) if isinstance(v, float) else v for key, v in figures.items()}
    print(json.dumps(rounded))


if __name__ == "__main__":
    main()
