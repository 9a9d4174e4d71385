"""List the files that a path, directory, glob or URI names.

Their content is read in readers.py. The order of files is fixed, so that each row has the same
position in the input on every machine.
"""

from __future__ import annotations

import fnmatch
import hashlib
import itertools
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Literal, NamedTuple, cast
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs

from recdiv_core.errors import UserError
from recdiv_core.formats.reshape import Reshape
from recdiv_core.storage.credentials import redact
from recdiv_core.storage.places import filesystem_of, is_uri, name_of, sibling

Format = Literal["csv", "jsonl", "json_array", "python_literal", "parquet", "xlsx"]
"""Content of a file. `json_array`: one JSON array of objects. `python_literal`: one Python dict a
line, in single quotes."""

TEXT_EXTENSIONS: Final[Mapping[str, Format]] = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".txt", ".dat", ".data"), "csv"),
    **dict.fromkeys((".inter", ".item", ".user"), "csv"),  # RecBole's atomic files
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
}
COMPRESSIONS: Final = ("", ".gz", ".bz2", ".xz", ".zst", ".zstd", ".zip")
EXTENSIONS: Final[Mapping[str, Format]] = {
    **{
        ext + compressed: kind
        for ext, kind in TEXT_EXTENSIONS.items()
        for compressed in COMPRESSIONS
    },
    ".parquet": "parquet",
    ".pq": "parquet",
    ".xlsx": "xlsx",
}
ZIP: Final = ".zip"
"""Extension of an archive; the name of its only member tells the format."""
HASHED_BYTES: Final = 1 << 30
STREAM_BYTES: Final = 1 << 20
"""Bytes of one read; each read is a request to the store."""
NO_PARTITION: Final = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class TextFormat:
    """Format of a text file; see `data.separator`, `data.header`, `data.encoding`."""

    separator: str = ""
    """Text between two fields; empty = chosen by the extension of the file."""
    header: tuple[str, ...] = ()
    """Column names; empty = the first line holds them."""
    encoding: str = "utf-8"
    prefix: str = "data."
    """Start of the keys of these settings, for messages: `data.` for the log, `data.item_` for the
    catalogue, `--slates ` for slates."""


AS_USUAL: Final = TextFormat()


@dataclass(frozen=True)
class SourceFile:
    """One input file. `path` is absolute, or a URI."""

    path: str
    format: Format
    num_bytes: int
    modified: str
    partitions: tuple[tuple[str, str | None], ...] = ()
    """(column, value) of each folder `name=value` above the file; every row has these columns."""
    text: TextFormat | None = None
    """Format of this file, if its layout fixes one; None = that of the settings."""
    reshape: Reshape | None = None
    """Change of the rows that its layout asks for; None = no change."""


def list_files(given: str, key: str, format: Format | None = None) -> list[SourceFile]:
    """Return the files that a path, directory, glob or URI names, sorted by path.

    Without a format, extensions tell it.

    Raises:
        UserError: an empty setting, no such file, an empty file, or an unknown extension.
    """
    if not given:
        raise UserError(f"{key} is empty: give a path, directory, glob or URI")
    infos = _list_uri(given, key) if is_uri(given) else _list_local(given, key)
    files: list[SourceFile] = []
    for found in sorted(infos):
        kind = format or _find_format(found.path, key)
        if not found.num_bytes:
            raise UserError(f"{key}: {redact(found.path)} is an empty file")
        partitions = find_partitions(found.above, found.below)
        files.append(SourceFile(found.path, kind, found.num_bytes, found.modified, partitions))
    return files


class _Found(NamedTuple):
    path: str
    num_bytes: int
    modified: str
    above: tuple[str, ...]
    """Folders of the given path."""
    below: tuple[str, ...]
    """Folders below the given path."""


def _find_format(path: str, key: str) -> Format:
    name = name_of(path).lower()
    suffix = max((ext for ext in EXTENSIONS if name.endswith(ext)), key=len, default="")
    if suffix:
        return EXTENSIONS[suffix]
    if name.endswith(ZIP):
        with open_input(path, is_seekable=True) as file:
            try:
                members = zipfile.ZipFile(cast("IO[bytes]", file)).namelist()
            except (zipfile.BadZipFile, pa.ArrowInvalid) as error:
                raise UserError(f"{key}: {redact(path)} is no zip archive: {error}") from None
        kinds = {EXTENSIONS.get(Path(member).suffix.lower(), "csv") for member in members}
        return "jsonl" if kinds == {"jsonl"} else "csv"
    allowed = ", ".join([*TEXT_EXTENSIONS, ".zip", ".parquet", ".xlsx"])
    raise UserError(
        f"{key}: {redact(path)} has an unknown extension; allowed: {allowed}; text also with "
        f"{', '.join(COMPRESSIONS[1:])} after it"
    )


def find_partitions(
    above: Sequence[str], below: Sequence[str]
) -> tuple[tuple[str, str | None], ...]:
    """Return the columns of Hive folders `name=value`; of equal names the innermost counts.

    Args:
        above: folders of the given path. Only its last folders count, up to the first without `=`.
        below: folders below the given path. Each one with `=` counts.

    >>> find_partitions(["/", "a=1", "log", "dt=2024-01-01"], ["event=add%20to%20cart", "x"])
    (('dt', '2024-01-01'), ('event', 'add to cart'))
    """
    last = itertools.takewhile(lambda name: name.find("=") > 0, reversed(above))
    found: dict[str, str | None] = {}
    for folder in (*reversed([*last]), *below):
        name, mark, value = folder.partition("=")
        if name and mark:
            text = unquote(value)
            found[unquote(name)] = None if text == NO_PARTITION else text
    return tuple(found.items())


def _list_local(given: str, key: str) -> list[_Found]:
    root = Path(given).expanduser().absolute()
    fixed = root
    if root.is_file():
        paths, fixed = [root], root.parent
    elif root.is_dir():
        paths = [p for p in root.rglob("*") if p.is_file() and _is_data(p.relative_to(root).parts)]
        if not paths:
            raise UserError(f"{key}={given} is a directory without files")
    elif any(mark in given for mark in "*?["):
        pattern = str(root.relative_to(root.anchor))
        found = set(Path(root.anchor).glob(pattern))
        below = {p for path in found if path.is_dir() for p in path.rglob("*") if p.is_file()}
        paths = [p for p in found if p.is_file()]
        paths += [p for p in below - found if _is_data(p.parts[len(root.parts) :])]
        fixed = Path(re.split(r"[*?[]", str(root))[0] + "x").parent
        if not paths:
            raise UserError(f"{key}={given} matches no file")
    else:
        raise UserError(f"{key}={given} does not exist (working directory {Path.cwd()})")
    return [
        _Found(
            str(path.resolve()),
            (stat := path.stat()).st_size,
            str(stat.st_mtime_ns),
            fixed.parts,
            path.relative_to(fixed).parts[:-1],
        )
        for path in paths
    ]


def _list_uri(given: str, key: str) -> list[_Found]:
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
    above = tuple(root.strip("/").split("/"))
    prefix = len(above)
    files = [
        _Found(
            sibling(given, f.path),
            f.size,
            str(f.mtime_ns),
            above[:-1] if f is info else above,
            tuple(f.path.strip("/").split("/")[prefix:-1]),
        )
        for f in found
        if f.type == pyarrow.fs.FileType.File
        and (f is info or _is_data(tuple(f.path.strip("/").split("/")[prefix:])))
        and (not pattern or fnmatch.fnmatch(f.path, pattern))
    ]
    if not files:
        raise UserError(f"{key}={redact(given)} matches no file")
    return files


def _is_data(parts: tuple[str, ...]) -> bool:
    """Return False for files that writers put beside the data, such as _SUCCESS and .crc."""
    return not any(part.startswith(("_", ".")) for part in parts)


def find_paths(given: str, key: str) -> list[str]:
    """Return all paths that a path, directory, glob or URI names, of any extension.

    Raises:
        UserError: an empty setting, or no such file.
    """
    if not given:
        raise UserError(f"{key} is empty: give a path, directory, glob or URI")
    found = _list_uri(given, key) if is_uri(given) else _list_local(given, key)
    return sorted(info[0] for info in found)


def describe_sources(files: Sequence[SourceFile]) -> tuple[dict[str, str | int], ...]:
    """Describe the input files: path, bytes, and sha256 (small inputs) or time of change."""
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


def open_input(path: str, *, is_seekable: bool) -> pa.NativeFile:
    """Open the bytes of a file without decompression, for random access or as a stream."""
    fs, inner = filesystem_of(path, "file")
    if is_seekable:
        return fs.open_input_file(inner)
    return fs.open_input_stream(inner, compression=None, buffer_size=STREAM_BYTES)
