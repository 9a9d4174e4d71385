# pyright: strict
"""EASE: the best linear item-to-item model, in closed form.

The matrix is dense, so its memory grows with the square of the number of items. A large catalogue
can restrict it to the most popular items, and keep the largest weights of each item only. Where
histories are long, the many small weights count, so the matrix of all weights is stored in int16,
one scale per row: an entry moves by at most 1/65534 of the largest one of its row. Shapes: B users,
U train users, P (user, item) pairs, V catalogue, M items of the matrix, N kept weights.
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
"""Rows mirrored or rounded at once."""

INT16_MAX: Final = 32_767

PAIRS: Final = 4_096
"""Rows that are added at once on a GPU."""


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
        weight_MM [M, M] int16, scale_M (an entry is `scale_M[row] * weight_MM[row]`) and place_V
        (place of each item in the matrix, -1 = none), or a table of N weights (`as_table`);
        half_life and popular_V. score_j sums the entries ij over the history's items i.
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
    return {**_rounded(weight_MM), "place_V": torch.as_tensor(place_V), **own}


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


def _rounded(weight_MM: NDArray[np.float32]) -> dict[str, Tensor]:
    """Return the rows in int16, each with a scale of its own."""
    scale_M = np.abs(weight_MM).max(axis=1, initial=0.0) / INT16_MAX
    scale_M[scale_M == 0] = 1.0
    rounded_MM = np.empty(weight_MM.shape, np.int16)
    for start in range(0, len(weight_MM), BLOCK):
        rows = slice(start, start + BLOCK)
        rounded_MM[rows] = np.rint(weight_MM[rows] / scale_M[rows, None])
    return {"weight_MM": torch.as_tensor(rounded_MM), "scale_M": torch.as_tensor(scale_M)}


def score_by_item_weights(weights: Mapping[str, Tensor], histories: Histories) -> Tensor:
    """Add the rows of the history's items, weighted by the user's latest event."""
    if "neighbours_VN" in weights:
        return score_by_neighbours(weights, histories)
    place_V, popular_V = weights["place_V"], weights["popular_V"]
    weight_S = halving_weights(histories, read_half_life(weights))
    user_P, item_P, weight_P = join_repeats(histories, weight_S, len(popular_V), "amax")
    place_P = place_V[item_P]
    is_there_P = place_P >= 0
    user_P, place_P, weight_P = user_P[is_there_P], place_P[is_there_P], weight_P[is_there_P]
    weight_MM = weights["weight_MM"]
    # a checkpoint of an earlier version holds float32
    scale_M = weights["scale_M"] if "scale_M" in weights else popular_V.new_ones(len(weight_MM))
    scores_BM = weight_P.new_zeros(histories.num_users, len(weight_MM))
    add = add_rows_compiled if scores_BM.device.type == "cpu" else add_rows_by_gather
    add(weight_MM, user_P, place_P, weight_P * scale_M[place_P], scores_BM)
    items_M = (place_V >= 0).nonzero()[:, 0]
    return (FALLBACK * popular_V).repeat(histories.num_users, 1).index_add_(1, items_M, scores_BM)


def add_rows_compiled(
    weight_MM: Tensor, user_P: Tensor, place_P: Tensor, factor_P: Tensor, scores_BM: Tensor
) -> None:
    """Add weighted rows of a matrix in place, on the CPU.

    Args:
        weight_MM: int16 or float32.
        user_P: int64 batch row of each pair of a user and an item.
        place_P: int64 row of each pair.
        factor_P: float32 weight of each pair, times the scale of its row.
        scores_BM: float32, added to.
    """
    # importing numba takes a quarter of a second, and most processes do not need it
    from recdiv_core.models.baselines.compiled import add_whole_rows

    tensors = weight_MM, user_P, place_P, factor_P, scores_BM
    add_whole_rows(*(tensor.contiguous().numpy() for tensor in tensors))


def add_rows_by_gather(
    weight_MM: Tensor, user_P: Tensor, place_P: Tensor, factor_P: Tensor, scores_BM: Tensor
) -> None:
    """Add weighted rows of a matrix in place, on any device; see `add_rows_compiled`."""
    for start in range(0, len(user_P), PAIRS):
        part = slice(start, start + PAIRS)
        rows_PM = weight_MM[place_P[part]].float() * factor_P[part, None]
        scores_BM.index_add_(0, user_P[part], rows_PM)
