# pyright: strict
"""The events of a judged day and of the days before it, counted for the alarms.

Not the alarms (alarms.py). Shapes: D days before, G categories, V catalogue, N events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

LATER: Final = np.iinfo(np.int64).max
"""Day of an item without events, or without a first day on sale."""

UNREAD: Final = 0.2
"""Share of unknown tokens in a text above which the encoder cannot read it."""

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Days:
    """The events of a judged day and of the days with events before it, in rising order.

    Names without a D, except `items_V`, are of the judged day.

    Attributes:
        events_D: events of each day before.
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


@dataclass(frozen=True)
class Texts:
    """Texts of some items as the encoder reads them.

    An item is unread with a larger share of unknown tokens than UNREAD.
    """

    num_items: int
    num_unread: int
    num_tokens: int
    num_unknown: int


def count_new_texts(
    day_N: Integers,
    item_N: Integers,
    sold_from_V: Integers,
    tokens_2V: Integers,
    judged: int,
    num_days: int,
) -> tuple[Texts, Texts]:
    """Count the texts of the items that are new on a day, and on the days before.

    An item is new on its first day on sale if that is known, else on the day of its first event.

    Args:
        day_N: day of each event, as a number of days.
        item_N: item_index of each event.
        sold_from_V: first day on sale; LATER = unknown.
        tokens_2V: unknown tokens, and all tokens, of each item's text.
        judged: the day to be judged.
        num_days: calendar days before it that it is compared with.
    """
    first_V = np.full(len(sold_from_V), LATER, np.int64)
    np.minimum.at(first_V, item_N, day_N)
    new_V = np.where(sold_from_V == LATER, first_V, sold_from_V)
    is_before_V = (new_V >= judged - num_days) & (new_V < judged)
    return _texts(tokens_2V[:, new_V == judged]), _texts(tokens_2V[:, is_before_V])


def _texts(tokens_2V: Integers) -> Texts:
    unknown_V, all_V = tokens_2V
    num_unread = int((unknown_V > UNREAD * all_V).sum())
    return Texts(len(all_V), num_unread, int(all_V.sum()), int(unknown_V.sum()))


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
