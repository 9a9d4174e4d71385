"""Sums over the raw click log that a prepared data set does not keep.

All valid rows count, including impressions and other kinds of event that no model learns from. The
sums are the first event of each item, and the impressions and clicks of each position. Read tasks
sum over their rows, `merge_traces` over the tasks, and `audit_positions` checks the click rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from recdiv_core.data.audit.findings import Finding, find
from recdiv_core.schema import EVENTS

NUM_POSITIONS: Final = 100
"""Number of counted positions; higher positions are ignored."""
NEVER: Final = np.iinfo(np.int64).max
MIN_SHOWN: Final = 100
"""Fewest impressions of a position that is compared."""
MIN_RATIO: Final = 1.5
"""Smallest ratio of the highest to the lowest click rate that is a finding."""
MAX_Z: Final = 4.0
"""Standard deviations above which chance is ruled out: one log in thirty thousand."""


@dataclass(frozen=True)
class Sightings:
    """N valid rows of a log, of every kind of event.

    Attributes:
        items_N: item_index.
        times_N: Microseconds, or order numbers.
        events_N: Index in EVENTS, -1 = none given.
        positions_N: Position in the slate; -1 = none, or no whole number below NUM_POSITIONS.
    """

    items_N: Any
    times_N: Any
    events_N: Any
    positions_N: Any


class Traces:
    """Sums over the events of V items; the sums of several tasks add.

    Attributes:
        first_V: [V] int64, time of the first event of each item; NEVER = no event.
        counts_2P: [2, NUM_POSITIONS] int64, impressions and clicks of each position.
    """

    def __init__(self, num_items: int) -> None:
        self.first_V = np.full(num_items, NEVER, dtype=np.int64)
        self.counts_2P = np.zeros((2, NUM_POSITIONS), dtype=np.int64)

    def add(self, seen: Sightings) -> None:
        """Add rows to the sums."""
        np.minimum.at(self.first_V, seen.items_N, seen.times_N)
        for row, kind in enumerate(("impression", "click")):
            is_kind = (seen.events_N == EVENTS.index(kind)) & (seen.positions_N >= 0)
            self.counts_2P[row] += np.bincount(seen.positions_N[is_kind], minlength=NUM_POSITIONS)

    def save(self, path: Path) -> None:
        """Write the sums; items without an event take no space."""
        items = np.flatnonzero(self.first_V != NEVER)
        np.savez(path, items=items, first=self.first_V[items], counts=self.counts_2P)

    def merge(self, other: Traces) -> None:
        """Add the sums of another part of the log, over the same items."""
        self.first_V = np.minimum(self.first_V, other.first_V)
        self.counts_2P += other.counts_2P


def merge_traces(paths: Sequence[Path], num_items: int) -> Traces:
    """Add up the sums that the read tasks saved."""
    total = Traces(num_items)
    for path in paths:
        with np.load(path) as part:
            np.minimum.at(total.first_V, part["items"], part["first"])
            total.counts_2P += part["counts"]
    return total


def clean_positions(numbers: Any) -> Any:
    """Return [N] int64 positions from [N] float64 numbers; -1 = not a counted position."""
    is_position = (numbers >= 0) & (numbers < NUM_POSITIONS) & (numbers == np.floor(numbers))
    return np.where(is_position, numbers, -1).astype(np.int64)


def audit_positions(counts_2P: Any) -> list[Finding]:
    """Check whether the click rate depends on the position; returns nothing without impressions.

    It does when the rates differ by a factor of MIN_RATIO and the chi-square statistic of positions
    against clicks, as a standard normal deviate (Wilson and Hilferty, 1931), is above MAX_Z. The
    count is the number of compared positions.
    """
    places = np.flatnonzero(counts_2P[0] >= MIN_SHOWN)
    shown, clicked = counts_2P[:, places].astype(np.float64)
    clicked = np.minimum(clicked, shown)  # some clicks have no impression
    if len(places) < 2 or not clicked.any():
        return []
    rates = clicked / shown
    is_apart = rates.max() >= MIN_RATIO * rates.min()
    is_found = is_apart and deviate(shown, clicked) > MAX_Z
    figures = {"position": places.tolist(), "impressions": shown.tolist()}
    figures["click_rate"] = np.round(rates, 4).tolist()
    name = "click rate that depends on the position"
    return [find(name, len(places) if is_found else 0, figures=figures)]


def deviate(shown: Any, clicked: Any) -> float:
    """Return the chi-square statistic of equal click rates as a standard normal deviate."""
    rate = clicked.sum() / shown.sum()
    if rate == 1.0:
        return 0.0
    chi_square = float(((clicked - shown * rate) ** 2 / (shown * rate * (1.0 - rate))).sum())
    spread = 2.0 / (9.0 * (len(shown) - 1))
    return float(((chi_square / (len(shown) - 1)) ** (1 / 3) - (1.0 - spread)) / spread**0.5)
