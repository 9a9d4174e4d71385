"""RP3beta: random walks of three steps, with a penalty for popular items.

A walk goes from an item of the history to a user who bought it, and from there to another item of
that user. Paudel et al., 2017, Updatable, Accurate, Diverse, and Scalable Recommendations for
Interactive Applications. Shapes: U train users, N neighbours, V catalogue.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from torch import Tensor

from recdiv_core.models.baselines.histories import HalfLife, halving_weights
from recdiv_core.models.baselines.neighbours import as_table, keep_best
from recdiv_core.models.baselines.popularity import fit_popular
from recdiv_core.models.baselines.train_events import TrainEvents, user_matrix


def fit_rp3beta(
    events: TrainEvents,
    counts_V: NDArray[np.int64],
    *,
    num_neighbours: int,
    alpha: float,
    beta: float,
    half_life: float,
) -> dict[str, Tensor]:
    """Fit the probabilities of walks from item to user to item.

    `w_ij = sum_u (x_ui / n_i)^alpha (x_uj / m_u)^alpha / n_j^beta`, where x_ui is the weight of the
    user's latest event with the item, and n and m are its sums over the users of an item and the
    items of a user. Each item keeps its N largest weights; ties go to the lower item_index.

    Args:
        events: train events.
        counts_V: train events of each item, for the fallback.
        num_neighbours: N, >= 1.
        alpha: exponent of the probabilities, > 0.
        beta: exponent of the penalty, >= 0; larger = less popular items.
        half_life: days, or later events for a log without times; see `halving_weights`.

    Returns:
        neighbours_VN, weight_VN (see `as_table`), half_life, popular_V.
    """
    num_items, halving = len(counts_V), HalfLife(half_life, in_days=events.time_E is not None)
    weight_E = halving_weights(events.histories(), halving).numpy()
    bought_UV = user_matrix(events, num_items, weight_E).astype(np.float64)
    sum_V, sum_U = np.asarray(bought_UV.sum(axis=0)), np.asarray(bought_UV.sum(axis=1))
    to_user_VU = (_per_row(sum_V) @ bought_UV.T).tocsr()
    to_item_UV = (_per_row(sum_U) @ bought_UV).tocsr()
    to_user_VU.data **= alpha
    to_item_UV.data **= alpha
    to_item_UV = (to_item_UV @ scipy.sparse.diags_array(np.maximum(sum_V, _TINY) ** -beta)).tocsr()

    def make_rows(start: int, stop: int) -> Any:
        walks = (to_user_VU[start:stop] @ to_item_UV).tocoo()
        weight = np.where(walks.row + start == walks.col, 0.0, walks.data)
        return scipy.sparse.csr_array((weight, (walks.row, walks.col)), walks.shape)

    best_VV = keep_best(make_rows, num_items, num_neighbours)
    return {**as_table(best_VV), "half_life": halving.tensor, **fit_popular(counts_V)}


_TINY = np.finfo(np.float64).tiny


def _per_row(sums: NDArray[np.float64]) -> Any:
    return scipy.sparse.diags_array(1 / np.maximum(sums, _TINY))
