# pyright: strict
"""Means over training seeds, and the intervals of these means.

Not over users (bootstrap.py, jackknife.py): all seeds have the same users, and only training
differs. The values are few and assumed normal around their mean, so the t distribution gives the
width of the interval (Student 1908, The probable error of a mean).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import scipy.special  # pyright: ignore[reportMissingTypeStubs]

LEVEL: Final = 0.95


def means_of(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric that all runs have; empty without runs.

    >>> means_of([{"a": 1.0, "b": 2.0}, {"a": 3.0}])
    {'a': 2.0}
    """
    return {name: statistics.fmean(values) for name, values in _columns(figures).items()}


def half_widths_of(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return half the width of the interval of the mean, for each metric that all runs have."""
    if len(figures) < 2:
        return {}
    return {name: half_width(values) for name, values in _columns(figures).items()}


def half_width(values: Sequence[float], level: float = LEVEL) -> float:
    """Return half the width of the t interval of a mean, in the unit of the values, >= 0.

    Lower = more certain. NaN for fewer than two values.

    >>> round(half_width([1.0, 2.0, 3.0]), 4)
    2.4841
    """
    if len(values) < 2:
        return math.nan
    error = statistics.stdev(values) / math.sqrt(len(values))
    quantile = cast("Any", scipy.special).stdtrit(len(values) - 1, 0.5 + level / 2)
    return float(quantile) * error


def most_typical(figures: Sequence[Mapping[str, float]], names: Sequence[str]) -> int:
    """Return the index of the run nearest to the means, which represents all runs.

    Distances are in standard deviations of each metric; a metric that is equal in all runs has no
    effect. Ties, also between two runs, go to the first. The best run is not used, because its
    metrics are partly luck.

    >>> most_typical([{"a": 0.0}, {"a": 3.0}, {"a": 4.0}], ["a"])
    1
    """
    columns = {n: values for n, values in _columns(figures).items() if n in names}
    distances = [0.0] * len(figures)
    for values in columns.values():
        mean, spread = statistics.fmean(values), statistics.pstdev(values)
        if spread > 0:
            for place, value in enumerate(values):
                distances[place] += ((value - mean) / spread) ** 2
    # two runs are equally near up to rounding
    nearest = min(distances)
    return next(p for p, distance in enumerate(distances) if distance <= nearest + 1e-9)


def _columns(figures: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    names = [n for n in (figures[0] if figures else ()) if all(n in own for own in figures)]
    return {name: [own[name] for own in figures] for name in names}
