"""Read units (parts of the input that are read independently) and their batches.

Every row carries its position in the input (file number, line number), so that parallel readers can
restore the order. Every batch accounts for each physical line, so that no line is lost silently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from recdiv_core.formats.files import AS_USUAL, Format, TextFormat
from recdiv_core.formats.reshape import Reshape

ROW: Final = "__row__"
"""Column with the position of a row in the input: file number * FILE_STRIDE + line number.

The line number counts from 1 and is that of the row's first line. Formats without lines count
rows instead."""
FILE_STRIDE: Final = 1 << 40


@dataclass(frozen=True)
class ReadUnit:
    """Part of the input that one task reads: a file, or some row groups of a Parquet file."""

    path: str
    format: Format
    first_row: int
    """Position just before the first row (see ROW)."""
    row_groups: tuple[int, int] = (0, 0)
    """First row group, and last + 1; Parquet only."""
    num_rows: int = -1
    """Number of rows; -1 = unknown (all formats but Parquet)."""
    text: TextFormat = AS_USUAL
    constants: tuple[tuple[str, str | None], ...] = ()
    """(column, value) of columns with one value in all rows, from Hive folders."""
    reshape: Reshape | None = None
    rest: tuple[ReadUnit, ...] = ()
    """Further files that `reshape.whole` needs together with this one."""

    @property
    def key(self) -> str:
        """Setting or option that names the input: `data.clicks`, `data.items` or `--slates`."""
        names = {"data.": "data.clicks", "data.item_": "data.items"}
        return names.get(self.text.prefix, self.text.prefix.strip())


@dataclass(frozen=True)
class RawBatch:
    """Rows under our column names plus ROW, and the lines that could not be read as rows.

    The counts account for every physical line: num_lines = num_header + num_blank + rows of the
    table - num_made + num_continued + len(broken). Formats without lines (Parquet, xlsx, JSON
    arrays) count rows instead.
    """

    table: pa.Table
    broken: tuple[tuple[int, str, str], ...] = ()
    """(position, text, reason) of each unreadable line."""
    num_lines: int = 0
    num_header: int = 0
    num_blank: int = 0
    num_continued: int = 0
    """Second and later lines of rows with a quoted line break."""
    num_stray_quotes: int = 0
    """Rows with a quotation mark that never closes; the mark was read as text."""
    num_repaired: int = 0
    """Rows in which invalid Unicode was replaced by U+FFFD."""
    num_made: int = 0
    """Rows that a layout or a list of events added: rows after minus rows before."""

    def check(self) -> None:
        """Check that the counts add up to the number of lines."""
        known = self.num_header + self.num_blank + self.num_continued
        known += self.table.num_rows - self.num_made + len(self.broken)
        assert known == self.num_lines, f"{known} of {self.num_lines} lines are accounted for"


def choose_columns(columns: Mapping[str, str] | None, present: Sequence[str]) -> dict[str, int]:
    """Return our name -> index of each column to read.

    Args:
        columns: our name -> name in the file; absent columns are left out. None = all columns.
        present: column names in the file; of equal names the first counts.

    A column without a name, or named like ROW, is never read.
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
    """Return the table of a batch, with columns under our names.

    `rows` are line numbers from 1. The columns of the unit's folders are added unless the file has
    them.
    """
    names, values = list(arrays), list(arrays.values())
    constants = dict(unit.constants)
    for ours, theirs in ({n: n for n in constants} if columns is None else columns).items():
        if ours not in arrays and theirs in constants and ours not in ("", ROW):
            names.append(ours)
            values.append(pa.repeat(pa.scalar(constants[theirs], pa.string()), len(rows)))
    places = pa.array(rows, pa.int64())
    return pa.table([*values, pa.array(places.to_numpy() + unit.first_row)], names=[*names, ROW])
