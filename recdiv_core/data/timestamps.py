# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Times of a log as whole numbers: which unit they are written in, and what they say.

Not the judgement of a row (events.py). The one idea: the unit is decided once for a whole log, from
a sample; a row that does not fit it is named, never guessed at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdiv_core.data.values import as_floats, as_mask, as_text
from recdiv_core.errors import UserError

TimeUnit = Literal["iso", "s", "ms", "us", "ns", "order"]

LATEST_US: Final = 7_258_118_400_000_000
"""2200-01-01: later times are taken for a mistake in the unit."""
MICROSECONDS: Final[Mapping[TimeUnit, float]] = {
    "s": 1_000_000,
    "ms": 1_000,
    "us": 1,
    "ns": 0.001,
    "order": 1,
}


def detect_time_unit(column: pa.Array, name: str) -> TimeUnit:
    """Decide once for a whole log what its timestamps are, from a sample of them.

    Numbers below 1e8 (dates before 1973, as seconds) are order numbers, as is a column named
    `order`; larger ones are seconds, milli-, micro- or nanoseconds by their median.

    Raises:
        UserError: not one of them parses.
    """
    if pa.types.is_temporal(column.type):
        return "iso"
    text = as_text(column)
    numbers = as_floats(text)
    numeric = numbers[~np.isnan(numbers)]
    if parse_times(text.filter(pa.array(np.isnan(numbers))), "iso")[1].sum() > len(numeric):
        return "iso"
    if not len(numeric):
        examples = ", ".join(repr(v) for v in text.drop_null().slice(0, 3).to_pylist()) or "nothing"
        raise UserError(
            f"data.columns.timestamp={name}: none of the first {len(text)} values is a time "
            f"(found {examples}); allowed: ISO 8601, epoch seconds or milliseconds, order numbers"
        )
    size = float(np.median(np.abs(numeric)))
    if name == "order" or size < 1e8:
        return "order"
    return "s" if size < 1e11 else "ms" if size < 1e14 else "us" if size < 1e17 else "ns"


def parse_times(column: pa.Array | pa.ChunkedArray, unit: TimeUnit) -> tuple[Any, Any]:
    """Return times [N] int64 (microseconds since 1970 UTC, or order numbers) and is_valid [N] bool.

    Times without a zone are taken as UTC. Where not valid, the time is 0.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_temporal(array.type):
        stamps = array.cast(pa.timestamp("us", getattr(array.type, "tz", None)), safe=False)
        times = stamps.cast(pa.int64())
        return times.fill_null(0).to_numpy(zero_copy_only=False), as_mask(times.is_valid())
    text = as_text(array)
    return _parse_iso(text) if unit == "iso" else _parse_numbers(text, unit)


def _parse_iso(text: pa.Array) -> tuple[Any, Any]:
    import pandas as pd

    series = pd.Series(text.to_numpy(zero_copy_only=False), dtype=object)
    parsed = pd.to_datetime(series, format="ISO8601", errors="coerce", utc=True)
    is_valid = parsed.notna().to_numpy()
    times = parsed.dt.tz_localize(None).to_numpy().astype("datetime64[us]").astype(np.int64)
    return np.where(is_valid, times, 0), is_valid


def _parse_numbers(text: pa.Array, unit: TimeUnit) -> tuple[Any, Any]:
    scale = MICROSECONDS[unit]
    is_whole = as_mask(pc.match_substring_regex(text, r"^-?([0-9]{1,18}|[1-8][0-9]{18})$"))
    whole = pc.if_else(pa.array(is_whole), text, "0").cast(pa.int64())
    whole = whole.to_numpy(zero_copy_only=False)
    numbers = np.where(is_whole, 0.0, as_floats(text))
    is_valid = is_whole | np.isfinite(numbers)
    if unit == "order":
        is_valid &= numbers == np.floor(numbers)
    else:  # far outside: clipped, so that no product overflows; the caller sees it is too late
        limit = int(2 * LATEST_US / scale)
        whole, numbers = np.clip(whole, -limit, limit), np.clip(numbers, -limit, limit)
    exact = whole // 1000 if unit == "ns" else whole * int(scale)
    rounded = np.rint(np.where(is_valid, numbers, 0.0) * scale).astype(np.int64)
    return np.where(is_valid, np.where(is_whole, exact, rounded), 0), is_valid
