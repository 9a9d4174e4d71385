# pyright: strict
"""The front of a sweep: non-dominated points, their hypervolume, the knee, and attainment.

Where the points come from is elsewhere (fronts/reading.py reads MLflow). Every axis is first turned
so that more is better, so one definition of "dominates" serves all. A point is one row, with the
objectives as columns. Points that are not finite, such as the NaN of a failed trial, are ignored
everywhere; results are row numbers of the given array.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

Direction = Literal["max", "min"]
FloatArray = npt.NDArray[np.float64]


def front(points: npt.ArrayLike, directions: Sequence[Direction]) -> list[int]:
    """Return the row numbers of the non-dominated points, the best on the first axis first.

    A point is dominated by another that is at least as good on every axis and better on one. Of
    equal points only the first is returned.

    >>> front([[0.5, 0.1], [0.4, 0.2], [0.4, 0.1]], ["max", "max"])
    [0, 1]
    """
    upward = _upward(points, directions)
    finite = np.flatnonzero(np.isfinite(upward).all(axis=1))
    # sorted best first on each axis in turn: no point is dominated by a later one
    order = finite[np.lexsort((finite, *(-upward[finite]).T[::-1]))]
    kept: list[int] = []
    for index in order.tolist():
        if not (upward[kept] >= upward[index]).all(axis=1).any():
            kept.append(index)
    return kept


def hypervolume(
    points: npt.ArrayLike, reference: Sequence[float], directions: Sequence[Direction]
) -> float:
    """Return the exact volume that the points dominate, bounded by the reference point.

    Higher is better (Zitzler & Thiele 1998, Multiobjective optimization using evolutionary
    algorithms). Points that are not better than the reference on every axis add nothing. The
    algorithm slices along the last axis: fast for two objectives, slow beyond four.

    >>> hypervolume([[2.0, 1.0], [1.0, 2.0]], [0.0, 0.0], ["max", "max"])
    3.0
    """
    if len(reference) != len(directions) or not np.isfinite(reference).all():
        raise ValueError(f"reference {list(reference)} must be {len(directions)} finite numbers")
    origin = _upward([list(reference)], directions)[0]
    upward = _upward(points, directions)
    return _volume(upward[front(points, directions)] - origin)


def volumes(
    points: npt.ArrayLike, reference: Sequence[float], directions: Sequence[Direction]
) -> list[float]:
    """Return the hypervolume of the first point, of the first two, and so on; it never falls.

    A point that is not finite, or that an earlier point dominates, does not change it. Faster than
    one hypervolume per point: each adds the point's own share to the one before (While et al. 2012,
    A fast way of calculating exact hypervolumes).

    >>> volumes([[2.0, 1.0], [1.0, 1.0], [1.0, 2.0]], [0.0, 0.0], ["max", "max"])
    [2.0, 2.0, 3.0]
    """
    origin = _upward([list(reference)], directions)[0]
    upward = _upward(points, directions) - origin
    finite = np.isfinite(upward).all(axis=1)
    reached: list[float] = []
    volume = 0.0
    others = upward[:0]
    for corner, is_finite in zip(upward, finite, strict=True):
        if is_finite and (corner > 0).all() and not (others >= corner).all(axis=1).any():
            # its own box minus what other boxes cover of it; rounding must not lower the volume
            covered = np.minimum(others, corner)
            covered = covered[front(covered, ("max",) * len(corner))]
            volume += max(0.0, float(corner.prod()) - _volume(covered))
            others = np.vstack([others[~(corner >= others).all(axis=1)], corner])
        reached.append(volume)
    return reached


def _volume(corners: FloatArray) -> float:
    """Return the volume of the union of boxes from 0 to each corner."""
    corners = corners[(corners > 0).all(axis=1)]
    if not len(corners):
        return 0.0
    if corners.shape[1] == 1:
        return float(corners.max())
    corners = corners[np.argsort(-corners[:, -1], kind="stable")]
    heights = corners[:, -1] - np.append(corners[1:, -1], 0.0)
    if corners.shape[1] == 2:
        return sum((heights * np.maximum.accumulate(corners[:, 0])).tolist())
    return sum(
        float(height) * _volume(corners[: count + 1, :-1])
        for count, height in enumerate(heights)
        if height > 0
    )


def left_behind(
    points: npt.ArrayLike,
    reference: Sequence[float],
    directions: Sequence[Direction],
    margin: float,
) -> list[int]:
    """Return the row numbers of points so far behind another that they will hardly reach the front.

    The gain of a point on an axis is its distance above the reference, at least 0. A point is left
    behind if another point has at least 1 / (1 - margin) times its gain on every axis, and more on
    one (multiplicative epsilon-dominance; Zitzler et al. 2003, Performance assessment of
    multiobjective optimizers). Even with all gains larger by that factor it would add nothing to
    the hypervolume. Points of the front, and the best on any axis, are never left behind. Adding
    points never takes a row number off the result.

    Args:
        points: [N, M], for example the metrics of trials at the same epoch.
        reference: reference point of the hypervolume.
        directions: directions of the axes.
        margin: in [0, 1); 0 = every dominated point.

    >>> left_behind([[0.5, 0.1], [0.4, 0.4], [0.39, 0.3], [0.3, 0.3]], [0, 0], ["max"] * 2, 0.1)
    [3]
    """
    if not 0.0 <= margin < 1.0:
        raise ValueError(f"margin {margin} must be in [0, 1)")
    origin = _upward([list(reference)], directions)[0]
    gains = np.maximum(_upward(points, directions) - origin, 0.0)
    finite = np.isfinite(gains).all(axis=1)
    others = gains[finite]
    return [
        index
        for index in np.flatnonzero(finite).tolist()
        if (
            ((1.0 - margin) * others >= gains[index]).all(axis=1)
            & (others > gains[index]).any(axis=1)
        ).any()
    ]


def knee(points: npt.ArrayLike, directions: Sequence[Direction]) -> int:
    """Return the row number of the front's knee: the one point to recommend.

    Each axis is scaled to [0, 1] over the front; the knee is the point farthest above the plane
    through the axes' ends, here the one with the largest sum of scaled objectives (Das 1999, On
    characterizing the knee of the Pareto curve). For ties, a front of two points, or a front that
    never rises above the plane, the best point on the first axis is returned. An axis on which all
    points are equal has no effect.

    Raises:
        ValueError: no finite point.
    """
    indices = front(points, directions)
    if not indices:
        raise ValueError("a knee needs at least one point with finite objectives")
    upward = _upward(points, directions)[indices]
    low, high = upward.min(axis=0), upward.max(axis=0)
    scaled = (upward - low) / np.where(high > low, high - low, 1.0)
    heights = scaled.sum(axis=1)
    return indices[int(np.flatnonzero(heights >= heights.max() - 1e-12)[0])]


def attainment(
    points: npt.ArrayLike, base_accuracy: float, shares: Sequence[float] = (0.99, 0.95, 0.90)
) -> dict[float, float | None]:
    """Return the best diversity that keeps each share of the base's accuracy.

    Args:
        points: rows of (accuracy, diversity), both higher is better.
        base_accuracy: accuracy of the model without diversification, > 0.
        shares: shares of the base's accuracy to keep, in (0, 1].

    Returns:
        share -> diversity; None where no point keeps enough accuracy.

    >>> attainment([[0.50, 0.1], [0.48, 0.2], [0.30, 0.9]], base_accuracy=0.50)
    {0.99: 0.1, 0.95: 0.2, 0.9: 0.2}
    """
    upward = _upward(points, ("max", "max"))
    finite = upward[np.isfinite(upward).all(axis=1)]
    reached: dict[float, float | None] = {}
    for share in shares:
        diversities = finite[finite[:, 0] >= share * base_accuracy, 1]
        reached[share] = float(diversities.max()) if len(diversities) else None
    return reached


def diversity_at(points: npt.ArrayLike, accuracy: float) -> float:
    """Return the diversity of a front at an accuracy, interpolated between its points.

    Args:
        points: rows of (accuracy, diversity), both higher is better; dominated points are ignored.
        accuracy: accuracy to match; below the least accurate point, that point is used.

    Returns:
        the diversity; NaN if no point is as accurate.

    >>> diversity_at([[0.50, 0.25], [0.25, 0.75], [0.25, 0.5]], 0.375)
    0.5
    """
    upward = _upward(points, ("max", "max"))
    ascending = upward[front(points, ("max", "max"))][::-1]
    if not len(ascending) or accuracy > ascending[-1, 0]:
        return float("nan")
    return float(np.interp(accuracy, ascending[:, 0], ascending[:, 1]))


def _upward(points: npt.ArrayLike, directions: Sequence[Direction]) -> FloatArray:
    """Return the points as a new [N, M] array in which more is better on every axis."""
    unknown = [direction for direction in directions if direction not in ("max", "min")]
    if unknown or not directions:
        raise ValueError(f"directions {list(directions)} must each be 'max' or 'min'")
    array = np.asarray(points, dtype=np.float64)
    if not array.size:
        array = array.reshape(0, len(directions))
    if array.ndim != 2 or array.shape[1] != len(directions):
        raise ValueError(f"expected points [N, {len(directions)}], got {list(array.shape)}")
    return array * np.where(np.asarray(directions) == "max", 1.0, -1.0)
