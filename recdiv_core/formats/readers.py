"""Read files into Arrow tables with our column names.

Each format has its own module (csv_files.py, json_files.py, parquet_files.py, workbooks.py); rows
are validated later (data/events.py, data/items.py). Files are cut into read units that are read
independently (units.py). Every physical line becomes a row, or is counted with a reason.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from recdiv_core.errors import UserError
from recdiv_core.formats import nested
from recdiv_core.formats.column_hints import explain_missing
from recdiv_core.formats.csv_files import read_csv, read_csv_header
from recdiv_core.formats.files import AS_USUAL, SourceFile, TextFormat, open_input
from recdiv_core.formats.json_files import read_json
from recdiv_core.formats.parquet_files import kind_of, read_parquet
from recdiv_core.formats.reshape import Reshape
from recdiv_core.formats.text_lines import UnreadableFileError, open_text
from recdiv_core.formats.units import FILE_STRIDE, ROW, RawBatch, ReadUnit
from recdiv_core.formats.workbooks import read_xlsx, read_xlsx_header

logger = logging.getLogger(__name__)

__all__ = [
    "FILE_STRIDE",
    "ROW",
    "RawBatch",
    "ReadUnit",
    "TextFormat",
    "UnreadableFileError",
    "cut_units",
    "find_blobs",
    "find_columns",
    "read_header",
    "read_sample",
    "read_unit",
]

UNIT_ROWS: Final = 1_000_000
BLOCK_BYTES: Final = 8 << 20
"""Bytes of text that are parsed at once."""
SAMPLE_BYTES: Final = 1 << 20
SAMPLE_ROWS: Final = 10_000
DAMAGE: Final = (pa.ArrowException, OSError, EOFError, UnicodeDecodeError)


# --------------------------------------------------------------------------- columns


def find_columns(
    files: Sequence[SourceFile],
    names: Mapping[str, str],
    required: Sequence[str],
    key: str,
    text: TextFormat = AS_USUAL,
) -> dict[str, str]:
    """Match our column names with the column names of the files.

    Args:
        files: input files; each must hold the required columns.
        names: our name -> name in the files (from `data.columns`).
        required: our names of the columns that every file must have. Another column must exist only
            if the user mapped it to another name.
        key: dotted key of the input, for messages.
        text: format of text files; `text.prefix` + `columns` is the key of `names`.

    Returns:
        Our name -> name in the files, for the columns that exist.

    Raises:
        UserError: a file is unreadable, or a required or mapped column is missing.
    """
    with ThreadPoolExecutor(8) as pool:
        split = list(pool.map(lambda file: _split_header(file, key, text), files))
    headers = [[*own, *folders] for own, folders in split]
    for file, header in zip(files, headers, strict=True):
        twice = [name for name in names.values() if header.count(name) > 1]
        if twice:
            raise UserError(f"{key}: {file.path} has more than one column {twice[0]!r}")
    everywhere = list(dict.fromkeys(name for header in headers for name in header))
    found: dict[str, str] = {}
    for ours, theirs in names.items():
        lacking = [k for k, header in enumerate(headers) if not _has(header, theirs)]
        is_there = len(lacking) < len(files)
        if lacking and (ours in required or (theirs != ours and not is_there)):
            file, header = files[lacking[0]], headers[lacking[0]]
            raise UserError(
                explain_missing(key, file, ours, theirs, header, file.text or text, everywhere)
            )
        if is_there:
            found[ours] = theirs
            if lacking:
                logger.warning(
                    "%s: no column %r in %d of %d files (the first is %s): it is missing in all "
                    "their rows", key, theirs, len(lacking), len(files), files[lacking[0]].path,
                )  # fmt: skip
    _check_kinds(files, found, key)
    own = {name for header, _ in split for name in header}
    for theirs in found.values():
        if theirs in own and any(theirs in dict(file.partitions) for file in files):
            logger.info(
                "%s: column %r is in the files and in the names of their folders: the values in "
                "the files are taken", key, theirs,
            )  # fmt: skip
    return found


def _has(header: Sequence[str], name: str) -> bool:
    return bool(nested.source_columns([name], header))


def _check_kinds(files: Sequence[SourceFile], found: Mapping[str, str], key: str) -> None:
    """Refuse a column that is a time, or nested, in some Parquet files only."""
    seen: dict[str, tuple[str, str, str]] = {}
    for file in files:
        if file.format != "parquet" or file.reshape is not None:
            continue
        schema = pq.read_schema(open_input(file.path, is_seekable=True))
        for theirs in found.values():
            if theirs not in schema.names:
                continue
            kind = schema.types[schema.names.index(theirs)]
            word = kind_of(kind)
            first = seen.setdefault(theirs, (word, str(kind), file.path)) if word else None
            if first and first[0] != word and {first[0], word} & {"time", "nested"}:
                raise UserError(
                    f"{key}: the column {theirs!r} is of type {first[1]} in {first[2]} and of type "
                    f"{kind} in {file.path}: write all files with one type"
                )


def read_header(file: SourceFile, key: str, text: TextFormat = AS_USUAL) -> list[str]:
    """Return the column names of a file; for JSON Lines, the keys of its first rows.

    Folder names such as `event=click/` are columns too. A column of the file hides a folder of the
    same name.

    Raises:
        UserError: the file is not of the format that its extension says.
    """
    own, folders = _split_header(file, key, text)
    return [*own, *folders]


def _split_header(file: SourceFile, key: str, text: TextFormat) -> tuple[list[str], list[str]]:
    """Return the columns inside a file, and the columns that only its folder names give."""
    if file.reshape is not None:
        header = read_header(replace(file, reshape=None, partitions=()), key, text)
        try:
            header = file.reshape.columns(header, ROW)
        except (KeyError, ValueError, pa.ArrowException):  # no table but for such columns
            raise UserError(
                f"{key}: {file.path} has not the columns that its layout expects; columns there: "
                f"{', '.join(header)[:300]}"
            ) from None
    else:
        try:
            header = _read_header(file, file.text or text)
        except UserError as error:
            raise UserError(f"{key}: {error}") from None
        except DAMAGE as error:
            reason = str(error).splitlines()[0]
            message = f"{key}: {file.path} is not readable as {file.format}: {reason}"
            raise UserError(message) from None
    return header, [name for name, _ in file.partitions if name not in header]


def _read_header(file: SourceFile, text: TextFormat) -> list[str]:
    if file.format == "parquet":
        return list(pq.read_schema(open_input(file.path, is_seekable=True)).names)
    if file.format == "csv":
        return list(read_csv_header(open_text(file.path, text), text, file.path).names)
    if file.format == "xlsx":
        return read_xlsx_header(file.path)
    unit = ReadUnit(file.path, file.format, 0, text=text)
    first = next(read_json(unit, None, SAMPLE_BYTES), RawBatch(pa.table({})))
    return [name for name in first.table.column_names if name != ROW]


def find_blobs(file: SourceFile) -> list[str]:
    """Return the columns of a Parquet file that hold bytes (such as pictures), not text."""
    if file.format != "parquet":
        return []
    schema = pq.read_schema(open_input(file.path, is_seekable=True))
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return [field.name for field in schema if any(test(field.type) for test in tests)]


# --------------------------------------------------------------------------- rows


def cut_units(files: Sequence[SourceFile], key: str, text: TextFormat = AS_USUAL) -> list[ReadUnit]:
    """Cut files into read units; a Parquet file into units of about UNIT_ROWS rows.

    Raises:
        UserError: the Parquet footers show that the input holds no row.
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
            if units and units[-1].reshape == unit.reshape and unit.reshape and unit.reshape.whole:
                units[-1] = replace(units[-1], rest=(*units[-1].rest, unit))
            else:
                units.append(unit)
            continue
        footer = pq.read_metadata(open_input(file.path, is_seekable=True))
        start, num_rows = 0, 0
        for group in range(footer.num_row_groups):
            num_rows += footer.row_group(group).num_rows
            if num_rows >= UNIT_ROWS or group + 1 == footer.num_row_groups:
                unit = ReadUnit(
                    file.path,
                    file.format,
                    first_row,
                    (start, group + 1),
                    num_rows,
                    text=file.text or text,
                    constants=file.partitions,
                )
                units.append(unit)
                first_row += num_rows
                start, num_rows = group + 1, 0
    if not any(unit.num_rows for unit in units):
        raise UserError(f"{key}: {files[0].path} holds no rows")
    return units


def read_unit(
    unit: ReadUnit, columns: Mapping[str, str] | None, block_bytes: int = BLOCK_BYTES
) -> Iterator[RawBatch]:
    """Read a unit batch by batch; layouts and nested columns are resolved into flat rows.

    Args:
        unit: part of the input.
        columns: our name -> name in the file, dotted for a field of a column; absent columns are
            left out. None = all columns under their own names.
        block_bytes: bytes of text that are parsed at once; the rows do not depend on it.

    Raises:
        UnreadableFileError: the file ends early, is damaged, or has another encoding.
    """
    if unit.reshape is not None:
        batches = _read_reshaped(unit, unit.reshape, block_bytes)
    elif columns is None:
        batches = _read_flat(unit, None, block_bytes)
    else:
        parts = [theirs.split(".") for theirs in columns.values()]
        names = [".".join(p[:size]) for p in parts for size in range(1, len(p) + 1)]
        batches = _read_flat(unit, dict(zip(names, names, strict=True)), block_bytes)
    for batch in batches:
        batch.check()
        yield batch if columns is None else _pick(batch, columns)


LISTS: Final = ("item_id", "timestamp", "event", "position", "rating")
"""Columns of a log in which a list holds several events."""


def _pick(batch: RawBatch, columns: Mapping[str, str]) -> RawBatch:
    """Give the columns of a batch our names, and unfold lists into one row per event."""
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


def _read_reshaped(unit: ReadUnit, reshape: Reshape, block_bytes: int) -> Iterator[RawBatch]:
    units = [replace(part, constants=(), reshape=None, rest=()) for part in (unit, *unit.rest)]
    batches = (batch for part in units for batch in _read_flat(part, None, block_bytes))
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


def _read_flat(
    unit: ReadUnit, columns: Mapping[str, str] | None, block_bytes: int
) -> Iterator[RawBatch]:
    """Read the columns of a file and of its folders; see read_unit."""
    readers = {"csv": read_csv, "parquet": read_parquet, "xlsx": read_xlsx}
    try:
        yield from readers.get(unit.format, read_json)(unit, columns, block_bytes)
    except UnreadableFileError as error:
        raise UnreadableFileError(f"{unit.key}: {error}") from None
    except DAMAGE as error:
        reason = str(error).splitlines()[0]
        message = f"{unit.key}: {unit.path} is not readable as {unit.format}: {reason}"
        raise UnreadableFileError(message) from None


def read_sample(
    units: Sequence[ReadUnit], columns: Mapping[str, str], num_rows: int = SAMPLE_ROWS
) -> list[RawBatch]:
    """Read the first rows of the first, the middle and the last unit.

    Units without rows are skipped. The batches do not account for every line.
    """
    picked = dict.fromkeys([0, len(units) // 2, len(units) - 1])
    rest = [number for number in range(len(units)) if number not in picked]
    batches: list[RawBatch] = []
    for count, number in enumerate([*picked, *rest]):
        if count >= len(picked) and batches:
            break
        for batch in read_unit(units[number], columns, SAMPLE_BYTES):
            if batch.table.num_rows or batch.broken:
                batches.append(_first_rows(batch, num_rows))
                break
    return batches


def _first_rows(batch: RawBatch, num_rows: int) -> RawBatch:
    if batch.table.num_rows <= num_rows:
        return RawBatch(batch.table, batch.broken)
    last = batch.table[ROW][num_rows - 1].as_py()
    broken = tuple(line for line in batch.broken if line[0] <= last)
    return RawBatch(batch.table.slice(0, num_rows), broken)
