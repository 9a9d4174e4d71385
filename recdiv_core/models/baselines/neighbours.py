"""Item-to-item baselines with few neighbours per item, and item-kNN.

Each item keeps its N best neighbours. The score of an item sums the weights of the neighbours that
the history's items keep. Memory grows with V x N, so large catalogues fit. graph.py and rp3beta.py
make such tables too. Shapes: B users, U train users, N neighbours, P (user, item) pairs,
V catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from torch import Tensor

from recdiv_core.models.baselines.histories import (
    HalfLife,
    Histories,
    halving_weights,
    join_repeats,
    read_half_life,
)
from recdiv_core.models.baselines.popularity import FALLBACK, fit_popular
from recdiv_core.models.baselines.train_events import TrainEvents, user_matrix

ROWS: Final = 2_048
"""Items whose neighbours are computed at once."""

PAIRS: Final = 16_384
"""(user, item) pairs whose neighbours are added at once."""


def keep_best(make_rows: Callable[[int, int], Any], num_items: int, num_neighbours: int) -> Any:
    """Keep the largest positive weights of each row of an items x items matrix.

    Args:
        make_rows: function of the first and the last + 1 row; returns these rows, sparse.
        num_items: V.
        num_neighbours: N; ties go to the lower item_index.

    Returns:
        scipy CSR array [V, V] float32; the weights of a row fall.
    """
    parts: list[Any] = []
    for start in range(0, num_items, ROWS):
        rows = make_rows(start, min(start + ROWS, num_items)).tocsr()
        parts.append(_best_of_rows(rows, num_neighbours))
    return scipy.sparse.vstack(parts, format="csr")


def _best_of_rows(rows: Any, num_neighbours: int) -> Any:
    weight, col = np.asarray(rows.data, np.float32), np.asarray(rows.indices, np.int64)
    least = np.full(rows.shape[0], 0.0, np.float32)
    for row in np.flatnonzero(np.diff(rows.indptr) > num_neighbours):
        own = weight[rows.indptr[row] : rows.indptr[row + 1]]
        least[row] = np.partition(own, -num_neighbours)[-num_neighbours]
    row = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    is_kept = (weight >= least[row]) & (weight > 0)
    row, col, weight = row[is_kept], col[is_kept], weight[is_kept]
    order = np.lexsort((col, -weight, row))
    row, col, weight = row[order], col[order], weight[order]
    length = np.bincount(row, minlength=rows.shape[0])
    place = np.arange(len(row)) - (np.cumsum(length) - length)[row]
    is_kept = place < num_neighbours
    length = np.minimum(length, num_neighbours)
    indptr = np.concatenate([[0], np.cumsum(length)])
    return scipy.sparse.csr_array((weight[is_kept], col[is_kept], indptr), rows.shape)


def as_table(best_VV: Any) -> dict[str, Tensor]:
    """Return rows of `keep_best` as neighbours_VN int32 and weight_VN float32, padded with 0."""
    length_V = np.diff(best_VV.indptr)
    row_M = np.repeat(np.arange(len(length_V)), length_V)
    place_M = np.arange(len(row_M)) - best_VV.indptr[row_M]
    shape = (len(length_V), max(1, int(length_V.max(initial=0))))
    neighbours_VN, weight_VN = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    neighbours_VN[row_M, place_M] = best_VV.indices
    weight_VN[row_M, place_M] = best_VV.data
    return {
        "neighbours_VN": torch.as_tensor(neighbours_VN),
        "weight_VN": torch.as_tensor(weight_VN),
    }


def fit_item_knn(
    events: TrainEvents,
    counts_V: NDArray[np.int64],
    *,
    num_neighbours: int,
    shrinkage: float,
    half_life: float,
) -> dict[str, Tensor]:
    """Find the items that the same users bought, for each item.

    `sim_ij = n_ij / (sqrt(n_i n_j) + shrinkage)`, where n_ij counts the users of both items. This
    is the cosine of their columns in the users x items matrix, in [0, 1]. Shrinkage lowers it most
    where users are few. With a half-life the matrix holds the weight of the user's latest event
    with the item, and n_ij sums the products of the weights. Sarwar et al., 2001, Item-based
    Collaborative Filtering Recommendation Algorithms. Each item keeps its N most similar items;
    ties go to the lower item_index.

    Args:
        events: train events.
        counts_V: train events of each item, for the fallback.
        num_neighbours: N, >= 1.
        shrinkage: >= 0.
        half_life: days, or later events for a log without times; see `halving_weights`.

    Returns:
        neighbours_VN, weight_VN (see `as_table`), half_life, popular_V.
    """
    num_items, halving = len(counts_V), HalfLife(half_life, in_days=events.time_E is not None)
    weight_E = halving_weights(events.histories(), halving).numpy()
    bought_UV = user_matrix(events, num_items, weight_E)
    bought_VU = bought_UV.T.tocsr()
    norm_V = np.sqrt(np.asarray(bought_UV.multiply(bought_UV).sum(axis=0), np.float64))

    def make_rows(start: int, stop: int) -> Any:
        both = (bought_VU[start:stop] @ bought_UV).tocoo()
        row, col = both.row, both.col
        cosine = both.data / (norm_V[row + start] * norm_V[col] + shrinkage)
        cosine[row + start == col] = 0.0
        return scipy.sparse.csr_array((cosine, (row, col)), both.shape)

    best_VV = keep_best(make_rows, num_items, num_neighbours)
    own = {"half_life": halving.tensor}
    return {**as_table(best_VV), **own, **fit_popular(counts_V)}


def score_by_neighbours(weights: Mapping[str, Tensor], histories: Histories) -> Tensor:
    """Add the neighbours of each item of the history, weighted by the user's latest event."""
    weight_S = halving_weights(histories, read_half_life(weights))
    popular_V = weights["popular_V"]
    pairs = join_repeats(histories, weight_S, len(popular_V), "amax")
    return add_neighbours(weights, *pairs, histories.num_users).add_(popular_V, alpha=FALLBACK)


def add_neighbours(
    weights: Mapping[str, Tensor], user_P: Tensor, item_P: Tensor, weight_P: Tensor, num_users: int
) -> Tensor:
    """Add weighted rows of a table.

    For each pair there are the batch row of the user, the item and its weight; the table has
    `neighbours_VN` and `weight_VN`.

    Returns:
        [B, V] float32.
    """
    table = weights["neighbours_VN"], weights["weight_VN"]
    scores_BV = weight_P.new_zeros(num_users, len(table[0]))
    if scores_BV.device.type == "cpu":
        # importing numba takes a quarter of a second, and most processes do not need it
        from recdiv_core.models.baselines.compiled import add_rows

        tensors = *table, user_P, item_P, weight_P, scores_BV
        add_rows(*(tensor.contiguous().numpy() for tensor in tensors))
    else:
        add_rows_by_index(*table, user_P, item_P, weight_P, scores_BV)
    return scores_BV


def add_rows_by_index(
    neighbours_VN: Tensor,
    weight_VN: Tensor,
    user_P: Tensor,
    item_P: Tensor,
    weight_P: Tensor,
    scores_BV: Tensor,
) -> None:
    """Add weighted rows of a table in place, on any device; see `compiled.add_rows`."""
    flat = scores_BV.view(-1)
    for start in range(0, len(user_P), PAIRS):
        part = slice(start, start + PAIRS)
        item = item_P[part]
        place_PN = user_P[part, None] * scores_BV.shape[1] + neighbours_VN[item]
        added_PN = weight_P[part, None] * weight_VN[item]
        flat.index_add_(0, place_PN.flatten(), added_PN.flatten())
