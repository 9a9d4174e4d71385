"""Read the sheets of Excel workbooks (.xlsx) into Arrow columns.

Sheets with the same first row are read one after another (Online Retail II has one sheet a year).
Other sheets are skipped with a log line. Reading needs the package openpyxl.
"""

from __future__ import annotations

import datetime
import logging
import zipfile
from collections.abc import Iterator, Mapping
from typing import IO, Any, Final, cast

import pyarrow as pa

from recdiv_core.errors import UserError
from recdiv_core.formats.files import open_input
from recdiv_core.formats.json_files import from_python
from recdiv_core.formats.text_lines import UnreadableFileError
from recdiv_core.formats.units import RawBatch, ReadUnit, choose_columns, make_table

logger = logging.getLogger(__name__)

BATCH_ROWS: Final = 50_000


def read_sheets(path: str) -> Iterator[tuple[str, Iterator[tuple[Any, ...]]]]:
    """Yield the name and the rows of each sheet of a workbook.

    Raises:
        UserError: openpyxl is not installed, or the file is no workbook.
    """
    try:
        import openpyxl
        from openpyxl.utils.exceptions import InvalidFileException
    except ImportError:
        raise UserError(
            f"{path} is an Excel workbook: pip install openpyxl, or save it as CSV"
        ) from None
    with open_input(path, is_seekable=True) as file:
        try:
            book = openpyxl.load_workbook(cast("IO[bytes]", file), read_only=True, data_only=True)
            for sheet in book.worksheets:
                sheet.reset_dimensions()  # what a program wrote there is not always true
                yield sheet.title, sheet.iter_rows(values_only=True)
        except (zipfile.BadZipFile, InvalidFileException, KeyError, ValueError) as error:
            raise UnreadableFileError(f"{path} is not readable as xlsx: {error}") from None


def read_xlsx_header(path: str) -> list[str]:
    """Return the first row of the first sheet that has rows."""
    for _, rows in read_sheets(path):
        names = _names(next(rows, ()))
        if names:
            return names
    return []


def _names(row: tuple[Any, ...]) -> list[str]:
    names = ["" if value is None else str(value).strip() for value in row]
    while names and not names[-1]:
        names.pop()
    return names


def read_xlsx(unit: ReadUnit, columns: Mapping[str, str] | None, _: int) -> Iterator[RawBatch]:
    """Read the sheets of a workbook; row numbers continue from sheet to sheet."""
    header: list[str] = []
    first = 1
    for title, rows in read_sheets(unit.path):
        names = _names(next(rows, ()))
        if not names:
            continue
        header = header or names
        if names != header:
            logger.warning(
                "%s: sheet %r is left out, its columns are %s", unit.path, title, ", ".join(names)
            )
            continue
        chosen = choose_columns(columns, header)
        num_header = 1
        while True:
            batch = [row for _, row in zip(range(BATCH_ROWS), rows, strict=False)]
            if not batch and not num_header:
                break
            yield _batch(batch, first + num_header, chosen, unit, columns, num_header)
            first += len(batch) + num_header
            num_header = 0


def _batch(
    batch: list[tuple[Any, ...]],
    first: int,
    chosen: Mapping[str, int],
    unit: ReadUnit,
    columns: Mapping[str, str] | None,
    num_header: int,
) -> RawBatch:
    numbers = [k for k, row in enumerate(batch) if any(value is not None for value in row)]
    repaired: set[int] = set()
    arrays: dict[str, pa.Array] = {}
    for ours, place in chosen.items():
        cells = [batch[k][place] if place < len(batch[k]) else None for k in numbers]
        arrays[ours] = from_python(_of_one_kind(cells), repaired)
    return RawBatch(
        make_table(arrays, [first + k for k in numbers], unit, columns),
        num_lines=len(batch) + num_header,
        num_header=num_header,
        num_blank=len(batch) - len(numbers),
        num_repaired=len(repaired),
    )


def _of_one_kind(cells: list[Any]) -> list[Any]:
    """Turn times into text unless all cells of the column are times."""
    times = (datetime.datetime, datetime.date, datetime.time, datetime.timedelta)
    others = [
        cell for cell in cells if cell is not None and not isinstance(cell, datetime.datetime)
    ]
    if not others:
        return cells
    return [str(cell) if isinstance(cell, times) else cell for cell in cells]
