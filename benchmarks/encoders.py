"""Compare text encoders on a prepared data set, without training a model.

    recdiv adapt --out runs/encoders/shop data.prepared=runs/prepared/shop
    python -m benchmarks.encoders runs/prepared/shop all-MiniLM-L6-v2 runs/encoders/shop

Requests with a query are answered by the cosine of query and item text, requests with a history by
the cosine of item text and the mean of the history's vectors, weighted by 1 / age. NDCG@10 ranks
the whole catalogue without the items of the history; a request for such items alone does not count.
Differences to the first encoder have 95 % bootstrap intervals over requests. `speed` is how many
times faster an encoder is than the first: rounds on the same tokenised texts of items alternate, in
CPU time of one process and one thread.
Prints one JSON line per encoder: {"encoder", "query", "seen", "unseen", "history", "speed", ...},
where `seen` and `unseen` are the requests with a query that a train event has, or none has.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Final, NamedTuple, cast

import numpy as np
import torch
from torch import nn

from recdiv_core.adaptation.adapt import base_encoder
from recdiv_core.adaptation.steps import Texts
from recdiv_core.adaptation.texts import read_texts
from recdiv_core.data.arrays import Examples
from recdiv_core.data.queries import load_queries, mark_seen
from recdiv_core.data.reading import read_eval
from recdiv_core.metrics.bootstrap import interval, resampled_means
from recdiv_core.models.text_encoder import load_encoder
from recdiv_core.schema import read_manifest

K: Final = 10
USERS_AT_ONCE: Final = 256
RESAMPLES: Final = 2_000


class Encoded(NamedTuple):
    """Vectors of items [V, H] and of queries [Q, H], and a function that times an encoding."""

    items: np.ndarray
    queries: np.ndarray
    model: nn.Module
    texts: Texts

    def seconds(self, rows: np.ndarray) -> float:
        """Return the CPU seconds in which some texts are encoded."""
        started = time.process_time()
        self.texts.encode_all(self.model, rows)
        return time.process_time() - started


def encode(prepared: Path, name: str) -> Encoded:
    """Encode all texts of a data set."""
    source, own = base_encoder(read_manifest(prepared), name)
    shop = read_texts(prepared, own, source)
    model = cast("nn.Module", load_encoder(source))
    texts = Texts(shop.tokens, own.pooling, torch.device("cpu"))
    distinct, where = np.unique(shop.first_R, return_inverse=True)
    vectors = texts.encode_all(model, distinct).numpy()[where]
    return Encoded(vectors[: shop.num_items], vectors[shop.num_items :], model, texts)


def ndcg(scores: np.ndarray, targets: np.ndarray, seen: np.ndarray) -> float:
    """Return NDCG@10 of one request with distinct targets; items that are seen are not shown.

    >>> ndcg(np.array([0.1, 0.9, 0.5]), np.array([2]), np.array([1]))
    1.0
    """
    scores = scores.copy()
    scores[seen] = -np.inf
    discount_K = 1 / np.log2(np.arange(K) + 2.0)
    # counting is faster than sorting a catalogue; of equal scores the lower item_index is first
    ranks = ((scores > scores[t]).sum() + (scores[:t] == scores[t]).sum() for t in targets)
    gain = sum(discount_K[rank] for rank in ranks if rank < K)
    return float(gain / discount_K[: len(targets)].sum())


def profiles(examples: Examples, items: np.ndarray) -> np.ndarray:
    """Return the mean vector of each history, weighted by 1 / age, [B, H]."""
    ends = np.cumsum(examples.lengths)
    user_S = np.repeat(np.arange(len(ends)), examples.lengths)
    age_S = ends[user_S] - np.arange(len(user_S))
    summed = np.zeros((len(ends), items.shape[1]), np.float32)
    np.add.at(summed, user_S, items[examples.items] / age_S[:, None].astype(np.float32))
    return summed


def judge(encoded: Encoded, prepared: Path, split: str) -> dict[str, np.ndarray]:
    """Return the NDCG of each request: with a query, and without one but with a history.

    Returns:
        `query` and `history`, NDCG of each request of the kind; `text`, the query of each of the
        former.
    """
    found: dict[str, list[float]] = {"query": [], "history": [], "text": []}
    batches = read_eval(prepared, split, batch_size=USERS_AT_ONCE, rank=0, world_size=1)
    for examples in batches:
        by_history = profiles(examples, encoded.items) @ encoded.items.T
        ends, target_ends = np.cumsum(examples.lengths), np.cumsum(examples.target_lengths)
        for user, query in enumerate(examples.queries):
            seen = examples.items[ends[user] - examples.lengths[user] : ends[user]]
            start = target_ends[user] - examples.target_lengths[user]
            targets = np.setdiff1d(examples.targets[start : target_ends[user]], seen)
            if not len(targets):
                continue
            if query >= 0:
                scores = encoded.items @ encoded.queries[query]
                found["query"].append(ndcg(scores, targets, seen))
                found["text"].append(query)
            elif len(seen):
                found["history"].append(ndcg(by_history[user], targets, seen))
    return {name: np.array(values) for name, values in found.items()}


def shown(found: dict[str, np.ndarray], first: dict[str, np.ndarray], seen_Q: np.ndarray) -> dict:
    """Return the means of an encoder and its differences to the first one."""
    line: dict[str, object] = {}
    is_seen = seen_Q[found["text"].astype(int)]
    parts = {"query": found["query"], "seen": found["query"][is_seen]}
    parts |= {"unseen": found["query"][~is_seen], "history": found["history"]}
    for name, values in parts.items():
        if len(values):
            line |= {name: round(float(values.mean()), 4), f"num_{name}": len(values)}
    for name in ("query", "history"):
        if len(found[name]) and found is not first:
            differences = found[name] - first[name]
            means_R = resampled_means(differences[None], RESAMPLES, seed=0)[:, 0]
            change = (differences.mean(), *interval(means_R))
            line[f"{name}_minus_first"] = [round(float(value), 4) for value in change]
    return line


def speeds(encoders: list[Encoded], num_texts: int, rounds: int) -> list[float]:
    """Return how many times faster each encoder is than the first one, the median of rounds."""
    num_items = len(encoders[0].items)
    rows = np.random.default_rng(0).permutation(num_items)[:num_texts]
    times = np.array([[each.seconds(rows) for each in encoders] for _ in range(rounds + 1)])[1:]
    ratios = times[:, :1] / times
    return [round(statistics.median(column), 2) for column in ratios.T.tolist()]


def main() -> None:
    """Measure, and print a JSON line per encoder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prepared", type=Path)
    parser.add_argument("encoders", nargs="+", metavar="ENCODER")
    parser.add_argument("--split", default="val", choices=("val", "test"))
    parser.add_argument("--texts", type=int, default=512, help="texts of a timed round")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seen_Q = mark_seen(options.prepared, len(load_queries(options.prepared)))
    encoded = [encode(options.prepared, name) for name in options.encoders]
    judged = [judge(each, options.prepared, options.split) for each in encoded]
    faster = speeds(encoded, options.texts, options.rounds)
    for name, found, speed in zip(options.encoders, judged, faster, strict=True):
        line = {"encoder": name, **shown(found, judged[0], seen_Q), "speed": speed}
        print(json.dumps(line | {"split": options.split}))


if __name__ == "__main__":
    main()
