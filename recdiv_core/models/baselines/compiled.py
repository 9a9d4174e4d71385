"""The inner loop of baselines with neighbours, compiled for the CPU.

As tensor operations, each weight that is added moves through memory several times, which takes ten
times as long. numba compiles at the first call and caches the result where it may write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # no writable cache directory
        return njit(**options)(function)


@_compiled
def add_rows(
    neighbours_VN: Array,
    weight_VN: Array,
    user_P: Array,
    item_P: Array,
    weight_P: Array,
    scores_BV: Array,
) -> None:
    """Add weighted rows of a table, in the order of the pairs; see `add_neighbours`.

    `scores_BV` is added to in place; for the other arrays see `add_neighbours`.
    """
    for pair in range(len(user_P)):
        user, item, weight = user_P[pair], item_P[pair], weight_P[pair]
        for n in range(neighbours_VN.shape[1]):
            scores_BV[user, neighbours_VN[item, n]] += weight * weight_VN[item, n]


@_compiled
def add_whole_rows(
    weight_MM: Array, user_P: Array, place_P: Array, factor_P: Array, scores_BM: Array
) -> None:
    """Add weighted rows of a dense matrix, in the order of the pairs; see `add_rows_compiled`."""
    for pair in range(len(user_P)):
        user, place, factor = user_P[pair], place_P[pair], factor_P[pair]
        for m in range(weight_MM.shape[1]):
            scores_BM[user, m] += factor * np.float32(weight_MM[place, m])
