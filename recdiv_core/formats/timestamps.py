# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Read the times of a log as whole numbers.

The format of a time column is detected once for the whole log, from a sample. A value in another
format is reported as a fault and never guessed. N is the number of rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdiv_core.errors import INIT_MENDS, UserError
from recdiv_core.formats.month_names import DATE, named_format
from recdiv_core.formats.values import as_floats, as_mask, as_text

TimeUnit = Literal["iso", "s", "ms", "us", "ns", "digits", "pattern", "order"]

MICROSECONDS: Final[Mapping[str, float]] = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 0.001}
SMALLEST: Final = 1e8
"""Least epoch number; smaller numbers (seconds before 1973) are order numbers."""
LARGEST: Final[Mapping[str, float]] = {"s": 1e11, "ms": 1e14, "us": 1e17, "ns": 1e20}
"""Limits between units: 1e11 seconds is the year 5138, so larger numbers are milliseconds."""
NAMES: Final[Mapping[str, str]] = {
    "iso": "ISO 8601",
    "s": "seconds since 1970",
    "ms": "milliseconds since 1970",
    "us": "microseconds since 1970",
    "ns": "nanoseconds since 1970",
    "digits": "dates in digits, such as 20240131",
    "pattern": "data.timestamp_format",
    "order": "order numbers",
}
FAULTS: Final = ("", "timestamp does not parse", "timestamp in another unit than the column's")
"""Faults of a value; the index is the code that `parse_times` returns."""

DIGITS: Final = re.compile(
    r"(19|20|21)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(([01]\d|2[0-3])[0-5]\d([0-5]\d)?)?"
)
SHORT_DATE: Final = re.compile(r"\s*\d{1,2}[/.-]\d{1,2}[/.-]\d{2,4}\b")
"""Pattern of a date that begins with its day or its month."""
MONTH_NAMED: Final = re.compile(rf"\s*{DATE}\b", re.IGNORECASE)
"""Pattern of a date with the name of its month."""
CLOCKS: Final = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
EARLIEST_US: Final = -62_135_596_800_000_000
"""The year 1, the earliest time, so that typed columns cannot overflow."""
END_US: Final = 253_402_300_800_000_000
"""The year 10000."""


@dataclass(frozen=True)
class TimeFormat:
    """Format of a column of times."""

    unit: TimeUnit
    pattern: str = ""
    """strptime format, for the unit `pattern`."""

    def __str__(self) -> str:
        return self.pattern or NAMES[self.unit]


def format_named(name: str) -> TimeFormat:
    """Return the format whose `str` is a name.

    >>> format_named("milliseconds since 1970").unit, format_named("%d/%m/%Y").pattern
    ('ms', '%d/%m/%Y')
    """
    unit = next((unit for unit, known in NAMES.items() if known == name), None)
    return TimeFormat("pattern", name) if unit is None else TimeFormat(cast("TimeUnit", unit))


def detect_times(column: pa.Array, name: str, pattern: str = "") -> TimeFormat:
    """Detect the format of the times of a log from a sample.

    Numbers below SMALLEST are order numbers, and so is a column named `order`, unless most values
    are dates in digits. The median of larger numbers decides between seconds, milli-, micro- and
    nanoseconds. Without a `pattern` the format is detected.

    Raises:
        UserError: no value is a time, or the order of day and month is ambiguous.
    """
    if pa.types.is_time(column.type) or pa.types.is_duration(column.type):
        raise _refusal(name, column, f"values of type {column.type} have no date")
    if pa.types.is_temporal(column.type):
        return TimeFormat("iso")
    text = pc.utf8_trim_whitespace(as_text(column))
    if pattern:
        found = TimeFormat("pattern", pattern)
        try:
            faults = parse_times(text, found)[1]
        except (ValueError, re.error) as error:  # of pandas, on a wrong pattern
            raise UserError(f"data.timestamp_format={pattern} cannot be used: {error}") from None
        if not (faults == 0).any():
            raise _refusal(name, text, f"no value is written as data.timestamp_format={pattern}")
        return found
    numbers = as_floats(text)
    numeric = numbers[~np.isnan(numbers)]
    others = text.filter(pa.array(np.isnan(numbers))).drop_null()
    if len(others) > len(numeric):
        return _detect_text(others, name)
    if not len(numeric):
        raise _refusal(name, text, "no value is a time")
    distinct = pc.unique(text.drop_null()).to_pylist()
    # of consecutive order numbers one in thirty looks like a date
    if sum(bool(DIGITS.fullmatch(value)) for value in distinct) > len(distinct) / 2:
        return TimeFormat("digits")
    size = float(np.quantile(np.abs(numeric), 0.5, method="lower"))
    if name == "order" or size < SMALLEST:
        return TimeFormat("order")
    units: Sequence[TimeUnit] = ("s", "ms", "us", "ns")
    return TimeFormat(units[sum(size >= LARGEST[unit] for unit in units[:-1])])


def _detect_text(texts: pa.Array, name: str) -> TimeFormat:
    values = texts.to_pylist()
    if sum(bool(SHORT_DATE.match(value)) for value in values) > len(values) / 2:
        fitting = _fitting_patterns(values)
        said = " or ".join(f"data.timestamp_format='{p}'" for p in fitting)
        raise _refusal(
            name,
            texts,
            "the day or the month may come first; say which: "
            + (said or "data.timestamp_format=..., such as %d/%m/%Y %H:%M"),
        )
    if sum(bool(MONTH_NAMED.match(value)) for value in values) > len(values) / 2:
        return _detect_named(texts, name)
    if not (parse_times(texts, TimeFormat("iso"))[1] == 0).any():
        raise _refusal(name, texts, "no value is a time")
    return TimeFormat("iso")


def _detect_named(texts: pa.Array, name: str) -> TimeFormat:
    """Return the format of times whose month is a word, if it reads most values."""
    named = [value for value in texts.to_pylist() if MONTH_NAMED.match(value)]
    found = TimeFormat("pattern", named_format(named))
    try:
        is_read = (parse_times(texts, found)[1] == 0).mean() > 0.5
    except (ValueError, re.error):  # of pandas, such as two days in one value
        is_read = False
    if not is_read:
        said = "the month is a word, in no format that fits most values; say which: "
        raise _refusal(name, texts, said + "data.timestamp_format=..., such as %d %b %Y %H:%M")
    return found


def _fitting_patterns(values: Sequence[str]) -> list[str]:
    """Return the day and month patterns that read all first values."""
    sample = pa.array(values[:1000])
    mark = next(c for c in values[0].strip() if c in "/.-")
    year = "%Y" if re.match(r"\s*\d+\D\d+\D\d{4}", values[0]) else "%y"
    patterns = [
        f"{first}{mark}{second}{mark}{year}{clock}"
        for clock in CLOCKS
        for first, second in (("%d", "%m"), ("%m", "%d"))
    ]
    return [
        pattern
        for pattern in patterns
        if (parse_times(sample, TimeFormat("pattern", pattern))[1] == 0).all()
    ]


def _refusal(name: str, column: pa.Array, reason: str) -> UserError:
    given = column.drop_null().slice(0, 3).to_pylist()
    shown = ", ".join(repr(str(value)[:40]) for value in given) or "nothing"
    return UserError(
        f"data.columns.timestamp={name}: {reason} (found {shown}); allowed: ISO 8601, epoch "
        "seconds, milli-, micro- or nanoseconds, 20240131, order numbers, or any other way that "
        f"data.timestamp_format describes; {INIT_MENDS}"
    )


def parse_times(column: pa.Array | pa.ChunkedArray, form: TimeFormat) -> tuple[Any, Any]:
    """Read a column of times.

    A time without a zone is UTC.

    Returns:
        times [N] int64, microseconds since 1970 UTC, or order numbers; 0 for a fault.
        faults [N] int8, index in FAULTS; 0 = none. A null is a fault too.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_temporal(array.type):
        return _parse_typed(array)
    text = pc.utf8_trim_whitespace(as_text(array))
    if form.unit in ("iso", "pattern", "digits"):
        return _parse_text(text, form)
    return _parse_numbers(text, form.unit)


def _parse_typed(array: pa.Array) -> tuple[Any, Any]:
    if pa.types.is_date(array.type):
        array = array.cast(pa.timestamp("ms"), safe=False)
    scale = MICROSECONDS[array.type.unit]
    given = array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    is_valid = as_mask(array.is_valid())
    if scale >= 1:
        is_valid &= (given > EARLIEST_US / scale) & (given < END_US / scale)
    given = np.where(is_valid, given, 0)
    times = given * int(scale) if scale >= 1 else given // 1000
    return times, np.where(is_valid, 0, 1).astype(np.int8)


def _parse_text(text: pa.Array, form: TimeFormat) -> tuple[Any, Any]:
    import pandas as pd

    if form.unit == "iso":
        text = pc.replace_substring_regex(text, r"\s*(UTC|GMT)$", "")
        text = pc.replace_substring_regex(text, r"^(\d{4})[/.](\d\d)[/.](\d\d)", r"\1-\2-\3")
        text = pc.replace_substring_regex(text, r"(:\d\d),(\d+)", r"\1.\2")
    if form.unit == "digits":
        is_right = pc.match_substring_regex(text, f"^{DIGITS.pattern}$").fill_null(False)
        text = pc.if_else(is_right, text, pa.scalar(None, pa.string()))
        text = pc.replace_substring_regex(text, r"^(\d{4})(\d\d)(\d\d)$", r"\1-\2-\3")
        text = pc.replace_substring_regex(
            text, r"^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d*)$", r"\1-\2-\3T\4:\5:\6"
        )
        text = pc.replace_substring_regex(text, r":$", "")
    series = pd.Series(text.to_numpy(zero_copy_only=False), dtype=object)
    written = form.pattern or "ISO8601"
    parsed = pd.to_datetime(series, format=written, errors="coerce", utc=True).astype(
        "datetime64[us, UTC]"
    )
    is_valid = parsed.notna().to_numpy()
    times = parsed.dt.tz_localize(None).to_numpy().astype("datetime64[us]").astype(np.int64)
    times = np.where(is_valid, times, 0)
    faults = np.where(is_valid, 0, 1).astype(np.int8)
    if form.unit == "iso":  # the year 13885 is no year: epoch numbers parse as one
        faults[as_mask(pc.match_substring_regex(text, r"^[+-]?\d+(\.\d*)?$"))] = 2
    return np.where(faults == 0, times, 0), faults


def _parse_numbers(text: pa.Array, unit: TimeUnit) -> tuple[Any, Any]:
    is_whole = as_mask(pc.match_substring_regex(text, r"^-?([0-9]{1,18}|[1-8][0-9]{18})$"))
    whole = pc.if_else(pa.array(is_whole), text, "0").cast(pa.int64())
    whole = whole.to_numpy(zero_copy_only=False)
    numbers = np.where(is_whole, whole.astype(np.float64), as_floats(text))
    is_number = np.isfinite(numbers)
    if unit == "order":
        is_right = is_number & (numbers == np.floor(numbers)) & (np.abs(numbers) < 2.0**63)
        faults = np.where(is_right, 0, 1).astype(np.int8)
        order = np.where(is_whole, whole, np.where(is_right, numbers, 0).astype(np.int64))
        return np.where(is_right, order, 0), faults
    size = np.abs(np.where(is_number, numbers, 0.0))
    smallest = {"s": SMALLEST, "ms": LARGEST["s"], "us": LARGEST["ms"], "ns": LARGEST["us"]}[unit]
    is_right = is_number & (size >= smallest) & (size < LARGEST[unit]) & (size < 2.0**63)
    faults = np.where(is_right, 0, np.where(is_number, 2, 1)).astype(np.int8)
    scale = MICROSECONDS[unit]
    whole = np.where(is_right, whole, 0)
    exact = whole // 1000 if unit == "ns" else whole * int(scale)
    rounded = np.rint(np.where(is_right, numbers, 0.0) * scale).astype(np.int64)
    return np.where(is_whole, exact, rounded), faults


def read_times(column: pa.Array) -> tuple[Any, Any] | None:
    """Detect and read a column that may hold times; None = no times, or order numbers."""
    try:
        form = detect_times(column, "")
    except UserError:
        return None
    return None if form.unit == "order" else parse_times(column, form)


def show_time(time_us: int) -> str:
    """Write microseconds since 1970 as ISO 8601.

    >>> show_time(1_388_534_400_000_000)
    '2014-01-01T00:00:00.000000Z'
    """
    return f"{np.datetime64(time_us, 'us')}Z"
