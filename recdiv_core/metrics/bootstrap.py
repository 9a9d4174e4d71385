# pyright: strict
"""Confidence intervals of means over users: the paired bootstrap, p-values, and Holm's correction.

Not for metrics of all slates together: a resample holds about 63 % of the users, so coverage, which
grows with users, is lower in every resample and varies less. Use the jackknife (jackknife.py) for
these. A resample is a count of how often each user was sampled. All models share the counts, so a
difference between two models is taken on the same users, and means are one matrix product. Efron &
Tibshirani, 1993, An Introduction to the Bootstrap. The interval uses percentiles: over thousands of
users a mean is so close to normal that the correction for skewness (BCa) moves its ends by less
than a twentieth of its width.

Legend: R resamples, U users, P rows of values (one metric of one model each).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.uint16]

ROWS_AT_ONCE: Final = 64
"""Resamples per block; the counts of only one block are in memory."""


def resample_users(num_users: int, num_resamples: int, *, seed: int) -> Iterator[Counts]:
    """Sample users with replacement, one block of resamples at a time.

    Yields:
        counts_RU: uint16 counts of each user in the next resamples; rows sum to num_users.

    Raises:
        ValueError: num_users or num_resamples is below 1.
    """
    if num_users < 1 or num_resamples < 1:
        raise ValueError(f"num_users={num_users} and num_resamples={num_resamples} must be >= 1")
    rng = np.random.default_rng(seed)
    for start in range(0, num_resamples, ROWS_AT_ONCE):
        counts_RU = np.empty((min(ROWS_AT_ONCE, num_resamples - start), num_users), dtype=np.uint16)
        for row in counts_RU:
            row[:] = np.bincount(rng.integers(num_users, size=num_users), minlength=num_users)
        yield counts_RU


def resampled_means(values_PU: npt.ArrayLike, num_resamples: int, *, seed: int) -> Floats:
    """Return the mean of each row of per-user values in each resample, [R, P].

    Two calls with the same random seed and number of users use the same resamples. A value of NaN
    is left out of the means of its row; a mean of no value is NaN.

    Raises:
        ValueError: values are not [P, U], or there is no user or no resample.
    """
    values = np.asarray(values_PU, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"values {list(values.shape)} must be [P, U]")
    num_users = values.shape[1]
    exists_PU = ~np.isnan(values)
    # resample the deviations: equal values then give equal means to the bit
    means_P = mean_of_existing(values)
    deviations_UP = np.ascontiguousarray(np.where(exists_PU, values - means_P[:, None], 0.0).T)
    is_partial_P = ~exists_PU.all(axis=1)
    exists_UQ = np.ascontiguousarray(exists_PU[is_partial_P].T.astype(np.float64))
    blocks: list[Floats] = []
    for counts_RU in resample_users(num_users, num_resamples, seed=seed):
        weights_RU = counts_RU.astype(np.float64)
        num_RP = np.full((len(weights_RU), len(values)), float(num_users))
        num_RP[:, is_partial_P] = weights_RU @ exists_UQ
        with np.errstate(invalid="ignore"):
            blocks.append(weights_RU @ deviations_UP / num_RP)
    return means_P + np.concatenate(blocks)


def mean_of_existing(values: Floats) -> Floats:
    """Return the mean of the last axis without NaN; NaN where nothing else is left.

    >>> mean_of_existing(np.array([[1.0, np.nan], [np.nan, np.nan]])).tolist()
    [1.0, nan]
    """
    exists = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(exists, values, 0.0).sum(axis=-1) / exists.sum(axis=-1)


def interval(samples_R: npt.ArrayLike, *, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of the resampled values of a metric.

    >>> interval(range(101), level=0.5)
    (25.0, 75.0)
    """
    tail = (1 - level) / 2
    low, high = np.quantile(np.asarray(samples_R, dtype=np.float64), [tail, 1 - tail])
    return float(low), float(high)


def p_value(samples_R: npt.ArrayLike) -> float:
    """Return the two-sided p-value of "the difference is 0", from the difference's resamples.

    Twice the share of resamples on the other side of 0, where the observed value counts as one
    resample (Davison & Hinkley, 1997, Bootstrap Methods and their Application, 4.2). In
    [2 / (R + 1), 1]; below 1 - level exactly when `interval` excludes 0.

    >>> p_value([0.5, 0.25, 0.75, -0.125])
    0.8
    """
    samples = np.asarray(samples_R, dtype=np.float64)
    fewer = min(int((samples <= 0).sum()), int((samples >= 0).sum()))
    return min(1.0, 2 * (fewer + 1) / (len(samples) + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, in the given order.

    Claims for all values below 0.05 contain a false claim in at most 5 % of the cases, for any
    dependence between the metrics (Holm, 1979, A Simple Sequentially Rejective Multiple Test
    Procedure).

    >>> holm([0.01, 0.5, 0.02])
    [0.03, 0.5, 0.04]
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
