"""Compute metrics of given slates with another library, in the library's own interpreter.

    python benchmarks/peer_metrics.py rectools world.npz

`benchmarks.evaluation` starts it. It needs only the named library with its dependencies, and
nothing of this project. Metrics have our names. If a library defines a metric differently, the call
here or `evaluation.differences` converts it. Prints one JSON line: {"version", "seconds",
"values"}. The seconds cover the metrics without the construction of data frames.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

World = Any
K = 10


def ragged(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return user, item and rank of each entry in rows padded with -1."""
    user, place = np.nonzero(rows >= 0)
    return user, rows[user, place], place + 1


def rectools(world: World) -> tuple[float, dict[str, float]]:
    """Ask RecTools, with intra-list diversity of items with one category each."""
    import pandas as pd
    from rectools import metrics as peer
    from rectools.metrics.distances import PairwiseHammingDistanceCalculator

    features = pd.DataFrame({"category": world["categories"][:, 0]})
    ild = peer.IntraListDiversity(K, PairwiseHammingDistanceCalculator(features))
    return ask_rectools(world, {"category_ild": ild})


def rectools_without_ild(world: World) -> tuple[float, dict[str, float]]:
    """Ask RecTools without intra-list diversity, which takes most of its time."""
    return ask_rectools(world, {})


def ask_rectools(world: World, more: dict[str, Any]) -> tuple[float, dict[str, float]]:
    """Ask RecTools for its counterparts of our metrics, and for more."""
    import pandas as pd
    from rectools import metrics as peer

    user, item, rank = ragged(world["slates"])
    reco = pd.DataFrame({"user_id": user, "item_id": item, "rank": rank})
    user, item, _ = ragged(world["targets"])
    truth = pd.DataFrame({"user_id": user, "item_id": item})
    train = pd.DataFrame({"user_id": world["train_user"], "item_id": world["train_item"]})
    asked = {
        "precision": peer.Precision(K),
        "recall": peer.Recall(K),
        "f1": peer.F1Beta(K),
        "hit": peer.HitRate(K),
        "mrr": peer.MRR(K),
        "map": peer.MAP(K),
        "ndcg": peer.NDCG(K, divide_by_achievable=True),
        "novelty": peer.MeanInvUserFreq(K),
        "popularity": peer.AvgRecPopularity(K),
        "serendipity": peer.Serendipity(K),
        "coverage": peer.CatalogCoverage(K, normalize=True),
        **more,
    }
    catalogue = np.arange(len(world["popularity"]))
    started = time.process_time()
    values = peer.calc_metrics(
        asked, reco, interactions=truth, prev_interactions=train, catalog=catalogue
    )
    return time.process_time() - started, values


def replay(world: World) -> tuple[float, dict[str, float]]:
    """Ask RePlay with polars, its fastest backend."""
    import polars as pl
    from replay import metrics as peer

    user, item, rank = ragged(world["slates"])
    score = (K + 1 - rank).astype(float)
    reco = pl.DataFrame({"query_id": user, "item_id": item, "rating": score})
    user, item, _ = ragged(world["targets"])
    truth = pl.DataFrame({"query_id": user, "item_id": item})
    train = pl.DataFrame({"query_id": world["train_user"], "item_id": world["train_item"]})
    popular = np.argsort(-world["popularity"], kind="stable")[:K]
    num_users = len(world["slates"])
    base = pl.DataFrame(
        {
            "query_id": np.repeat(np.arange(num_users), K),
            "item_id": np.tile(popular, num_users),
            "rating": np.tile(np.arange(K, 0, -1, dtype=float), num_users),
        }
    )
    asked = {
        "precision": peer.Precision(K),
        "recall": peer.Recall(K),
        "hit": peer.HitRate(K),
        "mrr": peer.MRR(K),
        "map": peer.MAP(K),
        "ndcg": peer.NDCG(K),
        "novelty": peer.Surprisal(K),
        "coverage": peer.Coverage(K),
        "unexpectedness": peer.Unexpectedness(K),
    }
    started = time.process_time()
    found = peer.OfflineMetrics([*asked.values()])(reco, truth, train, {"popular": base})
    by_category = pl.DataFrame(
        {
            "query_id": reco["query_id"],
            "category_id": world["categories"][reco["item_id"].to_numpy(), 0],
            "rating": score,
        }
    )
    found |= peer.CategoricalDiversity(K)(by_category)
    seconds = time.process_time() - started
    theirs = {name: type(metric).__name__ for name, metric in asked.items()}
    theirs["category_coverage"] = "CategoricalDiversity"
    values = {
        name: next(value for key, value in found.items() if key.startswith(peer_name))
        for name, peer_name in theirs.items()
    }
    return seconds, values


def ranx(world: World) -> tuple[float, dict[str, float]]:
    """Ask ranx, in one thread."""
    import numba
    from ranx import Qrels, Run, evaluate

    numba.set_num_threads(1)
    names = [str(user) for user in range(len(world["slates"]))]
    wanted = {
        name: {str(item): 1 for item in row[row >= 0]}
        for name, row in zip(names, world["targets"], strict=True)
    }
    shown = {
        name: {str(item): float(K - place) for place, item in enumerate(row[row >= 0])}
        for name, row in zip(names, world["slates"], strict=True)
    }
    qrels, run = Qrels(wanted), Run(shown)
    asked = {
        "precision": f"precision@{K}",
        "recall": f"recall@{K}",
        "f1": f"f1@{K}",
        "hit": f"hit_rate@{K}",
        "mrr": f"mrr@{K}",
        "map": f"map@{K}",
        "ndcg": f"ndcg@{K}",
    }
    evaluate(qrels, run, [*asked.values()])  # compiles
    started = time.process_time()
    found = evaluate(qrels, run, [*asked.values()])
    seconds = time.process_time() - started
    return seconds, {name: float(found[key]) for name, key in asked.items()}


def pyndeval(world: World) -> tuple[float, dict[str, float]]:
    """Ask ndeval: each category of a target is a subtopic."""
    import pyndeval as peer

    wanted = [
        peer.SubtopicQrel(str(user), str(label), str(item), 1)
        for user, row in enumerate(world["targets"])
        for item in row[row >= 0]
        for label in world["categories"][item]
        if label >= 0
    ]
    shown = [
        peer.ScoredDoc(str(user), str(item), float(K - place))
        for user, row in enumerate(world["slates"])
        for place, item in enumerate(row[row >= 0])
    ]
    asked = {"alpha_ndcg": f"alpha-nDCG@{K}", "err_ia": f"ERR-IA@{K}"}
    started = time.process_time()
    found = peer.ndeval(wanted, shown, measures=[*asked.values()])
    seconds = time.process_time() - started
    return seconds, {
        name: float(np.mean([values[key] for values in found.values()]))
        for name, key in asked.items()
    }


def vendi_score(world: World) -> tuple[float, dict[str, float]]:
    """Ask vendi-score, user by user."""
    from vendi_score import vendi

    vectors = world["embeddings"].astype(np.float64)
    slates = [vectors[row[row >= 0]] for row in world["slates"]]
    started = time.process_time()
    values = [vendi.score_K(rows @ rows.T) for rows in slates]
    return time.process_time() - started, {"vendi": float(np.mean(values))}


PEERS: dict[str, tuple[str, Callable[[World], tuple[float, dict[str, float]]]]] = {
    "rectools": ("rectools", rectools),
    "rectools_without_ild": ("rectools", rectools_without_ild),
    "replay": ("replay-rec", replay),
    "ranx": ("ranx", ranx),
    "pyndeval": ("pyndeval", pyndeval),
    "vendi_score": ("vendi-score", vendi_score),
}


def main() -> None:
    """Measure and print."""
    name, path = sys.argv[1:]
    package, ask = PEERS[name]
    with np.load(path) as world:
        seconds, values = ask(dict(world))
    version = importlib.metadata.version(package)
    print(json.dumps({"version": version, "seconds": seconds, "values": values}))


if __name__ == "__main__":
    main()
