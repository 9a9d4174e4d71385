"""A digest of a prepared data set that names no index: equal digests = the same data.

It does not depend on the order or the numbers of users, items, queries and shards. So it tells
whether an append equals a preparation from scratch. Rows of forgotten users do not count, so it
also tells whether a data set without them equals a preparation of a log without them. Text vectors
are left out: they differ in their last bits between batches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from recdiv_core.data.catalogue import load_tokens
from recdiv_core.data.door import FORGOTTEN
from recdiv_core.data.queries import load_queries
from recdiv_core.schema import ITEM_ID, ITEM_INDEX, NO_QUERY, USER_ID, read_manifest
from recdiv_core.storage.places import name_of

COUNTED: Final = (
    "num_users",
    "num_items",
    "num_events",
    "num_examples",
    "num_events_by_split",
    "num_cold_users",
    "num_cold_items",
    "quarantined",
    "dropped",
    "times",
    "split",
    "has_timestamps",
)
"""Entries of the manifest that count or describe the data."""


def digest(prepared: Path) -> dict[str, str]:
    """Return a digest of each part: `train`, `val`, `test`, `catalogue`, `counts` and `audit`."""
    ids: list[str] = pq.read_table(prepared / "catalogue.parquet")[ITEM_ID].to_pylist()
    queries: list[str | None] = [*load_queries(prepared).to_pylist(), None]
    found = {
        name: _sum(_examples(prepared, name, ids, queries)) for name in ("train", "val", "test")
    }
    manifest = read_manifest(prepared)
    counts = manifest.model_dump(mode="json", include=set(COUNTED))
    counts["dropped"].pop(FORGOTTEN, None)
    counts["files"] = sorted(json.dumps(_file(row), sort_keys=True) for row in manifest.files)
    found["catalogue"] = _sum(_items(prepared, manifest.categories))
    found["counts"] = _sum([json.dumps(counts, sort_keys=True)])
    audit = json.loads((prepared / "audit.json").read_text(encoding="utf-8"))
    found["audit"] = _sum(json.dumps(_told(row), sort_keys=True) for row in audit)
    return found


def _file(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counts of a file of the log, as if it had no rows of forgotten users."""
    dropped = dict(row["dropped"])
    num_gone = dropped.pop(FORGOTTEN, 0)
    lines = dict(row["lines"])
    if num_gone and "read" in lines:
        lines["read"] -= num_gone
    more = {"path": name_of(str(row["path"])), "read": row["read"] - num_gone}
    return {**row, **more, "lines": lines, "dropped": dropped}


def _sum(rows: Iterable[str]) -> str:
    """Add up the digests of rows, so that their order does not matter."""
    total = 0
    for row in rows:
        total += int.from_bytes(hashlib.blake2b(row.encode(), digest_size=16).digest(), "big")
    return f"{total % 2**128:032x}"


def _examples(
    prepared: Path, split: str, ids: list[str], queries: list[str | None]
) -> Iterator[str]:
    """Yield the rows of a split as text, with ids for indices."""
    assert queries[NO_QUERY] is None
    for path in sorted((prepared / split).glob("part-*.parquet")):
        number: dict[str, int] = {}
        for row in pq.read_table(path).to_pylist():
            user = row[USER_ID]
            row["row of the user"] = number[user] = number.get(user, -1) + 1
            for name in ("items", "history", "targets"):
                if name in row:
                    row[name] = [ids[item] for item in row[name]]
            if split == "train":
                row["queries"] = [queries[query] for query in row["queries"]]
            else:
                row["query"] = queries[row["query"]]
            yield json.dumps(row, sort_keys=True)


def _items(prepared: Path, categories: tuple[str, ...]) -> Iterator[str]:
    """Yield the items as text, with their tokens and the names of their categories."""
    table = pq.read_table(prepared / "catalogue.parquet")
    for row, tokens in zip(table.to_pylist(), load_tokens(prepared), strict=True):
        del row[ITEM_INDEX]
        row["categories"] = [categories[label] for label in row["categories"]]
        yield json.dumps({**row, "tokens": tokens}, sort_keys=True, default=str)


def _told(row: dict[str, Any]) -> dict[str, Any]:
    """Return what a finding counts; its examples are some of many."""
    return {name: row.get(name) for name in ("name", "count", "figures", "severity")}
