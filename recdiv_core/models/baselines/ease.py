# pyright: strict
"""EASE: the best linear item-to-item model, in closed form.

The matrix is dense, so its memory grows with the square of the number of items. A large catalogue
can restrict it to the most popular items, and keep the largest weights of each item only. Shapes:
B users, U train users, P (user, item) pairs, V catalogue, M items of the matrix, N kept weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import numpy as np
import scipy.linalg  # pyright: ignore[reportMissingTypeStubs]
import scipy.sparse  # pyright: ignore[reportMissingTypeStubs]
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from recdiv_core.models.baselines.histories import (
    HalfLife,
    Histories,
    halving_weights,
    join_repeats,
    read_half_life,
)
from recdiv_core.models.baselines.neighbours import as_table, score_by_neighbours
from recdiv_core.models.baselines.popularity import FALLBACK, fit_popular
from recdiv_core.models.baselines.train_events import TrainEvents, user_matrix

BLOCK: Final = 1024
"""Rows mirrored at once."""


def fit_ease(
    events: TrainEvents,
    counts_V: NDArray[np.int64],
    *,
    ridge: float,
    half_life: float,
    max_items: int = 0,
    kept_weights: int = 0,
) -> dict[str, Tensor]:
    """Fit the linear item-to-item model with zero diagonal that best reconstructs the histories.

    `B = I - P / diag(P)` with `P = (X'X + ridge I)^-1`, X the users x items matrix: binary, or the
    weight of the user's latest event with the item. Steck, 2019, Embarrassingly Shallow
    Autoencoders for Sparse Data. One Cholesky factorisation costs M^3 flops in all and 12 M^2 bytes
    of memory.

    Args:
        events: train events.
        counts_V: train events of each item, for the choice of items and the fallback.
        ridge: > 0.
        half_life: days, or later events for a log without times; see `halving_weights`.
        max_items: most popular items that get a score, M; 0 = all.
        kept_weights: weights of the largest size that each item keeps, N; 0 = all.

    Returns:
        weight_MM [M, M] float32 and place_V (place of each item in the matrix, -1 = none), or a
        table of N weights (`as_table`); half_life and popular_V. score_j sums weight_ij over the
        history's items i.
    """
    num_items, halving = len(counts_V), HalfLife(half_life, in_days=events.time_E is not None)
    popular_V = np.argsort(-counts_V, kind="stable")
    items_M = np.sort(popular_V[: max_items or num_items])
    place_V = np.full(num_items, -1, np.int64)
    place_V[items_M] = np.arange(len(items_M))
    weight_E = halving_weights(events.histories(), halving).numpy()
    bought_UM = user_matrix(events, num_items, weight_E)[:, items_M]
    weight_MM = _solve(bought_UM.T @ bought_UM, ridge)
    own = {"half_life": halving.tensor, **fit_popular(counts_V)}
    if kept_weights:
        return {**as_table(_largest(weight_MM, items_M, num_items, kept_weights)), **own}
    return {"weight_MM": torch.as_tensor(weight_MM), "place_V": torch.as_tensor(place_V), **own}


def _largest(
    weight_MM: NDArray[np.float32], items_M: NDArray[np.int64], num_items: int, kept: int
) -> Any:
    """Return the `kept` weights of the largest size of each row, as sparse rows of all items.

    Negative weights count: they tell substitutes apart.
    """
    kept = min(kept, len(items_M))
    parts: list[Any] = []
    for start in range(0, len(items_M), BLOCK):
        rows = weight_MM[start : start + BLOCK]
        place = np.argpartition(-np.abs(rows), kept - 1, axis=1)[:, :kept]
        parts.append(np.stack([place, np.take_along_axis(rows, place, axis=1)]))
    place_MN, kept_MN = np.concatenate(parts, axis=1)
    row_MN = np.broadcast_to(items_M[:, None], place_MN.shape)
    cells = row_MN.ravel(), items_M[place_MN.astype(np.int64)].ravel()
    shape = (num_items, num_items)
    return scipy.sparse.csr_array((kept_MN.ravel().astype(np.float32), cells), shape)


def _solve(gram_MM: Any, ridge: float) -> NDArray[np.float32]:
    # LAPACK factorises and inverts an array in Fortran order in place
    dense_MM = cast("NDArray[np.float64]", gram_MM.astype(np.float64).toarray(order="F"))
    dense_MM[np.diag_indices_from(dense_MM)] += ridge
    linalg = cast("Any", scipy.linalg)
    factor_MM = linalg.cholesky(dense_MM, lower=False, overwrite_a=True, check_finite=False)
    inverse_MM, failed = linalg.lapack.dpotri(factor_MM, lower=False, overwrite_c=True)
    assert not failed  # any Gram matrix plus a ridge has an inverse
    weight_MM = inverse_MM.T.astype(np.float32)  # C order; only the lower triangle is filled
    _mirror(weight_MM)
    weight_MM /= -inverse_MM.diagonal().astype(np.float32)
    np.fill_diagonal(weight_MM, 0.0)
    return weight_MM


def _mirror(matrix_MM: NDArray[np.float32]) -> None:
    """Copy the lower triangle into the upper one, in place."""
    for start in range(0, len(matrix_MM), BLOCK):
        stop = start + BLOCK
        corner = np.tril(matrix_MM[start:stop, start:stop])
        matrix_MM[start:stop, start:stop] = corner + np.tril(corner, -1).T
        matrix_MM[start:stop, stop:] = matrix_MM[stop:, start:stop].T


def score_by_item_weights(weights: Mapping[str, Tensor], histories: Histories) -> Tensor:
    """Add the rows of the history's items, weighted by the user's latest event."""
    if "neighbours_VN" in weights:
        return score_by_neighbours(weights, histories)
    weight_MM, popular_V = weights["weight_MM"], weights["popular_V"]
    weight_S = halving_weights(histories, read_half_life(weights))
    user_P, item_P, weight_P = join_repeats(histories, weight_S, len(popular_V), "amax")
    place_P = weights["place_V"][item_P]
    is_there_P = place_P >= 0
    user_P, place_P, weight_P = user_P[is_there_P], place_P[is_there_P], weight_P[is_there_P]
    counts_B = torch.bincount(user_P, minlength=histories.num_users)
    starts_B = counts_B.cumsum(0) - counts_B
    scores_BM = F.embedding_bag(
        place_P, weight_MM, starts_B, mode="sum", per_sample_weights=weight_P
    )
    items_M = (weights["place_V"] >= 0).nonzero()[:, 0]
    return (FALLBACK * popular_V).repeat(histories.num_users, 1).index_add_(1, items_M, scores_BM)
