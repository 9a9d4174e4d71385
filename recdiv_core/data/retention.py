# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Retention: only the latest days of a log are kept (`data.retention_days`).

The latest day is that of the newest event of the log. Staged events of earlier days than the kept
ones leave the staged shards before examples are made, and so do quarantined rows with such a time.
The counts of a shard tell how many rows left, repeated ones included. So an append, which expires
again, ends with the counts of a preparation from scratch.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdiv_core.data import staging
from recdiv_core.data.shards import list_shards
from recdiv_core.errors import UserError
from recdiv_core.formats import timestamps
from recdiv_core.formats.values import as_text
from recdiv_core.schema import DAY_US, TIMESTAMP, USER_ID

logger = logging.getLogger(__name__)

OLDER: Final = "older than data.retention_days"
"""Rule that drops the rows of earlier days."""


def check_retention(days: int, *, has_timestamps: bool) -> None:
    """Refuse a retention for a log without times.

    Raises:
        UserError: the log has order numbers only.
    """
    if days and not has_timestamps:
        raise UserError(
            f"data.retention_days={days} needs timestamps, and this log has order numbers only"
        )


def expire(
    work: Path, days: int, times: timestamps.TimeFormat, gap_us: int, rank_F: Any = None
) -> None:
    """Remove the events and the quarantined rows of earlier days.

    Files in `stage/` and `quarantine/` of `work` may be hard links. `days` in UTC, at least 1, are
    kept. For `gap_us` and `rank_F` see `staging.order_events`.
    """
    parts = [staging.read_summary(work, shard) for shard in list_shards(work)]
    if not parts:
        return
    last = max(part["last"] for part in parts)
    start = (last // DAY_US + 1 - days) * DAY_US
    for shard in list_shards(work):
        _expire_shard(work, shard, start, gap_us, rank_F)
    for path in sorted((work / "quarantine").glob("clicks-*.parquet")):
        _expire_quarantine(path, start, times)


def _expire_shard(work: Path, shard: int, start: int, gap_us: int, rank_F: Any) -> None:
    summary = staging.read_summary(work, shard)
    if summary["first"] >= start:
        return
    path = work / "stage" / f"{shard:05d}.parquet"
    rows = staging.flatten_users(pq.read_table(path), shard)
    kept = rows.filter(pc.greater_equal(rows[TIMESTAMP], start))
    first_day = str(np.datetime64(start // DAY_US, "D"))
    repeated = {day: n for day, n in summary["repeated"].items() if day >= first_day}
    num_repeated = sum(repeated.values())
    num_older = len(rows) - len(kept) + summary["num_duplicates"] - num_repeated
    after = {
        "num_duplicates": num_repeated,
        "repeated": repeated,
        "num_expired": summary.get("num_expired", 0) + num_older,
        "num_sessions": 0,
        "num_events": 0,
    }
    for name in (path, path.with_suffix(".json")):
        name.unlink()  # the file may be a hard link
    if len(kept):
        users, _, after["num_sessions"] = staging.order_events(kept, gap_us, rank_F)
        users = users.sort_by([(staging.USER_HASH, "ascending"), (USER_ID, "ascending")])
        staging.write_shard(users.combine_chunks(), work / "stage", shard)
        after |= staging.describe_events(kept[TIMESTAMP].to_numpy(), has_timestamps=True)
    staging.write_summary(after, work / "stage", shard)


def _expire_quarantine(path: Path, start: int, times: timestamps.TimeFormat) -> None:
    table = pq.read_table(path)
    rows = [json.loads(text) for text in table["row"].to_pylist()]
    texts = [row.get(TIMESTAMP) if isinstance(row, dict) else None for row in rows]
    given = as_text(pa.array([None if t is None else str(t) for t in texts], pa.string()))
    times_N, faults_N = timestamps.parse_times(given, times)
    is_kept_N = given.is_null().to_numpy(zero_copy_only=False) | (faults_N > 0)
    is_kept_N |= times_N >= start
    if not is_kept_N.all():
        path.unlink()  # the file may be a hard link
        if is_kept_N.any():
            pq.write_table(table.filter(pa.array(is_kept_N)), path)
