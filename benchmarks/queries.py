"""Measure search on the built-in shop: trained models beside BM25, cosine and their sum.

    recdiv prepare --preset demo split.unseen_queries=0.2 data.demo_queries=colloquial
    recdiv train --preset demo
    python -m benchmarks.queries CHECKPOINT [CHECKPOINT ...]
    python -m benchmarks.queries --quick
    python -m benchmarks.queries --quick --words colloquial

Only test requests with a query count, by NDCG@10. `adherence` is the share of the top 10 in a
category that the query may mean, which the built-in shop knows. Several checkpoints, such as seeds,
are averaged. The differences to baselines per request have 95 % bootstrap intervals. `history_adds`
is what the history adds: the same requests are scored with it and without it, and the same items
may be shown. `known_words` splits unseen queries by whether train queries have all of their words.
Without a checkpoint, a small shop is prepared and a model is trained, about two minutes on two free
CPUs.
Prints one JSON line: {"ndcg", "bm25_cosine", "cosine", "bm25", "unseen_over_seen", "adherence",
...}.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import ray
import torch

from recdiv_core.config import Config, override
from recdiv_core.data.arrays import Examples
from recdiv_core.data.batches import Packed, pack
from recdiv_core.data.clicklog import prepare
from recdiv_core.data.queries import mark_seen
from recdiv_core.data.reading import read_eval
from recdiv_core.models.baselines import Baseline
from recdiv_core.models.query_text import words_of
from recdiv_core.models.recommender import Recommender
from recdiv_core.shop.wordings import Words, leaves_of_queries
from recdiv_core.shop.words import LEAF_PATHS
from recdiv_core.slates.checkpoint import read_config
from recdiv_core.slates.dataset import Dataset, load_dataset
from recdiv_core.slates.fitting import fit_baseline
from recdiv_core.slates.loading import load_model
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import Scoring, score_users, scoring_of
from recdiv_core.training.launch import run

K = 10
BASELINES = {
    "bm25_cosine": "hybrid",
    "cosine": "text_cosine",
    "bm25": "bm25",
    "query_words": "query_words",
}
"""Name -> `model.kind`."""
QUICK_EVENTS = 40_000
"""Size of the shop without a checkpoint."""


def meant_categories(dataset: Dataset) -> np.ndarray:
    """Return whether each query of the built-in shop may mean each category, [Q, categories]."""
    categories = dataset.catalogue.categories
    meant: dict[str, set[int]] = {}
    for words in get_args(Words):
        meant |= leaves_of_queries(words)
    texts = dataset.query_texts.to_pylist()
    wanted_QC = np.zeros((len(texts), len(categories)), bool)
    for query, text in enumerate(texts):
        paths = [LEAF_PATHS[leaf] for leaf in meant[text]]
        wanted_QC[query, [categories.index(path) for path in paths if path in categories]] = True
    return wanted_QC


def forgetting(score: Scoring, max_history: int) -> Scoring:
    """Score each user as if there were no history."""

    def scored(examples: Examples, packed: Packed) -> torch.Tensor:
        del packed
        times = None if examples.times is None else examples.times[:0]
        nothing = {"items": examples.items[:0], "lengths": 0 * examples.lengths, "times": times}
        bare = replace(examples, **nothing)
        return score(bare, pack(bare, max_history=max_history))

    return scored


def judge(
    model: Recommender | Baseline,
    dataset: Dataset,
    config: Config,
    split: str = "test",
    *,
    forgets: bool = False,
) -> dict[str, np.ndarray]:
    """Return NDCG, adherence, query and length of the history of each request with a query.

    Args:
        model: to be judged.
        dataset: the prepared data set.
        config: of the model.
        split: `val` or `test`.
        forgets: whether the scores are those of requests without a history. What the user has seen
            stays hidden if `eval.filter_seen` says so.
    """
    policy, wanted_QC = slate_policy(config, dataset), meant_categories(dataset)
    scoring, most = scoring_of(model, config.model.diversity), config.model.max_history
    scoring = forgetting(scoring, most) if forgets else scoring
    users = read_eval(
        dataset.prepared, split, batch_size=config.eval.batch_size, rank=0, world_size=1
    )
    first_V = np.array([own[0] for own in dataset.catalogue.category_lists.to_pylist()])
    discount_K = 1 / np.log2(np.arange(policy.k) + 2.0)
    parts: list[dict[str, np.ndarray]] = []
    for held_out in score_users(users, dataset, scoring, max_history=most):
        slates_BK, targets_BT = (each.numpy() for each in held_out.slates(dataset, policy))
        num_targets_B = (targets_BT >= 0).sum(axis=1)
        queries_B = held_out.examples.queries
        is_kept_B = (queries_B >= 0) & (num_targets_B > 0)
        is_hit_BK = (slates_BK[:, :, None] == targets_BT[:, None, :]).any(axis=2) & (slates_BK >= 0)
        ideal_B = discount_K.cumsum()[num_targets_B.clip(1, policy.k) - 1]
        is_in_BK = wanted_QC[queries_B[:, None], first_V[slates_BK]]
        columns = {
            "ndcg": (is_hit_BK * discount_K).sum(axis=1) / ideal_B,
            "adherence": is_in_BK.mean(axis=1),
            "query": queries_B,
            "length": held_out.examples.lengths,
        }
        parts.append({name: values[is_kept_B] for name, values in columns.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def ask_known_words(dataset: Dataset) -> np.ndarray:
    """Return whether train queries have all words of each query, [Q] bool."""
    texts = dataset.query_texts.to_pylist()
    is_seen = mark_seen(dataset.prepared, len(texts))
    known = {word for query in np.flatnonzero(is_seen) for word in words_of(texts[query])}
    return np.array([known.issuperset(words_of(text)) for text in texts])


def interval(differences: np.ndarray, resamples: int) -> list[float]:
    """Return the mean of paired differences and its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(differences), (resamples, len(differences)))
    low, high = np.quantile(differences[rows].mean(axis=1), [0.025, 0.975])
    return [round(float(value), 4) for value in (differences.mean(), low, high)]


def make_checkpoint(place: Path, words: str) -> Path:
    """Prepare a small shop, train a model on it, and return its checkpoint."""
    shop = {
        "data.source": "demo",
        "data.demo_events": QUICK_EVENTS,
        "data.demo_queries": words,
        "data.out": str(place / "shop"),
        "split.unseen_queries": 0.2,
    }
    settings = {
        "data.prepared": str(prepare(override(Config(), shop))["prepared"]),
        "run.storage": str(place / "runs"),
        "run.name": "quick",
        "tracking.uri": f"sqlite:///{place}/mlflow.db",
        "scaling.num_workers": 1,
        "train.batch_size": 64,
        "train.warmup_steps": 20,
        "train.epochs": 6,
        "eval.dials": [],
    }
    checkpoint = Path(str(run(override(Config(), settings))["checkpoint"]))
    ray.shutdown()
    return checkpoint


def measure(checkpoints: list[Path], *, split: str, resamples: int) -> dict[str, object]:
    """Return the figures of checkpoints of one data set, beside the baselines."""
    dataset = load_dataset(Path(read_config(checkpoints[0]).data.prepared))
    seeds: list[dict[str, np.ndarray]] = []
    without: list[dict[str, np.ndarray]] = []
    for checkpoint in checkpoints:
        own = override(read_config(checkpoint), {"eval.k": K})
        model = load_model(own, dataset, checkpoint)
        seeds.append(judge(model, dataset, own, split))
        without.append(judge(model, dataset, own, split, forgets=True))
    found, bare = (
        {name: np.mean([seed[name] for seed in some], axis=0) for name in seeds[0]}
        for some in (seeds, without)
    )
    others: dict[str, np.ndarray] = {}
    for name, kind in BASELINES.items():
        fit = override(Config(), {"model.kind": kind, "eval.k": K})
        others[name] = judge(fit_baseline(fit, dataset), dataset, fit, split)["ndcg"]
    is_seen = mark_seen(dataset.prepared, len(dataset.query_texts))[found["query"].astype(int)]
    is_known = ask_known_words(dataset)[found["query"].astype(int)]
    has_history, ndcg = found["length"] > 0, found["ndcg"]
    adds = {name: found[name] - bare[name] for name in ("ndcg", "adherence")}
    return {
        "ndcg": float(ndcg.mean()),
        **{name: float(values.mean()) for name, values in others.items()},
        "unseen_over_seen": float(ndcg[~is_seen].mean() / ndcg[is_seen].mean()),
        "adherence": float(found["adherence"].mean()),
        "adherence_with_history": float(found["adherence"][has_history].mean()),
        "with_history": float(ndcg[has_history].mean()),
        "without_history": float(ndcg[~has_history].mean()),
        "seen": {name: float(v[is_seen].mean()) for name, v in (("model", ndcg), *others.items())},
        "unseen": {
            name: float(v[~is_seen].mean()) for name, v in (("model", ndcg), *others.items())
        },
        "history_adds": {n: interval(adds[n][has_history], resamples) for n in adds},
        "known_words": {
            name: {
                "num": int(own.sum()),
                "ndcg": float(ndcg[own].mean()) if own.any() else None,
                "adherence": float(found["adherence"][own].mean()) if own.any() else None,
            }
            for name, own in (("all", is_known & ~is_seen), ("some", ~is_known & ~is_seen))
        },
        "by_seed": [float(seed["ndcg"].mean()) for seed in seeds],
        "num_requests": len(ndcg),
        "num_unseen": int((~is_seen).sum()),
        "num_without_history": int((~has_history).sum()),
        **{f"minus_{name}": interval(ndcg - v, resamples) for name, v in others.items()},
    }


def rounded(value: object) -> object:
    """Round the numbers of nested figures to four digits."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return round(value, 4) if isinstance(value, float) else value


def main() -> None:
    """Run the measurement of the command line."""
    parser = argparse.ArgumentParser(description="Search on the built-in shop.")
    parser.add_argument("checkpoints", nargs="*", type=Path)
    parser.add_argument("--quick", action="store_true", help="fewer resamples; trains if need be")
    parser.add_argument("--words", choices=get_args(Words), default="titles", help="of --quick")
    parser.add_argument("--split", choices=("val", "test"), default="test")
    given = parser.parse_args()
    if not given.checkpoints and not given.quick:
        parser.error("give a checkpoint, or --quick to train a model")
    torch.set_num_threads(1)
    to_stderr = contextlib.redirect_stdout(sys.stderr)  # Ray forwards the prints of its workers
    with to_stderr, tempfile.TemporaryDirectory() as directory:
        checkpoints = given.checkpoints or [make_checkpoint(Path(directory), given.words)]
        resamples = 1_000 if given.quick else 10_000
        figures = measure(checkpoints, split=given.split, resamples=resamples)
    print(json.dumps(rounded(figures)))


if __name__ == "__main__":
    main()
