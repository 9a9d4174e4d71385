"""Lines of CSV with a quotation mark that opens a field and does not close it in the line.

Not the plain lines, which Arrow parses (csv_lines.py). An odd line may begin a row that goes on
over the next lines, or its quotation mark is a stray one. The reading that explains the lines best
is taken, by a cost: a line that is no row costs more than a stray quotation mark, and a row that
swallows what looks like a row of its own costs nearly as much. The decision rests on the lines
alone, never on where a block ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from recdiv_core.formats.csv_rows import NUMBER, Shape, UnfinishedError, read_across, split_line

MAX_ROW_LINES: Final = 1000
"""Physical lines of one row, at most."""
COST_BROKEN: Final = 4
COST_SWALLOWED: Final = 3
COST_UNLIKE: Final = 2
"""Of a row of the right width with a word where the other rows have a number or a time."""
UNCLOSED: Final = "a quotation mark that is never closed"


@dataclass
class Block:
    """Whole lines: where each starts, ends, and where the next starts; [lines] arrays."""

    data: bytes
    starts: np.ndarray
    ends: np.ndarray
    nexts: np.ndarray
    is_odd: np.ndarray
    undecodable: dict[int, str]
    is_last: bool
    shape: Shape

    def line(self, number: int) -> bytes:
        """Return the text of a line."""
        return self.data[self.starts[number] : self.ends[number]]


@dataclass
class OddLines:
    """What became of the odd lines and of those that belong to them."""

    rows: list[tuple[int, list[bytes]]] = field(default_factory=list)
    broken: list[tuple[int, str]] = field(default_factory=list)
    taken: list[tuple[int, int]] = field(default_factory=list)
    """First and last + 1 of the lines that are spoken for here."""
    num_continued: int = 0
    num_stray_quotes: int = 0
    num_lines: int = 0
    """Lines of the block before the row that goes on in the next."""


def read_odd(block: Block) -> OddLines:
    """Read the odd lines of a block, and the lines that rows of theirs go on over."""
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
            row = read_across(block.data, start, block.shape.separator, block.is_last)
        if row and len(row[0]) == block.shape.num_fields:
            stop = int(np.searchsorted(block.starts, row[1], side="right"))
            if number + 1 < stop <= number + MAX_ROW_LINES:
                jumps[number] = (stop, row[0])
                end = max(end, stop)
        number += 1
    return jumps, end


def _cost_alone(block: Block, number: int) -> int:
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
    block: Block,
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
    """Say why a line is no row."""
    return f"{num_fields} fields instead of {shape.num_fields}"
