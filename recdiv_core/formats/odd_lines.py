"""Read odd lines of CSV: a quotation mark opens a field and does not close it in the same line.

Such a line may begin a row of several lines, or its quotation mark may be stray. We choose the
reading with the least cost. A line that is no row costs more than a stray quotation mark. A row
that swallows a line that looks like a row costs nearly as much. The choice depends on the lines
alone, never on the end of a block. Arrow parses the plain lines (csv_lines.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from recdiv_core.formats.csv_rows import NUMBER, Shape, UnfinishedError, read_across, split_line
from recdiv_core.wording import counted

MAX_ROW_LINES: Final = 1000
"""Most physical lines of one row."""
COST_BROKEN: Final = 4
COST_SWALLOWED: Final = 3
COST_UNLIKE: Final = 2
"""Cost of a row with the right number of fields, but a word where others have a number or time."""
UNCLOSED: Final = "a quotation mark that is never closed"


@dataclass
class Block:
    """A block of whole lines: [lines] arrays of starts, ends of text, and next starts."""

    data: bytes
    starts: np.ndarray
    ends: np.ndarray
    nexts: np.ndarray
    is_odd: np.ndarray
    undecodable: dict[int, str]
    is_last: bool
    shape: Shape

    def line(self, number: int) -> bytes:
        """Return the text of one line."""
        return self.data[self.starts[number] : self.ends[number]]


@dataclass
class OddLines:
    """Rows and counts of the odd lines, and of the lines that belong to their rows."""

    rows: list[tuple[int, list[bytes]]] = field(default_factory=list)
    broken: list[tuple[int, str]] = field(default_factory=list)
    taken: list[tuple[int, int]] = field(default_factory=list)
    """(first line, last + 1) of the lines that are accounted for here."""
    num_continued: int = 0
    num_stray_quotes: int = 0
    num_lines: int = 0
    """Lines of the block before a row that continues in the next block."""


def read_odd(block: Block) -> OddLines:
    """Read the odd lines of a block, and the lines that their rows span."""
    found = OddLines(num_lines=len(block.starts))
    done = 0
    for number in np.flatnonzero(block.is_odd).tolist():
        if number < done:
            continue
        try:
            jumps, end = _find_jumps(block, number)
        except UnfinishedError:
            found.num_lines = number
            break
        costs = [_cost_alone(block, k) for k in range(number, end)] if jumps else [0]
        for start, stop in _choose(number, end, jumps, costs, block):
            _settle(block, start, stop, jumps.get(start), found)
        done = end
    return found


def _find_jumps(block: Block, first: int) -> tuple[dict[int, tuple[int, list[bytes]]], int]:
    """Return the rows of several lines that can begin at or after an odd line.

    Returns:
        First line -> (last line + 1, fields); and the line that every reading reaches.
    """
    jumps: dict[int, tuple[int, list[bytes]]] = {}
    end, number = first + 1, first
    while number < min(end, first + MAX_ROW_LINES):
        row = None
        if block.is_odd[number]:
            start = int(block.starts[number])
            row = read_across(block.data, start, block.shape.separator, block.is_last)
        if row and len(row[0]) == block.shape.num_fields:
            stop = int(np.searchsorted(block.starts, row[1], side="right"))
            if number + 1 < stop <= number + MAX_ROW_LINES:
                jumps[number] = (stop, row[0])
                end = max(end, stop)
        number += 1
    return jumps, end


def _cost_alone(block: Block, number: int) -> int:
    """Return the cost of reading a line as a row of its own."""
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
    block: Block,
) -> list[tuple[int, int]]:
    """Cut the lines [first, end) into rows at the least cost; ties are read line by line."""
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
    block: Block, start: int, stop: int, jump: tuple[int, list[bytes]] | None, found: OddLines
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
                (start, UNCLOSED if is_unclosed else describe_width(len(fields), block.shape))
            )


def describe_width(num_fields: int, shape: Shape) -> str:
    """Return the reason why a line is no row."""
    return f"{counted(num_fields, 'field')} instead of {shape.num_fields}"
