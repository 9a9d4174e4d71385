# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""The shards of an append: new events join the events of their users, and rows are written again.

The one idea: an append changes few users. A user is *changed* by new events, or by an event that
the moved cuts put into another part. Only changed users are split, made into examples and compared
with the events again. The rows of all others are copied as Arrow columns, and a shard without a
changed user keeps its files. B users, N events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdiv_core.data import examples, split, staging
from recdiv_core.data.append_log import add_counts
from recdiv_core.data.audit import preparing
from recdiv_core.data.cuts import Cuts
from recdiv_core.data.events import STAGED
from recdiv_core.data.shards import read_shard, staged_file
from recdiv_core.schema import EVAL_EXAMPLE, TIMESTAMP, TRAIN_EXAMPLE, USER_ID
from recdiv_core.storage.whole_files import link_or_copy

SPLITS = {"train": TRAIN_EXAMPLE, "val": EVAL_EXAMPLE, "test": EVAL_EXAMPLE}


def stage_events(
    base: Path,
    work: Path,
    events: pa.Table,
    rank_F: Any,
    gap_us: int,
    *,
    num_shards: int,
    has_timestamps: bool,
) -> dict[int, pa.Array]:
    """Write the staged shards of a data set: those of the base with new events.

    For `rank_F` and `gap_us` see `staging.order_events`.

    Returns:
        shard -> [B] string, ids of its users with new events.
    """
    touched: dict[int, pa.Array] = {}
    order = pc.sort_indices(events["shard"])
    ordered, shards_N = events.take(order), events["shard"].take(order).to_numpy()
    edges = np.searchsorted(shards_N, np.arange(num_shards + 1))
    for shard in range(num_shards):
        own = ordered.slice(edges[shard], edges[shard + 1] - edges[shard])
        names = [f"{shard:05d}.parquet", f"{shard:05d}.json"]
        touched[shard] = pc.unique(own[USER_ID])
        if len(own):
            _merge_shard(base, work, shard, own, rank_F, gap_us, has_timestamps=has_timestamps)
        else:
            for name in names:
                if (base / "stage" / name).is_file():
                    link_or_copy(base / "stage" / name, work / "stage" / name)
    return touched


def _merge_shard(
    base: Path,
    work: Path,
    shard: int,
    new: pa.Table,
    rank_F: Any,
    gap_us: int,
    *,
    has_timestamps: bool,
) -> None:
    """Write one staged shard and its counts."""
    path = staged_file(base, shard)
    table = pq.read_table(path) if path.is_file() else None
    kept: list[pa.Table] = []
    old = STAGED.empty_table()
    num_sessions = 0
    if table is not None:
        is_touched = pc.is_in(table[USER_ID], pc.unique(new[USER_ID]))
        kept = [table.filter(pc.invert(is_touched))]
        old = staging.flatten_users(table.filter(is_touched), shard)
    if len(old):
        num_sessions = staging.order_events(old, gap_us, rank_F)[2]
    merged, num_repeated, num_after = staging.order_events(
        pa.concat_tables([old, new]), gap_us, rank_F
    )
    users = pa.concat_tables([*kept, merged.cast(kept[0].schema) if kept else merged])
    users = users.sort_by([(staging.USER_HASH, "ascending"), (USER_ID, "ascending")])
    staging.write_shard(users.combine_chunks(), work / "stage", shard)
    summary = staging.read_summary(base, shard)
    describe = staging.describe_events
    after = describe(staging.times_of(merged), has_timestamps=has_timestamps)
    old_N = old[TIMESTAMP].to_numpy()
    before = describe(old_N, has_timestamps=has_timestamps) if len(old) else {}
    changed: dict[str, Any] = {
        "num_expired": summary.get("num_expired", 0),
        "num_duplicates": summary.get("num_duplicates", 0) + num_repeated,
        "num_sessions": summary.get("num_sessions", 0) + num_after - num_sessions,
        "num_events": summary.get("num_events", 0) + after["num_events"] - len(old),
        "first": min(summary.get("first", after["first"]), after["first"]),
        "last": max(summary.get("last", after["last"]), after["last"]),
    }
    if has_timestamps:
        less = {day: -count for day, count in before.get("days", {}).items()}
        days = add_counts(add_counts(summary.get("days", {}), after["days"]), less)
        changed["days"] = dict(sorted(days.items()))
        fresh = staging.count_repeated([old, new], merged)
        changed["repeated"] = add_counts(summary.get("repeated", {}), fresh)
    staging.write_summary(changed, work / "stage", shard)


def rewrite_shard(
    shard: int,
    *,
    work: str,
    base: str,
    touched: Mapping[int, pa.Array],
    cuts: tuple[Cuts, Cuts],
    popularity_V: Any,
    before_V: Any,
    queries: pa.Array,
    reserved_Q: Any,
    clock: preparing.Clock | None,
    weights: Sequence[float],
    min_events: int,
    fragment_rows: int,
    compares_all: bool,
) -> dict[str, Any]:
    """Write the rows of a shard in train, val and test; see `examples.write_examples`.

    `cuts` are those of the base, and those of the data set; `before_V` is `popularity_V` of the
    base, 0 for new items. `compares_all`: the audit compares all rows, not those of changed users
    alone.
    """
    events = read_shard(work, shard, weights, queries, has_times=clock is not None)
    parts = examples.split_events(events, cuts[1], popularity_V > 0, min_events)
    before = examples.split_events(events, cuts[0], before_V > 0, min_events)
    is_changed_B = (parts.counts_B3 != before.counts_B3).any(1)
    is_moved_N = parts.is_train_N != before.is_train_N
    is_changed_B |= split.any_by_user(is_moved_N, events.offsets_B)
    if len(touched[shard]):
        is_changed_B |= pc.is_in(events.user_ids, touched[shard]).to_numpy(zero_copy_only=False)
    tables = _write_rows(
        Path(base), Path(work), shard, events, parts, is_changed_B, reserved_Q, fragment_rows
    )
    has_held_out_B = parts.counts_B3[:, 1:].sum(1) > 0
    compared = np.flatnonzero(is_changed_B | has_held_out_B | compares_all)
    findings = preparing.audit_tables(
        of_users(tables["train"], events.user_ids.take(pa.array(compared))),
        {name: tables[name] for name in ("val", "test")},
        split.take_users(events, compared),
        parts.counts_B3[compared],
        popularity_V == 0,
        clock,
    )
    told = examples.describe_shard(events, parts, findings)
    return {**told, "num_changed": int(is_changed_B.sum())}


def _write_rows(
    base: Path,
    work: Path,
    shard: int,
    events: split.UserEvents,
    parts: examples.Parts,
    is_changed_B: Any,
    reserved_Q: Any,
    fragment_rows: int,
) -> dict[str, pa.Table]:
    """Write the rows of a shard: new ones of changed users, those of the base of the others."""
    changed = np.flatnonzero(is_changed_B)
    fresh: dict[str, pa.Table] = {}
    if len(changed):
        fresh = examples.make_examples(
            split.take_users(events, changed),
            examples.Parts(
                parts.counts_B3[changed],
                parts.is_train_N[is_changed_B[events.users_N]],
                parts.has_train_B[changed],
            ),
            reserved_Q,
        )
    ids = events.user_ids.take(pa.array(changed))
    tables: dict[str, pa.Table] = {}
    for name, schema in SPLITS.items():
        source = base / name / f"part-{shard:05d}.parquet"
        target = work / name / source.name
        rows = pq.read_table(source) if source.is_file() else schema.empty_table()
        if not len(changed):
            tables[name] = rows
            if source.is_file():
                link_or_copy(source, target)
            continue
        others = rows.filter(pc.invert(pc.is_in(rows[USER_ID], ids)))
        rows = pa.concat_tables([others, fresh[name]])
        place_R = pc.index_in(rows[USER_ID], events.user_ids).to_numpy()
        tables[name] = rows.take(pa.array(np.argsort(place_R, kind="stable"))).combine_chunks()
        examples.write_rows(tables[name], target, fragment_rows)
    return tables


def of_users(table: pa.Table, user_ids: pa.Array) -> pa.Table:
    """Return the rows of some users."""
    return table.filter(pc.is_in(table[USER_ID], user_ids)).combine_chunks()
