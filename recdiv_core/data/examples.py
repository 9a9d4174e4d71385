# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""From staged shards to train, validation and test examples.

split.py splits the events of a user. Each step here is a Ray Data pass over the shards with one
task per shard. The first passes return counts for the global cut times and the k-core; the last
pass writes the examples. The driver holds arrays of the size of the catalogue, never the log.
"""

from __future__ import annotations

import collections
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdiv_core.config import Config
from recdiv_core.data import split
from recdiv_core.data.audit import busy_users, preparing
from recdiv_core.data.audit.findings import Finding, merge
from recdiv_core.data.shards import map_shards, read_shard
from recdiv_core.errors import UserError
from recdiv_core.formats import timestamps
from recdiv_core.schema import DAY_US, EVENTS, Manifest

logger = logging.getLogger(__name__)

TIME_BINS: Final = 1 << 20
"""Bins of the histogram that the cut times are found with."""
MOST_BINS: Final = 31
"""Most bins of the histogram of times in the manifest."""


@dataclass(frozen=True)
class Cuts:
    """Split protocol and cut times in microseconds; leave_last_out has no cut times."""

    protocol: str
    val_from: int = 0
    test_from: int = 0

    @classmethod
    def of_manifest(cls, manifest: Manifest) -> Cuts:
        """Return the cuts of a prepared data set."""
        made = manifest.split
        times = (int(made.get(f"{name}_us", 0)) for name in ("val_from", "test_from"))
        return cls(str(made["protocol"]), *times)

    def count(self, events: split.UserEvents) -> Any:
        """Return [B, 3] int64: events of each user in train, val and test."""
        if self.protocol == "leave_last_out":
            return split.count_leave_last_out(events.offsets_B)
        return split.count_temporal(events.times_N, events.offsets_B, self.val_from, self.test_from)

    def describe(self) -> dict[str, str | int | float]:
        """Return the description of the split for the manifest."""
        if self.protocol == "leave_last_out":
            return {"protocol": self.protocol}
        return {
            "protocol": self.protocol,
            "val_from": timestamps.show_time(self.val_from),
            "test_from": timestamps.show_time(self.test_from),
            "val_from_us": self.val_from,
            "test_from_us": self.test_from,
        }


def choose_protocol(config: Config, has_timestamps: bool) -> str:
    """Return the split protocol; `auto` depends on whether the log has times.

    Raises:
        UserError: A temporal split is set for a log without times.
    """
    protocol = config.split.protocol
    if protocol == "temporal" and not has_timestamps:
        raise UserError(
            "split.protocol=temporal needs timestamps, and this log has order numbers only "
            f"(data.columns.timestamp={config.data.columns.timestamp}); allowed: leave_last_out"
        )
    if protocol == "auto":
        return "temporal" if has_timestamps else "leave_last_out"
    return protocol


def parse_cut(text: str, key: str) -> int:
    """Return the time that a `split.*_from` key gives, in microseconds.

    Raises:
        UserError: The text is no time.
    """
    times = timestamps.read_times(pa.array([text]))
    if times is None:
        raise UserError(f"{key}={text} is no time; allowed: ISO 8601, epoch seconds, milliseconds")
    return int(times[0][0])


def summarise(work: Path, config: Config) -> dict[str, int]:
    """Add up events, duplicates, sessions, expired rows, first and last time of staged shards.

    Raises:
        UserError: No event is left.
    """
    paths = sorted((work / "stage").glob("*.json"))
    if not paths:
        given = f"data.clicks={config.data.clicks}" if config.data.clicks else "the data set"
        raise UserError(f"{given} has no event of data.events={','.join(config.data.events)} left")
    parts = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    names = ("num_duplicates", "num_sessions", "num_events")
    has_events = [part for part in parts if part["num_events"]]
    return {name: sum(part[name] for part in parts) for name in names} | {
        "num_expired": sum(part.get("num_expired", 0) for part in parts),
        "first": min(part["first"] for part in has_events),
        "last": max(part["last"] for part in has_events),
    }


def describe_times(work: Path) -> dict[str, object]:
    """Return the first and last time of the log, and its events by day, month or year.

    The histogram uses the shortest of the three periods that gives at most MOST_BINS bins.
    """
    days: collections.Counter[str] = collections.Counter()
    for path in sorted((work / "stage").glob("*.json")):
        days.update(json.loads(path.read_text(encoding="utf-8")).get("days", {}))
    for length in (len("2024-01-31"), len("2024-01"), len("2024")):
        bins: collections.Counter[str] = collections.Counter()
        for day, count in days.items():
            bins[day[:length]] += count
        if len(bins) <= MOST_BINS:
            break
    return {"first": min(days), "last": max(days), "histogram": dict(sorted(bins.items()))}


def find_cuts(config: Config, protocol: str, work: Path, *, on_ray: bool = True) -> Cuts:
    """Return the global cut times: as given, from the latest days, or from the shares of events.

    Shares are approximated by a histogram of TIME_BINS bins over the time span of the log.

    Raises:
        UserError: A window is empty, or the cut times are in the wrong order.
    """
    if protocol == "leave_last_out":
        return Cuts(protocol)
    staged = summarise(work, config)
    first, last = staged["first"], staged["last"]
    width = (last - first) // TIME_BINS + 1
    histogram = np.zeros(TIME_BINS, dtype=np.int64)
    for part in map_shards(_count_times, work, on_ray=on_ray, first=first, width=width):
        histogram[part["bins"]] += part["counts"]
    before = np.concatenate([[0], np.cumsum(histogram)])
    settings = config.split
    asked = {
        "val_from": (settings.val_from, settings.val_share + settings.test_share),
        "test_from": (settings.test_from, settings.test_share),
    }
    cuts: dict[str, int] = {}
    for name, (given, share) in asked.items():
        edge = first_nearest(before, (1.0 - share) * before[-1])
        cuts[name] = parse_cut(given, f"split.{name}") if given else first + edge * width
    if settings.test_days and not settings.test_from:
        midnight = (last // DAY_US + 1) * DAY_US
        cuts["test_from"] = midnight - settings.test_days * DAY_US
    if settings.val_days and not settings.val_from:
        cuts["val_from"] = cuts["test_from"] - settings.val_days * DAY_US
    if not first < cuts["val_from"] < cuts["test_from"] <= last:
        begin, val, test, end = (
            timestamps.show_time(t) for t in (first, cuts["val_from"], cuts["test_from"], last)
        )
        val_by = _deciding("val", settings.val_from, settings.val_days, settings.val_share)
        test_by = _deciding("test", settings.test_from, settings.test_days, settings.test_share)
        raise UserError(
            f"{val_by} and {test_by} cut the log at {val} and {test}, but its times go from "
            f"{begin} to {end}: each of the three windows needs events; change these settings, or "
            "set split.protocol=leave_last_out"
        )
    return Cuts(protocol, **cuts)


def _deciding(window: str, cut: str, days: int, share: float) -> str:
    """Return the setting that decides where a window begins, with its value.

    >>> _deciding("val", "", 0, 0.1)
    'split.val_share=0.1'
    """
    given = {f"{window}_from": cut, f"{window}_days": days, f"{window}_share": share}
    name = next(name for name, value in given.items() if value)
    return f"split.{name}={given[name]}"


def first_nearest(ascending: Any, target: float) -> int:
    """Return the first index of the value that is nearest to a target; of two, the smaller value.

    >>> first_nearest(np.array([0, 2, 2, 4]), 3.0)
    1
    """
    above = int(np.searchsorted(ascending, target))
    if above == 0:
        return 0
    below = int(np.searchsorted(ascending, ascending[above - 1]))
    if above == len(ascending) or target - ascending[below] <= ascending[above] - target:
        return below
    return above


def _count_times(shard: int, *, work: str, first: int, width: int) -> dict[str, Any]:
    bins = (read_shard(work, shard).times_N - first) // width
    values, counts = np.unique(bins, return_counts=True)
    return {"bins": values, "counts": counts}


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
    table = pq.read_table(Path(work, "stage", f"{shard:05d}.parquet"), columns=["queries"])
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
