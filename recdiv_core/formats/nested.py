# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Flatten nested columns: a dotted name selects a field, and a list of events becomes rows.

`events.aid` names the field `aid` of the column `events`. If `events` is a list, each element
becomes a row and the other columns are repeated. Parallel plain lists (`item_ids`, `times`) are
unfolded together. Each new row keeps the position of its original row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def source_columns(names: Sequence[str], header: Sequence[str]) -> dict[str, str]:
    """Return name -> column that holds it, for the names that these columns can provide.

    >>> source_columns(["session", "events.aid", "price"], ["session", "events"])
    {'session': 'session', 'events.aid': 'events'}
    """
    found: dict[str, str] = {}
    for name in names:
        parts = name.split(".")
        prefixes = (".".join(parts[:size]) for size in range(len(parts), 0, -1))
        column = next((prefix for prefix in prefixes if prefix in header), None)
        if column is not None:
            found[name] = column
    return found


def unnest(
    table: pa.Table, columns: Mapping[str, str], lists: Sequence[str], place: str
) -> tuple[pa.Table, list[int]]:
    """Flatten nested columns into one row per event.

    Args:
        table: rows as read, with the column `place`.
        columns: our name -> name in the file, dotted for a field of a column.
        lists: our names of the columns whose lists become rows. A list in another column stays one
            value, unless a dotted name selects a field inside it.
        place: name of the column with the position of each row.

    Returns:
        Table of the available columns and `place`; and the positions of rows whose lists differ in
        length, which the table leaves out.
    """
    found = source_columns(list(columns.values()), table.column_names)
    values: dict[str, tuple[pa.Array, list[str]]] = {}
    for ours, theirs in columns.items():
        if theirs in found:
            rest = theirs.removeprefix(found[theirs]).strip(".")
            values[ours] = (table[found[theirs]].combine_chunks(), rest.split(".") if rest else [])
    places = table[place].combine_chunks()
    uneven: list[int] = []
    while True:
        values = {name: _walk(array, path) for name, (array, path) in values.items()}
        nested = [
            name
            for name, (array, path) in values.items()
            if _is_list(array.type) and (path or name in lists)
        ]
        if not nested:
            break
        lengths = [_lengths(values[name][0]) for name in nested]
        is_even = np.all([sizes == lengths[0] for sizes in lengths], axis=0)
        if not is_even.all():
            uneven += places.filter(pa.array(~is_even)).to_pylist()
            keep = pa.array(is_even)
            values = {name: (array.filter(keep), path) for name, (array, path) in values.items()}
            places, lengths = places.filter(keep), [sizes[is_even] for sizes in lengths]
        parents = pa.array(np.repeat(np.arange(len(places)), lengths[0]))
        values = {
            name: (pc.list_flatten(array) if name in nested else array.take(parents), path)
            for name, (array, path) in values.items()
        }
        places = places.take(parents)
    arrays = {name: array for name, (array, _) in values.items()}
    return pa.table({**arrays, place: places}), uneven


def _walk(array: pa.Array, path: list[str]) -> tuple[pa.Array, list[str]]:
    """Follow a path into structs, as far as the next list."""
    while path:
        if pa.types.is_struct(array.type):
            fields = [field.name for field in array.type]
            size = next((n for n in range(len(path), 0, -1) if ".".join(path[:n]) in fields), 0)
            if not size:
                return pa.nulls(len(array)), []
            array = pc.struct_field(array, [fields.index(".".join(path[:size]))])
            path = path[size:]
        elif _is_text(array.type):  # types were mixed further down, so the value was kept as JSON
            return pa.array([_look_up(text, path) for text in array.to_pylist()], pa.string()), []
        elif pa.types.is_null(array.type):
            return array, []
        else:
            break
    return array, path if _is_list(array.type) else []


def _look_up(text: str | None, path: Sequence[str]) -> str | None:
    try:
        value: Any = json.loads(text) if text else None
    except ValueError:
        return None
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _lengths(array: pa.Array) -> np.ndarray:
    return pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
