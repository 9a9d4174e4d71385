# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Parse blocks of CSV lines into Arrow columns; every physical line is accounted for.

Arrow parses the plain lines: lines in which each quotation mark that opens a field also closes it.
The other (odd) lines are read one by one in odd_lines.py. Files are cut into blocks in
text_lines.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from recdiv_core.formats.csv_rows import Shape
from recdiv_core.formats.odd_lines import Block, OddLines, describe_width, read_odd
from recdiv_core.formats.text_lines import line_places

MAX_TEXT: Final = 100_000
"""Characters of an unreadable line that are kept for the report."""


@dataclass
class Parsed:
    """Rows of a block, and counts that account for each of its lines."""

    table: pa.Table
    """Wanted columns as strings, in the given order; empty text is null."""
    lines_N: np.ndarray
    """[N] first line of each row within the block, from 0."""
    broken: list[tuple[int, str, str]]
    """(line, text, reason)"""
    num_lines: int
    """Lines that were read; the remaining lines belong to a row that ends in the next block."""
    num_bytes: int
    num_blank: int
    num_continued: int
    num_stray_quotes: int
    undecodable: dict[int, str]
    num_added: int = 0
    """Lone carriage returns that were read as line ends."""


def parse_block(
    data: bytes,
    shape: Shape,
    wanted: Sequence[int],
    undecodable: dict[int, str],
    *,
    num_lines: int,
    is_last: bool,
) -> Parsed:
    """Parse a block of whole lines.

    `wanted` are the indices of the columns to return; `undecodable` maps line numbers from 0 to the
    reason why a line is no text.
    """
    separator, stand_in = shape.separator, b""
    if len(separator) > 1:
        stand_in = next(bytes([c]) for c in range(1, 32) if c not in (9, 10, 13) and c not in data)
        data = data.replace(separator, stand_in)
        shape = Shape(stand_in, shape.num_fields, shape.is_number)
    parsed = None
    if data and not data.isspace() and not undecodable:
        parsed = _parse_plain(data, shape, wanted, num_lines)
    parsed = parsed or _parse(data, shape, wanted, undecodable, is_last)
    returns = [line for line, text, _ in parsed.broken if "\r" in text]
    if returns:
        given = data
        data, undecodable = _end_returns(data, returns, undecodable)
        parsed = _parse(data, shape, wanted, undecodable, is_last)
        parsed.num_added = data.count(b"\n", 0, parsed.num_bytes) - given.count(
            b"\n", 0, parsed.num_bytes
        )
    if stand_in:
        _put_back(parsed, stand_in.decode(), separator.decode())
        parsed.num_bytes = len(data[: parsed.num_bytes].replace(stand_in, separator))
    return parsed


def _end_returns(
    data: bytes, broken: Sequence[int], undecodable: dict[int, str]
) -> tuple[bytes, dict[int, str]]:
    """Read lone carriage returns as line ends, in lines that are no rows otherwise."""
    lines = data.split(b"\n")
    shift = np.zeros(len(lines) + 1, dtype=np.int64)
    for number in broken:
        text = lines[number].rstrip(b"\r")
        shift[number + 1] = text.count(b"\r")
        lines[number] = text.replace(b"\r", b"\n") + lines[number][len(text) :]
    moved = np.cumsum(shift)
    return b"\n".join(lines), {k + int(moved[k]): why for k, why in undecodable.items()}


def _put_back(parsed: Parsed, stand_in: str, separator: str) -> None:
    columns = [pc.replace_substring(c, stand_in, separator) for c in parsed.table.columns]
    parsed.table = pa.table(columns, parsed.table.schema) if columns else parsed.table
    parsed.broken = [(k, t.replace(stand_in, separator), why) for k, t, why in parsed.broken]


def _parse(
    data: bytes, shape: Shape, wanted: Sequence[int], undecodable: dict[int, str], is_last: bool
) -> Parsed:
    starts, ends, nexts = line_places(data)
    is_odd = _find_odd(data, starts, nexts, shape.separator)
    is_odd[list(undecodable)] = True
    block = Block(data, starts, ends, nexts, is_odd, undecodable, is_last, shape)
    odd = read_odd(block) if is_odd.any() else OddLines(num_lines=len(starts))
    num_lines = odd.num_lines
    num_bytes = int(nexts[num_lines - 1]) if num_lines else 0
    is_free = np.ones(num_lines, dtype=bool)
    for start, stop in odd.taken:
        is_free[start:stop] = False
    is_plain = is_free & (ends > starts)[:num_lines]
    plain = np.flatnonzero(is_plain)
    table, lines_N, broken = _read_plain(block, plain, wanted)
    blank = [line for line, text, _ in broken if not text.strip()]
    broken = [row for row in broken if row[1].strip()]
    broken += [(k, _text(block, k), why) for k, why in odd.broken]
    if odd.rows:
        columns = [
            pa.array([row[c] or None for _, row in odd.rows], pa.binary()).cast(pa.string())
            for c in wanted
        ]
        lines_N = np.concatenate([lines_N, [line for line, _ in odd.rows]]).astype(np.int64)
        order = np.argsort(lines_N, kind="stable")
        if columns:
            table = pa.concat_tables([table, pa.table(columns, names=table.column_names)])
            table = table.take(pa.array(order))
        lines_N = lines_N[order]
    num_blank = int(np.count_nonzero(is_free)) - len(plain) + len(blank)
    parsed = Parsed(
        table, lines_N, sorted(broken), num_lines, num_bytes, num_blank,
        odd.num_continued, odd.num_stray_quotes, undecodable,
    )  # fmt: skip
    num_known = len(lines_N) + len(broken) + num_blank + parsed.num_continued
    assert num_known == num_lines, f"{num_known} of {num_lines} lines are accounted for"
    return parsed


def _parse_plain(data: bytes, shape: Shape, wanted: Sequence[int], num_lines: int) -> Parsed | None:
    """Parse a block at once if no line is odd or blank; else return None."""
    separator = shape.separator
    if b'"' in data:
        block = pa.array([data], pa.large_binary())
        value, sep = _plain_value(separator)
        pattern = rf"^(?:{value}(?:{sep}|\r*\n))*{value}\r*$"
        if not pc.match_substring_regex(block, pattern)[0].as_py():
            return None
    elif b"\r" in data:
        raw = np.frombuffer(data + b"\n", dtype=np.uint8)
        after = raw[np.flatnonzero(raw == 13) + 1]
        if not ((after == 10) | (after == 13)).all():
            return None
    table, invalid = _read_arrow(data, shape, wanted)
    if table.num_rows + len(invalid) != num_lines:
        return None  # blank lines
    lines = data.split(b"\n") if invalid else []
    broken = [
        (place, _cut(lines[place].rstrip(b"\r")), describe_width(width, shape))
        for place, width in invalid
    ]
    if not all(text.strip() for _, text, _ in broken):
        return None
    lines_N = np.delete(np.arange(num_lines), [place for place, _ in invalid])
    return Parsed(table, lines_N, broken, num_lines, len(data), 0, 0, 0, {})


def _find_odd(data: bytes, starts: Any, nexts: Any, separator: bytes) -> np.ndarray:
    """Return [lines] bool: the lines that Arrow would not read as one row each."""
    has_quotes = b'"' in data
    if not len(starts) or (not has_quotes and b"\r" not in data):
        return np.zeros(len(starts), dtype=bool)
    offsets = pa.py_buffer(np.append(starts, nexts[-1]).astype(np.int64))
    buffers = [None, offsets, pa.py_buffer(data)]
    lines = pa.Array.from_buffers(pa.large_binary(), len(starts), buffers)
    if not has_quotes:
        is_odd = pc.match_substring_regex(lines, r"\r[^\r\n]")
        return is_odd.to_numpy(zero_copy_only=False)
    value, sep = _plain_value(separator)
    is_plain = pc.match_substring_regex(lines, rf"^{value}(?:{sep}{value})*\r*\n?$")
    return ~is_plain.to_numpy(zero_copy_only=False)


def _plain_value(separator: bytes) -> tuple[str, str]:
    """Return RE2 patterns of a field whose quotation marks close, and of the separator."""
    sep = f"\\x{separator[0]:02x}"
    return rf'(?:"(?:[^"\r\n]|"")*"|[^"\r\n{sep}][^\r\n{sep}]*|)', sep


def _text(block: Block, number: int) -> str:
    return _cut(block.line(number))


def _cut(line: bytes) -> str:
    return line[: 4 * MAX_TEXT].decode("utf-8", "replace")[:MAX_TEXT]


def _read_plain(
    block: Block, plain: np.ndarray, wanted: Sequence[int]
) -> tuple[pa.Table, np.ndarray, list[tuple[int, str, str]]]:
    """Parse the plain lines with Arrow."""
    if not len(plain):
        schema = pa.schema([(str(place), pa.string()) for place in wanted])
        return schema.empty_table(), plain, []
    data = block.data
    if len(plain) < len(block.starts):
        cuts = np.flatnonzero(np.diff(plain) > 1)
        firsts = block.starts[plain[np.append(0, cuts + 1)]].tolist()
        lasts = block.nexts[plain[np.append(cuts, len(plain) - 1)]].tolist()
        data = b"".join(data[a:b] for a, b in zip(firsts, lasts, strict=True))
    table, invalid = _read_arrow(data, block.shape, wanted)
    is_row = np.ones(len(plain), dtype=bool)
    is_row[[place for place, _ in invalid]] = False
    assert table.num_rows == np.count_nonzero(is_row), "Arrow read other rows than there are lines"
    broken = [
        (int(plain[place]), _text(block, int(plain[place])), describe_width(width, block.shape))
        for place, width in invalid
    ]
    return table, plain[is_row], broken


def _read_arrow(
    data: bytes, shape: Shape, wanted: Sequence[int]
) -> tuple[pa.Table, list[tuple[int, int]]]:
    """Parse lines that are one row each.

    Returns:
        The rows; and (line number from 0 without blank lines, number of fields) of each line whose
        number of fields is wrong.
    """
    names = [str(place) for place in range(shape.num_fields)]
    asked = [names[place] for place in wanted]
    invalid: list[tuple[int, int]] = []

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        invalid.append((row.number - 1, row.actual_columns))
        return "skip"

    table = pyarrow.csv.read_csv(
        pa.py_buffer(data),
        read_options=pyarrow.csv.ReadOptions(
            block_size=len(data) + 1, use_threads=False, column_names=names
        ),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=shape.separator.decode(),
            quote_char='"' if b'"' in data else False,
            invalid_row_handler=skip,
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            include_columns=asked or names[:1],
            null_values=[""],
            strings_can_be_null=True,
            check_utf8=False,
        ),
    )
    return table.select(asked), invalid
