# pyright: strict
"""Alarms: does the newest day of a log, or the newest set of slates, look like those before it?

Each signal is one number, compared with its usual value. It fires if it differs by more than a
limit, and by more than chance: SPREADS robust standard deviations of the days before. So a shop
with few events, whose days differ much, is judged more mildly than a large one.
days.py counts events, report/monitoring.py reads the data. Shapes: D days before, G categories, V
catalogue.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from recdiv_core.evaluation.days import Days, Floats, Texts

SPREADS: Final = 6.0
"""Robust standard deviations of the days before within which a difference is chance."""
MAD_TO_SD: Final = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
CHANCE: Final = 1e-4
"""Probability below which unread texts of new items are no chance: one day in 27 years."""
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
    "unknown_tokens": 0.1,
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


@dataclass(frozen=True)
class Signal:
    """A signal of the judged day.

    Attributes:
        usual: median of the days before, or the value of the slates before.
        limit: largest difference that is no alarm, as LIMITS or wider by chance.
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
    """Return the signals of a day of the log; none with fewer than FEWEST_DAYS days before."""
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


def judge_texts(new: Texts, before: Texts, limits: Mapping[str, float] = LIMITS) -> list[Signal]:
    """Return the signal of the texts of new items; none without a new item.

    An encoder reads an unknown token for each word whose characters it does not know. Few items are
    new on a day, so the number of unread ones must also be no chance: at the rate of the days
    before it is exceeded with a probability below CHANCE.
    """
    if not new.num_items:
        return []
    value, usual = (part.num_unknown / max(1, part.num_tokens) for part in (new, before))
    rate = (before.num_unread + 1) / (before.num_items + 2)
    is_chance = tail(new.num_unread, new.num_items, rate) >= CHANCE
    fired = value - usual > limits["unknown_tokens"] and not is_chance
    message = (
        f"the encoder does not know {value:.0%} of the tokens of {new.num_items} new items, "
        f"usually {usual:.0%}"
    )
    return [_signal("unknown_tokens", value, usual, limits["unknown_tokens"], fired, message)]


def tail(least: int, number: int, rate: float) -> float:
    """Return the probability of at least so many of a number of items, each with a rate.

    >>> tail(2, 2, 0.5)
    0.25
    """
    terms = (
        math.comb(number, each) * rate**each * (1 - rate) ** (number - each)
        for each in range(least)
    )
    return max(0.0, 1.0 - sum(terms))


def judge_slates(
    now: Mapping[str, float],
    before: Mapping[str, float],
    shown_G: Floats,
    shown_before_G: Floats,
    names: Sequence[str],
    limits: Mapping[str, float] = LIMITS,
) -> list[Signal]:
    """Return the signals of new slates against those before.

    `now` and `before` have `narrowed`, `same_slates`, `coverage` and `top_shown`, each in [0, 1].
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
