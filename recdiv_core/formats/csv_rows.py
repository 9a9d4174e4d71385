"""Parse single rows of a CSV file, and describe the rows of a file.

Whole blocks are parsed in csv_lines.py. A field is quoted if a quotation mark opens it and another
one, before a separator or a line end, closes it. Any other quotation mark is text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np

from recdiv_core.formats.text_lines import line_places

MAX_ROW_BYTES: Final = 1 << 20
"""Most bytes of a row with line breaks in it."""
NUMBER: Final = re.compile(rb"[-+]?[0-9][-+0-9.,:/ TZeEUC]*")
SAMPLE_LINES: Final = 200
LINE_END: Final = re.compile(rb"\r*(\n|$)")


@dataclass(frozen=True)
class Shape:
    """Form of the rows of a file."""

    separator: bytes
    num_fields: int
    is_number: tuple[bool, ...]
    """For each column, whether its first values look like numbers or times."""


class UnfinishedError(Exception):
    """The row continues after the block."""


def split_line(text: bytes, separator: bytes) -> tuple[list[bytes], int]:
    """Return the fields of one line, and the number of fields with a stray quotation mark.

    >>> split_line(b'a,"b, c","d', b",")
    ([b'a', b'b, c', b'"d'], 1)
    """
    if b'"' not in text:
        return text.split(separator), 0
    fields: list[bytes] = []
    num_stray, pos = 0, 0
    while True:
        close = _find_close(text, pos + 1, separator) if text.startswith(b'"', pos) else -1
        if close >= 0:
            fields.append(text[pos + 1 : close].replace(b'""', b'"'))
            pos = close + 1
        else:
            end = text.find(separator, pos)
            end = len(text) if end < 0 else end
            fields.append(text[pos:end])
            num_stray += b'"' in text[pos:end]
            pos = end
        if pos >= len(text):
            return fields, num_stray
        pos += len(separator)


def _find_close(text: bytes, pos: int, separator: bytes) -> int:
    """Return the closing quotation mark of a field: before a separator or a line end."""
    while True:
        quote = text.find(b'"', pos)
        if quote < 0:
            return -1
        after = quote + 1
        if text.startswith(b'"', after):
            pos = after + 1
            continue
        is_end = after == len(text) or text.startswith(separator, after)
        return quote if is_end or LINE_END.match(text, after) else -2


def read_across(
    text: bytes, start: int, separator: bytes, is_last: bool
) -> tuple[list[bytes], int] | None:
    """Read a row that may span several lines, strictly by RFC 4180; None = no such row.

    Nothing follows the text where `is_last`.

    Returns:
        The fields, and the position of the line end.
    """
    limit = start + MAX_ROW_BYTES
    fields: list[bytes] = []
    pos = start
    while True:
        if text.startswith(b'"', pos):
            close = _find_close(text, pos + 1, separator)
            if close == len(text) - 1 and not is_last:
                raise UnfinishedError  # the text after the quotation mark is not known yet
            if close == -1 and not is_last and len(text) <= limit:
                raise UnfinishedError
            if close < 0 or close > limit:
                return None
            fields.append(text[pos + 1 : close].replace(b'""', b'"'))
            pos = close + 1
        else:
            line_end = text.find(b"\n", pos)
            line_end = len(text) if line_end < 0 else line_end
            end = text.find(separator, pos, line_end)
            end = line_end if end < 0 else end
            fields.append(text[pos:end].rstrip(b"\r") if end == line_end else text[pos:end])
            if b'"' in fields[-1]:
                return None
            pos = end
        if not text.startswith(separator, pos):
            return fields, pos
        pos += len(separator)


def read_first(head: bytes, separator: bytes) -> tuple[list[bytes], int, int]:
    """Return the fields of the first row, its number of lines, and the blank lines before it."""
    starts, ends, _ = line_places(head)
    filled = np.flatnonzero(ends > starts)
    if not len(filled):
        return [], 0, len(starts)
    first = int(filled[0])
    fields, num_stray = split_line(head[starts[first] : ends[first]], separator)
    if num_stray:
        across = read_across(head, int(starts[first]), separator, is_last=True)
        if across and (num_lines := head.count(b"\n", int(starts[first]), across[1]) + 1) <= 10:
            return across[0], num_lines, first
    return fields, 1, first


def find_shape(head: bytes, separator: bytes, num_fields: int) -> Shape:
    """Derive the form of the rows from the first lines of a file."""
    counts = np.zeros(num_fields, dtype=np.int64)
    num_rows = 0
    for line in head.split(b"\n", SAMPLE_LINES + 1)[1 : SAMPLE_LINES + 1]:
        fields, num_stray = split_line(line.rstrip(b"\r"), separator)
        if not num_stray and len(fields) == num_fields:
            num_rows += 1
            counts += [NUMBER.fullmatch(value) is not None for value in fields]
    return Shape(separator, num_fields, tuple(bool(n > 0.9 * num_rows) for n in counts))
