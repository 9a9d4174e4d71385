# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Detect format, separator, header and encoding of a file from its first bytes.

It also returns a sample of rows, or the reason why the file cannot be read. Only the start of a
file is read, so large files cost no more than small ones. adapters/guess.py guesses the meaning of
columns.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pyarrow as pa

from recdiv_core.errors import UserError
from recdiv_core.formats.compressed import read_chunks
from recdiv_core.formats.csv_files import GUESSES
from recdiv_core.formats.csv_rows import split_line
from recdiv_core.formats.files import Format, SourceFile, TextFormat, list_files
from recdiv_core.formats.readers import ROW, cut_units, read_unit
from recdiv_core.storage.places import name_of
from recdiv_core.wording import counted

HEAD_BYTES: Final = 1 << 18
SAMPLE_ROWS: Final = 10_000
A_VALUE: Final = re.compile(
    r"[+-]?[0-9][0-9.,:eE+/ -]*([TZ][0-9:.Z+-]*)?( ?UTC| ?[AaPp][Mm])?"
    r"|[0-9a-fA-F]{8}-[0-9a-fA-F-]{20,}|[0-9a-fA-F]{24,}|https?://.*|true|false|\\N|NA|NULL",
)
"""Pattern of values that occur in rows but not as column names."""
IS_EMPTY: Final = "is empty"
NAMES: Final[dict[Format, str]] = {
    "csv": "separated text",
    "jsonl": "JSON Lines",
    "json_array": "a JSON array",
    "python_literal": "Python dicts, one a line",
    "parquet": "Parquet",
    "xlsx": "Excel",
}


@dataclass(frozen=True)
class Sniffed:
    """Result of sniffing a file.

    Attributes:
        has_header: whether the first line names the columns; True for formats without lines.
        problem: reason why the file cannot be read; empty = readable.
    """

    file: SourceFile
    table: pa.Table
    has_header: bool = True
    problem: str = ""

    @property
    def name(self) -> str:
        """Name of the file without its directory."""
        return name_of(self.file.path)

    @property
    def columns(self) -> list[str]:
        """Column names; invented if the file has none."""
        return [name for name in self.table.column_names if name != ROW]

    def describe(self) -> str:
        """Describe the file in a few words."""
        if self.problem:
            return self.problem
        words = [NAMES[self.file.format]]
        if self.file.format == "csv" and self.file.text is not None:
            words.append(f"separator {self.file.text.separator!r}")
            words.append("names in the first line" if self.has_header else "no names of columns")
            words.append(self.file.text.encoding)
        return ", ".join([*words, counted(len(self.columns), "column")])


def printable(text: str) -> str:
    """Return text on one line, without control characters."""
    return "".join(mark if mark.isprintable() else " " for mark in text)


def sniff(path: str) -> Sniffed:
    """Detect the format of a file from its start."""
    nothing = Sniffed(SourceFile(path, "csv", 0, ""), pa.table({}))
    try:
        return _sniff(path)
    except (UserError, OSError, EOFError, pa.ArrowException, UnicodeError) as error:
        return replace(nothing, problem=" ".join(str(error).split())[:300])


def _sniff(path: str) -> Sniffed:
    kind = _format_by_name(path)
    text, has_header = TextFormat(), True
    if kind is None or kind == "csv":
        head = read_head(path)
        kind = _format_of(head) if kind is None else kind
        if kind == "csv":
            text, has_header = _read_shape(head, path)
    elif kind in ("jsonl", "json_array"):
        kind = _format_of(read_head(path), usual=kind)
    (file,) = list_files(path, "FILE", kind)
    file = replace(file, text=text)
    batch = next(read_unit(cut_units([file], "FILE")[0], None), None)
    if batch is None or not batch.table.num_rows:
        is_broken = batch is not None and batch.broken
        raise UserError("no row fits the first line" if is_broken else "holds no rows")
    return Sniffed(file, _sample(batch.table), has_header)


def _sample(table: pa.Table) -> pa.Table:
    """Return the first rows of a batch, and rows spread over the rest."""
    if table.num_rows <= SAMPLE_ROWS:
        return table
    half = SAMPLE_ROWS // 2
    others = np.linspace(half, table.num_rows - 1, SAMPLE_ROWS - half, dtype=np.int64)
    return table.take(pa.array(np.concatenate([np.arange(half), others])))


def _format_by_name(path: str) -> Format | None:
    name = name_of(path).lower()
    if name.endswith((".parquet", ".pq")):
        return "parquet"
    if name.endswith(".xlsx"):
        return "xlsx"
    plain = re.sub(r"\.(gz|bz2|xz|zst|zip)$", "", name)
    if plain.endswith((".jsonl", ".ndjson", ".json")):
        return "jsonl"
    return "csv" if plain.endswith((".csv", ".tsv", ".inter", ".item", ".dat")) else None


def read_head(path: str) -> bytes:
    """Return the first HEAD_BYTES of a file, decompressed, or a little more.

    Raises:
        UserError: the file is empty, or is no text file.
    """
    parts: list[bytes] = []
    for chunk in read_chunks(path):
        parts.append(chunk)
        if sum(map(len, parts)) >= HEAD_BYTES:
            break
    head = b"".join(parts)
    if not head.strip():
        raise UserError(IS_EMPTY)
    if not head.startswith((b"\xff\xfe", b"\xfe\xff")) and head.count(b"\0") > len(head) / 1000:
        raise UserError("is a binary file of an unknown kind")
    return head


def _format_of(head: bytes, usual: Format = "csv") -> Format:
    start = head.lstrip(b"\xef\xbb\xbf \r\n\t")[:1]
    if start == b"[":
        return "json_array"
    if start != b"{":
        return usual
    line = head.lstrip(b"\xef\xbb\xbf \r\n\t").split(b"\n", 1)[0]
    try:
        json.loads(line)
    except ValueError:
        return "python_literal" if line.lstrip(b"{ ")[:1] == b"'" else "jsonl"
    return "jsonl"


def _read_shape(head: bytes, path: str) -> tuple[TextFormat, bool]:
    encoding = encoding_of(head)
    lines = [
        line.rstrip("\r")
        for line in head.decode(encoding, "replace").lstrip("\ufeff").split("\n")[:200]
    ]
    is_cut = len(head) >= HEAD_BYTES and 1 < len(lines) < 200  # in its last line
    lines = [line for line in (lines[:-1] if is_cut else lines) if line.strip()]
    if not lines:
        raise UserError("holds no lines")
    usual = "\t" if re.search(r"\.(tsv|inter|item)(\.|$)", path.lower()) else ","
    separator = _separator_of(lines, usual)
    rows = [_split(line, separator) for line in lines]
    has_header = _is_header(rows)
    names = () if has_header else tuple(f"column_{n}" for n in range(1, len(rows[0]) + 1))
    return TextFormat(separator=separator, header=names, encoding=encoding), has_header


def encoding_of(head: bytes) -> str:
    """Return the encoding of the start of a text file."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    whole = head if len(head) < HEAD_BYTES else head[: head.rfind(b"\n") + 1] or head[:-4]
    try:
        whole.decode("utf-8")
    except UnicodeDecodeError:
        return "cp1252" if any(0x80 <= byte < 0xA0 for byte in whole) else "latin-1"
    return "utf-8"


def _separator_of(lines: Sequence[str], usual: str) -> str:
    """Return the separator that cuts most lines into an equal number of fields, two or more."""
    best, best_score = usual, 0.0
    for separator in (usual, "::", *GUESSES):
        counts = Counter(len(_split(line, separator)) for line in lines)
        size, number = counts.most_common(1)[0]
        if size < 2:
            continue
        score = number / len(lines) + min(size, 20) / 1000
        if score > best_score + (0 if separator != " " else 0.1):
            best, best_score = separator, score
    return best


def _split(line: str, separator: str) -> list[str]:
    fields = split_line(line.encode(), separator.encode())[0]
    return [field.decode() for field in fields]


def _is_header(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the first line names the columns: none is like a value.

    A name may occur twice, as in a joined table, if no later row has it in its column.
    """
    names = [name.strip() for name in rows[0]]
    is_free_of_values = not any(A_VALUE.fullmatch(name) for name in names)
    is_repeated = any(list(row) == list(rows[0]) for row in rows[1:])
    twice = [place for place, name in enumerate(names) if names.count(name) > 1]
    is_value = any(row[n : n + 1] == rows[0][n : n + 1] for n in twice for row in rows[1:])
    return all(names) and is_free_of_values and not is_repeated and not is_value
