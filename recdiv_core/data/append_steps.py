"""The steps of an append, from new files to a whole data set beside its base.

append.py checks the call. The order is that of clicklog.py: items, rows, staged events, cuts and
core, examples and audit, texts, catalogue, manifest.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdiv_core.adapters.layout_files import Given
from recdiv_core.config import Config
from recdiv_core.data import catalogue, clicklog, events, examples, outcomes, vocabulary
from recdiv_core.data.append_log import (
    NewRows,
    add_counts,
    add_files,
    numbered_from,
    read_again,
    read_rows,
)
from recdiv_core.data.append_shards import rewrite_shard, stage_events
from recdiv_core.data.audit import preparing, traces
from recdiv_core.data.audit.findings import from_json, write_audit
from recdiv_core.data.cuts import Cuts, find_cuts
from recdiv_core.data.door import AS_GIVEN, TOMBSTONES, Door
from recdiv_core.data.queries import load_queries
from recdiv_core.data.retention import OLDER, expire
from recdiv_core.data.shards import describe_times, map_shards, summarise
from recdiv_core.data.splitting import Splits, write_splits
from recdiv_core.data.text_vectors import vectors_path
from recdiv_core.data.tokeniser import TOKENISER, audit_tokens, tokeniser_of
from recdiv_core.errors import UserError
from recdiv_core.formats import timestamps
from recdiv_core.formats.files import describe_sources
from recdiv_core.schema import DERIVED, EVENT, EVENTS, ITEM_ID, NO_TEXT, QUERY, Manifest
from recdiv_core.storage.credentials import redact
from recdiv_core.storage.whole_files import link_or_copy, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from recdiv_core.models.saved_tokeniser import SavedTokeniser

logger = logging.getLogger(__name__)

COMPUTED_DROPS: Final = ("duplicates", "outside the k-core", OLDER)
"""Names in `Manifest.dropped` that do not count rows of files."""
COMPARED: Final = (
    "events of the future in train",
    "events in two splits",
    "held-out events in val histories",
    "held-out events in test histories",
)
"""Findings that compare rows with events; above 0 only if `prepare` has a fault."""


@dataclass(frozen=True)
class Step:
    """Inputs of an append, and the directory that it builds.

    `config` has the settings of the base, with the places of this call.
    """

    base: Path
    manifest: Manifest
    log: Mapping[str, Any]
    config: Config
    given: Given
    work: Path
    door: Door

    @property
    def mark(self) -> str:
        """Part of the names of the files that this append adds to the quarantine."""
        return f"append{self.manifest.generation + 1:04d}"

    @property
    def log_paths(self) -> list[str]:
        """Files of the log, in order of their numbers: those of the base, then the new ones."""
        return [*self.log["files"], *(redact(file.path) for file in self.given.clicks)]


def read_log_facts(base: Path) -> dict[str, Any]:
    """Return what a data set records of its log: `files`, `columns`, `items_from_log`."""
    return json.loads((base / clicklog.LOG).read_text(encoding="utf-8"))


def build(step: Step, fingerprint: str) -> dict[str, object]:
    """Write all files of the data set; return the facts of the append."""
    for name in ("stage", "quarantine"):
        (step.work / name).mkdir()
    if (step.base / TOKENISER).is_file():
        link_or_copy(step.base / TOKENISER, step.work / TOKENISER)
    old = vocabulary.read_raw_items(step.base)
    table, num_corrected, rejected = read_items(step, old)
    new = read_new_rows(step, table[ITEM_ID].combine_chunks())
    staged = new.events
    queries = vocabulary.merge_queries(step.base, staged)
    splits, num_changed = write_shards(step, staged, table, new, queries)
    tokenizer = tokeniser_of(step.work, step.manifest)
    names = write_catalogue(step, old, table, queries, splits.popularity_V, tokenizer)
    if step.config.data.retention_days:
        queries = splits.queries
        vocabulary.keep_texts(step.work, step.work, step.manifest, queries)
    texts = {"item texts": vocabulary.item_texts(table, step.manifest.encoder), "queries": queries}
    findings = splits.findings + audit_tokens(step.work, texts, tokenizer)
    write_audit(findings, step.work)
    manifest = describe(step, fingerprint, new, rejected, splits)
    manifest = manifest.model_copy(update={"categories": tuple(names), "num_items": len(table)})
    write_json(step.work / "manifest.json", manifest.model_dump(mode="json"), indent=1)
    facts: dict[str, object] = {
        "generation": manifest.generation,
        "num_new_rows": new.counts.num_rows,
        "num_changed_users": num_changed,
        "num_new_items": len(table) - len(old),
        "num_corrected_items": num_corrected,
    }
    logger.info("append: %s", facts)
    repeated = manifest.dropped["duplicates"] - step.manifest.dropped["duplicates"]
    outcomes.log_left_out(
        add_counts(dict(new.counts.rejected), rejected),
        {**new.counts.dropped, "duplicates": max(0, repeated)},  # fewer once the days move on
        new.counts.left_out,
    )
    return facts


def read_items(step: Step, old: pa.Table) -> tuple[pa.Table, int, dict[str, int]]:
    """Return all items in order of item_index, corrected items, and rejected rows by reason."""
    given = step.given
    if given.items:
        raw = clicklog.read_items(given.items, given.clicks, step.config)
    elif step.log["items_from_log"] and given.clicks:
        raw = clicklog.read_items([], given.clicks, step.config)
        known = set(old[ITEM_ID].to_pylist())  # the first value of an attribute counts
        is_new = [item_id not in known for item_id in raw.table[ITEM_ID].to_pylist()]
        raw = replace(raw, table=raw.table.filter(pa.array(is_new, pa.bool_())))
    else:
        return old, 0, {}
    for reason, rows in raw.rejected.items():
        clicklog.write_rejected_items(reason, rows, step.config, step.work, step.mark)
    table, num_corrected = vocabulary.merge_items(old, raw.table)
    return table, num_corrected, {reason: len(rows) for reason, rows in raw.rejected.items()}


def read_new_rows(step: Step, item_ids: pa.Array) -> NewRows:
    """Read the new files, and judge quarantined rows of the base again.

    Raises:
        UserError: the files do not fit the log of the base, or too many rows are rejected.
    """
    config, columns = step.config, step.log["columns"]
    new = NewRows(traces.Traces(len(item_ids)))
    unit = timestamps.format_named(str(step.manifest.times["unit"]))
    log = events.ClickLog((), columns, unit, events.latest_time())
    if step.given.clicks:
        found = events.open_log(step.given.clicks, item_ids, config, step.door)
        if found.times != unit:
            raise UserError(
                f"data.clicks={config.data.clicks}: times are {found.times}, those of data.base="
                f"{config.data.base} are {unit}"
            )
        if (EVENT in found.columns) != (EVENT in columns):
            raise UserError(
                f"data.clicks={config.data.clicks} and data.base={config.data.base}: only one has "
                f"the column {config.data.columns.event!r} (data.columns.event)"
            )
        log = numbered_from(found, len(step.log["files"]))
        read_rows(new, log, item_ids, config, step.work, step.mark)
        new.counts.check()
        source = "data.clicks"
        outcomes.check_rejected(new.counts, config.data.max_quarantined, config, source)
    numbers = {path: number for number, path in enumerate(step.log_paths)}
    log = replace(log, door=AS_GIVEN)  # the ids of quarantined rows have passed the door
    read_again(new, step.base, log, item_ids, config, step.work, numbers)
    if step.door.tombstones:
        write_json(step.work / TOMBSTONES, step.door.tombstones.as_json(), indent=1)
    kept = {"files": step.log_paths, "columns": columns}
    from_log = step.log["items_from_log"] and not step.given.items
    write_json(step.work / clicklog.LOG, {**kept, "items_from_log": from_log})
    return new


def write_shards(
    step: Step, staged: pa.Table, table: pa.Table, new: NewRows, queries: pa.Array
) -> tuple[Splits, int]:
    """Write staged events and examples, and audit them; return the number of changed users too."""
    config, has_times = step.config, step.manifest.has_timestamps
    order = np.argsort(np.array(step.log_paths, dtype=object), kind="stable")
    rank_F = np.argsort(order, kind="stable")
    touched = stage_events(
        step.base,
        step.work,
        staged,
        rank_F,
        int(config.data.session_gap_s * 1e6) if has_times else 0,
        num_shards=config.data.num_shards,
        has_timestamps=has_times,
    )
    seen = traces.merge_traces([step.base / "stage" / "traces.npz"], len(table))
    seen.merge(new.seen)
    seen.save(step.work / "stage" / "traces.npz")
    if config.data.retention_days:
        return _write_again(step, table, seen, rank_F), sum(map(len, touched.values()))
    for name in ("train", "val", "test"):
        (step.work / name).mkdir()
    protocol = str(step.manifest.split["protocol"])
    cuts = find_cuts(config, protocol, step.work, on_ray=False)
    popularity_V = examples.fit_core(config, cuts, len(table), step.work, on_ray=False)
    known = pq.read_table(step.base / "catalogue.parquet", columns=["popularity"])
    before_V = np.zeros(len(table), np.int64)
    before_V[: len(known)] = known["popularity"].to_numpy()
    clock = preparing.make_clock(seen.first_V, table) if has_times else None
    text = (step.base / "audit.json").read_text(encoding="utf-8")
    audit = from_json(json.loads(text), str(step.base / "audit.json"))
    parts = list(
        map_shards(
            rewrite_shard,
            step.work,
            on_ray=False,
            base=str(step.base),
            touched=touched,
            cuts=(Cuts.of_manifest(step.manifest), cuts),
            popularity_V=popularity_V,
            before_V=before_V,
            queries=queries,
            reserved_Q=examples.reserved_queries(config, queries),
            clock=clock,
            weights=[config.data.event_weights.get(kind, 1.0) for kind in EVENTS],
            min_events=config.data.min_user_events,
            fragment_rows=config.data.fragment_rows,
            compares_all=any(each.count for each in audit if each.name in COMPARED),
        )
    )
    counts, findings = examples.add_up(parts, clock)
    examples.check_examples(counts, config, cuts)
    item_ids = table[ITEM_ID].combine_chunks()
    findings += preparing.audit_log(protocol, seen.counts_2P, clock, item_ids)
    staged_counts = summarise(step.work, config)
    splits = Splits(cuts, popularity_V, queries, counts, staged_counts, findings)
    return splits, sum(part["num_changed"] for part in parts)


def _write_again(step: Step, table: pa.Table, seen: traces.Traces, rank_F: Any) -> Splits:
    """Remove the events of earlier days, and write all examples again.

    Most users lose events when the days move on, so nothing is copied from the base.
    """
    config = step.config
    times = timestamps.format_named(str(step.manifest.times["unit"]))
    gap_us = int(config.data.session_gap_s * 1e6)
    expire(step.work, config.data.retention_days, times, gap_us, rank_F)
    return write_splits(
        config,
        str(step.manifest.split["protocol"]),
        seen,
        table,
        step.work,
        has_queries=QUERY in step.log["columns"],
        has_timestamps=True,
        on_ray=False,
    )


def write_catalogue(
    step: Step,
    old: pa.Table,
    table: pa.Table,
    queries: pa.Array,
    popularity_V: Any,
    tokenizer: PreTrainedTokenizerBase | SavedTokeniser,
) -> list[str]:
    """Write tokens, vectors and `catalogue.parquet`; return the names of the categories."""
    encoder = step.manifest.encoder
    before, after = (vocabulary.item_texts(items, encoder) for items in (old, table))
    texts = vocabulary.compare_texts(before, after)
    num_known = len(load_queries(step.base))
    asked = vocabulary.compare_texts(queries.slice(0, num_known), queries)
    vocabulary.write_texts(step.base, step.work, step.manifest, texts, asked, tokenizer)
    derived = None
    if step.manifest.categories_from == "texts":
        known = pq.read_table(step.base / "catalogue.parquet", columns=[DERIVED])
        names: list[str | None] = known[DERIVED].to_pylist()
        names += [None] * (len(table) - len(names))
        for place, text in zip(
            texts.changed, after.take(pa.array(texts.changed)).to_pylist(), strict=True
        ):
            names[place] = None if text else NO_TEXT
        vectors = np.load(vectors_path(step.work, step.manifest, "tokens"), mmap_mode="r")
        derived = vocabulary.nearest_categories(names, vectors)
    raw = catalogue.RawCatalogue(table, {}, len(table))
    place = step.work / "catalogue.parquet"
    level = step.config.data.category_level
    return catalogue.write_catalogue(raw, popularity_V, level, place, derived)


def describe(
    step: Step, fingerprint: str, new: NewRows, rejected: Mapping[str, int], splits: Splits
) -> Manifest:
    """Return the manifest of the data set, but for its items and categories."""
    base = step.manifest
    changes = new.changes()
    dropped = {name: n for name, n in base.dropped.items() if name not in COMPUTED_DROPS}
    given = step.given
    sources = describe_sources([*given.clicks, *given.items, *given.beside])
    times = {"unit": base.times["unit"]}
    if base.has_timestamps:
        times |= describe_times(step.work)
    return base.model_copy(
        update={
            **splits.describe(),
            "name": step.config.data.name or base.name,
            "fingerprint": fingerprint,
            "lineage": base.root,
            "generation": base.generation + 1,
            "quarantined": add_counts(add_counts(base.quarantined, changes.rejected), rejected),
            "dropped": {**add_counts(dropped, changes.dropped), **splits.dropped()},
            "files": tuple(add_files(base.files, new.files)),
            "times": times,
            "sources": (*base.sources, *sources),
            "versions": clicklog.find_versions(),
        }
    )
