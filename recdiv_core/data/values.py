# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Values of the user's columns, of whatever type, as text or as numbers.

Not times (times.py), not the judgement of a row (events.py, catalogue.py).
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def as_text(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return a column of any type as strings; empty text becomes null.

    Whole floats lose their point (7.0 -> "7": ids that pandas widened); lists are joined by `|`.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # no chunk at all
        array = pa.array([], array.type)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_floating(array.type):
        array = pc.if_else(pc.is_finite(array), array, None)
        if pc.all(pc.equal(pc.floor(array), array)).as_py() is not False:
            array = array.cast(pa.int64(), safe=False)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        rows = array.to_pylist()
        texts = [None if r is None else "|".join(str(x) for x in r if x is not None) for r in rows]
        array = pa.array(texts, pa.string())
    if pa.types.is_struct(array.type):
        texts = [None if r is None else json.dumps(r, default=str) for r in array.to_pylist()]
        array = pa.array(texts, pa.string())
    array = array.cast(pa.string())
    return pc.if_else(pc.equal(array, ""), pa.scalar(None, pa.string()), array)


def as_floats(text: pa.Array) -> Any:
    """Return [N] float64 of a string column; NaN = no number."""
    is_number = pc.match_substring_regex(text, r"^[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?$")
    kept = pc.if_else(is_number.fill_null(False), text, pa.scalar(None, pa.string()))
    return kept.cast(pa.float64()).fill_null(float("nan")).to_numpy(zero_copy_only=False)


def as_mask(flags: pa.Array) -> Any:
    """Return [N] bool of a boolean column; null = False."""
    return flags.fill_null(False).to_numpy(zero_copy_only=False)


def as_numbers(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return a column of any type as float64; what is no number becomes null."""
    return pa.array(as_floats(as_text(column)), from_pandas=True)
