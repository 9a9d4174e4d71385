"""The transition graph of items: which items follow an item in the histories.

An edge counts how often users went from one item to another, at lags of 1 to L events. Its weight
is the share of the item's transitions. The score of an item sums walks of one and two edges from
the latest items of the history, and the likeness of the texts if asked. Shapes: E train events,
N neighbours, P (user, item) pairs, V catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from torch import Tensor

from recdiv_core.models.baselines.histories import Histories, falling_weights, join_repeats
from recdiv_core.models.baselines.neighbours import add_neighbours, as_table, keep_best
from recdiv_core.models.baselines.popularity import FALLBACK, fit_popular
from recdiv_core.models.baselines.text_profile import fit_words, word_cosines
from recdiv_core.models.baselines.train_events import TrainEvents


def count_transitions(events: TrainEvents, num_items: int, *, lags: int, lag_decay: float) -> Any:
    """Count transitions from an item to a different later item of the same user.

    Args:
        events: train events.
        num_items: V.
        lags: largest distance of the two events in events, L >= 1.
        lag_decay: weight of a transition at lag l is lag_decay ** (l - 1); in (0, 1].

    Returns:
        scipy CSR array [V, V] float64.
    """
    counts_VV = scipy.sparse.csr_array((num_items, num_items), dtype=np.float64)
    for lag in range(1, lags + 1):
        earlier, later = events.item_E[:-lag], events.item_E[lag:]
        is_edge = (events.user_E[:-lag] == events.user_E[lag:]) & (earlier != later)
        ends = earlier[is_edge], later[is_edge]
        weight = np.full(len(ends[0]), lag_decay ** (lag - 1))
        counts_VV += scipy.sparse.csr_array((weight, ends), counts_VV.shape)
    return counts_VV


def fit_graph(
    events: TrainEvents,
    counts_V: NDArray[np.int64],
    texts: Sequence[str],
    *,
    num_neighbours: int,
    lags: int,
    lag_decay: float,
    second_hop: float,
    text_weight: float,
    recency: float,
) -> dict[str, Tensor]:
    """Fit the transition graph.

    `S = T + second_hop T T`, where T holds the shares of each item's transitions. Each item keeps
    the N largest entries of its row, of T first and of S then.

    Args:
        events: train events.
        counts_V: train events of each item, for the fallback.
        texts: text of each item.
        num_neighbours: N, >= 1.
        lags: see `count_transitions`.
        lag_decay: see `count_transitions`.
        second_hop: weight of walks of two edges, >= 0.
        text_weight: weight of the cosine of texts, >= 0. Walks and cosines are divided by the
            largest value of the user first.
        recency: weight of a history's event is age ** -recency, see `falling_weights`.

    Returns:
        neighbours_VN, weight_VN (see `as_table`), the weights of `fit_words` if text_weight > 0,
        text_weight, recency, popular_V.
    """
    num_items = len(counts_V)
    counts_VV = count_transitions(events, num_items, lags=lags, lag_decay=lag_decay)
    sum_V = np.maximum(np.asarray(counts_VV.sum(axis=1), np.float64), np.finfo(np.float64).tiny)
    share_VV = (scipy.sparse.diags_array(1 / sum_V) @ counts_VV).tocsr()
    best_VV = keep_best(lambda start, stop: share_VV[start:stop], num_items, num_neighbours)
    if second_hop:

        def make_rows(start: int, stop: int) -> Any:
            return best_VV[start:stop] + second_hop * (best_VV[start:stop] @ best_VV)

        best_VV = keep_best(make_rows, num_items, num_neighbours)
    own = {"recency": torch.tensor(recency), "text_weight": torch.tensor(text_weight)}
    words = fit_words(texts) if text_weight else {}
    return {**as_table(best_VV), **words, **own, **fit_popular(counts_V)}


def score_by_graph(weights: Mapping[str, Tensor], histories: Histories) -> Tensor:
    """Add the walks from the history's items, weighted by recency, and the likeness of texts."""
    num_items = len(weights["popular_V"])
    weight_S = falling_weights(histories, float(weights["recency"]))
    pairs = join_repeats(histories, weight_S, num_items, "sum")
    scores_BV = add_neighbours(weights, *pairs, histories.num_users)
    text_weight = float(weights["text_weight"])
    if text_weight:
        cosine_BV = word_cosines(weights, *pairs, histories.num_users)
        scores_BV = _to_one(scores_BV).add_(_to_one(cosine_BV), alpha=text_weight)
    return scores_BV.add_(weights["popular_V"], alpha=FALLBACK)


def _to_one(scores_BV: Tensor) -> Tensor:
    """Divide each row by its maximum; a row without a positive score stays as it is."""
    most_B1 = scores_BV.amax(dim=1, keepdim=True)
    return scores_BV / torch.where(most_B1 > 0, most_B1, 1.0)
