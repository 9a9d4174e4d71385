"""The files that a path, directory, glob or URI of the user's stands for.

Not what is in them (readers.py). Files are listed in a fixed order, so that a row's place in the
input is the same on every machine.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import pyarrow as pa
import pyarrow.fs

from recdiv_core.credentials import redact
from recdiv_core.data.reshape import Reshape
from recdiv_core.errors import UserError
from recdiv_core.places import filesystem_of, is_uri, name_of, sibling

Format = Literal["csv", "jsonl", "json_array", "python_literal", "parquet", "xlsx"]
"""What a file holds. `json_array`: one JSON array of objects. `python_literal`: a Python dict a
line, in single quotes."""

EXTENSIONS: Final[Mapping[str, Format]] = {
    ".csv": "csv",
    ".csv.gz": "csv",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}
HASHED_BYTES: Final = 1 << 30


@dataclass(frozen=True)
class TextFormat:
    """How a text file holds its rows; see `data.separator`, `data.header`, `data.encoding`."""

    separator: str = ""
    """Between fields; empty = by the file's extension."""
    header: tuple[str, ...] = ()
    """Names of the columns; empty = the first line holds them."""
    encoding: str = "utf-8"
    prefix: str = "data."
    """Start of the settings' keys, for messages: `data.` for the log, `data.item_` for the
    catalogue; `columns`, `separator`, `header` or `encoding` follows."""


AS_USUAL: Final = TextFormat()


@dataclass(frozen=True)
class SourceFile:
    """One file of the user's. `path` is absolute, or a URI."""

    path: str
    format: Format
    num_bytes: int
    modified: str
    partitions: tuple[tuple[str, str], ...] = ()
    """Column and value of each folder `name=value` above it: columns of every row of the file."""
    text: TextFormat | None = None
    """How this file is written; None = as all others (a layout knows each of its files)."""
    reshape: Reshape | None = None
    """What a layout makes of its rows; None = they are taken as they are."""


def list_files(given: str, key: str, format: Format | None = None) -> list[SourceFile]:
    """Find the files that a path, directory, glob or URI stands for, sorted by path.

    Args:
        given: what the user gave.
        key: its dotted key, for messages.
        format: what the files hold; None = by their extension.

    Raises:
        UserError: nothing given, nothing there, an empty file, or an unknown extension.
    """
    if not given:
        raise UserError(f"{key} is empty: give a path, directory, glob or URI")
    infos = _list_uri(given, key) if is_uri(given) else _list_local(given, key)
    files: list[SourceFile] = []
    for path, num_bytes, modified in sorted(infos):
        name = name_of(path).lower()
        suffix = next(
            (s for s in sorted(EXTENSIONS, key=len, reverse=True) if name.endswith(s)), ""
        )
        if not suffix:
            raise UserError(
                f"{key}: {path} has an unknown extension; allowed: {', '.join(EXTENSIONS)}"
            )
        if not num_bytes:
            raise UserError(f"{key}: {path} is an empty file")
        files.append(SourceFile(path, format or EXTENSIONS[suffix], num_bytes, modified))
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
    fs, root = filesystem_of(given, key)
    pattern = ""
    try:
        info = fs.get_file_info(root)
        if info.type == pyarrow.fs.FileType.NotFound and any(mark in root for mark in "*?["):
            pattern = root
            root = re.split(r"[*?[]", pattern)[0].rpartition("/")[0]
            info = fs.get_file_info(root)
        found = [info]
        if info.type == pyarrow.fs.FileType.Directory:
            found = fs.get_file_info(pyarrow.fs.FileSelector(root, recursive=True))
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{key}={redact(given)} cannot be read: {redact(str(error))}") from None
    prefix = len(root.strip("/").split("/"))
    files = [
        (sibling(given, f.path), f.size, str(f.mtime_ns))
        for f in found
        if f.type == pyarrow.fs.FileType.File
        and (f is info or _is_data(tuple(f.path.strip("/").split("/")[prefix:])))
        and (not pattern or fnmatch.fnmatch(f.path, pattern))
    ]
    if not files:
        raise UserError(f"{key}={redact(given)} matches no file")
    return files


def _is_data(parts: tuple[str, ...]) -> bool:
    """Leave out what writers put beside the data, such as _SUCCESS and .crc files."""
    return not any(part.startswith(("_", ".")) for part in parts)


def describe_sources(files: Sequence[SourceFile]) -> tuple[dict[str, str | int], ...]:
    """Say what was read: path, bytes, and the sha256 of small inputs or the time of change."""
    is_small = sum(file.num_bytes for file in files) <= HASHED_BYTES
    rows: list[dict[str, str | int]] = []
    for file in files:
        row: dict[str, str | int] = {"path": redact(file.path), "bytes": file.num_bytes}
        if is_small and not is_uri(file.path):
            with Path(file.path).open("rb") as stream:
                row["sha256"] = hashlib.file_digest(stream, "sha256").hexdigest()
        else:
            row["modified"] = file.modified
        rows.append(row)
    return tuple(rows)


def open_input(path: str, *, compressed: bool = True) -> pa.NativeFile:
    """Open a file; `compressed` = as a stream, decompressed by its extension, else seekable."""
    fs, inner = filesystem_of(path, "file")
    return fs.open_input_stream(inner) if compressed else fs.open_input_file(inner)
