# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""From staged shards to train, validation and test examples.

split.py splits the events of a user. Each step here is a Ray Data pass over the shards with one
task per shard. cuts.py finds the cut times. Then a pass counts items for the k-core, and the last
pass writes the examples. The driver holds arrays of the size of the catalogue, never the log.
"""

from __future__ import annotations

import collections
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdiv_core.config import Config
from recdiv_core.data import split
from recdiv_core.data.audit import busy_users, preparing
from recdiv_core.data.audit.findings import Finding, merge
from recdiv_core.data.cuts import Cuts
from recdiv_core.data.shards import map_shards, read_shard, staged_file
from recdiv_core.errors import UserError
from recdiv_core.schema import EVENTS

logger = logging.getLogger(__name__)


def fit_core(config: Config, cuts: Cuts, num_items: int, work: Path, *, on_ray: bool = True) -> Any:
    """Find the k-core of the train window.

    Items with too few train events of core users are removed, then users with too few train events
    on core items, until nothing changes.

    Returns:
        popularity_V: [V] int64, train events of core users; 0 = outside the core.

    Raises:
        UserError: The core is empty.
    """
    min_user, min_item = config.data.min_user_events, config.data.min_item_events
    in_core_V = np.ones(num_items, dtype=bool)
    while True:
        popularity_V = np.zeros(num_items, dtype=np.int64)
        for part in map_shards(
            _count_items,
            work,
            shared={"in_core_V": in_core_V},
            on_ray=on_ray,
            cuts=cuts,
            min_events=min_user,
        ):
            popularity_V[part["items"]] += part["counts"]
        stays_V = in_core_V & (popularity_V >= min_item)
        num_left = int(popularity_V[stays_V].sum())
        logger.info("k-core: %d items, %d train events", stays_V.sum(), num_left)
        if not num_left:
            raise UserError(
                f"data.min_user_events={min_user} and data.min_item_events={min_item} leave no "
                f"event in the train window; lower them"
            )
        # with a minimum of 1, an item without events changes nothing for the users
        if (stays_V == in_core_V).all() or min_item == 1:
            return np.where(stays_V, popularity_V, 0)
        in_core_V = stays_V


def _count_items(
    shard: int, *, work: str, cuts: Cuts, in_core_V: Any, min_events: int
) -> dict[str, Any]:
    events = read_shard(work, shard)
    is_train_N = split.mark_train_events(events, cuts.count(events), in_core_V, min_events)
    items, counts = np.unique(events.items_N[is_train_N], return_counts=True)
    return {"items": items, "counts": counts}


def collect_queries(work: Path, *, has_queries: bool, on_ray: bool = True) -> pa.Array:
    """Return the distinct queries of all events, sorted, in order of query_index."""
    if not has_queries:
        return pa.array([], pa.string())
    parts = map_shards(_distinct_queries, work, on_ray=on_ray)
    distinct = pc.unique(
        pa.concat_arrays([pa.array(list(part["queries"]), pa.string()) for part in parts])
    )
    return distinct.take(pc.sort_indices(distinct))


def _distinct_queries(shard: int, *, work: str) -> dict[str, Any]:
    table = pq.read_table(staged_file(Path(work), shard), columns=["queries"])
    distinct = pc.unique(table["queries"].combine_chunks().flatten()).drop_null()
    return {"queries": distinct.to_pylist()}


def check_examples(counts: Mapping[str, int], config: Config, cuts: Cuts) -> None:
    """Refuse a data set that lacks train, validation or test examples.

    Raises:
        UserError: A split has no example.
    """
    empty = [name for name in ("train", "val", "test") if not counts[f"examples {name}"]]
    if not empty:
        return
    days = f"split.val_days={config.split.val_days}, split.test_days={config.split.test_days}"
    if cuts.protocol == "leave_last_out":
        remedy = (
            "leave_last_out needs users of three events or more; allowed: more events a user, or "
            "split.protocol=temporal for a log with times"
        )
    elif config.data.base:
        remedy = (
            f"an append keeps the split of its base ({days}), and days without events count; "
            "append the files of more days together, or prepare all files with longer windows"
        )
    elif config.split.val_days or config.split.test_days:
        remedy = f"{days}: days without events count; set more days"
    else:
        remedy = (
            "set split.val_from and split.test_from, or split.val_share and split.test_share, so "
            "that each window holds events"
        )
    raise UserError(
        f"data.clicks={config.data.clicks}: no user has an example in {' and '.join(empty)} "
        f"(split.protocol={cuts.protocol}); {remedy}"
    )


# --------------------------------------------------------------------------- examples


def write_examples(
    config: Config,
    cuts: Cuts,
    popularity_V: Any,
    queries: pa.Array,
    clock: preparing.Clock | None,
    work: Path,
    *,
    on_ray: bool = True,
) -> tuple[collections.Counter[str], list[Finding]]:
    """Write `train/`, `val/` and `test/`, and audit the written files.

    `popularity_V` is 0 outside the core; `clock` is None for an order-only log, which has no rates
    either.

    Returns:
        Counts by name (see `count_parts`), and the audit's findings.
    """
    for name in ("train", "val", "test"):
        (work / name).mkdir()
    weights = [config.data.event_weights.get(kind, 1.0) for kind in EVENTS]
    parts = map_shards(
        _write_shard,
        work,
        shared={
            "popularity_V": popularity_V,
            "queries": queries,
            "reserved_Q": reserved_queries(config, queries),
            "clock": clock,
        },
        on_ray=on_ray,
        cuts=cuts,
        weights=weights,
        min_events=config.data.min_user_events,
        fragment_rows=config.data.fragment_rows,
    )
    return add_up(parts, clock)


def add_up(
    parts: Iterable[Mapping[str, Any]], clock: preparing.Clock | None
) -> tuple[collections.Counter[str], list[Finding]]:
    """Add up what `describe_shard` says of each shard: counts, and findings of the audit."""
    counts: collections.Counter[str] = collections.Counter()
    findings: list[list[Finding]] = []
    users: list[dict[str, Any]] = []
    for part in parts:
        counts.update(json.loads(part["counts"]))
        findings.append([Finding(**finding) for finding in json.loads(part["findings"])])
        users.append(json.loads(part["users"]))
    if clock is None:
        return counts, merge(findings)
    busy = [busy_users.audit_rates(users), busy_users.audit_shares(users)]
    return counts, [*preparing.weigh(merge(findings), clock), *busy]


def _write_shard(
    shard: int,
    *,
    work: str,
    cuts: Cuts,
    popularity_V: Any,
    queries: pa.Array,
    reserved_Q: Any,
    clock: preparing.Clock | None,
    weights: Sequence[float],
    min_events: int,
    fragment_rows: int,
) -> dict[str, Any]:
    events = read_shard(work, shard, weights, queries, has_times=clock is not None)
    parts = split_events(events, cuts, popularity_V > 0, min_events)
    for name, table in make_examples(events, parts, reserved_Q).items():
        write_rows(table, Path(work, name, f"part-{shard:05d}.parquet"), fragment_rows)
    findings = preparing.audit_shard(work, shard, events, parts.counts_B3, popularity_V == 0, clock)
    return describe_shard(events, parts, findings)


def describe_shard(
    events: split.UserEvents, parts: Parts, findings: Sequence[Finding]
) -> dict[str, Any]:
    """Return counts, findings and busy users of a shard as JSON texts, for a row of Ray Data."""
    return {
        "counts": json.dumps(count_parts(events, parts)),
        "findings": json.dumps([vars(finding) for finding in findings]),
        "users": json.dumps(busy_users.sum_up(events)),
    }


@dataclass(frozen=True)
class Parts:
    """The split of the events of B users.

    Attributes:
        counts_B3: [B, 3] int64, events in train, val and test.
        is_train_N: [N] bool, events of the train window that are in the core.
        has_train_B: [B] bool, users with such an event.
    """

    counts_B3: Any
    is_train_N: Any
    has_train_B: Any


def split_events(events: split.UserEvents, cuts: Cuts, in_core_V: Any, min_events: int) -> Parts:
    """Split the events of users; see `split.mark_train_events`."""
    counts_B3 = cuts.count(events)
    is_train_N = split.mark_train_events(events, counts_B3, in_core_V, min_events)
    has_train_B = split.any_by_user(is_train_N, events.offsets_B)
    return Parts(counts_B3, is_train_N, has_train_B)


def reserved_queries(config: Config, queries: pa.Array) -> Any:
    """Return [Q] bool: the queries that train does not see (`split.unseen_queries`)."""
    return split.reserve_queries(queries.to_pylist(), config.split.unseen_queries)


def make_examples(events: split.UserEvents, parts: Parts, reserved_Q: Any) -> dict[str, pa.Table]:
    """Return the rows of train, val and test of some users; `reserved_Q` as above."""
    shown = split.hide_queries(events, parts.is_train_N, reserved_Q)
    held_out = {
        name: split.make_eval_examples(events, parts.counts_B3, part, parts.has_train_B)
        for name, part in (("val", split.VAL), ("test", split.TEST))
    }
    return {"train": split.make_train_examples(shown, parts.is_train_N), **held_out}


def count_parts(events: split.UserEvents, parts: Parts) -> dict[str, int]:
    """Return the counts of a shard by name; those of several shards add."""
    by_part = parts.counts_B3.sum(0)
    has_eval_B = parts.counts_B3[:, 1:].sum(1) > 0
    in_train = int(parts.is_train_N.sum())
    num_rows = split.count_train_rows(parts.is_train_N, events.offsets_B)
    return {
        "examples train": num_rows,
        "examples val": int((parts.counts_B3[:, split.VAL] > 0).sum()),
        "examples test": int((parts.counts_B3[:, split.TEST] > 0).sum()),
        "events train": in_train,
        "events val": int(by_part[split.VAL]),
        "events test": int(by_part[split.TEST]),
        "outside the k-core": int(by_part[split.TRAIN]) - in_train,
        "users": int((parts.has_train_B | has_eval_B).sum()),
        "cold users": int((has_eval_B & ~parts.has_train_B).sum()),
        "ties": split.count_ties(events, parts.counts_B3),
    }


def write_rows(table: pa.Table, path: Path, fragment_rows: int) -> None:
    """Write the rows of a shard of a split; without rows there is no file."""
    if table.num_rows:
        # nothing reads statistics; dictionaries of item numbers save little
        pq.write_table(table, path, fragment_rows, use_dictionary=False, write_statistics=False)
