"""Guess the roles of columns without a name, or with a name that we do not know, from their values.

guess.py goes by names first. Values tell the time, the kind of event, and the item if a catalogue
lists it. What is left goes by position, and look.py asks about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import pyarrow as pa

from recdiv_core.adapters.guess import (
    Column,
    Guess,
    is_number,
    share_found,
    share_like,
    share_of_kinds,
    time_share,
)
from recdiv_core.formats.values import as_prices
from recdiv_core.wording import counted

BY_PLACE: Final = "by its position"
"""Evidence of a guess that becomes a question."""
BY_MONEY: Final = "amounts of money, e.g. "
BY_TEXT: Final = "text, e.g. "
"""Start of the evidence of a guess by the text of a column."""
IDS: Final = ("user_id", "item_id")


def guess_log(
    columns: Sequence[Column], items: Sequence[pa.Array], known: Mapping[str, Guess] | None = None
) -> dict[str, Guess]:
    """Guess the roles of the columns of a log; empty = it is no log.

    Args:
        columns: columns of the log.
        items: values of columns of other files that may hold item ids.
        known: roles that the names tell.
    """
    found = dict(known or {})
    if "timestamp" not in found:
        times = [(time_share(column)[0], column) for column in _left(columns, found)]
        share, time = max(times, key=lambda pair: pair[0], default=(0.0, None))
        if time is None or share < 0.5:
            return {}
        found["timestamp"] = Guess(time.name, f"{share:.0%} of the values are times", 3.0)
    for column in _left(columns, found):
        words = column.values.drop_null()
        if len(words) and share_of_kinds(words) > 0.5 and "event" not in found:
            found["event"] = Guess(column.name, counted(column.num_distinct, "word"), 3.0)
    missing = [role for role in IDS if role not in found]
    rest = [column for column in _left(columns, found) if column.num_distinct > 1]
    marks = [
        c for c in rest if "rating" not in found and _is_rating(c) and len(rest) > len(missing)
    ]
    if marks:
        found["rating"] = Guess(marks[-1].name, f"{marks[-1].num_distinct} small numbers", 2.0)
        rest = [column for column in rest if column is not marks[-1]]
    if len(rest) < len(missing):
        return {}
    is_sure = False
    if "item_id" in missing:
        shares = [max((share_found(c.values, ids)[0] for ids in items), default=0.0) for c in rest]
        best, second = max(shares), min(1, len(missing) - 1)
        is_second = best < 0.5 or shares[second] > best - 0.05
        item = rest[second] if is_second else rest[shares.index(best)]
        others = [share for share, column in zip(shares, rest, strict=True) if column is not item]
        is_sure = best > 0.5 and max(others, default=0.0) < best - 0.3
        how = "most of its values are in the catalogue" if best > 0.5 else BY_PLACE
        found["item_id"] = Guess(item.name, how, 1.0)
        rest = [column for column in rest if column is not item]
    if "user_id" in missing:
        how = "the first other column" if is_sure else BY_PLACE
        found["user_id"] = Guess(rest[0].name, how, 1.0)
    return found


def guess_items(
    columns: Sequence[Column], known: Mapping[str, Guess] | None = None
) -> dict[str, Guess]:
    """Guess the roles of the columns of a catalogue: a unique id, a title, a category, a price.

    The title is the first text with more than half as many values as there are items, else the
    first text.
    """
    found = dict(known or {})
    if "item_id" not in found:
        ids = [c for c in _left(columns, found) if c.num_distinct == len(c.values) > 0]
        if not ids:
            return {}
        found["item_id"] = Guess(ids[0].name, "no value repeats", 2.0)
    texts = [
        column
        for column in _left(columns, found)
        if share_like(column.values, r"\p{L}") > 0.8 and not _is_money(column)
    ]
    if "title" not in found and texts:
        title = next((c for c in texts if c.num_distinct > 0.5 * len(c.values)), texts[0])
        found["title"] = _by_text(title, 2.0)
        texts = [column for column in texts if column is not title]
    for column in texts[:1] if "category" not in found else ():
        if share_like(column.values, r"[|>]") > 0.3 or column.num_distinct < len(column.values):
            found["category"] = _by_text(column, 1.0)
    for column in _left(columns, found) if "price" not in found else ():
        if _is_money(column):
            found["price"] = Guess(column.name, f"{BY_MONEY}{column.first(1)[0]!r}", 1.0)
            break
    return found if "title" in found else {}


def _by_text(column: Column, score: float) -> Guess:
    return Guess(column.name, f"{BY_TEXT}{column.first(1)[0]!r}"[:80], score)


def _left(columns: Sequence[Column], found: Mapping[str, Guess]) -> list[Column]:
    """Return the columns without a role."""
    taken = {guessed.column for guessed in found.values()}
    return [column for column in columns if column.name not in taken]


def _is_money(column: Column) -> bool:
    """Return whether most values are prices with a currency."""
    values = column.values.drop_null()
    num_prices = len(values) - as_prices(values).null_count
    return num_prices > 0.5 * len(values) and share_like(values, r"\p{Sc}|\b[A-Z]{3}\b") > 0.5


def _is_rating(column: Column) -> bool:
    values = [float(text) for text in column.first(12) if is_number(text)]
    return column.num_distinct <= 11 and len(values) == column.num_distinct and max(values) <= 10
