# pyright: strict
"""How sure a figure is: the bootstrap over users, paired between whatever is compared.

Not a metric. The one idea: a resample is a count of how often each user was drawn, the same for
everything that is compared, so that a difference between two models is taken on the same users.
Means over users are then one matrix product; what is a property of all slates together (coverage)
is worked out anew from the slates of the users that were drawn. Efron & Tibshirani, 1993, An
Introduction to the Bootstrap. A resample holds about 63 % of the users, so that coverage, which
grows with users, is lower in all of them: look at differences and ratios.

Legend: R resamples, U users, P points (models, re-rankers) that are compared, K slate length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.uint16]

ROWS_AT_ONCE: Final = 64
"""Resamples that are multiplied together: their counts as float64 are all that is held."""


def resample_users(num_users: int, num_resamples: int, *, seed: int) -> Counts:
    """Draw users with replacement.

    Returns:
        counts_RU: how often each user stands in each resample; rows sum to num_users.

    Raises:
        ValueError: no user, or no resample.
    """
    if num_users < 1 or num_resamples < 1:
        raise ValueError(f"num_users={num_users} and num_resamples={num_resamples} must be >= 1")
    rng = np.random.default_rng(seed)
    counts_RU = np.empty((num_resamples, num_users), dtype=np.uint16)
    for row in counts_RU:
        row[:] = np.bincount(rng.integers(num_users, size=num_users), minlength=num_users)
    return counts_RU


def resampled_means(values_PU: npt.ArrayLike, counts_RU: Counts) -> Floats:
    """Return the mean of each point's per-user values in each resample, [R, P].

    Raises:
        ValueError: shapes that do not fit.
    """
    values = np.atleast_2d(np.asarray(values_PU, dtype=np.float64))
    num_resamples, num_users = counts_RU.shape
    if values.ndim != 2 or values.shape[1] != num_users:
        raise ValueError(f"values {list(values.shape)} must be [P, U] with U = {num_users}")
    means = np.empty((num_resamples, len(values)))
    for start in range(0, num_resamples, ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        means[rows] = counts_RU[rows].astype(np.float64) @ values.T / num_users
    return means


def resampled_coverage(
    slates_PUK: Sequence[npt.NDArray[np.integer]], counts_RU: Counts, *, num_items: int
) -> Floats:
    """Return the catalogue coverage of each point in each resample, [R, P].

    Args:
        slates_PUK: for each point the slates of all users, [U, K] item_index, -1 = no item.
        counts_RU: of `resample_users`.
        num_items: V, what coverage is a share of.

    Raises:
        ValueError: slates of another number of users, or an item out of the catalogue.
    """
    num_resamples, num_users = counts_RU.shape
    for slates_UK in slates_PUK:
        if slates_UK.ndim != 2 or len(slates_UK) != num_users:
            raise ValueError(f"slates {list(slates_UK.shape)} must be [U, K] with U = {num_users}")
        if slates_UK.size and not -1 <= slates_UK.min() <= slates_UK.max() < num_items:
            raise ValueError(f"slates hold items out of -1..{num_items - 1}")
    covered = np.empty((num_resamples, len(slates_PUK)))
    for index, counts_U in enumerate(counts_RU):
        is_drawn_U = counts_U > 0
        for point, slates_UK in enumerate(slates_PUK):
            is_shown = np.zeros(num_items + 1, dtype=np.bool_)  # the last one: no item
            is_shown[slates_UK[is_drawn_U]] = True
            covered[index, point] = is_shown[:num_items].sum() / num_items
    return covered


def interval(samples_R: npt.ArrayLike, *, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of a figure's resamples.

    >>> interval(range(101), level=0.5)
    (25.0, 75.0)
    """
    tail = (1 - level) / 2
    low, high = np.quantile(np.asarray(samples_R, dtype=np.float64), [tail, 1 - tail])
    return float(low), float(high)
