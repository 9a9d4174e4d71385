# pyright: strict
"""Alarms: does the newest day of a log, or the newest set of slates, look like those before it?

Each signal is one number, compared with its usual value. It fires if it differs by more than a
limit, and by more than chance: SPREADS robust standard deviations of the days before. So a shop
with few events, whose days differ much, is judged more mildly than a large one.
report/monitoring.py reads the data. Shapes: D days before, G categories, V catalogue, N events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

DAY_US: Final = 86_400_000_000
SPREADS: Final = 6.0
"""Robust standard deviations of the days before within which a difference is chance."""
MAD_TO_SD: Final = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
FEWEST_DAYS: Final = 7
"""Fewest days with events before the judged one."""
EXPECTED: Final = 15.0
"""Fewest events that a category or an item must be expected to have on the judged day. Events of a
user come together, so with fewer there are quiet days without any."""
GONE: Final = 0.05
"""Share of the expected events below which a category or an item is gone."""
SHOWN_NAMES: Final = 5
"""Most names in a message."""

LIMITS: Final[Mapping[str, float]] = {
    "events": 2.0,
    "busiest_user": 3.0,
    "categories": 0.05,
    "gone_categories": 0.0,
    "gone_items": 0.0,
    "prices": 1.25,
    "top_items": 0.1,
    "narrowed": 0.05,
    "same_slates": 0.05,
    "coverage": 0.1,
    "top_shown": 0.05,
    "shown_categories": 0.05,
}
"""Signal -> largest difference that is no alarm. FACTORS are factors of the usual value,
`gone_categories` and `gone_items` numbers, `coverage` a relative loss, `categories` and
`shown_categories` Jensen-Shannon divergences in bits, all others differences of shares."""

FACTORS: Final = ("events", "busiest_user", "prices")
"""Signals whose limit is a factor, >= 1."""

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Signal:
    """A signal of the judged day.

    Attributes:
        name: key of LIMITS.
        value: of the judged day.
        usual: median of the days before, or the value of the slates before.
        limit: largest difference that is no alarm, as LIMITS or wider by chance.
        fired: whether the difference is larger.
        message: what happened, in words; empty = nothing.
    """

    name: str
    value: float
    usual: float
    limit: float
    fired: bool
    message: str

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Days:
    """The events of a judged day and of the days with events before it, in rising order.

    Attributes:
        events_D: events of each day before; `events` of the judged day.
        busiest_D: events of each day's most active user.
        categories_DG: events by category; an item with several categories counts a part in each.
        price_D: median log price of the events; NaN = no price is known.
        top_D: share of the events that the day's most chosen 1 % of its items have, in [0, 1].
        items_V: events of each item, mean of the days before.
        today_V: events of each item on the judged day.
    """

    events_D: Integers
    busiest_D: Integers
    categories_DG: Floats
    price_D: Floats
    top_D: Floats
    items_V: Floats
    today_V: Integers
    events: int
    busiest: int
    categories_G: Floats
    price: float
    top: float


def count_days(
    day_N: Integers,
    user_N: Integers,
    item_N: Integers,
    parts_VG: Floats,
    log_price_V: Floats,
    judged: int,
    num_days: int,
) -> Days:
    """Count the events of a day and of the days before it.

    Args:
        day_N: day of each event, as a number of days.
        user_N: user of each event, as a number.
        item_N: item_index of each event.
        parts_VG: share of each category in each item; rows sum to 1.
        log_price_V: log of each price; NaN = unknown.
        judged: the day to be judged.
        num_days: calendar days before it that it is compared with; days without events are left
            out.
    """
    is_near = (day_N >= judged - num_days) & (day_N <= judged)
    day_N, user_N, item_N = day_N[is_near], user_N[is_near], item_N[is_near]
    before = np.unique(day_N[day_N < judged])
    rows = [_of_day(user_N, item_N, day_N == day, parts_VG, log_price_V) for day in before]
    now = _of_day(user_N, item_N, day_N == judged, parts_VG, log_price_V)
    counts_V = np.bincount(item_N[day_N < judged], minlength=len(parts_VG))
    no_categories = np.zeros((0, parts_VG.shape[1]))
    return Days(
        events_D=np.array([row[0] for row in rows], np.int64),
        busiest_D=np.array([row[1] for row in rows], np.int64),
        categories_DG=np.stack([row[2] for row in rows]) if rows else no_categories,
        price_D=np.array([row[3] for row in rows], np.float64),
        top_D=np.array([row[4] for row in rows], np.float64),
        items_V=counts_V / max(1, len(before)),
        today_V=np.bincount(item_N[day_N == judged], minlength=len(parts_VG)),
        events=now[0],
        busiest=now[1],
        categories_G=now[2],
        price=now[3],
        top=now[4],
    )


def _of_day(
    user_N: Integers,
    item_N: Integers,
    is_own_N: npt.NDArray[np.bool_],
    parts_VG: Floats,
    log_price_V: Floats,
) -> tuple[int, int, Floats, float, float]:
    users, items = user_N[is_own_N], item_N[is_own_N]
    prices = log_price_V[items]
    known = prices[~np.isnan(prices)]
    counts_V = np.bincount(items, minlength=len(parts_VG))
    return (
        len(items),
        int(np.bincount(users).max(initial=0)),
        counts_V @ parts_VG,
        float(np.median(known)) if len(known) else float("nan"),
        top_share(counts_V),
    )


def top_share(counts_V: Integers) -> float:
    """Return the share of all counts that the largest 1 % of the counts above 0 have, at least one.

    >>> round(top_share(np.array([6, 1, 1, 0])), 2)
    0.75
    """
    some = np.sort(counts_V[counts_V > 0])[::-1]
    return float(some[: max(1, len(some) // 100)].sum() / max(1, some.sum()))


def divergence(p_G: Floats, q_G: Floats) -> float:
    """Return the Jensen-Shannon divergence of two distributions in bits, in [0, 1].

    Both are given as weights >= 0. Lin, 1991, Divergence Measures Based on the Shannon Entropy.
    """
    if not p_G.sum() or not q_G.sum():
        return 0.0
    p_G, q_G = p_G / p_G.sum(), q_G / q_G.sum()
    middle_G = (p_G + q_G) / 2

    def bits(of_G: Floats) -> float:
        some = of_G > 0
        return float((of_G[some] * np.log2(of_G[some] / middle_G[some])).sum())

    return max(0.0, (bits(p_G) + bits(q_G)) / 2)


def judge_day(
    days: Days,
    names: Sequence[str],
    item_names: Sequence[str],
    limits: Mapping[str, float] = LIMITS,
) -> list[Signal]:
    """Return the signals of a day of the log; none with fewer than FEWEST_DAYS days before.

    Args:
        days: see `count_days`.
        names: of the categories.
        item_names: names of the items, for messages.
        limits: see LIMITS.
    """
    if len(days.events_D) < FEWEST_DAYS:
        return []
    usual_G = days.categories_DG.mean(axis=0)
    of_days = [divergence(own_G, usual_G) for own_G in days.categories_DG]
    found = [
        _factor("events", days.events, days.events_D, limits, "{:.0f} events"),
        _factor(
            "busiest_user",
            days.busiest,
            days.busiest_D,
            limits,
            "{:.0f} events of one user",
            only_more=True,
        ),
        _more(
            "categories",
            divergence(days.categories_G, usual_G),
            np.array(of_days),
            limits,
            "the mix of categories differs: " + _movers(days.categories_G, usual_G, names),
        ),
        _gone("gone_categories", days.categories_G, days.categories_DG, names, limits),
        _gone_items(days, item_names, limits),
        _more(
            "top_items",
            days.top,
            days.top_D,
            limits,
            "the day's 1 % most chosen items have {value:.0%} of the events",
        ),
    ]
    if not np.isnan(days.price) and not np.isnan(days.price_D).all():
        prices_D = np.exp(days.price_D[~np.isnan(days.price_D)])
        price = float(np.exp(days.price))
        found.append(_factor("prices", price, prices_D, limits, "a median price of {:.2f}"))
    return found


def judge_slates(
    now: Mapping[str, float],
    before: Mapping[str, float],
    shown_G: Floats,
    shown_before_G: Floats,
    names: Sequence[str],
    limits: Mapping[str, float] = LIMITS,
) -> list[Signal]:
    """Return the signals of new slates against those before.

    Args:
        now: `narrowed`, `same_slates`, `coverage` and `top_shown`, each in [0, 1].
        before: the same of the slates before.
        shown_G: places of each category.
        shown_before_G: places of each category in the slates before.
        names: of the categories.
        limits: see LIMITS.
    """
    said = {
        "narrowed": "{value:.0%} of the users see fewer categories than they chose themselves",
        "same_slates": "{value:.0%} of the users have the slate of another user",
        "top_shown": "the 1 % most shown items take {value:.0%} of the places",
    }
    found: list[Signal] = []
    for name, words in said.items():
        fired = now[name] - before[name] > limits[name]
        message = words.format(value=now[name]) + f", {before[name]:.0%} before"
        found.append(_signal(name, now[name], before[name], limits[name], fired, message))
    lost = 1 - now["coverage"] / before["coverage"] if before["coverage"] else 0.0
    message = f"slates show {now['coverage']:.0%} of the items, {before['coverage']:.0%} before"
    fired = lost > limits["coverage"]
    covered = now["coverage"], before["coverage"], limits["coverage"]
    found.append(_signal("coverage", *covered, fired, message))
    moved, limit = divergence(shown_G, shown_before_G), limits["shown_categories"]
    message = "slates show another mix of categories: " + _movers(shown_G, shown_before_G, names)
    found.append(_signal("shown_categories", moved, 0.0, limit, moved > limit, message))
    return found


def _signal(
    name: str, value: float, usual: float, limit: float, fired: bool, message: str
) -> Signal:
    return Signal(
        name, float(value), float(usual), float(limit), bool(fired), message if fired else ""
    )


def _spread(values_D: Floats) -> float:
    """Return SPREADS robust standard deviations."""
    return SPREADS * MAD_TO_SD * float(np.median(np.abs(values_D - np.median(values_D))))


def _factor(
    name: str,
    value: float,
    before_D: npt.NDArray[Any],
    limits: Mapping[str, float],
    words: str,
    *,
    only_more: bool = False,
) -> Signal:
    """Judge a number by its factor to the usual one."""
    logs_D = np.log(np.maximum(before_D.astype(np.float64), 0.5))
    usual = float(np.exp(np.median(logs_D)))
    distance = float(np.log(max(value, 0.5)) - np.median(logs_D))
    limit = float(np.exp(max(np.log(limits[name]), _spread(logs_D))))
    fired = (distance if only_more else abs(distance)) > np.log(limit)
    message = f"{words.format(value)}, usually {usual:.4g}"
    return _signal(name, value, usual, limit, fired, message)


def _more(
    name: str, value: float, before_D: Floats, limits: Mapping[str, float], words: str
) -> Signal:
    """Judge a number that is an alarm where it is larger than usual."""
    usual = float(np.median(before_D))
    limit = max(limits[name], _spread(before_D))
    message = words.format(value=value) + f" (usually {usual:.2g}, today {value:.2g})"
    return _signal(name, value, usual, limit, value - usual > limit, message)


def _movers(now_G: Floats, usual_G: Floats, names: Sequence[str]) -> str:
    """Name the categories whose shares moved most, with both shares."""
    shares_G = now_G / max(1e-12, now_G.sum())
    before_G = usual_G / max(1e-12, usual_G.sum())
    order = np.argsort(-np.abs(shares_G - before_G), kind="stable")[:3]
    return ", ".join(f"{names[g]} {shares_G[g]:.1%} (was {before_G[g]:.1%})" for g in order)


def _gone(
    name: str,
    now_G: Floats,
    before_DG: Floats,
    names: Sequence[str],
    limits: Mapping[str, float],
) -> Signal:
    """Count the categories with less than GONE of the events that they should have today."""
    share_G = before_DG.sum(axis=0) / max(1e-12, before_DG.sum())
    expected_G = share_G * now_G.sum()
    gone = np.flatnonzero((expected_G >= EXPECTED) & (now_G < GONE * expected_G))
    listed = ", ".join(
        f"{names[g]} ({now_G[g]:.0f} of {expected_G[g]:.0f} expected events)"
        for g in gone[:SHOWN_NAMES]
    )
    more = f" and {len(gone) - SHOWN_NAMES} more" if len(gone) > SHOWN_NAMES else ""
    return _signal(
        name, len(gone), 0, limits[name], len(gone) > limits[name], f"gone: {listed}{more}"
    )


def _gone_items(days: Days, item_names: Sequence[str], limits: Mapping[str, float]) -> Signal:
    """Count the items with less than GONE of their usual events."""
    before_1V = days.items_V[None]
    today_V = days.today_V.astype(np.float64)
    return _gone("gone_items", today_V, before_1V, item_names, limits)
