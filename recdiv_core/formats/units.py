"""Parts of the input that are read independently, and the batches that they give.

Not the reading (readers.py). The one idea: every row carries its place in the input (file number,
line number), so that whatever reads in parallel can restore the order, and every batch says what
became of each physical line, so that nothing is lost silently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from recdiv_core.formats.files import AS_USUAL, Format, TextFormat
from recdiv_core.formats.reshape import Reshape

ROW: Final = "__row__"
"""Column that holds a row's place in the input: file number * FILE_STRIDE + line number. The line
is the row's first, from 1; where a file has no lines, it is the number of the row, from 1."""
FILE_STRIDE: Final = 1 << 40


@dataclass(frozen=True)
class ReadUnit:
    """A part of the input that one task reads: a file, or some row groups of a Parquet file."""

    path: str
    format: Format
    first_row: int
    """Place before its first row in the input (see ROW)."""
    row_groups: tuple[int, int] = (0, 0)
    """First and last + 1; Parquet only."""
    num_rows: int = -1
    """Known for Parquet only."""
    text: TextFormat = AS_USUAL
    constants: tuple[tuple[str, str | None], ...] = ()
    """Columns whose value is the same in all rows: the names of Hive folders."""
    reshape: Reshape | None = None
    rest: tuple[ReadUnit, ...] = ()
    """Further files that `reshape.whole` is applied to together with this one."""

    @property
    def key(self) -> str:
        """Dotted key of the input that it is a part of."""
        return "data.items" if self.text.prefix == "data.item_" else "data.clicks"


@dataclass(frozen=True)
class RawBatch:
    """Rows as read, under our column names plus ROW, and the lines that are no rows at all.

    It accounts for every physical line: num_lines = num_header + num_blank + rows of the table -
    num_made + num_continued + len(broken). Where a file has no lines (Parquet, xlsx, JSON
    arrays) its rows are counted instead.
    """

    table: pa.Table
    broken: tuple[tuple[int, str, str], ...] = ()
    """(place, text, reason)"""
    num_lines: int = 0
    num_header: int = 0
    num_blank: int = 0
    num_continued: int = 0
    """Further lines of rows that hold a line break within quotation marks."""
    num_stray_quotes: int = 0
    """Rows with a quotation mark that is never closed; it was read as text."""
    num_repaired: int = 0
    """Rows in which text that is no Unicode was replaced by U+FFFD."""
    num_made: int = 0
    """Rows that a layout or a list of events made, less those that it made them of."""

    def check(self) -> None:
        """Assert that the lines add up."""
        known = self.num_header + self.num_blank + self.num_continued
        known += self.table.num_rows - self.num_made + len(self.broken)
        assert known == self.num_lines, f"{known} of {self.num_lines} lines are accounted for"


def choose_columns(columns: Mapping[str, str] | None, present: Sequence[str]) -> dict[str, int]:
    """Return our name -> place in the file of each column to read.

    Args:
        columns: our name -> name in the file; absent ones are left out. None = all, as named.
        present: names in the file; of equal ones the first counts.

    A column without a name, and one named like ROW, is never read under that name.
    """
    asked = {name: name for name in present} if columns is None else columns
    return {
        ours: present.index(theirs)
        for ours, theirs in asked.items()
        if theirs in present and ours not in ("", ROW)
    }


def make_table(
    arrays: Mapping[str, Any], rows: Any, unit: ReadUnit, columns: Mapping[str, str] | None
) -> pa.Table:
    """Make a batch's table of columns under our names.

    Args:
        arrays: our name -> [N] values.
        rows: [N] line numbers from 1.
        unit: its folders' columns are added where the file has none of that name.
        columns: as in choose_columns.
    """
    names, values = list(arrays), list(arrays.values())
    constants = dict(unit.constants)
    for ours, theirs in ({n: n for n in constants} if columns is None else columns).items():
        if ours not in arrays and theirs in constants and ours not in ("", ROW):
            names.append(ours)
            values.append(pa.repeat(pa.scalar(constants[theirs], pa.string()), len(rows)))
    places = pa.array(rows, pa.int64())
    return pa.table([*values, pa.array(places.to_numpy() + unit.first_row)], names=[*names, ROW])
