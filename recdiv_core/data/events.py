# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""The events of a click log: judged row by row, and shuffled into staged shards of users.

Not the reading of files (readers.py) nor what becomes of the shards (examples.py). A row that
cannot be used goes to the quarantine with its reason. One Ray Data shuffle brings a user's events
together; a shard is one hash partition of the users. The result depends on the input alone, not on
how many tasks read it: events carry their place in the input, users are in order of a stable hash.
"""

from __future__ import annotations

import collections
import hashlib
import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdiv_core.config import Config
from recdiv_core.data import readers, timestamps, traces, values
from recdiv_core.data.files import SourceFile
from recdiv_core.errors import UserError
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

READ: Final = (USER_ID, ITEM_ID, TIMESTAMP, EVENT, QUERY, "session_id", "position")
"""Columns of the log that are read: those the examples are made of, and one that is audited."""
PROGRESS_S: Final = 10.0
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
HINTS: Final[Mapping[str, str]] = {
    "item not in the catalogue": "data.items",
    "missing item_id": "data.columns.item_id",
    "missing user_id": "data.columns.user_id",
    "unknown event": f"data.columns.event; allowed: {', '.join(EVENTS)}",
}


@dataclass(frozen=True)
class ClickLog:
    """What is known of a click log before Ray starts.

    Attributes:
        units: its parts.
        columns: our name -> name in the files, of the columns that are there.
        time_unit: how its timestamps are written.
    """

    units: tuple[readers.ReadUnit, ...]
    columns: dict[str, str]
    time_unit: timestamps.TimeUnit

    @property
    def has_timestamps(self) -> bool:
        """False for a log that has an order only."""
        return self.time_unit != "order"


@dataclass
class RowCounts:
    """How many rows were read and what became of them; adds up over read units."""

    num_rows: int
    rejected: collections.Counter[str]
    examples: dict[str, str]
    num_other_events: int

    def add(self, other: RowCounts) -> None:
        """Add the counts of another part of the input."""
        self.num_rows += other.num_rows
        self.rejected.update(other.rejected)
        self.num_other_events += other.num_other_events
        for reason, text in other.examples.items():
            self.examples.setdefault(reason, text)


def open_log(files: Sequence[SourceFile], item_ids: pa.Array, config: Config) -> ClickLog:
    """Look at the files' columns and a sample of their rows; start nothing.

    Raises:
        UserError: missing column, no rows, timestamps that do not parse, or a sample of which most
            rows would be rejected.
    """
    names = config.data.columns.model_dump()
    columns = readers.find_columns(
        files, {name: names[name] for name in READ}, CLICK_LOG_REQUIRED, "data.clicks"
    )
    units = tuple(readers.cut_units(files, "data.clicks"))
    sample = readers.read_sample(units, columns)
    tables = [batch.table for batch in sample if TIMESTAMP in batch.table.column_names]
    if not any(table.num_rows for table in tables):
        raise UserError(f"data.clicks={config.data.clicks} holds no rows")
    texts = [table[TIMESTAMP].combine_chunks() for table in tables]
    is_typed = pa.types.is_temporal(texts[0].type)
    stamps = texts[0] if is_typed else pa.concat_arrays([values.as_text(t) for t in texts])
    unit = timestamps.detect_time_unit(stamps, columns[TIMESTAMP])
    log = ClickLog(units, columns, unit)
    counts = empty_counts()
    for batch in sample:
        counts.add(judge_rows(batch, log, item_ids, config)[2])
    check_rejected(counts, max(0.5, config.data.max_quarantined), config, "data.clicks (a sample)")
    return log


def empty_counts() -> RowCounts:
    """Return counts of nothing."""
    return RowCounts(0, collections.Counter(), {}, 0)


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
    num_rows = batch.table.num_rows
    given = {name: _column(batch.table, name) for name in READ}
    times, has_time = timestamps.parse_times(given[TIMESTAMP], log.time_unit)
    text = {
        name: values.as_text(given[name]) for name in READ if name not in (TIMESTAMP, "position")
    }
    items = pc.index_in(text[ITEM_ID], item_ids).fill_null(-1).to_numpy()
    events = np.full(num_rows, -1, dtype=np.int8)
    if EVENT in log.columns:
        kinds = pc.utf8_lower(pc.utf8_trim_whitespace(text[EVENT]))
        events = pc.index_in(kinds, pa.array(EVENTS)).fill_null(-1).to_numpy().astype(np.int8)
    too_late = (times > timestamps.LATEST_US) & log.has_timestamps
    checks = (
        ("missing user_id", _is_null(text[USER_ID])),
        ("missing item_id", _is_null(text[ITEM_ID])),
        ("missing timestamp", _is_null(given[TIMESTAMP])),
        ("timestamp does not parse", ~has_time),
        ("negative time", times < 0),
        ("time after the year 2200", too_late),
        ("unknown event", (events < 0) & (EVENT in log.columns)),
        ("item not in the catalogue", items < 0),
    )
    reasons = np.zeros(num_rows, dtype=np.int8)
    for code, (_, is_bad) in enumerate(checks, start=1):
        reasons = np.where((reasons == 0) & is_bad, code, reasons)
    names = [name for name, _ in checks]
    rejected = _quarantine_rows(batch, reasons, names)
    wanted = [EVENTS.index(kind) for kind in config.data.events]
    is_wanted = np.isin(events, wanted) | (EVENT not in log.columns)
    is_kept = pa.array((reasons == 0) & is_wanted)
    hashes = hash_users(text[USER_ID])
    columns = [
        pa.array((hashes % config.data.num_shards).astype(np.int32)),
        pa.array(hashes),
        text[USER_ID],
        pa.array(items, pa.int32()),
        pa.array(times),
        pa.array(events),
        text[QUERY],
        text["session_id"],
        _column(batch.table, readers.ROW),
    ]
    events_table = pa.table(columns, schema=STAGED).filter(is_kept)
    counts = RowCounts(
        num_rows + len(batch.broken),
        collections.Counter(rejected["reason"].to_pylist()),
        dict(zip(*(rejected[n].to_pylist()[::-1] for n in ("reason", "row")), strict=True)),
        int(((reasons == 0) & ~is_wanted).sum()),
    )
    positions = traces.clean_positions(_numbers(given["position"]))
    columns_N = (items, times, events, positions)
    seen = traces.Sightings(*(column[reasons == 0] for column in columns_N))
    return events_table, rejected, counts, seen


def _numbers(array: pa.Array) -> Any:
    return values.as_numbers(array).to_numpy(zero_copy_only=False)


def _column(table: pa.Table, name: str) -> pa.Array:
    if name not in table.column_names:
        return pa.nulls(table.num_rows)
    column = table[name].combine_chunks()
    return column if isinstance(column, pa.Array) else pa.array([], column.type)


def _is_null(array: pa.Array) -> Any:
    return array.is_null().to_numpy(zero_copy_only=False)


def _quarantine_rows(batch: readers.RawBatch, reasons: Any, names: Sequence[str]) -> pa.Table:
    bad = np.flatnonzero(reasons)
    rows = batch.table.take(pa.array(bad)).to_pylist()
    places = [row.pop(readers.ROW) for row in rows]
    return make_quarantine(
        [
            *zip([names[int(reasons[i]) - 1] for i in bad], places, rows, strict=True),
            *((reason, place, text) for place, text, reason in batch.broken),
        ]
    )


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
    hint = HINTS.get(reason, "data.columns.timestamp" if "time" in reason else source)
    raise UserError(
        f"{source}: {num_rejected} of {counts.num_rows} rows are broken ({reasons}); e.g. "
        f"{counts.examples[reason][:300]}; look at {hint}, or raise data.max_quarantined="
        f"{config.data.max_quarantined}"
    )


# --------------------------------------------------------------------------- read and shuffle


def stage_shards(log: ClickLog, item_ids: pa.Array, config: Config, work: Path) -> RowCounts:
    """Read, judge and shuffle the log into `work/stage/<shard>.parquet`, one row a user.

    Rejected rows go to `work/quarantine/`.

    Raises:
        UserError: too many broken rows.
    """
    import ray
    import ray.data

    for name in ("stage", "counts", "traces", "quarantine"):
        (work / name).mkdir(exist_ok=True)
    numbers = [{"unit": number} for number in range(len(log.units))]
    read = ray.data.from_items(numbers, override_num_blocks=len(numbers)).map_batches(
        cast("Any", _read_units),
        batch_size=1,
        batch_format="pyarrow",
        fn_kwargs={"log": log, "ids": ray.put(item_ids), "config": config, "work": str(work)},
    )
    staged = read.groupby("shard", num_partitions=config.data.num_shards).map_groups(
        cast("Any", _stage_group),
        batch_format="pyarrow",
        fn_kwargs={
            "stage": str(work / "stage"),
            "gap_us": int(config.data.session_gap_s * 1e6) if log.has_timestamps else 0,
        },
    )
    with _progress(work / "counts"):
        for _ in staged.iter_rows():
            pass
    counts = read_counts(work / "counts")
    check_rejected(counts, config.data.max_quarantined, config, "data.clicks")
    return counts


def _read_units(
    batch: pa.Table, *, log: ClickLog, ids: Any, config: Config, work: str
) -> Iterator[pa.Table]:
    import ray

    item_ids = ray.get(ids)
    for number in batch["unit"].to_pylist():
        unit = log.units[number]
        total = empty_counts()
        seen = traces.Traces(len(item_ids))
        rejected: list[pa.Table] = []
        started = time.monotonic()
        for raw in readers.read_unit(unit, log.columns):
            events, quarantined, counts, sightings = judge_rows(raw, log, item_ids, config)
            total.add(counts)
            seen.add(sightings)
            rejected.append(quarantined)
            yield events
            if time.monotonic() - started > PROGRESS_S:
                started = time.monotonic()
                _write_counts(total, Path(work, "counts", f"{number:06d}.json"))
        if rejected:
            path = Path(work, "quarantine", f"clicks-{number:06d}.parquet")
            write_quarantine(pa.concat_tables(rejected), unit.path, path)
        _write_counts(total, Path(work, "counts", f"{number:06d}.json"))
        seen.save(Path(work, "traces", f"{number:06d}.npz"))
    yield STAGED.empty_table()


def _write_counts(counts: RowCounts, path: Path) -> None:
    fresh = path.with_suffix(".tmp")
    fresh.write_text(json.dumps(vars(counts)), encoding="utf-8")
    fresh.replace(path)


def read_counts(directory: Path) -> RowCounts:
    """Add up what the read tasks have counted so far."""
    total = empty_counts()
    for path in sorted(directory.glob("*.json")):
        tree = json.loads(path.read_text(encoding="utf-8"))
        total.add(RowCounts(**(tree | {"rejected": collections.Counter(tree["rejected"])})))
    return total


@contextmanager
def _progress(directory: Path) -> Iterator[None]:
    """Log the rows read so far, every PROGRESS_S seconds."""
    done = threading.Event()
    started = time.monotonic()

    def say() -> None:
        while not done.wait(PROGRESS_S):
            num_rows = read_counts(directory).num_rows
            rate = num_rows / (time.monotonic() - started)
            logger.info("reading: %d rows, %.0f rows/s", num_rows, rate)

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _stage_group(group: pa.Table, *, stage: str, gap_us: int) -> pa.Table:
    shard = group["shard"][0].as_py()
    users, num_duplicates, num_sessions = order_events(group, gap_us)
    pq.write_table(users, Path(stage, f"{shard:05d}.parquet"), row_group_size=16_384)
    summary = {"num_duplicates": num_duplicates, "num_sessions": num_sessions}
    times = users["times"].combine_chunks().flatten().to_numpy()
    summary |= {"first": int(times.min()), "last": int(times.max()), "num_events": len(times)}
    Path(stage, f"{shard:05d}.json").write_text(json.dumps(summary), encoding="utf-8")
    return pa.table({"shard": [shard]})


def order_events(events: pa.Table, gap_us: int) -> tuple[pa.Table, int, int]:
    """Order STAGED events into one row a user, without repeats of an event.

    A user's events are in order of time, ties in order of the input. Users are in order of their
    hash, so that neighbours in a file have nothing in common.

    Args:
        events: in any order.
        gap_us: idle time that ends a session, in microseconds; 0 = a user has one session. A
            `session_id` counts instead where it is given.

    Returns:
        Table of user_id, items, times, events, queries (a list each but user_id); how many
        identical events were left out; number of sessions.
    """
    users = events[USER_ID].combine_chunks().dictionary_encode()
    codes = {
        "user": users.indices.to_numpy(),
        "item": events["item"].to_numpy(),
        "time": events[TIMESTAMP].to_numpy(),
        "event": events[EVENT].to_numpy(),
        "query": _codes(events[QUERY]),
        "session": _codes(events["session_id"]),
        "row": events[readers.ROW].to_numpy(),
    }
    order = np.lexsort(
        tuple(codes[n] for n in ("row", "session", "query", "event", "item", "time", "user"))
    )
    is_same = np.ones(max(len(order) - 1, 0), dtype=bool)
    for name in ("user", "time", "item", "event", "query", "session"):
        is_same &= np.diff(codes[name][order]) == 0
    kept = np.sort(order[np.concatenate([[True], ~is_same])])
    hashes = events["user_hash"].to_numpy()
    by_time = (codes["row"], codes["time"], codes["user"], hashes)
    kept = kept[np.lexsort(tuple(key[kept] for key in by_time))]
    user, times, session = codes["user"][kept], codes["time"][kept], codes["session"][kept]
    is_new_user = np.concatenate([[True], np.diff(user) != 0])
    is_new_session = is_new_user.copy()
    is_new_session[1:] |= np.diff(session) != 0
    if gap_us:
        is_new_session[1:] |= (np.diff(times) > gap_us) & (session[1:] < 0)
    starts = np.flatnonzero(is_new_user)
    offsets = pa.array(np.append(starts, len(kept)), pa.int32())
    take = pa.array(kept)
    columns = {"items": "item", "times": TIMESTAMP, "events": EVENT, "queries": QUERY}
    table = pa.table(
        {USER_ID: users.dictionary.take(pa.array(user[starts]))}
        | {
            ours: pa.ListArray.from_arrays(offsets, events[name].combine_chunks().take(take))
            for ours, name in columns.items()
        }
    )
    return table, len(order) - len(kept), int(is_new_session.sum())


def _codes(column: pa.ChunkedArray) -> Any:
    return column.combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy()
