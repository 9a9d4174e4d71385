# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Classify the rows of a click log: an event, a row that a rule drops, or a broken row.

Files are read by formats/readers.py and shuffled by user in staging.py. A row that cannot be used
goes to the quarantine with its reason. No row is lost: each row is kept, dropped by a named rule or
quarantined, and `RowCounts.check` asserts the sum. A batch has N rows.
"""

from __future__ import annotations

import collections
import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdiv_core.config import Config
from recdiv_core.data.audit import traces
from recdiv_core.data.door import AS_GIVEN, FORGOTTEN, Door
from recdiv_core.data.outcomes import (
    COLUMN_OF,
    DROPPED,
    REJECTED,
    UNKNOWN_EVENT,
    RowCounts,
    check_rejected,
    make_quarantine,
    say_rejected,
    why_no_rows,
)
from recdiv_core.errors import UserError
from recdiv_core.formats import readers, timestamps, values
from recdiv_core.formats.files import SourceFile, TextFormat
from recdiv_core.formats.values import as_mask
from recdiv_core.schema import (
    CLICK_LOG_REQUIRED,
    DAY_US,
    EVENT,
    EVENTS,
    ITEM_ID,
    QUERY,
    TIMESTAMP,
    USER_ID,
)

logger = logging.getLogger(__name__)

READ: Final = (USER_ID, ITEM_ID, TIMESTAMP, EVENT, QUERY, "session_id", "position", "rating")
"""Columns of the log that are read; `position` serves the audit alone."""
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
"""An event in the shuffle by user; `event` = index in EVENTS, -1 = none given."""


@dataclass(frozen=True)
class ClickLog:
    """A click log as its files and a sample of its rows describe it, before Ray starts.

    Attributes:
        columns: Our name -> name in the files, for the columns that exist.
        latest: Latest accepted time in microseconds, a day after the log was opened.
        door: What happens to user ids before rows are classified.
    """

    units: tuple[readers.ReadUnit, ...]
    columns: dict[str, str]
    times: timestamps.TimeFormat
    latest: int
    door: Door = AS_GIVEN

    @property
    def has_timestamps(self) -> bool:
        """Whether the log has real times; False = order numbers only."""
        return self.times.unit != "order"


def log_text(config: Config) -> TextFormat:
    """Return the text format of the click log's files."""
    data = config.data
    return TextFormat(data.separator, data.header, data.encoding)


def open_log(
    files: Sequence[SourceFile], item_ids: pa.Array, config: Config, door: Door = AS_GIVEN
) -> ClickLog:
    """Check the columns of the files and a sample of their rows, without Ray.

    Raises:
        UserError: A column is missing, there are no rows, timestamps do not parse, or most rows of
            the sample would be rejected.
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
        broken = [line for batch in sample for line in batch.broken]
        raise UserError(why_no_rows(f"data.clicks={config.data.clicks}", broken))
    times = timestamps.detect_times(
        _sample_of_times(tables, config), columns[TIMESTAMP], config.data.timestamp_format
    )
    log = ClickLog(units, columns, times, latest_time(), door)
    counts = RowCounts()
    for batch in sample:
        counts.add(classify_rows(batch, log, item_ids, config)[2])
    logger.info("data.clicks: times are %s", times)
    limit, source = config.data.max_quarantined, "data.clicks (a sample)"
    check_rejected(counts, max(0.5, limit), config, source)
    if said := say_rejected(counts, limit, config, source):
        logger.warning("%s; `prepare` stops if all rows are like these", said)
    return log


def latest_time() -> int:
    """Return the latest time that is accepted now, in microseconds: a day ahead of the clock."""
    return int(time.time() * 1e6) + DAY_US


def _sample_of_times(tables: Sequence[pa.Table], config: Config) -> pa.Array:
    columns = [table[TIMESTAMP].combine_chunks() for table in tables]
    if pa.types.is_temporal(columns[0].type):
        return columns[0]
    texts = pa.concat_arrays([values.as_text(column) for column in columns])
    return values.drop_null_words(texts, config.data.null_words)


# --------------------------------------------------------------------------- rows


def classify_rows(
    batch: readers.RawBatch, log: ClickLog, item_ids: pa.Array, config: Config
) -> tuple[pa.Table, pa.Table, RowCounts, traces.Sightings]:
    """Split a batch into STAGED events and quarantined rows; return counts and valid rows too."""
    batch, num_forgotten, coerced = log.door.admit(batch)
    row = _read_values(batch.table, log, item_ids, config)
    faults_N = _find_reasons(row, log)
    # a kind of event that data.event_names drops needs no valid values, not even an item
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
        num_rows=batch.table.num_rows + len(batch.broken) + num_forgotten,
        lines=count_lines(batch),
        kept=events_table.num_rows,
        dropped=_count(rules_N, DROPPED) + collections.Counter({FORGOTTEN: num_forgotten}),
        rejected=collections.Counter(rejected["reason"].to_pylist()),
        examples=examples,
        words=_count_words(row.words.filter(pa.array(is_unknown_N))),
        left_out=_count_words(row.words.filter(pa.array(row.events_N == LEFT_OUT))),
        coerced=row.coerced
        + coerced
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
    """Return the physical lines of a batch by kind; see RowCounts."""
    names = ("header", "blank", "continued", "made")
    lines = {name: getattr(batch, f"num_{name}") for name in names} | {"read": batch.num_lines}
    return collections.Counter({name: number for name, number in lines.items() if number})


@dataclass(frozen=True)
class _Values:
    """Parsed columns of N rows; -1 = none."""

    user_ids: pa.Array
    items_N: Any
    is_item_given_N: Any
    times_N: Any
    time_faults_N: Any
    is_time_given_N: Any
    events_N: Any
    """Index in EVENTS, -1 = none given, UNKNOWN or LEFT_OUT."""
    words: pa.Array
    """Kinds of event as the log names them."""
    ratings_N: Any
    queries: pa.Array
    sessions: pa.Array
    coerced: collections.Counter[str]

    @property
    def is_search_N(self) -> Any:
        """[N] bool: the row has a query and no click."""
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


def is_left_out(table: pa.Table, config: Config) -> Any:
    """Return [N] bool: rows of a kind of event that `data.event_names` drops."""
    words = values.drop_null_words(values.as_text(_column(table, EVENT)), config.data.null_words)
    return _kinds_of(words, config) == LEFT_OUT


def _read_events(words: pa.Array, log: ClickLog, config: Config) -> Any:
    """Return [N] int8: index of each kind of event in EVENTS, or -1, UNKNOWN, LEFT_OUT."""
    if EVENT not in log.columns:
        return np.full(len(words), -1, dtype=np.int8)
    return _kinds_of(words, config)


def _kinds_of(words: pa.Array, config: Config) -> Any:
    """Return [N] int8: index of each word in EVENTS, or UNKNOWN, LEFT_OUT."""
    given = {word.casefold().strip(): kind for word, kind in config.data.event_names.items()}
    codes = {kind: place for place, kind in enumerate(EVENTS)} | {"drop": LEFT_OUT}
    coded = words.dictionary_encode()
    spelt = [str(word).casefold().strip() for word in coded.dictionary.to_pylist()]
    found = [codes.get(str(given.get(word, word)), UNKNOWN) for word in spelt]
    return np.array([*found, UNKNOWN], np.int8)[coded.indices.fill_null(-1).to_numpy()]


def _find_reasons(row: _Values, log: ClickLog) -> Any:
    """Return [N] int8 indices in REJECTED: the first fault of each row; 0 = none."""
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
    """Return [N] int8 indices in DROPPED: the rule that drops each valid row; 0 = none."""
    wanted = [-1, *(EVENTS.index(kind) for kind in config.data.events)]
    least = config.data.min_rating
    checks = (
        np.zeros(len(row.items_N), dtype=bool),  # searches are recognised by the missing item
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
    return table[name].combine_chunks()


def _quarantine_rows(batch: readers.RawBatch, reasons_N: Any) -> tuple[pa.Table, dict[str, str]]:
    """Return the rejected rows, and the row number and value of one row for each reason."""
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


def hash_users(user_ids: pa.Array) -> Any:
    """Return [N] int64 >= 0, stable hashes of ids: equal in every process."""
    encoded = user_ids.dictionary_encode()
    hashes = [
        int.from_bytes(hashlib.blake2b(user.encode(), digest_size=8).digest(), "big") >> 1
        for user in encoded.dictionary.to_pylist()
    ]
    return np.array([*hashes, 0], dtype=np.int64)[encoded.indices.fill_null(-1).to_numpy()]
