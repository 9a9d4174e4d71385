"""What becomes of the rows of a click log: the reasons, the counts, and the quarantine.

A row is kept, dropped by a named rule, or quarantined with a reason. events.py decides which;
this module names the outcomes, adds their counts over read units, and stops a run with too many
rejected rows. items.py rejects rows of a catalogue in the same way.
"""

from __future__ import annotations

import collections
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from recdiv_core.config import Config
from recdiv_core.errors import INIT_MENDS, UserError
from recdiv_core.formats import readers, timestamps
from recdiv_core.schema import (
    EVENT,
    EVENTS,
    ITEM_ID,
    TIMESTAMP,
)

logger = logging.getLogger(__name__)

NO_ITEM: Final = "item not in the catalogue"
UNKNOWN_EVENT: Final = "unknown event"
SAME_ID: Final = "duplicate item_id"
"""Start of the reasons to quarantine a further catalogue row of an item, such as one per size."""
REJECTED: Final = (
    "",
    "missing user_id",
    "missing item_id",
    "missing timestamp",
    *timestamps.FAULTS[1:],
    "negative time",
    "time in the future",
    UNKNOWN_EVENT,
    NO_ITEM,
)
"""Reasons to quarantine a row, in the order of the checks."""
LEFT_OUT_KIND: Final = "kind of event that data.event_names drops"
SHOWN_KINDS: Final = 5
"""Kinds of LEFT_OUT_KIND that the log names, those with most rows."""
DROPPED: Final = (
    "",
    "search without a result",
    LEFT_OUT_KIND,
    "kind of event not in data.events",
    "rating below data.min_rating",
)
"""Rules that drop a valid row."""
COLUMN_OF: Final[Mapping[str, str]] = {
    **dict.fromkeys((*timestamps.FAULTS[1:], "negative time", "time in the future"), TIMESTAMP),
    UNKNOWN_EVENT: EVENT,
    NO_ITEM: ITEM_ID,
}
"""Reason -> column whose value a message shows."""
LOOK_AT: Final[Mapping[str, str]] = {
    NO_ITEM: "data.items",
    "missing item_id": "data.columns.item_id",
    "missing user_id": "data.columns.user_id",
    "timestamp does not parse": "data.timestamp_format",
    UNKNOWN_EVENT: "data.event_names",
}
"""Reason -> setting to look at."""


@dataclass
class RowCounts:
    """Counts of rows by outcome; the counts of read units add.

    Attributes:
        num_rows: Rows read: `kept`, `dropped` and `rejected` together.
        lines: Physical lines of the files by kind: `read` in total, of which `header`, `blank` or
            `continued` (further lines of a row); `made` counts rows that one line gave in addition.
        kept: Rows that became events.
        dropped: Valid rows that a rule dropped, by rule.
        rejected: Quarantined rows, by reason.
        examples: Reason -> row number and value of one row.
        words: Rows of each unknown kind of event.
        left_out: Rows of each kind of event that `data.event_names` drops.
        coerced: Values that were changed when read, by kind of change.
    """

    num_rows: int = 0
    lines: collections.Counter[str] = field(default_factory=collections.Counter)
    kept: int = 0
    dropped: collections.Counter[str] = field(default_factory=collections.Counter)
    rejected: collections.Counter[str] = field(default_factory=collections.Counter)
    examples: dict[str, str] = field(default_factory=dict)
    words: collections.Counter[str] = field(default_factory=collections.Counter)
    left_out: collections.Counter[str] = field(default_factory=collections.Counter)
    coerced: collections.Counter[str] = field(default_factory=collections.Counter)

    def add(self, other: RowCounts) -> None:
        """Add the counts of another read unit."""
        self.num_rows += other.num_rows
        self.kept += other.kept
        for name in COUNTERS:
            getattr(self, name).update(getattr(other, name))
        for reason, text in other.examples.items():
            self.examples.setdefault(reason, text)

    def check(self) -> None:
        """Assert that no row was lost: each is kept, dropped or quarantined."""
        found = self.kept + self.dropped.total() + self.rejected.total()
        assert self.num_rows == found, f"{self.num_rows} rows read, {found} accounted for"
        lines = self.lines.copy()
        num_rows = lines.pop("read", 0) + lines.pop("made", 0) - lines.total()
        assert num_rows in (0, found), f"{num_rows} lines are rows, {found} accounted for"

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> RowCounts:
        """Make counts from the JSON of their `vars`."""
        counters: dict[str, Any] = {name: collections.Counter(tree[name]) for name in COUNTERS}
        return cls(**{**tree, **counters})


COUNTERS: Final = ("lines", "dropped", "rejected", "words", "left_out", "coerced")


def log_left_out(
    rejected: Mapping[str, int], dropped: Mapping[str, int], kinds: collections.Counter[str]
) -> None:
    """Log how many rows became no event, by reason and by rule; nothing if there are none.

    `kinds` are the rows of each kind that `data.event_names` drops, see `RowCounts.left_out`.
    """
    listed = ", ".join(f"{word!r}: {number}" for word, number in kinds.most_common(SHOWN_KINDS))
    for outcome, counts in (("quarantined", rejected), ("skipped", dropped)):
        found = [
            f"{reason}: {number}{f' ({listed})' if reason == LEFT_OUT_KIND and listed else ''}"
            for reason, number in counts.items()
            if number
        ]
        if found:
            logger.info("rows %s: %s", outcome, ", ".join(found))


def make_quarantine(rows: Sequence[tuple[str, int, Any]]) -> pa.Table:
    """Make a table of rejected rows from (reason, number in the input, row)."""
    return pa.table(
        {
            "reason": pa.array([reason for reason, _, _ in rows], pa.string()),
            "row_number": pa.array(
                [place % readers.FILE_STRIDE for _, place, _ in rows], pa.int64()
            ),
            "row": pa.array(
                [json.dumps(row, ensure_ascii=False, default=str) for _, _, row in rows],
                pa.string(),
            ),
        }
    )


def write_quarantine(table: pa.Table, source: str, path: Path) -> None:
    """Write rejected rows and their source file; without rows, write nothing."""
    if table.num_rows:
        table = table.append_column("source", pa.array([source] * table.num_rows, pa.string()))
        pq.write_table(table, path)


def why_no_rows(given: str, broken: Sequence[tuple[int, str, str]]) -> str:
    """Return why files give no row: they have none, or each of their lines is broken.

    Args:
        given: the setting and its value.
        broken: (number of the line in the input, its text, reason), see `RawBatch`.

    >>> why_no_rows("data.clicks=log.csv", [])
    'data.clicks=log.csv holds no rows'
    """
    if not broken:
        return f"{given} holds no rows"
    place, line, reason = broken[0]
    return (
        f"{given}: no line is a row that can be read; e.g. line {place % readers.FILE_STRIDE}: "
        f"{reason}: {line[:100]!r}; {INIT_MENDS}"
    )


def check_rejected(counts: RowCounts, limit: float, config: Config, source: str) -> None:
    """Stop if the share of rejected rows exceeds a limit.

    Raises:
        UserError: see `say_rejected`.
    """
    if said := say_rejected(counts, limit, config, source):
        raise UserError(said)


def say_rejected(counts: RowCounts, limit: float, config: Config, source: str) -> str:
    """Name the counts, the most frequent reasons, an example and the key to check.

    The text is empty if the share of rejected rows is within the limit.
    """
    num_rejected = counts.rejected.total()
    if num_rejected <= limit * counts.num_rows:
        return ""
    commonest = counts.rejected.most_common(3)
    reasons = ", ".join(f"{reason}: {count}" for reason, count in commonest)
    reason = commonest[0][0]
    hint = f"look at {LOOK_AT.get(reason, source if reason not in COLUMN_OF else 'data.columns')}"
    if reason == UNKNOWN_EVENT:
        hint = _how_to_map(counts.words)
    if reason.startswith(SAME_ID):
        hint = f"give one row per item: the first row of an {ITEM_ID} counts"
    return (
        f"{source}: {num_rejected} of {counts.num_rows} rows cannot be used ({reasons}); e.g. "
        f"{counts.examples[reason]}; {hint}, or raise data.max_quarantined="
        f"{config.data.max_quarantined}{f'; {INIT_MENDS}' if reason in LOOK_AT else ''}"
    )


def _how_to_map(words: collections.Counter[str]) -> str:
    shown = ", ".join(f"{word!r}: {count}" for word, count in words.most_common(10))
    first = next((word for word, _ in words.most_common() if word != "(none)"), "view")
    return (
        f"found {shown}; known are {', '.join(EVENTS)}; map the others, e.g. "
        f"data.event_names.{first}=click, or =drop to leave them out"
    )
