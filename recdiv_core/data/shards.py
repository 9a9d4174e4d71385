# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Staged shards: the events of a hash partition of the users, and passes over all of them.

A pass calls a plain function for each shard, as Ray tasks or in this process. staging.py writes the
shards; examples.py and append.py read them. A shard without users has no file.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdiv_core.config import Config
from recdiv_core.data import split
from recdiv_core.errors import UserError
from recdiv_core.schema import EVENTS, NO_QUERY, USER_ID

LISTS: Final = ("items", "times", "events", "queries")
"""Columns of a staged shard that examples are made of."""
MOST_BINS: Final = 31
"""Most bins of the histogram of times in the manifest."""


def list_shards(work: Path) -> list[int]:
    """Return the numbers of the staged shards; a shard without users has no file."""
    return sorted(int(path.stem) for path in (work / "stage").glob("*.parquet"))


def staged_file(work: Path, shard: int) -> Path:
    """Return the file of a staged shard, one row per user."""
    return work / "stage" / f"{shard:05d}.parquet"


def check_staged(prepared: Path) -> None:
    """Refuse a data set without staged events.

    Raises:
        UserError: an earlier version of recdiv made the data set.
    """
    if not list_shards(prepared):
        raise UserError(f"data.prepared={prepared} keeps no events; run `recdiv prepare` again")


def map_shards(
    function: Callable[..., dict[str, Any]],
    work: Path,
    *,
    shared: Mapping[str, object] | None = None,
    on_ray: bool = True,
    **kwargs: object,
) -> Iterator[dict[str, Any]]:
    """Call `function(shard, work=..., **shared, **kwargs)` for each staged shard.

    On Ray, the large arguments in `shared` are stored once for all tasks, and a result is a row of
    Ray Data.
    """
    if not on_ray:
        for shard in list_shards(work):
            yield function(shard, work=str(work), **(shared or {}), **kwargs)
        return
    import ray
    import ray.data

    shards = [{"shard": shard} for shard in list_shards(work)]
    stored = {name: ray.put(value) for name, value in (shared or {}).items()}
    dataset = ray.data.from_items(shards, override_num_blocks=len(shards))
    call = {"function": function, "stored": stored, "work": str(work), **kwargs}
    yield from dataset.map(cast("Any", _call), fn_kwargs=call).iter_rows()


def _call(
    row: dict[str, Any],
    *,
    function: Callable[..., dict[str, Any]],
    stored: Mapping[str, Any],
    **kwargs: object,
) -> dict[str, Any]:
    import ray

    return function(row["shard"], **{name: ray.get(ref) for name, ref in stored.items()}, **kwargs)


def read_shard(
    work: str,
    shard: int,
    weights: Sequence[float] = (),
    queries: pa.Array | None = None,
    *,
    has_times: bool = True,
) -> split.UserEvents:
    """Read a staged shard.

    `weights` has one weight for each of EVENTS; empty = all 1. `queries` are sorted; None = without
    queries.
    """
    table = pq.read_table(staged_file(Path(work), shard), columns=[USER_ID, *LISTS])
    lists = {name: table[name].combine_chunks() for name in LISTS}
    kinds = lists["events"].flatten().to_numpy()
    items = lists["items"].flatten().to_numpy()
    query_N = np.full(len(items), NO_QUERY, dtype=np.int32)
    if queries is not None:
        found = pc.index_in(lists["queries"].flatten(), queries)
        query_N = found.fill_null(NO_QUERY).to_numpy().astype(np.int32)
    weight_of = np.array([*weights, 1.0] if weights else np.ones(len(EVENTS) + 1), dtype=np.float32)
    return split.UserEvents(
        table[USER_ID].combine_chunks(),
        lists["items"].offsets.to_numpy().astype(np.int64),
        items,
        lists["times"].flatten().to_numpy(),
        query_N,
        weight_of[kinds],
        has_times,
    )


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
