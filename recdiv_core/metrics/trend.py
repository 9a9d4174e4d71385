# pyright: strict
"""Trend of a daily metric: its slope per day, with an interval that allows for like days in a row.

The one idea: a metric of today resembles yesterday's, so thirty days say less than thirty
independent values, and the usual interval of a regression line is too narrow. The interval here
counts fewer days, after Santer et al. (2000, Statistical significance of trends and trend
differences in layer-average atmospheric temperature time series).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple, cast

import numpy as np
import scipy.special  # pyright: ignore[reportMissingTypeStubs]

FEWEST: Final = 5
"""Fewest days that have a slope."""
MOST_ALIKE: Final = 0.9
"""Largest correlation of successive days that is assumed."""
FEWEST_EFFECTIVE: Final = 3.0
"""Smallest number of independent days that is assumed."""

Direction = Literal["falls", "rises", "steady"]


class Slope(NamedTuple):
    """Change of a metric per day, with the ends of its 95 % interval."""

    per_day: float
    low: float
    high: float

    @property
    def direction(self) -> Direction:
        """`falls` or `rises` if the interval excludes 0, else `steady`."""
        if self.high < 0:
            return "falls"
        return "rises" if self.low > 0 else "steady"


def slope(values: Sequence[float]) -> Slope | None:
    """Return the slope of the least-squares line through the values of successive days.

    Args:
        values: one value a day, the oldest first; NaN = no value, which is left out.

    Returns:
        None with fewer than FEWEST values.

    >>> slope([1.0, 2.0, 3.0, 4.0, 5.0])
    Slope(per_day=1.0, low=1.0, high=1.0)
    """
    value_D = np.asarray(values, np.float64)
    is_known = np.isfinite(value_D)
    day_N, value_N = np.flatnonzero(is_known).astype(np.float64), value_D[is_known]
    num_days = len(day_N)
    if num_days < FEWEST:
        return None
    day_N = day_N - day_N.mean()
    spread = float(day_N @ day_N)
    per_day = float(day_N @ value_N) / spread
    rest_N = value_N - value_N.mean() - per_day * day_N
    squares = float(rest_N @ rest_N)
    alike = 0.0 if squares == 0 else float(rest_N[1:] @ rest_N[:-1]) / squares
    alike += (1 + 4 * alike) / num_days  # residuals of few days look less alike than they are
    alike = min(max(alike, 0.0), MOST_ALIKE)
    effective = max(FEWEST_EFFECTIVE, num_days * (1 - alike) / (1 + alike))
    error = (squares / (effective - 2) / spread) ** 0.5
    half = float(cast("Any", scipy.special).stdtrit(effective - 2, 0.975)) * error
    return Slope(per_day, per_day - half, per_day + half)
