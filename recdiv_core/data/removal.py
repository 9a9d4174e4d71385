# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""The next version of a data set, built without some users.

forget.py checks the call and removes what lies elsewhere. The staged events and the quarantine lose
the users. Everything else is made again of the staged events, so no file can keep a trace of them
by mistake. Items keep their item_index. Only this process works, shard by shard.
"""

from __future__ import annotations

import collections
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdiv_core.config import Config
from recdiv_core.data import catalogue, clicklog, vocabulary
from recdiv_core.data.append_log import add_counts
from recdiv_core.data.append_steps import read_log_facts
from recdiv_core.data.audit import traces
from recdiv_core.data.audit.findings import write_audit
from recdiv_core.data.door import (
    FORGOTTEN,
    TOMBSTONES,
    Tombstones,
    make_tombstones,
)
from recdiv_core.data.outcomes import write_quarantine
from recdiv_core.data.shards import describe_times, list_shards, staged_file
from recdiv_core.data.splitting import SPLITS, Splits, write_splits
from recdiv_core.data.staging import (
    describe_events,
    flatten_users,
    order_events,
    read_summary,
    times_of,
    write_shard,
    write_summary,
)
from recdiv_core.data.tokeniser import TOKENISER, audit_tokens, tokeniser_of
from recdiv_core.formats import values
from recdiv_core.formats.units import FILE_STRIDE, ROW
from recdiv_core.schema import (
    DERIVED,
    QUERY,
    SCHEMA_VERSION,
    USER_ID,
    Manifest,
)
from recdiv_core.storage.whole_files import link_or_copy, write_json


@dataclass
class Removal:
    """A removal of users: what is removed of which data set, and what was found.

    Attributes:
        users: [U] string, ids as the data set holds them.
        tombstones: tombstones of the next version.
        files: file -> rows of these users that it had.
        kept: file of the log -> staged events that were removed.
        rejected: file of the log -> reason -> quarantined rows that were removed.
    """

    base: Path
    manifest: Manifest
    config: Config
    work: Path
    users: pa.Array
    tombstones: Tombstones
    files: collections.Counter[str] = field(default_factory=collections.Counter)
    kept: collections.Counter[str] = field(default_factory=collections.Counter)
    rejected: dict[str, collections.Counter[str]] = field(default_factory=dict)


def quarantined_rows(path: Path) -> Iterator[Any]:
    """Yield the rows of a file of the quarantine: a dictionary, or the text of a line."""
    for text in pq.read_table(path, columns=["row"])["row"].to_pylist():
        yield json.loads(text)


def build(step: Removal) -> str:
    """Write all files of the version without the users; return its fingerprint."""
    for name in ("stage", "quarantine"):
        (step.work / name).mkdir()
    if (step.base / TOKENISER).is_file():
        link_or_copy(step.base / TOKENISER, step.work / TOKENISER)
    log = read_log_facts(step.base)
    write_json(step.work / clicklog.LOG, log)
    write_json(step.work / TOMBSTONES, step.tombstones.as_json(), indent=1)
    table = vocabulary.read_raw_items(step.base)
    seen = write_stage(step, log["files"], len(table))
    write_quarantines(step)
    count_rows(step)
    splits = write_splits(
        step.config,
        str(step.manifest.split["protocol"]),
        seen,
        table,
        step.work,
        has_queries=QUERY in log["columns"],
        has_timestamps=step.manifest.has_timestamps,
        on_ray=False,
    )
    num_queries = vocabulary.keep_texts(step.base, step.work, step.manifest, splits.queries)
    if num_queries > len(splits.queries):
        step.files["queries.arrow"] += num_queries - len(splits.queries)
    derived = None
    if step.manifest.categories_from == "texts":
        path = step.base / "catalogue.parquet"
        derived = pq.read_table(path, columns=[DERIVED])[DERIVED].combine_chunks()
    raw = catalogue.RawCatalogue(table, {}, len(table))
    level = step.config.data.category_level
    path = step.work / "catalogue.parquet"
    names = catalogue.write_catalogue(raw, splits.popularity_V, level, path, derived)
    texts = {
        "item texts": vocabulary.item_texts(table, step.manifest.encoder),
        "queries": splits.queries,
    }
    tokenizer = tokeniser_of(step.work, step.manifest)
    findings = [*splits.findings, *audit_tokens(step.work, texts, tokenizer)]
    write_audit(findings, step.work)
    manifest = describe(step, splits, names)
    write_json(step.work / "manifest.json", manifest.model_dump(mode="json"), indent=1)
    return manifest.fingerprint


def write_stage(step: Removal, log_files: Sequence[str], num_items: int) -> traces.Traces:
    """Write the staged shards without the users; return the sums over the raw log.

    The first event of an item is known of the rows that are staged. Where a removed user had it,
    it becomes that of the other users' staged events.
    """
    seen = traces.merge_traces([step.base / "stage" / "traces.npz"], num_items)
    gap_us = int(step.config.data.session_gap_s * 1e6) if step.manifest.has_timestamps else 0
    rank_F = np.argsort(np.argsort(np.array(log_files, dtype=object), kind="stable"), kind="stable")
    own, others = traces.Traces(num_items), traces.Traces(num_items)
    for shard in list_shards(step.base):
        names = [f"{shard:05d}.parquet", f"{shard:05d}.json"]
        table = pq.read_table(staged_file(step.base, shard))
        is_gone = pc.is_in(table[USER_ID], step.users)
        gone, kept = table.filter(is_gone), table.filter(pc.invert(is_gone))
        _note_first(others, kept)
        if not len(gone):
            for name in names:
                link_or_copy(step.base / "stage" / name, step.work / "stage" / name)
            continue
        _note_first(own, gone)
        step.files[f"stage/{names[0]}"] += len(gone)
        rows = flatten_users(gone, shard)
        file_N = rows[ROW].to_numpy() // FILE_STRIDE
        step.kept.update([str(log_files[int(number)]) for number in file_N])
        if not len(kept):
            continue
        write_shard(kept.combine_chunks(), step.work / "stage", shard)
        summary = read_summary(step.base, shard)
        summary["num_sessions"] -= order_events(rows, gap_us, rank_F)[2]
        summary |= describe_events(times_of(kept), has_timestamps=step.manifest.has_timestamps)
        write_summary(summary, step.work / "stage", shard)
    is_theirs = own.first_V == seen.first_V
    seen.first_V = np.where(is_theirs, np.maximum(others.first_V, seen.first_V), seen.first_V)
    seen.save(step.work / "stage" / "traces.npz")
    return seen


def _note_first(into: traces.Traces, users: pa.Table) -> None:
    items, times = (users[name].combine_chunks().flatten() for name in ("items", "times"))
    np.minimum.at(into.first_V, items.to_numpy(), times.to_numpy())


def write_quarantines(step: Removal) -> None:
    """Write the quarantine without the rows and the broken lines of the users."""
    gone = make_tombstones("", step.users.to_pylist())
    words = step.config.data.null_words
    for path in sorted((step.base / "quarantine").glob("*.parquet")):
        target = step.work / "quarantine" / path.name
        rows = list(quarantined_rows(path)) if path.name.startswith("clicks-") else []
        named = [row.get(USER_ID) if isinstance(row, dict) else None for row in rows]
        texts = pa.array([None if name is None else str(name) for name in named], pa.string())
        is_gone = gone.mark(values.clean_ids(texts, words)[0])
        is_gone |= np.array([isinstance(row, str) and gone.mentioned(row) for row in rows], bool)
        if not is_gone.any():
            link_or_copy(path, target)
            continue
        table = pq.read_table(path)
        source = str(table["source"][0].as_py())
        reasons = table["reason"].filter(pa.array(is_gone)).to_pylist()
        step.rejected.setdefault(source, collections.Counter()).update(reasons)
        step.files[f"quarantine/{path.name}"] += int(is_gone.sum())
        left = table.filter(pa.array(~is_gone)).drop_columns(["source"])
        write_quarantine(left, source, target)


def count_rows(step: Removal) -> None:
    """Count the rows of the users in the splits that are made again."""
    for name in SPLITS:
        for path in sorted((step.base / name).glob("part-*.parquet")):
            column = pq.read_table(path, columns=[USER_ID])[USER_ID]
            if number := pc.sum(pc.is_in(column, step.users)).as_py():
                step.files[f"{name}/{path.name}"] += number


def describe(step: Removal, splits: Splits, categories: Sequence[str]) -> Manifest:
    """Return the manifest of the version without the users."""
    base = step.manifest
    rejected: collections.Counter[str] = collections.Counter()
    for reasons in step.rejected.values():
        rejected.update(reasons)
    less = {reason: -count for reason, count in rejected.items()}
    num_gone = step.kept.total() + rejected.total()
    computed = splits.dropped()
    read = {name: count for name, count in base.dropped.items() if name not in computed}
    times = {"unit": base.times["unit"]}
    if base.has_timestamps:
        times |= describe_times(step.work)
    tree = [SCHEMA_VERSION, base.fingerprint, step.tombstones.as_json()]
    fingerprint = hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
    return base.model_copy(
        update={
            **splits.describe(),
            "fingerprint": fingerprint,
            "lineage": base.root,
            "generation": base.generation + 1,
            "quarantined": add_counts(base.quarantined, less),
            "dropped": {**add_counts(read, {FORGOTTEN: num_gone}), **computed},
            "files": tuple(_file_counts(step, row) for row in base.files),
            "times": times,
            "categories": tuple(categories),
            "versions": clicklog.find_versions(),
        }
    )


def _file_counts(step: Removal, row: dict[str, Any]) -> dict[str, Any]:
    """Return the counts of a file of the log; its rows of the users are dropped now."""
    path = str(row["path"])
    reasons = step.rejected.get(path, collections.Counter())
    num_gone = step.kept[path] + reasons.total()
    return {
        **row,
        "kept": row["kept"] - step.kept[path],
        "dropped": add_counts(row["dropped"], {FORGOTTEN: num_gone}),
        "quarantined": add_counts(row["quarantined"], {r: -n for r, n in reasons.items()}),
    }
