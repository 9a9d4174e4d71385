# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""The catalogue: built once by `prepare`, loaded by everything that ranks items.

Text vectors of items are in text_vectors.py. item_index follows a hash of item_id, so the order of
the shop's file decides no tie between equal scores. Texts are tokenised once, here, with the
tokeniser of the encoder that reads them. V is the size of the catalogue.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdiv_core.config import Pooling
from recdiv_core.formats import values
from recdiv_core.schema import (
    AVAILABLE_FROM,
    CATALOGUE,
    DERIVED,
    ITEM_ID,
    ITEM_INDEX,
    NO_CATEGORY,
    QUERIES,
    TOKENS,
    EncoderSource,
    read_manifest,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from recdiv_core.models.saved_tokeniser import SavedTokeniser

logger = logging.getLogger(__name__)

TOKENISER_BATCH: Final = 16_384
"""Texts that one task tokenises."""
NUMERIC: Final = ("price", "rating")
PRICE_BANDS: Final = 5
"""Number of price bands with equally many items."""


@dataclass(frozen=True, eq=False)
class Catalogue:
    """All items of a prepared data set, in order of item_index.

    Attributes:
        item_ids: [V] string.
        titles: [V] string; empty = no title given.
        category_lists: [V] lists of int32 indices into `categories`; at least one per item.
        categories: Names of the categories, as in the manifest.
        popularity_V: [V] int64, train events.
        is_cold_V: [V] bool, whether the item has no train event.
        table: Whole table, including further attributes of the shop.
        last_day: Last day of the log, as in 2024-01-31; empty = no times, or no dates of items.
    """

    item_ids: pa.Array
    titles: pa.Array
    category_lists: pa.ListArray
    categories: tuple[str, ...]
    popularity_V: Any
    is_cold_V: Any
    table: pa.Table
    last_day: str = ""

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def num_categories(self) -> int:
        """Number of categories, G."""
        return len(self.categories)


def load_catalogue(prepared: Path) -> Catalogue:
    """Load the catalogue of a prepared data set.

    Raises:
        UserError: The directory is no prepared data set of this schema version.
    """
    manifest = read_manifest(prepared)
    table = pq.read_table(prepared / "catalogue.parquet")
    has_dates = AVAILABLE_FROM in table.column_names and manifest.has_timestamps
    return Catalogue(
        item_ids=table[ITEM_ID].combine_chunks(),
        titles=table["title"].combine_chunks(),
        category_lists=table["categories"].combine_chunks(),
        categories=manifest.categories,
        popularity_V=table["popularity"].to_numpy(),
        is_cold_V=table["is_cold"].to_numpy(),
        table=table,
        last_day=str(manifest.times.get("last", "")) if has_dates else "",
    )


def item_attributes(catalogue: Catalogue) -> dict[str, np.ndarray]:
    """Number the values of the attributes that slates can be diversified by, -1 = unknown.

    Returns:
        [V] int64 for each attribute that the catalogue has: values of brand and colour, and
        PRICE_BANDS price bands with equally many items.
    """
    found = {
        name: attribute_values(catalogue, name)[0]
        for name in ("brand", "colour")
        if name in catalogue.table.column_names
    }
    if "price" in catalogue.table.column_names:
        price = catalogue.table["price"].cast(pa.float64()).to_numpy()
        is_known = np.isfinite(price)
        found["price"] = np.full(len(price), -1, dtype=np.int64)
        if is_known.any():
            edges = np.quantile(price[is_known], np.arange(1, PRICE_BANDS) / PRICE_BANDS)
            found["price"][is_known] = np.searchsorted(edges, price[is_known], side="right")
    return found


def attribute_values(catalogue: Catalogue, name: str) -> tuple[np.ndarray, list[str]]:
    """Number the distinct values of a column of the catalogue.

    Returns:
        [V] int64, -1 = unknown (null or empty text), and the values as text.
    """
    coded = values.as_text(catalogue.table[name]).dictionary_encode()
    return coded.indices.fill_null(-1).to_numpy().astype(np.int64), coded.dictionary.to_pylist()


def shown_values(catalogue: Catalogue, name: str) -> tuple[np.ndarray, list[str]]:
    """Number the values of a column by which slates are told apart: price in its bands.

    Returns:
        [V] int64, -1 = unknown, and the values as text; of price `band 1`, the cheapest, and so on.
    """
    if name == "price":
        return item_attributes(catalogue)[name], [f"band {b + 1}" for b in range(PRICE_BANDS)]
    return attribute_values(catalogue, name)


class Tokens(Sequence[list[int]]):
    """Token ids of texts, memory-mapped; a list of them behaves the same."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._column.take(pa.array(range(*index.indices(len(self))))).to_pylist()
        return self._column[int(index)].as_py()

    @property
    def flat(self) -> np.ndarray:
        """Token ids of all texts, one text after another, [M] int32."""
        return pc.list_flatten(self._column).to_numpy()

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each text, [N] int64."""
        return pc.list_value_length(self._column).to_numpy().astype(np.int64)

    def __iter__(self) -> Iterator[list[int]]:
        for chunk in self._column.chunks:
            yield from chunk.to_pylist()


def load_tokens(prepared: Path, name: str = "tokens") -> Tokens:
    """Load token ids of items (`tokens`) or queries (`queries`), in order of index."""
    source = pa.memory_map(str(prepared / f"{name}.arrow"))
    return Tokens(pa.ipc.open_file(source).read_all()["input_ids"])


# --------------------------------------------------------------------------- building


@dataclass(frozen=True)
class RawCatalogue:
    """The shop's catalogue without rejected rows, in order of item_index.

    Attributes:
        table: `item_id` and `title` (strings, never null), then the attributes as given.
        rejected: Reason -> (number in the input, row) of each rejected row.
        num_rows: Rows read, including rejected rows.
    """

    table: pa.Table
    rejected: Mapping[str, list[tuple[int, Any]]] = field(repr=False)
    num_rows: int

    @property
    def item_ids(self) -> pa.Array:
        """[V] string, ids in order of item_index."""
        return self.table[ITEM_ID].combine_chunks()


def parse_categories(texts: Sequence[str | None], level: int) -> tuple[list[list[int]], list[str]]:
    """Turn category texts into lists of indices and category names.

    A text is a path `A > B > C`, or several separated by `|`; None or blank = no category. `level`
    levels of a path are kept, 0 = all.

    Returns:
        Indices of each text (at least one, NO_CATEGORY), and the names in order of appearance.

    >>> parse_categories(["A > B > C", "A>B|D", None], level=2)
    ([[0], [0, 1], [2]], ['A > B', 'D', '(none)'])
    """
    names: dict[str, int] = {}
    indices: list[list[int]] = []
    for text in texts:
        labels: dict[str, None] = {}
        for label in (text or "").split("|"):
            path = [part.strip() for part in label.split(">") if part.strip()]
            if path:
                labels[" > ".join(path[:level] if level else path)] = None
        indices.append([names.setdefault(n, len(names)) for n in labels or (NO_CATEGORY,)])
    return indices, list(names)


def make_texts(table: pa.Table, fields: Sequence[str]) -> pa.Array:
    """Join the fields of each item by ` | `, without empty fields; [V] string.

    >>> items = pa.table({"title": ["Soap", ""], "brand": [None, "Ac"]})
    >>> make_texts(items, ["title", "brand"]).to_pylist()
    ['Soap', 'Ac']
    """
    columns = [values.as_text(table[name]) for name in fields if name in table.column_names]
    if not columns:
        return pa.array([""] * table.num_rows)
    # the join omits a row of nulls, which would shift the texts of all later items
    columns[0] = pc.if_else(pc.is_null(pc.coalesce(*columns)), "", columns[0])
    texts = pc.binary_join_element_wise(*columns, " | ", null_handling="skip")
    assert len(texts) == table.num_rows
    return texts


def tokenise(
    texts: pa.Array, source: str, max_tokens: int, pooling: Pooling, *, on_ray: bool = True
) -> pa.Array:
    """Tokenise each distinct text once.

    Texts are cut to `max_tokens`, special tokens included; for `pooling` see `token_ids`.

    Returns:
        [N] list of int32.
    """
    encoded = texts.dictionary_encode()
    if not len(encoded.dictionary):
        return pa.array([], TOKENS.field(0).type)
    distinct = pa.table(
        {"text": encoded.dictionary, "place": pa.array(range(len(encoded.dictionary)))}
    )
    if not on_ray:
        from recdiv_core.models.text_encoder import load_tokenizer

        return tokenise_here(texts, load_tokenizer(source), max_tokens, pooling)
    import ray.data

    num_blocks = -(-distinct.num_rows // TOKENISER_BATCH)
    tokenised = (
        ray.data.from_arrow(distinct)
        .repartition(num_blocks)
        .map_batches(
            cast("Any", _tokenise_batch),
            batch_format="pyarrow",
            batch_size=None,
            fn_kwargs={"source": source, "max_tokens": max_tokens, "pooling": pooling},
        )
    )
    table = pa.concat_tables(tokenised.iter_batches(batch_size=None, batch_format="pyarrow"))
    lists = table.sort_by("place")["input_ids"].combine_chunks()
    return lists.take(encoded.indices)


def tokenise_here(
    texts: pa.Array,
    tokenizer: PreTrainedTokenizerBase | SavedTokeniser,
    max_tokens: int,
    pooling: Pooling,
) -> pa.Array:
    """Tokenise each distinct text once, in this process; see `tokenise`."""
    from recdiv_core.models.encoder_description import token_ids

    encoded = texts.dictionary_encode()
    if not len(encoded.dictionary):
        return pa.array([], TOKENS.field(0).type)
    ids = token_ids(tokenizer, encoded.dictionary.to_pylist(), max_tokens, pooling)
    return pa.array(ids, TOKENS.field(0).type).take(encoded.indices)


def _tokenise_batch(batch: pa.Table, *, source: str, max_tokens: int, pooling: Pooling) -> pa.Table:
    from recdiv_core.models.encoder_description import token_ids
    from recdiv_core.models.text_encoder import load_tokenizer

    ids = token_ids(load_tokenizer(source), batch["text"].to_pylist(), max_tokens, pooling)
    return pa.table({"place": batch["place"], "input_ids": pa.array(ids, TOKENS.field(0).type)})


def with_prefix(prefix: str, texts: pa.Array) -> pa.Array:
    """Return texts with a prefix before each of them."""
    return pc.binary_join_element_wise(prefix, texts, "") if prefix else texts


def write_tokens(
    work: Path,
    texts: pa.Array,
    queries: pa.Array,
    source: str,
    encoder: EncoderSource,
    *,
    on_ray: bool = True,
) -> None:
    """Tokenise items and queries with their prefixes; write `tokens.arrow` and `queries.arrow`."""
    prefixed = pa.concat_arrays(
        [with_prefix(encoder.passage_prefix, texts), with_prefix(encoder.query_prefix, queries)]
    )
    lists = tokenise(prefixed, source, encoder.max_tokens, encoder.pooling, on_ray=on_ray)
    items, of_queries = lists.slice(0, len(texts)), lists.slice(len(texts))
    write_arrow(pa.table([items], schema=TOKENS), work / "tokens.arrow")
    write_arrow(pa.table([queries, of_queries], schema=QUERIES), work / "queries.arrow")


def write_arrow(table: pa.Table, path: Path) -> None:
    """Write an Arrow IPC file, which readers map into memory."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=65_536)


def category_texts(table: pa.Table) -> list[str | None]:
    """Return the category text of each item as the shop gives it; None = not given."""
    return (
        table["category"].to_pylist() if "category" in table.column_names else [None] * len(table)
    )


def write_catalogue(
    raw: RawCatalogue,
    popularity_V: Any,
    category_level: int,
    path: Path,
    derived: pa.Array | None = None,
) -> list[str]:
    """Write `catalogue.parquet`; return the names of the categories.

    `category_level` levels of a path are kept, 0 = all; `derived` replaces the shop's categories.
    """
    table = raw.table
    if derived is None:
        indices, names = parse_categories(category_texts(table), category_level)
    else:
        indices, names = parse_categories(derived.to_pylist(), level=0)
        table = table.append_column(DERIVED, derived)
    columns = {
        ITEM_INDEX: pa.array(np.arange(len(table), dtype=np.int32)),
        ITEM_ID: table[ITEM_ID],
        "title": table["title"],
        "categories": pa.array(indices, CATALOGUE.field("categories").type),
        "popularity": pa.array(popularity_V),
        "is_cold": pa.array(popularity_V == 0),
    }
    fields = [CATALOGUE.field(name) for name in columns]
    for name in table.column_names:
        if name not in columns:
            columns[name] = table[name]
            fields.append(table.schema.field(name))
    pq.write_table(pa.table(list(columns.values()), schema=pa.schema(fields)), path)
    return names
