# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""The rows of a click log, judged one by one: an event, a row that a rule leaves out, or broken.

Not the reading of files (readers.py) nor the shuffle by user (staging.py). A row that cannot be
used goes to the quarantine with its reason. No row is lost: what is read is kept, dropped by a
named rule or quarantined, and `RowCounts.check` asserts the sum. N is the rows of a batch.
"""

from __future__ import annotations

import collections
import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdiv_core.config import Config
from recdiv_core.data.audit import traces
from recdiv_core.errors import INIT_MENDS, UserError
from recdiv_core.formats import readers, timestamps, values
from recdiv_core.formats.files import SourceFile, TextFormat
from recdiv_core.formats.values import as_mask
from recdiv_core.schema import (
    CLICK_LOG_REQUIRED,
    EVENT,
    EVENTS,
    ITEM_ID,
    QUERY,
    TIMESTAMP,
    USER_ID,
)

logger = logging.getLogger(__name__)

READ: Final = (USER_ID, ITEM_ID, TIMESTAMP, EVENT, QUERY, "session_id", "position", "rating")
"""Columns of the log that are read: those the examples are made of, and one that is audited."""
A_DAY_US: Final = 86_400_000_000
STAGED: Final = pa.schema(
    [
        pa.field("shard", pa.int32()),
        pa.field("user_hash", pa.int64()),
        pa.field(USER_ID, pa.string()),
        pa.field("item", pa.int32()),
        pa.field(TIMESTAMP, pa.int64()),
        pa.field(EVENT, pa.int8()),
        pa.field(QUERY, pa.string()),
        pa.field("session_id", pa.string()),
        pa.field(readers.ROW, pa.int64()),
    ]
)
"""A judged event on its way through the shuffle; `event` = place in EVENTS, -1 = none given."""

NO_ITEM: Final = "item not in the catalogue"
UNKNOWN_EVENT: Final = "unknown event"
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
"""Reasons for which a row is quarantined, in the order in which they are looked for."""
DROPPED: Final = (
    "",
    "search without a result",
    "kind of event that data.event_names drops",
    "kind of event not in data.events",
    "rating below data.min_rating",
)
"""Rules by which a sound row is left out."""
COLUMN_OF: Final[Mapping[str, str]] = {
    **dict.fromkeys((*timestamps.FAULTS[1:], "negative time", "time in the future"), TIMESTAMP),
    UNKNOWN_EVENT: EVENT,
    NO_ITEM: ITEM_ID,
}
"""Reason -> the column whose value a message shows."""
LOOK_AT: Final[Mapping[str, str]] = {
    NO_ITEM: "data.items",
    "missing item_id": "data.columns.item_id",
    "missing user_id": "data.columns.user_id",
    "timestamp does not parse": "data.timestamp_format",
    UNKNOWN_EVENT: "data.event_names",
}


@dataclass(frozen=True)
class ClickLog:
    """What is known of a click log before Ray starts.

    Attributes:
        units: its parts.
        columns: our name -> name in the files, of the columns that are there.
        times: how its timestamps are written.
        latest: the latest time that is believed, in microseconds: a day after the log was opened.
    """

    units: tuple[readers.ReadUnit, ...]
    columns: dict[str, str]
    times: timestamps.TimeFormat
    latest: int

    @property
    def has_timestamps(self) -> bool:
        """False for a log that has an order only."""
        return self.times.unit != "order"


@dataclass
class RowCounts:
    """How many rows were read and what became of them; adds up over read units.

    Attributes:
        num_rows: rows read: `kept`, `dropped` and `rejected` together.
        lines: physical lines of the files, by what they are: `read` in all; of them `header`,
            `blank` or `continued` (further lines of a row); less the rows that were `made` out of
            others, the rest are rows.
        kept: events that go on.
        dropped: sound rows that a rule leaves out, by the rule.
        rejected: quarantined rows, by reason.
        examples: reason -> the place and the value of one row.
        words: words for kinds of event that are not known, with their rows.
        coerced: values that were read in another way than they are written, by the change.
    """

    num_rows: int = 0
    lines: collections.Counter[str] = field(default_factory=collections.Counter)
    kept: int = 0
    dropped: collections.Counter[str] = field(default_factory=collections.Counter)
    rejected: collections.Counter[str] = field(default_factory=collections.Counter)
    examples: dict[str, str] = field(default_factory=dict)
    words: collections.Counter[str] = field(default_factory=collections.Counter)
    coerced: collections.Counter[str] = field(default_factory=collections.Counter)

    def add(self, other: RowCounts) -> None:
        """Add the counts of another part of the input."""
        self.num_rows += other.num_rows
        self.kept += other.kept
        for name in COUNTERS:
            getattr(self, name).update(getattr(other, name))
        for reason, text in other.examples.items():
            self.examples.setdefault(reason, text)

    def check(self) -> None:
        """Assert that no line was lost: each is a row that is kept, dropped or quarantined."""
        found = self.kept + self.dropped.total() + self.rejected.total()
        assert self.num_rows == found, f"{self.num_rows} rows read, {found} accounted for"
        lines = self.lines.copy()
        num_rows = lines.pop("read", 0) + lines.pop("made", 0) - lines.total()
        assert num_rows in (0, found), f"{num_rows} lines are rows, {found} accounted for"

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> RowCounts:
        """Make counts of what `vars` of them says in JSON."""
        counters: dict[str, Any] = {name: collections.Counter(tree[name]) for name in COUNTERS}
        return cls(**{**tree, **counters})


COUNTERS: Final = ("lines", "dropped", "rejected", "words", "coerced")


def log_text(config: Config) -> TextFormat:
    """Return how the click log's text files are written."""
    data = config.data
    return TextFormat(data.separator, data.header, data.encoding)


def open_log(files: Sequence[SourceFile], item_ids: pa.Array, config: Config) -> ClickLog:
    """Look at the files' columns and a sample of their rows; start nothing.

    Raises:
        UserError: missing column, no rows, timestamps that do not parse, or a sample of which most
            rows would be rejected.
    """
    names = config.data.columns.model_dump()
    text = log_text(config)
    columns = readers.find_columns(
        files, {name: names[name] for name in READ}, CLICK_LOG_REQUIRED, "data.clicks", text
    )
    units = tuple(readers.cut_units(files, "data.clicks", text))
    sample = readers.read_sample(units, columns)
    tables = [batch.table for batch in sample if TIMESTAMP in batch.table.column_names]
    if not any(table.num_rows for table in tables):
        raise UserError(f"data.clicks={config.data.clicks} holds no rows")
    times = timestamps.detect_times(
        _sample_of_times(tables, config), columns[TIMESTAMP], config.data.timestamp_format
    )
    log = ClickLog(units, columns, times, int(time.time() * 1e6) + A_DAY_US)
    counts = RowCounts()
    for batch in sample:
        counts.add(judge_rows(batch, log, item_ids, config)[2])
    logger.info("data.clicks: times are %s", times)
    check_rejected(counts, max(0.5, config.data.max_quarantined), config, "data.clicks (a sample)")
    return log


def _sample_of_times(tables: Sequence[pa.Table], config: Config) -> pa.Array:
    columns = [table[TIMESTAMP].combine_chunks() for table in tables]
    if pa.types.is_temporal(columns[0].type):
        return columns[0]
    texts = pa.concat_arrays([values.as_text(column) for column in columns])
    return values.drop_null_words(texts, config.data.null_words)


# --------------------------------------------------------------------------- rows


def judge_rows(
    batch: readers.RawBatch, log: ClickLog, item_ids: pa.Array, config: Config
) -> tuple[pa.Table, pa.Table, RowCounts, traces.Sightings]:
    """Part a batch into STAGED events and QUARANTINE rows; the sound rows are sightings besides.

    Args:
        batch: rows as read.
        log: the log they are from.
        item_ids: [V] string; the place is the item_index.
        config: for the kinds of event that count and the number of shards.
    """
    row = _read_values(batch.table, log, item_ids, config)
    faults_N = _find_reasons(row, log)
    # of a kind that data.event_names drops nothing is asked, not even an item
    reasons_N = np.where(row.events_N == LEFT_OUT, 0, faults_N)
    rules_N = np.where(reasons_N == 0, _find_rules(row, config), 0)
    is_search_N = row.is_search_N & (reasons_N == REJECTED.index("missing item_id"))
    reasons_N = np.where(is_search_N, 0, reasons_N)
    rules_N = np.where(is_search_N, DROPPED.index("search without a result"), rules_N)
    is_sound_N = (faults_N == 0) & ~is_search_N
    is_kept_N = is_sound_N & (rules_N == 0)
    hashes = hash_users(row.user_ids)
    columns = [
        pa.array((hashes % config.data.num_shards).astype(np.int32)),
        pa.array(hashes),
        row.user_ids,
        pa.array(row.items_N, pa.int32()),
        pa.array(row.times_N),
        pa.array(row.events_N),
        row.queries,
        row.sessions,
        _column(batch.table, readers.ROW),
    ]
    events_table = pa.table(columns, schema=STAGED).filter(pa.array(is_kept_N))
    rejected, examples = _quarantine_rows(batch, reasons_N)
    is_unknown_N = reasons_N == REJECTED.index(UNKNOWN_EVENT)
    counts = RowCounts(
        num_rows=batch.table.num_rows + len(batch.broken),
        lines=count_lines(batch),
        kept=events_table.num_rows,
        dropped=_count(rules_N, DROPPED),
        rejected=collections.Counter(rejected["reason"].to_pylist()),
        examples=examples,
        words=_count_words(row.words.filter(pa.array(is_unknown_N))),
        coerced=row.coerced
        + collections.Counter(
            {
                "quotation mark that is never closed, read as text": batch.num_stray_quotes,
                "text that is no Unicode, repaired": batch.num_repaired,
            }
        ),
    )
    counts.check()
    positions_N = traces.clean_positions(_numbers(_column(batch.table, "position")))
    columns_N = (row.items_N, row.times_N, row.events_N, positions_N)
    seen = traces.Sightings(*(column[is_sound_N] for column in columns_N))
    return events_table, rejected, counts, seen


def count_lines(batch: readers.RawBatch) -> collections.Counter[str]:
    """Return a batch's physical lines by what they are; see RowCounts."""
    names = ("header", "blank", "continued", "made")
    lines = {name: getattr(batch, f"num_{name}") for name in names} | {"read": batch.num_lines}
    return collections.Counter({name: number for name, number in lines.items() if number})


@dataclass(frozen=True)
class _Values:
    """The columns of N rows as values; -1 = none."""

    user_ids: pa.Array
    items_N: Any
    is_item_given_N: Any
    times_N: Any
    time_faults_N: Any
    is_time_given_N: Any
    events_N: Any
    """Place in EVENTS, -1 = none given, UNKNOWN or LEFT_OUT."""
    words: pa.Array
    """The log's words for the kinds of event."""
    ratings_N: Any
    queries: pa.Array
    sessions: pa.Array
    coerced: collections.Counter[str]

    @property
    def is_search_N(self) -> Any:
        """A request that shows no click on anything."""
        clicks = [EVENTS.index(kind) for kind in EVENTS if kind != "impression"]
        return as_mask(self.queries.is_valid()) & ~np.isin(self.events_N, clicks)


UNKNOWN: Final = -2
LEFT_OUT: Final = -3


def _read_values(table: pa.Table, log: ClickLog, item_ids: pa.Array, config: Config) -> _Values:
    words = config.data.null_words
    users, coerced = values.clean_ids(_column(table, USER_ID), words)
    items, coerced_items = values.clean_ids(_column(table, ITEM_ID), words)
    text = {
        name: values.drop_null_words(values.as_text(_column(table, name)), words)
        for name in (EVENT, QUERY, "session_id")
    }
    moments = _column(table, TIMESTAMP)
    if not pa.types.is_temporal(moments.type):
        moments = values.drop_null_words(values.as_text(moments), words)
    times_N, time_faults_N = timestamps.parse_times(moments, log.times)
    return _Values(
        user_ids=users,
        items_N=pc.index_in(items, item_ids).fill_null(-1).to_numpy(),
        is_item_given_N=as_mask(items.is_valid()),
        times_N=times_N,
        time_faults_N=time_faults_N,
        is_time_given_N=as_mask(moments.is_valid()),
        events_N=_read_events(text[EVENT], log, config),
        words=text[EVENT],
        ratings_N=_numbers(_column(table, "rating")),
        queries=values.normalise_queries(text[QUERY]),
        sessions=text["session_id"],
        coerced=coerced + coerced_items,
    )


def _read_events(words: pa.Array, log: ClickLog, config: Config) -> Any:
    """Return [N] int8: the place of each kind of event in EVENTS, or -1, UNKNOWN, LEFT_OUT."""
    if EVENT not in log.columns:
        return np.full(len(words), -1, dtype=np.int8)
    given = {word.casefold().strip(): kind for word, kind in config.data.event_names.items()}
    codes = {kind: place for place, kind in enumerate(EVENTS)} | {"drop": LEFT_OUT}
    coded = words.dictionary_encode()
    spelt = [str(word).casefold().strip() for word in coded.dictionary.to_pylist()]
    found = [codes.get(str(given.get(word, word)), UNKNOWN) for word in spelt]
    return np.array([*found, UNKNOWN], np.int8)[coded.indices.fill_null(-1).to_numpy()]


def _find_reasons(row: _Values, log: ClickLog) -> Any:
    """Return [N] int8 places in REJECTED: the first thing that is wrong with a row; 0 = none."""
    checks = (
        ~as_mask(row.user_ids.is_valid()),
        ~row.is_item_given_N,
        ~row.is_time_given_N,
        *(row.time_faults_N == code for code in range(1, len(timestamps.FAULTS))),
        row.times_N < 0,
        (row.times_N > log.latest) & log.has_timestamps,
        row.events_N == UNKNOWN,
        row.items_N < 0,
    )
    return np.select(checks, range(1, len(REJECTED)), 0).astype(np.int8)


def _find_rules(row: _Values, config: Config) -> Any:
    """Return [N] int8 places in DROPPED: the rule that leaves out a sound row; 0 = none."""
    wanted = [-1, *(EVENTS.index(kind) for kind in config.data.events)]
    least = config.data.min_rating
    checks = (
        np.zeros(len(row.items_N), dtype=bool),  # searches are told by the missing item
        row.events_N == LEFT_OUT,
        ~np.isin(row.events_N, wanted),
        (row.ratings_N < least) if least else np.zeros(len(row.items_N), dtype=bool),
    )
    return np.select(checks, range(1, len(DROPPED)), 0).astype(np.int8)


def _count(codes_N: Any, names: Sequence[str]) -> collections.Counter[str]:
    counts = np.bincount(codes_N, minlength=len(names)).tolist()
    return collections.Counter({n: c for n, c in zip(names[1:], counts[1:], strict=True) if c})


def _count_words(words: pa.Array) -> collections.Counter[str]:
    counted = words.fill_null("(none)").value_counts().to_pylist()
    return collections.Counter({row["values"][:100]: row["counts"] for row in counted})


def _numbers(array: pa.Array) -> Any:
    return values.as_numbers(array).to_numpy(zero_copy_only=False)


def _column(table: pa.Table, name: str) -> pa.Array:
    if name not in table.column_names:
        return pa.nulls(table.num_rows)
    column = table[name].combine_chunks()
    return column if isinstance(column, pa.Array) else pa.array([], column.type)


def _quarantine_rows(batch: readers.RawBatch, reasons_N: Any) -> tuple[pa.Table, dict[str, str]]:
    """Return the rejected rows, and of each reason where one stands and what it says there."""
    bad = np.flatnonzero(reasons_N)
    rows = batch.table.take(pa.array(bad)).to_pylist()
    names = [REJECTED[reasons_N[i]] for i in bad]
    places = [row.pop(readers.ROW) for row in rows]
    examples = {reason: f"row {place % readers.FILE_STRIDE}" for place, _, reason in batch.broken}
    for reason, place, row in zip(names[::-1], places[::-1], rows[::-1], strict=True):
        value = f": {str(row.get(COLUMN_OF[reason]))[:60]!r}" if reason in COLUMN_OF else ""
        examples[reason] = f"row {place % readers.FILE_STRIDE}{value}"
    table = make_quarantine(
        [
            *zip(names, places, rows, strict=True),
            *((reason, place, text) for place, text, reason in batch.broken),
        ]
    )
    return table, examples


def make_quarantine(rows: Sequence[tuple[str, int, Any]]) -> pa.Table:
    """Make a table of rejected rows from (reason, place in the input, row)."""
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
    """Write rejected rows, with the file that they came from; nothing when there are none."""
    if table.num_rows:
        table = table.append_column("source", pa.array([source] * table.num_rows, pa.string()))
        pq.write_table(table, path)


def hash_users(user_ids: pa.Array) -> Any:
    """Return [N] int64 >= 0, the same for the same id in every process and on every day."""
    encoded = user_ids.dictionary_encode()
    hashes = [
        int.from_bytes(hashlib.blake2b(user.encode(), digest_size=8).digest(), "big") >> 1
        for user in encoded.dictionary.to_pylist()
    ]
    return np.array([*hashes, 0], dtype=np.int64)[encoded.indices.fill_null(-1).to_numpy()]


def check_rejected(counts: RowCounts, limit: float, config: Config, source: str) -> None:
    """Stop when too large a share of the rows was rejected.

    Raises:
        UserError: with the counts, the commonest reasons, an example and the key to look at.
    """
    num_rejected = counts.rejected.total()
    if num_rejected <= limit * counts.num_rows:
        return
    commonest = counts.rejected.most_common(3)
    reasons = ", ".join(f"{reason}: {count}" for reason, count in commonest)
    reason = commonest[0][0]
    hint = f"look at {LOOK_AT.get(reason, source if reason not in COLUMN_OF else 'data.columns')}"
    if reason == UNKNOWN_EVENT:
        hint = _how_to_map(counts.words)
    raise UserError(
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
