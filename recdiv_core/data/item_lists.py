# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Lists of items: files of item ids, and items whose attributes have given values.

slates/eligibility.py turns them into masks. The one idea: a list is longer than the catalogue or
stale, so unknown ids and values are counted and named in a warning, never refused. V catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdiv_core.data.catalogue import Catalogue
from recdiv_core.data.rule_labels import values_of
from recdiv_core.errors import UserError
from recdiv_core.formats.files import TextFormat, list_files
from recdiv_core.formats.readers import cut_units, read_header, read_unit
from recdiv_core.formats.units import FILE_STRIDE
from recdiv_core.formats.values import as_mask, clean_ids
from recdiv_core.schema import ITEM_ID, Manifest

SHOWN: Final = 3
"""Unknown ids that a message names."""


def read_item_ids(place: str, key: str, manifest: Manifest) -> pa.Array:
    """Read the distinct item ids of a file.

    Args:
        place: Path, directory, glob or URI of Parquet, CSV, JSON Lines or xlsx files with a column
            `item_id`, or of text files with one id a line.
        key: Dotted key of the file, for messages.
        manifest: Data set, whose files may name the column of the item ids otherwise.

    Raises:
        UserError: A file cannot be read, has no such column, or a line is broken.
    """
    made_with = cast("Mapping[str, Any]", manifest.settings)
    columns: Mapping[str, str] = made_with.get("data.item_columns", {})
    theirs = columns.get(ITEM_ID) or str(made_with.get("data.columns.item_id", ITEM_ID))
    words: Sequence[str] = made_with.get("data.null_words", ())
    text = TextFormat(prefix=f"{key} ")
    parts: list[pa.Array] = []
    for file in list_files(place, key):
        header = read_header(file, key, text)
        column = next((name for name in (theirs, ITEM_ID) if name in header), "")
        if not column and file.format == "csv" and len(header) == 1:
            column, file = ITEM_ID, replace(file, text=replace(text, header=(ITEM_ID,)))
        if not column:
            raise UserError(
                f"{key}: {file.path} has no column {theirs!r}; it has {', '.join(header)}; allowed "
                "are files with this column, or text with one item id a line"
            )
        for unit in cut_units([file], key, text):
            for batch in read_unit(unit, {ITEM_ID: column}):
                for place_of, _, reason in batch.broken[:1]:
                    raise UserError(f"{key}: {file.path}: row {place_of % FILE_STRIDE}: {reason}")
                parts.append(clean_ids(batch.table[ITEM_ID], words)[0])
    return pc.unique(pa.chunked_array(parts, pa.string())).drop_null()


def mark_items(ids: pa.Array, catalogue: Catalogue) -> tuple[Any, list[str]]:
    """Return [V] bool, which items a list names, and the ids that the catalogue does not have."""
    is_listed_V = as_mask(pc.is_in(catalogue.item_ids, ids))
    unknown = ids.filter(pc.invert(pc.is_in(ids, catalogue.item_ids)))
    return is_listed_V, unknown.to_pylist()


def mark_values(
    name: str, allowed: Sequence[str], catalogue: Catalogue, key: str
) -> tuple[Any, list[str]]:
    """Mark the items whose attribute has an allowed value.

    Values of an item that `|` separates count one by one. An item without a value is marked only if
    the empty text is allowed. `name` is `category` or a column of the catalogue; values of `price`
    are its bands.

    Returns:
        [V] bool, and the allowed values that no item has.

    Raises:
        UserError: The catalogue has no such attribute.
    """
    lists, names = values_of(name, catalogue, key)
    given = {label.strip() for label in allowed}
    fits_N = np.array([bool(given & _labels(text)) for text in names], bool)
    known = {label for text in names for label in _labels(text)}
    is_marked_V = np.zeros(len(catalogue), bool)
    rows, places = pc.list_parent_indices(lists), pc.list_flatten(lists)
    is_marked_V[rows.to_numpy()[fits_N[places.to_numpy()]]] = True
    if "" in given:
        is_marked_V |= pc.list_value_length(lists).to_numpy() == 0
    return is_marked_V, sorted(given - known - {""})


def _labels(text: str) -> set[str]:
    """Return a value and the labels that it joins by `|`."""
    return {text, *(label.strip() for label in text.split("|"))}
