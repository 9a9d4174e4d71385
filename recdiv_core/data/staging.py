# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""From the rows of a click log to staged shards of users, by one Ray Data shuffle.

events.py classifies the rows, and examples.py makes examples of the shards. A shard is one hash
partition of the users, with one row per user. The result does not depend on the number of tasks:
events carry their row number in the input, and users are in order of a stable hash.
"""

from __future__ import annotations

import collections
import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdiv_core.config import Config
from recdiv_core.data.audit import traces
from recdiv_core.data.events import STAGED, ClickLog, classify_rows
from recdiv_core.data.outcomes import RowCounts, check_rejected, write_quarantine
from recdiv_core.formats import readers
from recdiv_core.schema import DAY_US, EVENT, QUERY, TIMESTAMP, USER_ID
from recdiv_core.wording import counted

logger = logging.getLogger(__name__)

USER_HASH: Final = "user_hash"
LISTED: Final[Mapping[str, str]] = {
    "items": "item",
    "times": TIMESTAMP,
    "events": EVENT,
    "queries": QUERY,
    "sessions": "session_id",
    "rows": readers.ROW,
}
"""List column of a staged shard -> column of STAGED with one value per event."""
PROGRESS_S: Final = 10.0
"""Seconds between two log lines of progress."""


def stage_shards(
    log: ClickLog, item_ids: pa.Array, config: Config, work: Path, *, on_ray: bool = True
) -> RowCounts:
    """Read, classify and shuffle the log into `work/stage/<shard>.parquet`, one row per user.

    Rejected rows go to `work/quarantine/`. Without `on_ray` this process does the work and holds
    all events.

    Raises:
        UserError: Too many rows are rejected.
    """
    for name in ("stage", "counts", "traces", "quarantine"):
        (work / name).mkdir(exist_ok=True)
    grouping = {
        "stage": str(work / "stage"),
        "gap_us": int(config.data.session_gap_s * 1e6) if log.has_timestamps else 0,
        "has_timestamps": log.has_timestamps,
    }
    with progress(work / "counts"):
        if on_ray:
            _stage_on_ray(log, item_ids, config, work, grouping)
        else:
            units = range(len(log.units))
            read = [t for unit in units for t in read_unit(unit, log, item_ids, config, work)]
            rows = pa.concat_tables([STAGED.empty_table(), *read])
            for shard in sorted(set(rows["shard"].to_pylist())):
                _stage_group(rows.filter(pc.equal(rows["shard"], shard)), **grouping)
    counts = read_counts(work / "counts")
    counts.check()
    for change, number in counts.coerced.items():
        logger.info("data.clicks: %s: %s", counted(number, "value"), change)
    if counts.words:
        logger.warning(
            "data.clicks: unknown kinds of event: %s", dict(counts.words.most_common(10))
        )
    check_rejected(counts, config.data.max_quarantined, config, "data.clicks")
    return counts


def _stage_on_ray(
    log: ClickLog, item_ids: pa.Array, config: Config, work: Path, grouping: Mapping[str, Any]
) -> None:
    import ray
    import ray.data

    numbers = [{"unit": number} for number in range(len(log.units))]
    read = ray.data.from_items(numbers, override_num_blocks=len(numbers)).map_batches(
        cast("Any", _read_units),
        batch_size=1,
        batch_format="pyarrow",
        fn_kwargs={"log": log, "ids": ray.put(item_ids), "config": config, "work": str(work)},
    )
    staged = read.groupby("shard", num_partitions=config.data.num_shards).map_groups(
        cast("Any", _stage_group), batch_format="pyarrow", fn_kwargs=dict(grouping)
    )
    for _ in staged.iter_rows():
        pass


def _read_units(
    batch: pa.Table, *, log: ClickLog, ids: Any, config: Config, work: str
) -> Iterator[pa.Table]:
    import ray

    item_ids = ray.get(ids)
    for number in batch["unit"].to_pylist():
        yield from read_unit(number, log, item_ids, config, Path(work))
    yield STAGED.empty_table()


def read_unit(
    number: int, log: ClickLog, item_ids: pa.Array, config: Config, work: Path
) -> Iterator[pa.Table]:
    """Read and classify a unit of the log; yield its STAGED events, write its counts."""
    unit = log.units[number]
    total = RowCounts()
    seen = traces.Traces(len(item_ids))
    rejected: list[pa.Table] = []
    started = time.monotonic()
    for raw in readers.read_unit(unit, log.columns):
        events, quarantined, counts, sightings = classify_rows(raw, log, item_ids, config)
        total.add(counts)
        seen.add(sightings)
        rejected.append(quarantined)
        yield events
        if time.monotonic() - started > PROGRESS_S:
            started = time.monotonic()
            _write_counts(total, work / "counts" / f"{number:06d}.json")
    if rejected:
        path = work / "quarantine" / f"clicks-{number:06d}.parquet"
        write_quarantine(pa.concat_tables(rejected), unit.path, path)
    _write_counts(total, work / "counts" / f"{number:06d}.json")
    seen.save(work / "traces" / f"{number:06d}.npz")


def _write_counts(counts: RowCounts, path: Path) -> None:
    fresh = path.with_suffix(".tmp")
    fresh.write_text(json.dumps(vars(counts)), encoding="utf-8")
    fresh.replace(path)


def read_counts(directory: Path) -> RowCounts:
    """Add up the counts that the read tasks have written so far."""
    total = RowCounts()
    for path in sorted(directory.glob("*.json")):
        total.add(_read_counts(path))
    return total


def _read_counts(path: Path) -> RowCounts:
    return RowCounts.from_json(json.loads(path.read_text(encoding="utf-8")))


def count_files(directory: Path, units: Sequence[readers.ReadUnit]) -> list[dict[str, object]]:
    """Return how many rows of each file were read, kept, dropped and quarantined.

    Raises:
        AssertionError: A row was lost.
    """
    files: dict[str, RowCounts] = {}
    for number, unit in enumerate(units):
        files.setdefault(unit.path, RowCounts()).add(_read_counts(directory / f"{number:06d}.json"))
    for counts in files.values():
        counts.check()
    return [
        {
            "path": path,
            "lines": dict(counts.lines),
            "read": counts.num_rows,
            "kept": counts.kept,
            "dropped": dict(counts.dropped),
            "quarantined": dict(counts.rejected),
        }
        for path, counts in files.items()
    ]


@contextmanager
def progress(directory: Path, every_s: float = PROGRESS_S) -> Iterator[None]:
    """Log the number of rows read every `every_s` seconds, with a rate while it grows."""
    done = threading.Event()
    started = time.monotonic()

    def say() -> None:
        before = 0
        while not done.wait(every_s):
            num_rows = read_counts(directory).num_rows
            if not num_rows:  # Ray's processes are starting
                continue
            if num_rows == before:
                logger.info("reading or grouping by user: %d rows", num_rows)
            else:
                rate = num_rows / (time.monotonic() - started)
                logger.info("reading: %d rows, %.0f rows/s", num_rows, rate)
            before = num_rows

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _stage_group(group: pa.Table, *, stage: str, gap_us: int, has_timestamps: bool) -> pa.Table:
    shard = group["shard"][0].as_py()
    users, num_duplicates, num_sessions = order_events(group, gap_us)
    write_shard(users, Path(stage), shard)
    times = times_of(users)
    summary: dict[str, Any] = {"num_duplicates": num_duplicates, "num_sessions": num_sessions}
    summary |= describe_events(times, has_timestamps=has_timestamps)
    if has_timestamps:
        summary["repeated"] = count_repeated([group], users)
    write_summary(summary, Path(stage), shard)
    return pa.table({"shard": [shard]})


def flatten_users(users: pa.Table, shard: int) -> pa.Table:
    """Return staged users as rows of STAGED, one per event."""
    users = users.combine_chunks()
    lengths = pc.list_value_length(users["items"]).to_numpy()
    user_N = pa.array(np.repeat(np.arange(len(users)), lengths))
    columns = {"shard": pa.array(np.full(len(user_N), shard, np.int32))}
    columns |= {name: users[name].take(user_N) for name in (USER_ID, USER_HASH)}
    columns |= {theirs: pc.list_flatten(users[ours]) for ours, theirs in LISTED.items()}
    return pa.table([columns[name] for name in STAGED.names], schema=STAGED)


def times_of(users: pa.Table) -> Any:
    """Return the times of all events of staged users, one user after another."""
    return users["times"].combine_chunks().flatten().to_numpy()


def count_repeated(before: Sequence[pa.Table], users: pa.Table) -> dict[str, int]:
    """Return the number of repeated events that were removed, by day.

    `users` has the events of `before` without the repeated ones, one row per user.
    """
    kept_N = times_of(users)
    all_N = np.concatenate([table[TIMESTAMP].to_numpy() for table in before])
    counts = collections.Counter(_days(all_N))
    counts.subtract(_days(kept_N))
    return {day: count for day, count in sorted(counts.items()) if count}


def _days(times_N: Any) -> dict[str, int]:
    days, counts = np.unique(times_N // DAY_US, return_counts=True)
    return dict(zip(days.astype("M8[D]").astype(str).tolist(), counts.tolist(), strict=True))


def write_shard(users: pa.Table, stage: Path, shard: int) -> None:
    """Write a staged shard, one row per user."""
    path = stage / f"{shard:05d}.parquet"
    packed = {"rows.list.element": "DELTA_BINARY_PACKED"}  # they rise within a user
    pq.write_table(
        users,
        path,
        row_group_size=16_384,
        use_dictionary=cast("Any", [f"{name}.list.element" for name in ("queries", "sessions")]),
        column_encoding=packed,
        write_statistics=False,
    )


def read_summary(work: Path, shard: int) -> dict[str, Any]:
    """Return the counts of a staged shard; empty for a shard without events."""
    path = work / "stage" / f"{shard:05d}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_summary(summary: Mapping[str, Any], stage: Path, shard: int) -> None:
    """Write the counts of a staged shard."""
    (stage / f"{shard:05d}.json").write_text(json.dumps(summary), encoding="utf-8")


def describe_events(times_N: Any, *, has_timestamps: bool) -> dict[str, Any]:
    """Return the number, the first and last time, and the days of the events of a shard."""
    summary: dict[str, Any] = {"first": int(times_N.min()), "last": int(times_N.max())}
    summary["num_events"] = len(times_N)
    if has_timestamps:
        summary["days"] = _days(times_N)
    return summary


def order_events(events: pa.Table, gap_us: int, rank_F: Any = None) -> tuple[pa.Table, int, int]:
    """Order STAGED events into one row per user, without repeated events.

    The events of a user are in order of time, ties in order of the input. Users are in order of
    their hash, so neighbours in a file have nothing in common.

    Args:
        events: STAGED rows in any order.
        gap_us: Idle time that ends a session, in microseconds; 0 = one session per user. A
            given `session_id` takes precedence.
        rank_F: [F] int64, place of each file of the log in the input; None = in order of number.

    Returns:
        Table of user_id, user_hash and lists of items, times, events, queries, session ids and
        rows in the input; number of repeated events that were removed; number of sessions.
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
    if rank_F is not None:
        file_N, line_N = np.divmod(codes["row"], readers.FILE_STRIDE)
        codes["row"] = rank_F[file_N] * readers.FILE_STRIDE + line_N
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
    table = pa.table(
        {USER_ID: users.dictionary.take(pa.array(user[starts]))}
        | {USER_HASH: pa.array(hashes[kept[starts]])}
        | {
            ours: pa.ListArray.from_arrays(offsets, events[name].combine_chunks().take(take))
            for ours, name in LISTED.items()
        }
    )
    return table, len(order) - len(kept), int(is_new_session.sum())


def _codes(column: pa.ChunkedArray) -> Any:
    return column.combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy()
