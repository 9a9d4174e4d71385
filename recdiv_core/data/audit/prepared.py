# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""The audit of a prepared data set: does it leak, and can its metrics be trusted?

It changes nothing. Findings that need the raw log come from `audit.json`, which `prepare` wrote.
All others are counted again from the shards, one shard at a time. Memory holds arrays of the size
of the catalogue and 24 bytes per user. docs/audit.md explains each finding.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdiv_core.data.audit import consistency, duplicates
from recdiv_core.data.audit.findings import (
    CHECKS,
    NOT_OF_USERS,
    NUM_EXAMPLES,
    OF_A_SPLIT,
    SEVERITIES,
    Finding,
    find,
    from_json,
    merge,
    to_json,
    worst,
)
from recdiv_core.data.catalogue import category_texts, parse_categories
from recdiv_core.data.requests import shard_names
from recdiv_core.data.sale_dates import sale_dates
from recdiv_core.data.versions import open_version
from recdiv_core.errors import UserError
from recdiv_core.schema import DERIVED, ITEM_ID, ITEM_INDEX, Manifest, count_rows, read_manifest
from recdiv_core.wording import counted

logger = logging.getLogger(__name__)

MANY_DOUBLES: Final = 0.05
"""Share of duplicate items in the catalogue above which they are a warning."""


def audit(given: str) -> dict[str, object]:
    """Audit a prepared data set.

    Returns:
        `prepared`, `findings` (most severe first), `worst` (a severity) and `not_checked` (names of
        checks that were impossible: no clock, no impressions, an older version of prepare).

    Raises:
        UserError: The directory is no prepared data set, or it is incomplete.
    """
    if not given:
        raise UserError("data.prepared is not set: give the directory that `recdiv prepare` wrote")
    prepared = open_version(given)
    manifest = read_manifest(prepared)
    by_prepare = _read_audit(prepared)
    table = _read_catalogue(prepared, manifest)
    recounted, popularity_V = _audit_shards(prepared, manifest, table)
    found = [
        *recounted,
        audit_popularity(table, popularity_V),
        *audit_categories(table, popularity_V, manifest),
        *audit_doubles(table, _hash_texts(prepared)),
        *audit_prices(table),
    ]
    findings = join(by_prepare, found)
    return {
        "prepared": str(prepared),
        "findings": to_json(findings),
        "worst": worst(findings),
        "not_checked": [name for name in CHECKS if name not in {f.name for f in findings}],
    }


def without_users(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of an audit without user ids: findings of users have no examples."""
    rows = [
        row if row["name"].startswith(NOT_OF_USERS) else {**row, "examples": []}
        for row in result["findings"]
    ]
    return {**result, "findings": rows}


def join(by_prepare: Sequence[Finding], found: Sequence[Finding]) -> list[Finding]:
    """Join the findings of `prepare` with the recounted ones, most severe first.

    Counts that exist in both and that an edit of the files would change are compared. Of two counts
    of the same leak the larger one is reported.
    """
    before = {finding.name: finding for finding in by_prepare}
    plain = {name.format(split=split) for name in OF_A_SPLIT for split in consistency.HELD_OUT}
    moved = [
        f"{now.name}: {before[now.name].count}, now {now.count}"
        for now in found
        if now.name in before and now.name in plain and now.count != before[now.name].count
    ]
    joined = dict(before)
    for now in [*found, find("figures that prepare's audit counted otherwise", len(moved), moved)]:
        if now.name in plain or now.name not in before or now.count >= before[now.name].count:
            joined[now.name] = now
    places = list(CHECKS)
    return sorted(
        joined.values(),
        key=lambda f: (-SEVERITIES.index(f.severity) * bool(f.count), places.index(f.name)),
    )


def format_table(result: Mapping[str, Any]) -> str:
    """Format the result of an audit as a table."""
    lines = [f"audit of {result['prepared']}", ""]
    for row in result["findings"]:
        count = f"{row['count']:>9,d}" if row["count"] else " " * 9
        lines.append(f"{row['severity']:8s}{count}  {row['name']}")
        if row["count"]:
            if row["examples"]:
                lines.append(f"{'':19s}e.g. {'; '.join(row['examples'])}")
            for name, values in row.get("figures", {}).items():
                lines.append(f"{'':19s}{name}: {', '.join(map(_figure, values))}")
            lines.append(f"{'':19s}-> {row['remedy']}")
    lines += [f"{'not checked':19s}{name}" for name in result["not_checked"]]
    return "\n".join([*lines, "", f"worst: {result['worst']}"])


def _figure(value: float) -> str:
    """Write a count in full, and a share with six digits."""
    return f"{value:,.0f}" if value == int(value) else f"{value:.6g}"


# --------------------------------------------------------------------------- reading


def _read_audit(prepared: Path) -> list[Finding]:
    path = prepared / "audit.json"
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8")), str(path))
    except FileNotFoundError:
        raise UserError(
            f"data.prepared={prepared} lacks audit.json; run `recdiv prepare` again"
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None


def _read_catalogue(prepared: Path, manifest: Manifest) -> pa.Table:
    path = prepared / "catalogue.parquet"
    try:
        table = pq.read_table(path)
        lacking = {ITEM_INDEX, ITEM_ID, "title", "categories", "popularity", "is_cold"}
        lacking |= {DERIVED} if manifest.categories_from == "texts" else set()
        lacking -= set(table.column_names)
    except FileNotFoundError:
        raise UserError(
            f"data.prepared={prepared} lacks catalogue.parquet; run `recdiv prepare` again"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is damaged: {error}; run `recdiv prepare` again") from None
    if lacking:
        raise UserError(f"{path} lacks the columns {', '.join(sorted(lacking))}")
    if not np.array_equal(table[ITEM_INDEX].to_numpy(), np.arange(manifest.num_items)):
        raise UserError(
            f"{path} is not the catalogue of {manifest.num_items} items that its manifest counts, "
            f"in order of item_index; run `recdiv prepare` again"
        )
    return table


def _hash_texts(prepared: Path) -> Any:
    """Return [V] uint64 hashes of the tokens of items: equal tokens give equal text vectors."""
    path = prepared / "tokens.arrow"
    try:
        with pa.memory_map(str(path)) as source:
            chunks = pa.ipc.open_file(source).read_all()["input_ids"].chunks
            hashes = [
                duplicates.hash_lists(chunk.flatten().to_numpy(), chunk.offsets.to_numpy())
                for chunk in chunks
            ]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(f"{path} cannot be read: {error}; run `recdiv prepare` again") from None
    return np.concatenate([np.zeros(0, np.uint64), *hashes])


# --------------------------------------------------------------------------- shards


def _audit_shards(prepared: Path, manifest: Manifest, table: pa.Table) -> tuple[list[Finding], Any]:
    """Check every shard and count the train events of each item."""
    num_rows = {name: count_rows(prepared, name) for name in ("train", *consistency.HELD_OUT)}
    in_core_V, dates = table["popularity"].to_numpy() > 0, sale_dates(table)
    popularity_V = np.zeros(len(table), dtype=np.int64)
    parts: list[list[Finding]] = []
    places: list[Any] = []
    num_users = num_cold = 0
    names = shard_names(prepared)
    for number, name in enumerate(names):
        shard = consistency.read_shard(prepared, name)
        strays = consistency.list_strays(shard, len(table))
        parts.append([find("items outside the catalogue", len(strays), strays)])
        if strays:  # no other check is possible
            continue
        keys = consistency.train_keys(shard, len(table))
        popularity_V += np.bincount(keys % len(table), minlength=len(table))
        parts.append(consistency.check_shard(shard, in_core_V))
        parts.append(consistency.check_sale(shard, dates) if manifest.has_timestamps else [])
        hashes, codes = consistency.hash_histories(shard, len(table))
        places.append(np.rec.fromarrays([hashes, np.full(len(codes), number), codes]))
        num_users += len(shard.user_ids)
        num_cold += len(shard.user_ids) - len(np.unique(keys // len(table)))
        logger.info("shard %s: %s", name, counted(len(shard.user_ids), "user"))
    figures = {f"num_examples {name}": count for name, count in num_rows.items()}
    figures |= {"num_users": num_users, "num_cold_users": num_cold}
    figures |= {"num_cold_items": int((popularity_V == 0).sum())}
    figures |= {"num_events_by_split train": int(popularity_V.sum())}
    return [
        *merge(parts),
        compare_with_manifest(manifest, figures),
        _audit_twins(prepared, names, places),
    ], popularity_V


def compare_with_manifest(manifest: Manifest, figures: Mapping[str, int]) -> Finding:
    """Compare counts with the manifest."""
    tree: dict[str, Any] = manifest.model_dump()
    wrong: list[str] = []
    for name, found in figures.items():
        key, _, entry = name.partition(" ")
        said = tree[key][entry] if entry else tree[key]
        if said != found:
            wrong.append(f"{name}: {said}, the files hold {found}")
    return find("figures of the manifest that the files do not bear out", len(wrong), wrong)


def _audit_twins(prepared: Path, names: Sequence[str], places: Sequence[Any]) -> Finding:
    """Find users with equal histories; their ids are read from the shards again."""
    hashes, shards, codes = (
        np.concatenate([part[field] for part in places] or [np.zeros(0, np.int64)])
        for field in ("f0", "f1", "f2")
    )
    twins = duplicates.find_doubles(hashes)
    shown: dict[Any, list[str]] = {}
    for place in twins[: 2 * NUM_EXAMPLES]:
        shard = consistency.read_shard(prepared, names[int(shards[place])])
        user = shard.user_ids[int(codes[place])].as_py()
        shown.setdefault(hashes[place], []).append(user)
    examples = [" = ".join(users) for users in shown.values() if len(users) > 1]
    return find("users with identical histories", len(twins), examples)


# --------------------------------------------------------------------------- catalogue


def audit_popularity(table: pa.Table, popularity_V: Any) -> Finding:
    """Compare the popularity in the catalogue with the train events of the shards."""
    said_V = table["popularity"].to_numpy()
    is_wrong = (said_V != popularity_V) | (table["is_cold"].to_numpy() != (popularity_V == 0))
    wrong = np.flatnonzero(is_wrong)
    examples = [
        f"{table[ITEM_ID][int(i)].as_py()}: {said_V[i]}, train holds {popularity_V[i]}"
        for i in wrong[:NUM_EXAMPLES]
    ]
    return find("popularity that is not the train shards'", len(wrong), examples)


def audit_categories(table: pa.Table, popularity_V: Any, manifest: Manifest) -> list[Finding]:
    """Compare categories with the texts of the catalogue; find categories without train events."""
    is_derived = manifest.categories_from == "texts"
    texts = table[DERIVED].to_pylist() if is_derived else category_texts(table)
    level = 0 if is_derived else int(str(manifest.settings.get("data.category_level", 0)))
    indices, names = parse_categories(texts, level)
    given = table["categories"].to_pylist()
    wrong = [name for name, ours in zip(manifest.categories, names, strict=False) if name != ours]
    wrong += list(manifest.categories[len(names) :]) + names[len(manifest.categories) :]
    ids = table[ITEM_ID]
    wrong += [
        ids[i].as_py()
        for i, pair in enumerate(zip(given, indices, strict=True))
        if pair[0] != pair[1]
    ]
    flat = pc.list_flatten(table["categories"]).to_numpy()
    lengths = pc.list_value_length(table["categories"]).to_numpy()
    known = np.unique(flat[np.repeat(popularity_V > 0, lengths)])
    unknown = np.setdiff1d(np.arange(len(manifest.categories)), known)
    return [
        find("categories that are not the catalogue's", len(wrong), wrong),
        find("categories derived from texts", len(names) if is_derived else 0, names),
        find(
            "categories without a train event",
            len(unknown),
            [manifest.categories[i] for i in unknown[:NUM_EXAMPLES]],
        ),
    ]


def audit_doubles(table: pa.Table, texts_V: Any) -> list[Finding]:
    """Find items that cannot be distinguished by title or by text vector."""
    titles = duplicates.normalise(table["title"].combine_chunks())
    encoded = titles.dictionary_encode()
    titles_V = encoded.indices.to_numpy().astype(np.int64)
    is_empty_V = pc.equal(titles, "").to_numpy(zero_copy_only=False)
    titles_V = np.where(is_empty_V, len(table) + np.arange(len(table)), titles_V)
    same = duplicates.find_doubles(titles_V)
    edits = duplicates.find_tiny_edits(encoded.dictionary)
    close = np.flatnonzero(np.isin(titles_V, edits))
    unclear = duplicates.find_doubles(texts_V)
    # among items of one vector, those of several titles
    pairs = np.unique(np.stack([texts_V[unclear], titles_V[unclear].astype(np.uint64)]), axis=1)
    hashes, num_titles = np.unique(pairs[0], return_counts=True)
    unclear = unclear[np.isin(texts_V[unclear], hashes[num_titles > 1])]
    ids = table[ITEM_ID].combine_chunks()
    distinct = encoded.dictionary
    shown = [" ~ ".join(distinct.take(pa.array(pair)).to_pylist()) for pair in edits[:NUM_EXAMPLES]]
    return [
        _of_items("items that share their title", same, titles_V, ids),
        find("items a tiny edit apart", len(close), shown),
        _of_items("items of different titles with identical text vectors", unclear, texts_V, ids),
    ]


def audit_prices(table: pa.Table) -> list[Finding]:
    """Find items with a price below 0; without prices nothing can be checked."""
    if "price" not in table.column_names:
        return []
    price_V = table["price"].cast(pa.float64()).to_numpy()
    below = np.flatnonzero(price_V < 0)
    ids = table[ITEM_ID].take(pa.array(below[:NUM_EXAMPLES])).to_pylist()
    shown = [
        f"{item} ({price_V[at]:g})" for item, at in zip(ids, below[:NUM_EXAMPLES], strict=True)
    ]
    return [find("items with a price below 0", len(below), shown)]


def _of_items(name: str, places: Any, keys_V: Any, ids: pa.Array) -> Finding:
    """Make a finding of duplicate items; many duplicates make it a warning."""
    shown: dict[Any, list[str]] = {}
    for place in places[: 2 * NUM_EXAMPLES]:
        shown.setdefault(keys_V[place], []).append(ids[int(place)].as_py())
    examples = [" = ".join(items) for items in shown.values() if len(items) > 1]
    finding = find(name, len(places), examples)
    is_grave = len(places) > MANY_DOUBLES * len(keys_V)
    return replace(finding, severity="warning") if is_grave else finding
