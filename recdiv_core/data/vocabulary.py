# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Items and queries of an append: old ones keep their index, new ones follow.

A catalogue row of an item that the base has is a correction: its columns replace the old ones. Only
texts that are new or corrected are tokenised and encoded again, in this process. Derived categories
of items whose text stays are kept, because clusters of a new fit would move every item; a new text
gets the category with the nearest mean vector. V items, B items of the base, H text width.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdiv_core.data.catalogue import (
    load_tokens,
    make_texts,
    tokenise_here,
    with_prefix,
    write_arrow,
)
from recdiv_core.data.queries import load_queries
from recdiv_core.data.sale_dates import with_times
from recdiv_core.data.text_vectors import encode_here, vectors_path
from recdiv_core.formats import values
from recdiv_core.models.text_encoder import resolve_encoder
from recdiv_core.schema import (
    CATALOGUE,
    DERIVED,
    ITEM_ID,
    NO_TEXT,
    QUERIES,
    TOKENS,
    EncoderSource,
    Manifest,
)
from recdiv_core.storage.whole_files import link_or_copy
from recdiv_core.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from recdiv_core.models.saved_tokeniser import SavedTokeniser

logger = logging.getLogger(__name__)

COMPUTED: Final = {*CATALOGUE.names, DERIVED} - {ITEM_ID, "title"}
"""Columns of `catalogue.parquet` that `prepare` adds to those of the shop."""


def read_raw_items(prepared: Path) -> pa.Table:
    """Return the shop's columns of a catalogue, in order of item_index."""
    table = pq.read_table(prepared / "catalogue.parquet")
    return with_times(table.drop_columns([n for n in table.column_names if n in COMPUTED]))


def merge_items(table: pa.Table, new: pa.Table) -> tuple[pa.Table, int]:
    """Return the items of the base with the corrections and the new items of another table.

    A column that `new` lacks keeps its values.

    Returns:
        [V] rows, in order of item_index, and the number of corrected items.
    """
    found_B = pc.index_in(table[ITEM_ID].combine_chunks(), new[ITEM_ID].combine_chunks())
    is_new = pc.invert(pc.is_in(new[ITEM_ID], table[ITEM_ID].combine_chunks()))
    added = new.filter(is_new)
    is_corrected_B = np.zeros(len(table), bool)
    columns: dict[str, Any] = {}
    for name in dict.fromkeys([*table.column_names, *new.column_names]):
        old, fresh, more = _alike(table, new, added, name)
        if name in new.column_names:
            given = fresh.take(found_B)
            chosen = pc.if_else(found_B.is_valid(), given, old)
            is_same = pc.or_kleene(pc.equal(chosen, old), pc.and_(chosen.is_null(), old.is_null()))
            is_corrected_B |= ~values.as_mask(is_same)
            old = chosen
        columns[name] = pa.concat_arrays([old, more])
    return pa.table(columns), int(is_corrected_B.sum())


def _alike(
    table: pa.Table, new: pa.Table, added: pa.Table, name: str
) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Return a column of three tables with one type; text if the types differ."""
    parts = [
        part[name].combine_chunks() if name in part.column_names else pa.nulls(len(part))
        for part in (table, new, added)
    ]
    types = {str(part.type): part.type for part in parts if not pa.types.is_null(part.type)}
    if len(types) > 1:
        parts = [values.as_text(part) for part in parts]
        types = {"string": pa.string()}
    kind = next(iter(types.values()), pa.null())
    old, fresh, more = (part.cast(kind) for part in parts)
    return old, fresh, more


def merge_queries(prepared: Path, events: pa.Table) -> pa.Array:
    """Return the queries of the base and then the new ones, sorted: in order of query_index."""
    old = load_queries(prepared).combine_chunks()
    given = pc.unique(events["query"]).drop_null()
    new = given.filter(pc.invert(pc.is_in(given, old)))
    return pa.concat_arrays([old, new.take(pc.sort_indices(new))])


@dataclass(frozen=True)
class Texts:
    """Texts of items or queries: the rows whose tokens differ from those of the base.

    `changed` are the indices of new and corrected texts.
    """

    texts: pa.Array
    changed: Any


def compare_texts(old: pa.Array, new: pa.Array) -> Texts:
    """Mark the texts that are new, or differ from those of the base with the same index."""
    is_same = pc.equal(new.slice(0, len(old)), old)
    changed = np.flatnonzero(~values.as_mask(is_same))
    return Texts(new, np.concatenate([changed, np.arange(len(old), len(new))]))


def item_texts(table: pa.Table, encoder: EncoderSource) -> pa.Array:
    """Return the text of each item, [V] string."""
    found = make_texts(table, encoder.fields)
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def write_texts(
    base: Path,
    work: Path,
    manifest: Manifest,
    items: Texts,
    queries: Texts,
    tokenizer: PreTrainedTokenizerBase | SavedTokeniser,
) -> None:
    """Write tokens and vectors of a data set: those of the base, and new ones of changed texts.

    Vectors are written only if the base has them; otherwise a training makes them.
    """
    fresh = _tokenise(items, queries, manifest.encoder, tokenizer)
    for name, texts, lists in zip(("tokens", "queries"), (items, queries), fresh, strict=True):
        source = base / f"{name}.arrow"
        path = vectors_path(base, manifest, name)
        target = vectors_path(work, manifest, name)
        has_vectors = path.is_file()
        if has_vectors:
            target.parent.mkdir(exist_ok=True)
        if not len(texts.changed):
            link_or_copy(source, work / source.name)
            if has_vectors:
                link_or_copy(path, target)
            continue
        old = pa.array(list(load_tokens(base, name)), TOKENS.field(0).type)
        row_V = np.arange(len(texts.texts))
        row_V[texts.changed] = len(old) + np.arange(len(texts.changed))
        tokens = pa.concat_arrays([old, lists]).take(pa.array(row_V))
        columns = [tokens] if name == "tokens" else [texts.texts, tokens]
        schema = TOKENS if name == "tokens" else QUERIES
        write_arrow(pa.table(columns, schema=schema), work / source.name)
        if has_vectors:
            known_VH = np.load(path, mmap_mode="r")
            encoder_path = resolve_encoder(manifest.encoder.name)
            vectors_CH = encode_here(lists.to_pylist(), encoder_path, manifest.encoder.pooling)
            vectors_VH = np.concatenate([known_VH, vectors_CH])[row_V]
            np.save(target, vectors_VH)


def keep_texts(base: Path, work: Path, manifest: Manifest, queries: pa.Array) -> int:
    """Write tokens and vectors: those of all items, and of some queries, in a new order.

    `base` has them, and may be `work`.

    Returns:
        Number of queries of the base.
    """
    old = load_queries(base).combine_chunks()
    rows = pc.index_in(queries, old)
    assert not rows.null_count, "a query of the staged events is not in queries.arrow"
    lists = pa.array(list(load_tokens(base, "queries")), QUERIES.field(1).type)
    source, target = (vectors_path(place, manifest, "queries") for place in (base, work))
    vectors = np.load(source)[rows.to_numpy()] if source.is_file() else None
    # the files of `work` may be hard links to those of another data set
    (work / "queries.arrow").unlink(missing_ok=True)
    write_arrow(pa.table([queries, lists.take(rows)], QUERIES), work / "queries.arrow")
    if vectors is not None:
        target.parent.mkdir(exist_ok=True)
        target.unlink(missing_ok=True)
        np.save(target, vectors)
    if base != work:
        link_or_copy(base / "tokens.arrow", work / "tokens.arrow")
        source, target = (vectors_path(place, manifest, "tokens") for place in (base, work))
        if source.is_file():
            target.parent.mkdir(exist_ok=True)
            link_or_copy(source, target)
    return len(old)


def _tokenise(
    items: Texts,
    queries: Texts,
    encoder: EncoderSource,
    tokenizer: PreTrainedTokenizerBase | SavedTokeniser,
) -> tuple[pa.Array, pa.Array]:
    """Return the tokens of the changed texts of items and of queries."""
    kind = TOKENS.field(0).type
    prefixes = (encoder.passage_prefix, encoder.query_prefix)
    changed = [
        with_prefix(prefix, texts.texts.take(pa.array(texts.changed)))
        for prefix, texts in zip(prefixes, (items, queries), strict=True)
    ]
    together = pa.concat_arrays(changed)
    if not len(together):
        return pa.array([], kind), pa.array([], kind)
    logger.info("tokenising %s", counted(len(together), "new text"))
    lists = tokenise_here(together, tokenizer, encoder.max_tokens, encoder.pooling)
    cut = len(changed[0])
    return lists.slice(0, cut), lists.slice(cut)


def nearest_categories(derived: list[str | None], vectors_VH: np.ndarray) -> pa.Array:
    """Fill in missing derived categories: that with the nearest mean vector, never NO_TEXT."""
    names = sorted({name for name in derived if name not in (None, NO_TEXT)}, key=str)
    names.append(NO_TEXT)
    code_V = np.array([names.index(name) if name is not None else -1 for name in derived])
    mean_GH = np.stack([vectors_VH[code_V == g].mean(axis=0) for g in range(len(names) - 1)])
    mean_GH /= np.maximum(np.linalg.norm(mean_GH, axis=1, keepdims=True), 1e-12)
    missing = np.flatnonzero(code_V < 0)
    code_V[missing] = (vectors_VH[missing] @ mean_GH.T).argmax(axis=1)
    return pa.array([names[code] for code in code_V], pa.string())
