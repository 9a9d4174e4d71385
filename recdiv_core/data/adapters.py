# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""From the user's files to Arrow tables with our column names, and to times as whole numbers.

Not the judgement of a row (clicklog.py, catalogue.py). CSV, JSON Lines and Parquet are recognised
by extension; a path, a directory, a glob or a URI (s3://, gs://) is given. The one idea: files are
cut into read units that are read independently, and every row carries its place in the input
(file number, row number), so that whatever reads them in parallel can restore the order.
"""

from __future__ import annotations

import csv
import difflib
import fnmatch
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.fs
import pyarrow.parquet as pq

from recdiv_core.errors import UserError

Format = Literal["csv", "jsonl", "parquet"]
TimeUnit = Literal["iso", "s", "ms", "us", "ns", "order"]

EXTENSIONS: Final[Mapping[str, Format]] = {
    ".csv": "csv",
    ".csv.gz": "csv",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}
ROW: Final = "__row__"
"""Column that holds a row's place in the input: file number * FILE_STRIDE + row number."""
FILE_STRIDE: Final = 1 << 40
UNIT_ROWS: Final = 1_000_000
BATCH_LINES: Final = 50_000
SAMPLE_ROWS: Final = 10_000
HASHED_BYTES: Final = 1 << 30
LATEST_US: Final = 7_258_118_400_000_000
"""2200-01-01: later times are taken for a mistake in the unit."""
MICROSECONDS: Final[Mapping[TimeUnit, float]] = {
    "s": 1_000_000,
    "ms": 1_000,
    "us": 1,
    "ns": 0.001,
    "order": 1,
}


class UnreadableFileError(UserError):
    """A file of the user's that breaks off, or is not what its extension says."""


@dataclass(frozen=True)
class SourceFile:
    """One file of the user's. `path` is absolute, or a URI."""

    path: str
    format: Format
    num_bytes: int
    modified: str


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


@dataclass(frozen=True)
class RawBatch:
    """Rows as read, under our column names plus ROW, and the lines that are no rows at all."""

    table: pa.Table
    broken: tuple[tuple[int, str, str], ...] = ()
    """(place, text, reason)"""


# --------------------------------------------------------------------------- files


def list_files(given: str, key: str) -> list[SourceFile]:
    """Find the files that a path, directory, glob or URI stands for, sorted by path.

    Raises:
        UserError: nothing given, nothing there, an empty file, or an unknown extension.
    """
    if not given:
        raise UserError(f"{key} is empty: give a path, directory, glob or URI")
    infos = _list_uri(given, key) if "://" in given else _list_local(given, key)
    files: list[SourceFile] = []
    for path, num_bytes, modified in sorted(infos):
        name = path.rsplit("/", 1)[-1].lower()
        suffix = next(
            (s for s in sorted(EXTENSIONS, key=len, reverse=True) if name.endswith(s)), ""
        )
        if not suffix:
            raise UserError(
                f"{key}: {path} has an unknown extension; allowed: {', '.join(EXTENSIONS)}"
            )
        if not num_bytes:
            raise UserError(f"{key}: {path} is an empty file")
        files.append(SourceFile(path, EXTENSIONS[suffix], num_bytes, modified))
    return files


def _list_local(given: str, key: str) -> list[tuple[str, int, str]]:
    root = Path(given).expanduser().absolute()
    if root.is_file():
        paths = [root]
    elif root.is_dir():
        paths = [p for p in root.rglob("*") if p.is_file() and _is_data(p.relative_to(root).parts)]
        if not paths:
            raise UserError(f"{key}={given} is a directory without files")
    elif any(mark in given for mark in "*?["):
        pattern = str(root.relative_to(root.anchor))
        paths = [path for path in Path(root.anchor).glob(pattern) if path.is_file()]
        if not paths:
            raise UserError(f"{key}={given} matches no file")
    else:
        raise UserError(f"{key}={given} does not exist (working directory {Path.cwd()})")
    stats = [(path.resolve(), path.stat()) for path in paths]
    return [(str(path), stat.st_size, str(stat.st_mtime_ns)) for path, stat in stats]


def _list_uri(given: str, key: str) -> list[tuple[str, int, str]]:
    scheme = given.partition("://")[0]
    fixed = given[: min((given.find(c) for c in "*?[" if c in given), default=len(given))]
    is_glob = fixed != given
    try:
        fs, root = pyarrow.fs.FileSystem.from_uri(fixed.rpartition("/")[0] if is_glob else given)
        pattern = pyarrow.fs.FileSystem.from_uri(given)[1] if is_glob else ""
        info = fs.get_file_info(root)
        found = [info]
        if info.type == pyarrow.fs.FileType.Directory:
            found = fs.get_file_info(pyarrow.fs.FileSelector(root, recursive=True))
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{key}={given} cannot be read: {error}") from None
    prefix = len(root.strip("/").split("/"))
    files = [
        (f"{scheme}://{f.path}", f.size, str(f.mtime_ns))
        for f in found
        if f.type == pyarrow.fs.FileType.File
        and (f is info or _is_data(tuple(f.path.strip("/").split("/")[prefix:])))
        and (not pattern or fnmatch.fnmatch(f.path, pattern))
    ]
    if not files:
        raise UserError(f"{key}={given} matches no file")
    return files


def _is_data(parts: tuple[str, ...]) -> bool:
    """Leave out what writers put beside the data, such as _SUCCESS and .crc files."""
    return not any(part.startswith(("_", ".")) for part in parts)


def describe_sources(files: Sequence[SourceFile]) -> tuple[dict[str, str | int], ...]:
    """Say what was read: path, bytes, and the sha256 of small inputs or the time of change."""
    is_small = sum(file.num_bytes for file in files) <= HASHED_BYTES
    rows: list[dict[str, str | int]] = []
    for file in files:
        row: dict[str, str | int] = {"path": file.path, "bytes": file.num_bytes}
        if is_small and "://" not in file.path:
            with Path(file.path).open("rb") as stream:
                row["sha256"] = hashlib.file_digest(stream, "sha256").hexdigest()
        else:
            row["modified"] = file.modified
        rows.append(row)
    return tuple(rows)


def _open(path: str, *, compressed: bool = True) -> pa.NativeFile:
    if "://" in path:
        fs, inner = pyarrow.fs.FileSystem.from_uri(path)
    else:
        fs, inner = pyarrow.fs.LocalFileSystem(), path
    return fs.open_input_stream(inner) if compressed else fs.open_input_file(inner)


# --------------------------------------------------------------------------- columns


def find_columns(
    files: Sequence[SourceFile],
    names: Mapping[str, str],
    required: Sequence[str],
    key: str,
) -> dict[str, str]:
    """Match our column names with those of the files.

    Args:
        files: every one must hold the required columns.
        names: our name -> name in the files (from `data.columns`).
        required: our names that must be there; others only when mapped to another name.
        key: dotted key of the input, for messages.

    Returns:
        Our name -> name in the files, of the columns that are there.

    Raises:
        UserError: unreadable file, or a required or mapped column is missing.
    """
    with ThreadPoolExecutor(8) as pool:
        headers = list(pool.map(lambda file: read_header(file, key), files))
    for file, header in zip(files, headers, strict=True):
        twice = [name for name in names.values() if header.count(name) > 1]
        if twice:
            raise UserError(f"{key}: {file.path} has more than one column {twice[0]!r}")
    everywhere: set[str] = set().union(*headers)
    found: dict[str, str] = {}
    for ours, theirs in names.items():
        if ours in required:
            for file, header in zip(files, headers, strict=True):
                if theirs not in header:
                    raise UserError(_missing_column(key, file.path, ours, theirs, header))
        elif theirs != ours and theirs not in everywhere:
            raise UserError(_missing_column(key, files[0].path, ours, theirs, headers[0]))
        if theirs in everywhere:
            found[ours] = theirs
    return found


def _missing_column(key: str, path: str, ours: str, theirs: str, header: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(theirs, header, n=1)
    hint = f"; did you mean data.columns.{ours}={nearest[0]}?" if nearest else ""
    return (
        f"{key}: {path} has no column {theirs!r} (data.columns.{ours}); "
        f"columns there: {', '.join(header)}{hint}"
    )


def read_header(file: SourceFile, key: str) -> list[str]:
    """Return the column names of a file; of JSON Lines, the keys of its first rows.

    Raises:
        UserError: the file cannot be read as what its extension says.
    """
    try:
        if file.format == "parquet":
            return list(pq.read_schema(_open(file.path, compressed=False)).names)
        if file.format == "csv":
            with io.TextIOWrapper(_open(file.path), encoding="utf-8-sig", newline="") as text:
                return next(csv.reader(text), [])
        unit = ReadUnit(file.path, file.format, 0)
        return next(_read_jsonl(unit, None), RawBatch(pa.table({}))).table.column_names
    except (OSError, pa.ArrowInvalid, UnicodeDecodeError, EOFError) as error:
        raise UserError(f"{key}: {file.path} is not readable as {file.format}: {error}") from None


# --------------------------------------------------------------------------- rows


def cut_units(files: Sequence[SourceFile], key: str) -> list[ReadUnit]:
    """Cut files into parts that are read independently; Parquet by about UNIT_ROWS rows.

    Raises:
        UserError: all files together hold no row (as far as their footers tell).
    """
    units: list[ReadUnit] = []
    for number, file in enumerate(files):
        first_row = number * FILE_STRIDE
        if file.format != "parquet":
            units.append(ReadUnit(file.path, file.format, first_row))
            continue
        footer = pq.read_metadata(_open(file.path, compressed=False))
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


def read_unit(unit: ReadUnit, columns: Mapping[str, str] | None) -> Iterator[RawBatch]:
    """Read a unit batch by batch.

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
    file = pq.ParquetFile(_open(unit.path, compressed=False))
    present = file.schema_arrow.names
    names = None if columns is None else [n for n in present if n in columns.values()]
    row = unit.first_row
    for batch in file.iter_batches(65_536, row_groups=list(range(*unit.row_groups)), columns=names):
        yield RawBatch(_rename(pa.Table.from_batches([batch]), columns, row))
        row += batch.num_rows


def _read_csv(unit: ReadUnit, columns: Mapping[str, str] | None) -> Iterator[RawBatch]:
    with io.TextIOWrapper(_open(unit.path), encoding="utf-8-sig", newline="") as text:
        header = next(csv.reader(text), [])
    names = header if columns is None else [n for n in header if n in columns.values()]
    broken: list[tuple[str, str]] = []

    def keep_broken(row: pyarrow.csv.InvalidRow) -> str:
        reason = f"{row.actual_columns} fields instead of {row.expected_columns}"
        broken.append((row.text, reason))
        return "skip"

    reader = pyarrow.csv.open_csv(
        _open(unit.path),
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
    with io.BufferedReader(_open(unit.path), 1 << 20) as stream:
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


# --------------------------------------------------------------------------- values


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


def detect_time_unit(column: pa.Array, name: str) -> TimeUnit:
    """Decide once for a whole log what its timestamps are, from a sample of them.

    Numbers below 1e8 (dates before 1973, as seconds) are order numbers, as is a column named
    `order`; larger ones are seconds, milli-, micro- or nanoseconds by their median.

    Raises:
        UserError: not one of them parses.
    """
    if pa.types.is_temporal(column.type):
        return "iso"
    text = as_text(column)
    numbers = _floats(text)
    numeric = numbers[~np.isnan(numbers)]
    if parse_times(text.filter(pa.array(np.isnan(numbers))), "iso")[1].sum() > len(numeric):
        return "iso"
    if not len(numeric):
        examples = ", ".join(repr(v) for v in text.drop_null().slice(0, 3).to_pylist()) or "nothing"
        raise UserError(
            f"data.columns.timestamp={name}: none of the first {len(text)} values is a time "
            f"(found {examples}); allowed: ISO 8601, epoch seconds or milliseconds, order numbers"
        )
    size = float(np.median(np.abs(numeric)))
    if name == "order" or size < 1e8:
        return "order"
    return "s" if size < 1e11 else "ms" if size < 1e14 else "us" if size < 1e17 else "ns"


def parse_times(column: pa.Array | pa.ChunkedArray, unit: TimeUnit) -> tuple[Any, Any]:
    """Return times [N] int64 (microseconds since 1970 UTC, or order numbers) and is_valid [N] bool.

    Times without a zone are taken as UTC. Where not valid, the time is 0.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_temporal(array.type):
        stamps = array.cast(pa.timestamp("us", getattr(array.type, "tz", None)), safe=False)
        times = stamps.cast(pa.int64())
        return times.fill_null(0).to_numpy(zero_copy_only=False), _mask(times.is_valid())
    text = as_text(array)
    return _parse_iso(text) if unit == "iso" else _parse_numbers(text, unit)


def _parse_iso(text: pa.Array) -> tuple[Any, Any]:
    import pandas as pd

    series = pd.Series(text.to_numpy(zero_copy_only=False), dtype=object)
    parsed = pd.to_datetime(series, format="ISO8601", errors="coerce", utc=True)
    is_valid = parsed.notna().to_numpy()
    times = parsed.dt.tz_localize(None).to_numpy().astype("datetime64[us]").astype(np.int64)
    return np.where(is_valid, times, 0), is_valid


def _parse_numbers(text: pa.Array, unit: TimeUnit) -> tuple[Any, Any]:
    scale = MICROSECONDS[unit]
    is_whole = _mask(pc.match_substring_regex(text, r"^-?([0-9]{1,18}|[1-8][0-9]{18})$"))
    whole = pc.if_else(pa.array(is_whole), text, "0").cast(pa.int64())
    whole = whole.to_numpy(zero_copy_only=False)
    numbers = np.where(is_whole, 0.0, _floats(text))
    is_valid = is_whole | np.isfinite(numbers)
    if unit == "order":
        is_valid &= numbers == np.floor(numbers)
    else:  # far outside: clipped, so that no product overflows; the caller sees it is too late
        limit = int(2 * LATEST_US / scale)
        whole, numbers = np.clip(whole, -limit, limit), np.clip(numbers, -limit, limit)
    exact = whole // 1000 if unit == "ns" else whole * int(scale)
    rounded = np.rint(np.where(is_valid, numbers, 0.0) * scale).astype(np.int64)
    return np.where(is_valid, np.where(is_whole, exact, rounded), 0), is_valid


def _floats(text: pa.Array) -> Any:
    is_number = pc.match_substring_regex(text, r"^[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?$")
    kept = pc.if_else(is_number.fill_null(False), text, pa.scalar(None, pa.string()))
    return kept.cast(pa.float64()).fill_null(float("nan")).to_numpy(zero_copy_only=False)


def _mask(flags: pa.Array) -> Any:
    return flags.fill_null(False).to_numpy(zero_copy_only=False)


def as_numbers(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return a column of any type as float64; what is no number becomes null."""
    return pa.array(_floats(as_text(column)), from_pandas=True)
