# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""From the user's files to Arrow tables with our column names.

Not the judgement of a row (events.py, catalogue.py). CSV, JSON Lines and Parquet are recognised
by extension; a path, a directory, a glob or a URI (s3://, gs://) is given. The one idea: files are
cut into read units that are read independently, and every row carries its place in the input
(file number, row number), so that whatever reads them in parallel can restore the order.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.fs
import pyarrow.parquet as pq

from recdiv_core.data import nested
from recdiv_core.data.files import AS_USUAL, Format, SourceFile, TextFormat, open_input
from recdiv_core.data.reshape import Reshape
from recdiv_core.errors import UserError

ROW: Final = "__row__"
"""Column that holds a row's place in the input: file number * FILE_STRIDE + row number."""
FILE_STRIDE: Final = 1 << 40
UNIT_ROWS: Final = 1_000_000
BATCH_LINES: Final = 50_000
SAMPLE_ROWS: Final = 10_000


class UnreadableFileError(UserError):
    """A file of the user's that breaks off, or is not what its extension says."""


@dataclass(frozen=True)
class ReadUnit:
    """A part of the input that one task reads: a file, or some row groups of a Parquet file."""

    path: str
    format: Format
    first_row: int
    """Place of its first row in the input (see ROW)."""
    row_groups: tuple[int, int] = (0, 0)
    """First and last + 1; Parquet only."""
    num_rows: int = -1
    """Known for Parquet only."""
    text: TextFormat = AS_USUAL
    constants: tuple[tuple[str, str | None], ...] = ()
    """Columns whose value is the same in all rows: the names of Hive folders."""
    reshape: Reshape | None = None
    rest: tuple[ReadUnit, ...] = ()
    """Further files that `reshape.whole` is applied to together with this one."""


@dataclass(frozen=True)
class RawBatch:
    """Rows as read, under our column names plus ROW, and the lines that are no rows at all."""

    table: pa.Table
    broken: tuple[tuple[int, str, str], ...] = ()
    """(place, text, reason)"""
    num_lines: int = 0
    """Physical lines of the file that were read for this batch; rows, where there are no lines.
    It is num_header + num_blank + rows of the table - num_made + num_continued + len(broken)."""
    num_header: int = 0
    num_blank: int = 0
    num_continued: int = 0
    """Further lines of rows that hold a line break within quotation marks."""
    num_stray_quotes: int = 0
    """Rows with a quotation mark that is never closed; it was read as text."""
    num_repaired: int = 0
    """Rows in which text that is no Unicode was replaced by U+FFFD."""
    num_made: int = 0
    """Rows that a layout or a list of events made, less those that it made them of."""


# --------------------------------------------------------------------------- columns


def find_columns(
    files: Sequence[SourceFile],
    names: Mapping[str, str],
    required: Sequence[str],
    key: str,
    text: TextFormat = AS_USUAL,
) -> dict[str, str]:
    """Match our column names with those of the files.

    Args:
        files: every one must hold the required columns.
        names: our name -> name in the files (from `data.columns`).
        required: our names that must be there; others only when mapped to another name.
        key: dotted key of the input, for messages.
        text: how text files are written; `text.prefix` + `columns` is the key of `names`.

    Returns:
        Our name -> name in the files, of the columns that are there.

    Raises:
        UserError: unreadable file, or a required or mapped column is missing.
    """
    with ThreadPoolExecutor(8) as pool:
        headers = list(pool.map(lambda file: read_header(file, key, text), files))
    for file, header in zip(files, headers, strict=True):
        twice = [name for name in names.values() if header.count(name) > 1]
        if twice:
            raise UserError(f"{key}: {file.path} has more than one column {twice[0]!r}")
    everywhere = list(dict.fromkeys(name for header in headers for name in header))
    found: dict[str, str] = {}
    for ours, theirs in names.items():
        is_there = bool(nested.source_columns([theirs], everywhere))
        if ours in required:
            for file, header in zip(files, headers, strict=True):
                if not nested.source_columns([theirs], header):
                    raise UserError(_missing_column(key, file.path, ours, theirs, header))
        elif theirs != ours and not is_there:
            raise UserError(_missing_column(key, files[0].path, ours, theirs, headers[0]))
        if is_there:
            found[ours] = theirs
    return found


def _missing_column(key: str, path: str, ours: str, theirs: str, header: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(theirs, header, n=1)
    hint = f"; did you mean data.columns.{ours}={nearest[0]}?" if nearest else ""
    return (
        f"{key}: {path} has no column {theirs!r} (data.columns.{ours}); "
        f"columns there: {', '.join(header)}{hint}"
    )


def read_header(file: SourceFile, key: str, text: TextFormat = AS_USUAL) -> list[str]:
    """Return the column names of a file; of JSON Lines, the keys of its first rows.

    Raises:
        UserError: the file cannot be read as what its extension says.
    """
    if file.reshape is not None:
        header = read_header(replace(file, reshape=None, partitions=()), key, text)
        made = file.reshape.columns(header, ROW)
        return [*made, *(name for name, _ in file.partitions if name not in made)]
    text = file.text or text
    try:
        if file.format == "parquet":
            return list(pq.read_schema(open_input(file.path, compressed=False)).names)
        if file.format == "csv":
            with io.TextIOWrapper(open_input(file.path), encoding="utf-8-sig", newline="") as lines:
                return next(csv.reader(lines), [])
        unit = ReadUnit(file.path, file.format, 0)
        return next(_read_jsonl(unit, None), RawBatch(pa.table({}))).table.column_names
    except (OSError, pa.ArrowInvalid, UnicodeDecodeError, EOFError) as error:
        raise UserError(f"{key}: {file.path} is not readable as {file.format}: {error}") from None


# --------------------------------------------------------------------------- rows


def cut_units(files: Sequence[SourceFile], key: str, text: TextFormat = AS_USUAL) -> list[ReadUnit]:
    """Cut files into parts that are read independently; Parquet by about UNIT_ROWS rows.

    Raises:
        UserError: all files together hold no row (as far as their footers tell).
    """
    units: list[ReadUnit] = []
    for number, file in enumerate(files):
        first_row = number * FILE_STRIDE
        if file.format != "parquet" or file.reshape is not None:
            unit = ReadUnit(
                file.path,
                file.format,
                first_row,
                text=file.text or text,
                constants=file.partitions,
                reshape=file.reshape,
            )
            if units and _are_together(units[-1], unit):
                units[-1] = replace(units[-1], rest=(*units[-1].rest, unit))
            else:
                units.append(unit)
            continue
        footer = pq.read_metadata(open_input(file.path, compressed=False))
        start, num_rows = 0, 0
        for group in range(footer.num_row_groups):
            num_rows += footer.row_group(group).num_rows
            if num_rows >= UNIT_ROWS or group + 1 == footer.num_row_groups:
                unit = ReadUnit(file.path, file.format, first_row, (start, group + 1), num_rows)
                units.append(unit)
                first_row += num_rows
                start, num_rows = group + 1, 0
    if not any(unit.num_rows for unit in units):
        raise UserError(f"{key}: {files[0].path} holds no rows")
    return units


def _are_together(first: ReadUnit, unit: ReadUnit) -> bool:
    return first.reshape == unit.reshape and unit.reshape is not None and bool(unit.reshape.whole)


def read_unit(unit: ReadUnit, columns: Mapping[str, str] | None) -> Iterator[RawBatch]:
    """Read a unit batch by batch, as what a layout and the nesting of its columns make of it.

    Args:
        unit: what to read.
        columns: our name -> name in the file, dotted for a field of a column; absent ones are left
            out. None = all, as named.

    Raises:
        UnreadableFileError: the file breaks off or holds bytes that are not UTF-8.
    """
    if unit.reshape is not None:
        batches = _read_reshaped(unit, unit.reshape)
    elif columns is None:
        batches = _read_flat(unit, None)
    else:
        parts = [theirs.split(".") for theirs in columns.values()]
        names = [".".join(p[:size]) for p in parts for size in range(1, len(p) + 1)]
        batches = _read_flat(unit, dict(zip(names, names, strict=True)))
    for batch in batches:
        yield batch if columns is None else _pick(batch, columns)


LISTS: Final = ("item_id", "timestamp", "event", "position", "rating")
"""Columns of a log in which a list stands for several events."""


def _pick(batch: RawBatch, columns: Mapping[str, str]) -> RawBatch:
    """Give a batch our names, one row an event."""
    table, uneven = nested.unnest(batch.table, columns, LISTS, ROW)
    if not uneven and table.num_rows == batch.table.num_rows:
        return replace(batch, table=table)
    rows = {row[ROW]: row for row in batch.table.to_pylist() if row[ROW] in set(uneven)}
    lines = [(place, json.dumps(rows[place], default=str), UNEVEN) for place in uneven]
    num_made = table.num_rows + len(uneven) - batch.table.num_rows
    return replace(
        batch,
        table=table,
        broken=(*batch.broken, *lines),
        num_made=batch.num_made + num_made,
    )


UNEVEN: Final = "lists of different lengths in one row"


def _read_reshaped(unit: ReadUnit, reshape: Reshape) -> Iterator[RawBatch]:
    units = [replace(part, constants=(), reshape=None, rest=()) for part in (unit, *unit.rest)]
    batches = (batch for part in units for batch in _read_flat(part, None))
    if reshape.whole is None:
        for batch in batches:
            yield _replace_rows(batch, _with_constants(reshape.apply(batch.table), unit.constants))
        return
    made: list[pa.Table] = []
    for batch in batches:
        made.append(reshape.apply(batch.table))
        yield _replace_rows(batch, made[-1].slice(0, 0))
    if made:
        table = _with_constants(reshape.finish(made), unit.constants)
        yield RawBatch(table, num_made=table.num_rows)


def _replace_rows(batch: RawBatch, table: pa.Table) -> RawBatch:
    return replace(batch, table=table, num_made=table.num_rows - batch.table.num_rows)


def _with_constants(table: pa.Table, constants: Sequence[tuple[str, str | None]]) -> pa.Table:
    for name, value in constants:
        if name not in table.column_names:
            column = pa.array([value] * table.num_rows, pa.string())
            table = table.append_column(name, column)
    return table


def _read_flat(unit: ReadUnit, columns: Mapping[str, str] | None) -> Iterator[RawBatch]:
    """Read a file's own columns.

    Args:
        unit: what to read.
        columns: our name -> name in the file; absent ones are left out. None = all, as named.

    Raises:
        UnreadableFileError: the file breaks off or holds bytes that are not UTF-8.
    """
    readers = {"csv": _read_csv, "jsonl": _read_jsonl, "parquet": _read_parquet}
    try:
        yield from readers[unit.format](unit, columns)
    except (pa.ArrowInvalid, OSError, EOFError, UnicodeDecodeError) as error:
        message = f"{unit.path} is not readable as {unit.format}: {error}"
        raise UnreadableFileError(message) from None


def _read_parquet(unit: ReadUnit, columns: Mapping[str, str] | None) -> Iterator[RawBatch]:
    file = pq.ParquetFile(open_input(unit.path, compressed=False))
    present = file.schema_arrow.names
    names = None if columns is None else [n for n in present if n in columns.values()]
    row = unit.first_row
    for batch in file.iter_batches(65_536, row_groups=list(range(*unit.row_groups)), columns=names):
        yield RawBatch(_rename(pa.Table.from_batches([batch]), columns, row))
        row += batch.num_rows


def _read_csv(unit: ReadUnit, columns: Mapping[str, str] | None) -> Iterator[RawBatch]:
    with io.TextIOWrapper(open_input(unit.path), encoding="utf-8-sig", newline="") as text:
        header = next(csv.reader(text), [])
    names = header if columns is None else [n for n in header if n in columns.values()]
    broken: list[tuple[str, str]] = []

    def keep_broken(row: pyarrow.csv.InvalidRow) -> str:
        reason = f"{row.actual_columns} fields instead of {row.expected_columns}"
        broken.append((row.text, reason))
        return "skip"

    reader = pyarrow.csv.open_csv(
        open_input(unit.path),
        read_options=pyarrow.csv.ReadOptions(block_size=8 << 20, use_threads=False),
        parse_options=pyarrow.csv.ParseOptions(
            newlines_in_values=True, invalid_row_handler=keep_broken
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()),
            include_columns=names,
            null_values=[""],
            strings_can_be_null=True,
        ),
    )
    row = unit.first_row
    for batch in reader:
        skipped = tuple((row, text, reason) for text, reason in broken)
        broken.clear()
        yield RawBatch(_rename(pa.Table.from_batches([batch]), columns, row), skipped)
        row += batch.num_rows


def _read_jsonl(unit: ReadUnit, columns: Mapping[str, str] | None) -> Iterator[RawBatch]:
    with io.BufferedReader(open_input(unit.path), 1 << 20) as stream:
        row = unit.first_row
        while lines := [line for _, line in zip(range(BATCH_LINES), stream, strict=False)]:
            rows: list[dict[str, Any]] = []
            places: list[int] = []
            broken: list[tuple[int, str, str]] = []
            for place, line in enumerate(lines, start=row):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                except ValueError:
                    value = None
                if isinstance(value, dict):
                    rows.append(value)
                    places.append(place)
                else:
                    broken.append((place, line.decode("utf-8", "replace"), "not a JSON object"))
            row += len(lines)
            present = dict.fromkeys(name for value in rows for name in value)
            wanted = present if columns is None else [n for n in columns.values() if n in present]
            arrays = {name: _from_python([value.get(name) for value in rows]) for name in wanted}
            table = pa.table(arrays) if arrays else _no_columns(len(rows))
            table = _rename(table, columns, 0).set_column(
                table.num_columns, ROW, pa.array(places, pa.int64())
            )
            yield RawBatch(table, tuple(broken))


def _no_columns(num_rows: int) -> pa.Table:
    return pa.table({"": pa.nulls(num_rows)}).select([])


def _from_python(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):  # kinds are mixed
        texts = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
        return pa.array(texts, pa.string())


def _rename(table: pa.Table, columns: Mapping[str, str] | None, first_row: int) -> pa.Table:
    if columns is not None:
        present = {ours: theirs for ours, theirs in columns.items() if theirs in table.column_names}
        arrays = [table[theirs] for theirs in present.values()]
        table = pa.table(arrays, names=list(present)) if arrays else _no_columns(table.num_rows)
    places = np.arange(first_row, first_row + table.num_rows, dtype=np.int64)
    return table.append_column(ROW, pa.array(places))


def read_sample(
    units: Sequence[ReadUnit], columns: Mapping[str, str], num_rows: int = SAMPLE_ROWS
) -> list[RawBatch]:
    """Read the first rows of the first, the middle and the last unit.

    Units without rows are passed over; no rows at all give no batches.
    """
    picked = dict.fromkeys([0, len(units) // 2, len(units) - 1])
    rest = [number for number in range(len(units)) if number not in picked]
    batches: list[RawBatch] = []
    for count, number in enumerate([*picked, *rest]):
        if count >= len(picked) and batches:
            break
        for batch in read_unit(units[number], columns):
            if batch.table.num_rows or batch.broken:
                batches.append(RawBatch(batch.table.slice(0, num_rows), batch.broken))
                break
    return batches
