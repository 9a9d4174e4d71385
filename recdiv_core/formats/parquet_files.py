# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Read Parquet files into Arrow columns of few types.

Every Parquet type becomes text, a number, a time, or a list or struct of these. A column of any
other type is refused by name. Values are interpreted in values.py and timestamps.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdiv_core.formats.files import open_input
from recdiv_core.formats.text_lines import UnreadableFileError
from recdiv_core.formats.units import RawBatch, ReadUnit, choose_columns, make_table

BATCH_ROWS: Final = 65_536
FIRST_US: Final = -62_135_596_800_000_000
LAST_US: Final = 253_402_300_799_999_999
"""Years 1 to 9999, which Python can write. Times outside are clipped to this range."""
PER_SECOND: Final[Mapping[str, int]] = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def read_parquet(unit: ReadUnit, columns: Mapping[str, str] | None, _: int) -> Iterator[RawBatch]:
    """Read the row groups of a unit."""
    file = pq.ParquetFile(open_input(unit.path, is_seekable=True))
    groups = list(range(*unit.row_groups))
    chosen = choose_columns(columns, file.schema_arrow.names)
    names = [file.schema_arrow.names[place] for place in chosen.values()]
    first = 1
    for batch in _read_batches(file, groups, list(dict.fromkeys(names)), unit.path):
        repaired: set[int] = set()
        read = batch.schema.names
        arrays = {
            ours: plain_column(batch.column(read.index(name)), f"{unit.path}: {name}", repaired)
            for ours, name in zip(chosen, names, strict=True)
        }
        rows = np.arange(first, first + batch.num_rows)
        table = make_table(arrays, rows, unit, columns)
        yield RawBatch(table, num_lines=batch.num_rows, num_repaired=len(repaired))
        first += batch.num_rows


def _read_batches(
    file: pq.ParquetFile, groups: list[int], names: list[str], path: str
) -> Iterator[pa.RecordBatch]:
    try:
        yield from file.iter_batches(BATCH_ROWS, row_groups=groups, columns=names)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        for name in names:  # which column is it?
            try:
                for _ in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=[name]):
                    pass
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise _refuse(
                    f"{path}: {name}", file.schema_arrow.field(name).type, error
                ) from None
        raise


def _refuse(place: str, kind: pa.DataType, error: Exception) -> UnreadableFileError:
    reason = str(error).splitlines()[0]
    return UnreadableFileError(f"{place} has the type {kind}, which cannot be read: {reason}")


def kind_of(kind: pa.DataType) -> str:
    """Return the kind of a type in one word: text, number, time, yes or no, nested or nothing."""
    if pa.types.is_dictionary(kind):
        return kind_of(kind.value_type)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "time"
    if pa.types.is_nested(kind):
        return "nested"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    return "nothing" if pa.types.is_null(kind) else "bool" if pa.types.is_boolean(kind) else "text"


def plain_column(array: pa.Array, place: str, repaired: set[int]) -> pa.Array:
    """Return a column in one of the types that the rest of the code knows.

    Text stays text; invalid UTF-8 becomes U+FFFD. Times become microseconds UTC without a zone.
    Times of day, UUIDs and fixed binary become text, durations whole numbers, and maps JSON.
    `repaired` receives the indices of repaired text.

    Raises:
        UnreadableFileError: the bytes are no text, or the type is not supported.
    """
    try:
        return _plain(array, repaired)
    except (
        pa.ArrowInvalid,
        pa.ArrowNotImplementedError,
        pa.ArrowTypeError,
        ValueError,
        OverflowError,
    ) as error:
        raise _refuse(place, array.type, error) from None


def _plain(array: pa.Array, repaired: set[int]) -> pa.Array:
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        is_uuid = isinstance(kind, pa.UuidType)
        texts = [None if v is None else str(v) for v in array.to_pylist()] if is_uuid else None
        return pa.array(texts, pa.string()) if is_uuid else _plain(array.storage, repaired)
    if pa.types.is_dictionary(kind):
        return _plain(array.dictionary_decode(), repaired)
    if pa.types.is_run_end_encoded(kind):
        return _plain(pc.run_end_decode(array), repaired)
    if pa.types.is_fixed_size_binary(kind):
        return pa.array([v and v.hex() for v in array.to_pylist()], pa.string())
    if _is_text(kind):
        return _plain_text(array, repaired)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _plain_time(array)
    if pa.types.is_time(kind):
        return array.cast(pa.string())
    if pa.types.is_duration(kind):
        return array.cast(pa.int64())
    if pa.types.is_float16(kind):
        return array.cast(pa.float32())
    return _plain_nested(array, repaired) if pa.types.is_nested(kind) else array


def _is_text(kind: pa.DataType) -> bool:
    tests = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
    return any(getattr(pa.types, f"is_{name}")(kind) for name in tests)


def _plain_text(array: pa.Array, repaired: set[int]) -> pa.Array:
    is_bytes = pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type)
    if pa.types.is_string_view(array.type) or pa.types.is_binary_view(array.type):
        is_bytes = pa.types.is_binary_view(array.type)
        array = array.cast(pa.large_binary())
    try:
        if pa.types.is_string(array.type):
            array.validate(full=True)
            return array
        return array.cast(pa.large_binary()).cast(pa.string())
    except pa.ArrowInvalid:
        if is_bytes:
            raise UnreadableFileError("its bytes are no UTF-8 text") from None
    values: list[bytes | None] = array.cast(pa.large_binary()).to_pylist()
    texts = [None if v is None else v.decode("utf-8", "replace") for v in values]
    repaired.update(
        k for k, (v, t) in enumerate(zip(values, texts, strict=True)) if t and t.encode() != v
    )
    return pa.array(texts, pa.string())


def _plain_time(array: pa.Array) -> pa.Array:
    kind = array.type
    if pa.types.is_date(kind):
        unit, whole = "s", array.cast(pa.date32()).cast(pa.int32()).cast(pa.int64())
        whole = pc.multiply(whole, 86_400)
    else:
        unit, whole = kind.unit, array.cast(pa.int64())
    per = PER_SECOND[unit]
    low, high = FIRST_US * per // 1_000_000, LAST_US * per // 1_000_000
    limits = pa.scalar(max(low, -(1 << 63)), pa.int64()), pa.scalar(min(high, (1 << 63) - 1))
    kept = pc.min_element_wise(pc.max_element_wise(whole, limits[0]), limits[1])
    kept = pc.if_else(whole.is_valid(), kept, pa.scalar(None, pa.int64()))
    if per > 1_000_000:
        return pc.divide(kept, 1_000).cast(pa.timestamp("us"))
    return pc.multiply(kept, 1_000_000 // per).cast(pa.timestamp("us"))


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _plain_nested(array: pa.Array, repaired: set[int]) -> pa.Array:
    kind: Any = array.type
    if pa.types.is_map(kind):
        texts = [
            None if row is None else _dump({str(key): value for key, value in row})
            for row in array.to_pylist()
        ]
        return pa.array(texts, pa.string())
    if pa.types.is_struct(kind):
        fields = [_plain(pc.struct_field(array, [k]), repaired) for k in range(kind.num_fields)]
        names = [kind.field(k).name for k in range(kind.num_fields)]
        return pa.StructArray.from_arrays(fields, names, mask=array.is_null())
    if not (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    ):
        raise UnreadableFileError("lists of this kind are not known")
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    elements = _plain(pc.list_flatten(array), repaired)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), elements, mask=array.is_null())
