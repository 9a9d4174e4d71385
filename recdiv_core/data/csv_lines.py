# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Blocks of CSV lines as Arrow columns; every physical line is accounted for.

Not the cutting of a file into blocks (text_lines.py). Arrow parses the plain lines: those in which
every quotation mark that opens a field also closes it. The others, `odd` lines, are read here: one
may begin a row that goes on over the next lines, or its quotation mark is a stray one. The reading
that explains the lines best is taken, by a cost: a line that is no row costs more than a stray
quotation mark, and a row that swallows what looks like a row of its own costs nearly as much. The
decision rests on the lines alone, never on where a block ends.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from recdiv_core.data.text_lines import line_places

MAX_ROW_LINES: Final = 1000
"""Physical lines of one row, at most."""
MAX_ROW_BYTES: Final = 1 << 20
"""Length of a row with line breaks in it, at most."""
MAX_TEXT: Final = 100_000
"""Characters of a broken line that are kept."""
COST_BROKEN: Final = 4
COST_SWALLOWED: Final = 3
COST_UNLIKE: Final = 2
"""Of a row of the right width with a word where the other rows have a number or a time."""
UNCLOSED: Final = "a quotation mark that is never closed"
NUMBER: Final = re.compile(rb"[-+]?[0-9][-+0-9.,:/ TZeEUC]*")
SAMPLE_LINES: Final = 200


@dataclass(frozen=True)
class Shape:
    """What the rows of a file look like."""

    separator: bytes
    num_fields: int
    is_number: tuple[bool, ...]
    """Of each column: do its first values look like numbers or times?"""


@dataclass
class Parsed:
    """A block's rows, and what became of each of its lines."""

    table: pa.Table
    """The wanted columns as strings, in the order asked for; empty text is null."""
    lines_N: np.ndarray
    """[N] number of the row's first line within the block, from 0."""
    broken: list[tuple[int, str, str]]
    """(line, text, reason)"""
    num_lines: int
    """Lines that were read; the rest belongs to a row that goes on in the next block."""
    num_bytes: int
    num_blank: int
    num_continued: int
    num_stray_quotes: int
    undecodable: dict[int, str]
    num_added: int = 0
    """Lines more than there are \\n: lone carriage returns that were taken for line ends."""


class _UnfinishedError(Exception):
    """The row goes on after the block."""


def split_line(text: bytes, separator: bytes) -> tuple[list[bytes], int]:
    """Return the fields of one line, and how many of them hold a stray quotation mark.

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
    """Return where a quoted field closes: a quotation mark before a separator or a line end."""
    while True:
        quote = text.find(b'"', pos)
        if quote < 0:
            return -1
        after = quote + 1
        if text.startswith(b'"', after):
            pos = after + 1
            continue
        is_end = after == len(text) or text.startswith(separator, after)
        return quote if is_end or re.compile(rb"\r*(\n|$)").match(text, after) else -2


def _read_across(
    text: bytes, start: int, separator: bytes, is_last: bool
) -> tuple[list[bytes], int] | None:
    """Read a row that may go on over lines, by the letter of RFC 4180; None = there is none.

    Args:
        text: the row begins at `start`.
        start: place in the text.
        separator: between fields.
        is_last: nothing follows the text.

    Returns:
        Its fields, and the place of its line end.
    """
    limit = start + MAX_ROW_BYTES
    fields: list[bytes] = []
    pos = start
    while True:
        if text.startswith(b'"', pos):
            close = _find_close(text, pos + 1, separator)
            if close == len(text) - 1 and not is_last:
                raise _UnfinishedError  # what follows the quotation mark is not known
            if close == -1 and not is_last and len(text) <= limit:
                raise _UnfinishedError
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
    """Return the fields of a file's first row, its number of lines, and the blank lines before."""
    starts, ends, _ = line_places(head)
    filled = np.flatnonzero(ends > starts)
    if not len(filled):
        return [], 0, len(starts)
    first = int(filled[0])
    fields, num_stray = split_line(head[starts[first] : ends[first]], separator)
    if num_stray:
        across = _read_across(head, int(starts[first]), separator, is_last=True)
        if across and (num_lines := head.count(b"\n", int(starts[first]), across[1]) + 1) <= 10:
            return across[0], num_lines, first
    return fields, 1, first


def find_shape(head: bytes, separator: bytes, num_fields: int) -> Shape:
    """Look at the first lines of a file for what its rows hold."""
    counts = np.zeros(num_fields, dtype=np.int64)
    num_rows = 0
    for line in head.split(b"\n", SAMPLE_LINES + 1)[1 : SAMPLE_LINES + 1]:
        fields, num_stray = split_line(line.rstrip(b"\r"), separator)
        if not num_stray and len(fields) == num_fields:
            num_rows += 1
            counts += [NUMBER.fullmatch(value) is not None for value in fields]
    return Shape(separator, num_fields, tuple(bool(n > 0.9 * num_rows) for n in counts))


# --------------------------------------------------------------------------- odd lines


@dataclass
class _Block:
    data: bytes
    starts: np.ndarray
    ends: np.ndarray
    nexts: np.ndarray
    is_odd: np.ndarray
    undecodable: dict[int, str]
    is_last: bool
    shape: Shape

    def line(self, number: int) -> bytes:
        return self.data[self.starts[number] : self.ends[number]]


@dataclass
class _Odd:
    """What became of the odd lines and of those that belong to them."""

    rows: list[tuple[int, list[bytes]]] = field(default_factory=list)
    broken: list[tuple[int, str]] = field(default_factory=list)
    taken: list[tuple[int, int]] = field(default_factory=list)
    """First and last + 1 of the lines that are spoken for here."""
    num_continued: int = 0
    num_stray_quotes: int = 0
    num_lines: int = 0
    """Lines of the block before the row that goes on in the next."""


def _read_odd(block: _Block) -> _Odd:
    found = _Odd(num_lines=len(block.starts))
    done = 0
    for number in np.flatnonzero(block.is_odd).tolist():
        if number < done:
            continue
        try:
            jumps, end = _find_jumps(block, number)
        except _UnfinishedError:
            found.num_lines = number
            break
        costs = [_cost_alone(block, k) for k in range(number, end)] if jumps else [0]
        for start, stop in _choose(number, end, jumps, costs, block):
            _settle(block, start, stop, jumps.get(start), found)
        done = end
    return found


def _find_jumps(block: _Block, first: int) -> tuple[dict[int, tuple[int, list[bytes]]], int]:
    """Return the rows over several lines that can begin at or after an odd line.

    Returns:
        First line -> (last line + 1, fields); and the line that every reading comes to.
    """
    jumps: dict[int, tuple[int, list[bytes]]] = {}
    end, number = first + 1, first
    while number < min(end, first + MAX_ROW_LINES):
        row = None
        if block.is_odd[number]:
            start = int(block.starts[number])
            row = _read_across(block.data, start, block.shape.separator, block.is_last)
        if row and len(row[0]) == block.shape.num_fields:
            stop = int(np.searchsorted(block.starts, row[1], side="right"))
            if number + 1 < stop <= number + MAX_ROW_LINES:
                jumps[number] = (stop, row[0])
                end = max(end, stop)
        number += 1
    return jumps, end


def _cost_alone(block: _Block, number: int) -> int:
    """Say how badly a line explains itself as a row of its own."""
    text = block.line(number)
    if not text:
        return 0
    fields, num_stray = split_line(text, block.shape.separator)
    if len(fields) != block.shape.num_fields or number in block.undecodable:
        return COST_BROKEN
    return num_stray + (0 if _is_like_others(fields, block.shape) else COST_UNLIKE)


def _is_like_others(fields: Sequence[bytes], shape: Shape) -> bool:
    return all(
        not is_number or NUMBER.fullmatch(value)
        for value, is_number in zip(fields, shape.is_number, strict=True)
    )


def _choose(
    first: int,
    end: int,
    jumps: dict[int, tuple[int, list[bytes]]],
    costs: Sequence[int],
    block: _Block,
) -> list[tuple[int, int]]:
    """Cut the lines [first, end) into rows at the least cost; at equal cost line by line."""
    looks_like_row = [
        bool(block.line(first + k)) and cost < COST_UNLIKE for k, cost in enumerate(costs)
    ]
    swallowed = np.concatenate([[0], np.cumsum(looks_like_row)])
    best = [0] * (end - first + 1)
    stops = [0] * (end - first)
    for k in range(end - first - 1, -1, -1):
        best[k], stops[k] = costs[k] + best[k + 1], k + 1
        if first + k in jumps:
            stop = jumps[first + k][0] - first
            cost = COST_SWALLOWED * int(swallowed[stop] - swallowed[k + 1]) + best[stop]
            if cost < best[k]:
                best[k], stops[k] = cost, stop
    cuts: list[tuple[int, int]] = []
    k = 0
    while k < end - first:
        cuts.append((first + k, first + stops[k]))
        k = stops[k]
    return cuts


def _settle(
    block: _Block, start: int, stop: int, jump: tuple[int, list[bytes]] | None, found: _Odd
) -> None:
    bad = [number for number in range(start, stop) if number in block.undecodable]
    if stop > start + 1 and jump:
        found.taken.append((start, stop))
        if bad:
            reason = f"line {bad[0] - start + 1} of the row: {block.undecodable[bad[0]]}"
            found.broken += [(number, reason) for number in range(start, stop)]
        else:
            found.rows.append((start, jump[1]))
            found.num_continued += stop - start - 1
    elif block.is_odd[start]:
        found.taken.append((start, stop))
        fields, num_stray = split_line(block.line(start), block.shape.separator)
        if bad:
            found.broken.append((start, block.undecodable[start]))
        elif len(fields) == block.shape.num_fields:
            found.rows.append((start, fields))
            found.num_stray_quotes += num_stray > 0
        else:
            is_unclosed = any(value.startswith(b'"') for value in fields) and num_stray
            found.broken.append(
                (start, UNCLOSED if is_unclosed else _width(len(fields), block.shape))
            )


def _width(num_fields: int, shape: Shape) -> str:
    return f"{num_fields} fields instead of {shape.num_fields}"


# --------------------------------------------------------------------------- blocks


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

    Args:
        data: UTF-8.
        shape: what its rows look like.
        wanted: places of the columns to return.
        undecodable: lines (from 0) that are no text -> the reason.
        num_lines: number of lines in it.
        is_last: nothing follows.
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
    """Take lone carriage returns for line ends, in lines that are no rows otherwise."""
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
    block = _Block(data, starts, ends, nexts, is_odd, undecodable, is_last, shape)
    odd = _read_odd(block) if is_odd.any() else _Odd(num_lines=len(starts))
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
    """Parse a block in one go if none of its lines is odd or blank; else None."""
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
        (place, _cut(lines[place].rstrip(b"\r")), _width(width, shape)) for place, width in invalid
    ]
    if not all(text.strip() for _, text, _ in broken):
        return None
    lines_N = np.delete(np.arange(num_lines), [place for place, _ in invalid])
    return Parsed(table, lines_N, broken, num_lines, len(data), 0, 0, 0, {})


def _find_odd(data: bytes, starts: Any, nexts: Any, separator: bytes) -> np.ndarray:
    """Return the lines that Arrow would not read as one row each; [lines] bool."""
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
    """Return RE2's patterns of a field whose quotation marks close, and of the separator."""
    sep = f"\\x{separator[0]:02x}"
    return rf'(?:"(?:[^"\r\n]|"")*"|[^"\r\n{sep}][^\r\n{sep}]*|)', sep


def _text(block: _Block, number: int) -> str:
    return _cut(block.line(number))


def _cut(line: bytes) -> str:
    return line[: 4 * MAX_TEXT].decode("utf-8", "replace")[:MAX_TEXT]


def _read_plain(
    block: _Block, plain: np.ndarray, wanted: Sequence[int]
) -> tuple[pa.Table, np.ndarray, list[tuple[int, str, str]]]:
    """Have Arrow parse the lines that are one row each."""
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
        (int(plain[place]), _text(block, int(plain[place])), _width(width, block.shape))
        for place, width in invalid
    ]
    return table, plain[is_row], broken


def _read_arrow(
    data: bytes, shape: Shape, wanted: Sequence[int]
) -> tuple[pa.Table, list[tuple[int, int]]]:
    """Parse lines that are one row each.

    Returns:
        The rows, and the number (from 0; blank lines do not count) and width of each line that has
        another number of fields.
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
