# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""When items are on sale: the catalogue columns `available_from` and `available_until`.

`prepare` reads both columns as times and stores them as such, so a broken value fails there. An
item is on sale from the first time to the second, both included. slates/eligibility.py makes masks
of the times. N rows of the files, V items.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdiv_core.config import Config
from recdiv_core.errors import UserError
from recdiv_core.formats import timestamps
from recdiv_core.formats.files import SourceFile
from recdiv_core.formats.units import FILE_STRIDE, ROW
from recdiv_core.formats.values import as_mask, as_text, drop_null_words
from recdiv_core.schema import AVAILABLE_FROM, AVAILABLE_UNTIL, DAY_US, ITEM_ID
from recdiv_core.wording import counted

logger = logging.getLogger(__name__)

TIMES: Final = pa.timestamp("us", tz="UTC")
"""Type of both columns in a prepared data set."""
ALWAYS: Final = int(np.iinfo(np.int64).min)
"""Start of an item without `available_from`."""
FOREVER: Final = int(np.iinfo(np.int64).max)
"""End of an item without `available_until`."""
A_DAY: Final = r"^\d{4}[-/.]?\d\d[-/.]?\d\d$"
"""Pattern of a date without a clock."""
CLOCKS: Final = re.compile(r"%-?[HIcXs]")
"""Directives of strptime for a time of the day."""


@dataclass(frozen=True)
class SaleDates:
    """First and last time of each item on sale, in microseconds since 1970 UTC.

    Attributes:
        from_V: [V] int64; ALWAYS = not given.
        until_V: [V] int64; FOREVER = not given.
    """

    from_V: Any
    until_V: Any

    @property
    def is_limited(self) -> bool:
        """Whether some item has a date."""
        return bool((self.from_V != ALWAYS).any() or (self.until_V != FOREVER).any())


def clean_dates(
    table: pa.Table, files: Sequence[SourceFile], columns: dict[str, str], config: Config
) -> pa.Table:
    """Read both columns of a catalogue as times.

    Returns:
        The table with columns of type TIMES. A column of order numbers keeps its values, under the
        name `given_available_from`, because nothing can be compared with them.

    Raises:
        UserError: A value is no time; the message names file, row, column and value.
    """
    for name in (AVAILABLE_FROM, AVAILABLE_UNTIL):
        if name not in table.column_names:
            continue
        place = table.column_names.index(name)
        given = table[name].combine_chunks()
        form = _form(given, name, columns, config)
        if form is not None and form.unit == "order":
            logger.warning(
                "data.items: column %r (data.columns.%s) holds order numbers, no times; items are "
                "on sale at any time",
                columns[name],
                name,
            )
            names = [f"given_{own}" if own == name else own for own in table.column_names]
            table = table.rename_columns(names)
            continue
        times = _read(given, form, config)
        is_broken = as_mask(pc.and_(times.is_null(), _texts(given, config).is_valid()))
        if is_broken.any():
            at = int(np.flatnonzero(is_broken)[0])
            row = int(table[ROW][at].as_py())
            raise UserError(
                f"data.items: {files[row // FILE_STRIDE].path}: row {row % FILE_STRIDE}: "
                f"{columns[name]}={given[at].as_py()!r} is no time, the column holds {form}; "
                f"correct the value, leave it empty, or give data.columns.{name} another column"
            )
        if name == AVAILABLE_UNTIL:
            times = _to_the_end(times, given, form)
        table = table.set_column(place, name, times)
    _warn_never(table)
    return table


def _form(
    given: pa.Array, name: str, columns: dict[str, str], config: Config
) -> timestamps.TimeFormat | None:
    """Return the format of a column; None = it has no value."""
    texts = _texts(given, config)
    if texts.null_count == len(texts):
        return None
    kept = given.filter(texts.is_valid())
    pattern = config.data.timestamp_format
    for each in (pattern, "") if pattern else ("",):
        try:
            return timestamps.detect_times(kept, "", each)
        except UserError:
            pass
    shown = ", ".join(repr(str(value)) for value in kept.slice(0, 3).to_pylist())
    raise UserError(
        f"data.items: column {columns[name]!r} (data.columns.{name}) holds no times (found "
        f"{shown}); allowed: ISO 8601, epoch seconds, milli-, micro- or nanoseconds, 20240131, or "
        f"data.timestamp_format; give data.columns.{name} another column if it is no date"
    )


def _texts(given: pa.Array, config: Config) -> pa.Array:
    return drop_null_words(as_text(given), config.data.null_words)


def _read(given: pa.Array, form: timestamps.TimeFormat | None, config: Config) -> pa.Array:
    """Return times of type TIMES; null = not given, or broken."""
    if form is None:
        return pa.nulls(len(given), TIMES)
    is_given = as_mask(_texts(given, config).is_valid())
    times_N, faults_N = timestamps.parse_times(given, form)
    return pa.array(times_N, mask=(faults_N != 0) | ~is_given).cast(TIMES)


def _to_the_end(times: pa.Array, given: pa.Array, form: timestamps.TimeFormat | None) -> pa.Array:
    """Move dates without a clock to the end of their day, which they include.

    A typed column holds dates if all its times are at midnight.
    """
    if form is None:
        return times
    if pa.types.is_temporal(given.type):
        is_midnight = pc.equal(pc.floor_temporal(times, unit="day"), times).fill_null(True)
        is_day_N = np.full(len(given), as_mask(is_midnight).all())
    elif form.unit == "pattern":
        is_day_N = np.full(len(given), not CLOCKS.search(form.pattern))
    elif form.unit in ("iso", "digits"):
        texts = pc.utf8_trim_whitespace(as_text(given))
        is_day_N = as_mask(pc.match_substring_regex(texts, A_DAY))
    else:
        return times
    moved = pc.add(times.cast(pa.int64()), pa.array(np.where(is_day_N, DAY_US - 1, 0)))
    return moved.cast(TIMES)


def _warn_never(table: pa.Table) -> None:
    """Name the items that leave the sale before they enter it."""
    if not {AVAILABLE_FROM, AVAILABLE_UNTIL} <= {*table.column_names}:
        return
    never = as_mask(pc.less(table[AVAILABLE_UNTIL], table[AVAILABLE_FROM]).combine_chunks())
    if never.any():
        logger.warning(
            "data.items: %s with available_until before available_from, so never on sale, e.g. %s",
            counted(int(never.sum()), "item"),
            table[ITEM_ID][int(np.flatnonzero(never)[0])].as_py(),
        )


def with_times(table: pa.Table) -> pa.Table:
    """Return a prepared catalogue with columns of type TIMES.

    A data set of an earlier version holds the values as they were given; values that are no times
    become null.
    """
    for name in (AVAILABLE_FROM, AVAILABLE_UNTIL):
        if name in table.column_names and table.schema.field(name).type != TIMES:
            read = timestamps.read_times(table[name].combine_chunks())
            times = pa.nulls(len(table), TIMES)
            if read is not None:
                times = pa.array(read[0], mask=read[1] != 0).cast(TIMES)
            table = table.set_column(table.column_names.index(name), name, times)
    return table


def sale_dates(table: pa.Table) -> SaleDates:
    """Return the dates of the items of a prepared catalogue."""
    found: dict[str, Any] = {}
    table = with_times(table)
    for name, absent in ((AVAILABLE_FROM, ALWAYS), (AVAILABLE_UNTIL, FOREVER)):
        found[name] = np.full(len(table), absent, np.int64)
        if name in table.column_names:
            times = table[name].combine_chunks().cast(pa.int64()).fill_null(absent)
            found[name] = times.to_numpy(zero_copy_only=False)
    return SaleDates(found[AVAILABLE_FROM], found[AVAILABLE_UNTIL])
