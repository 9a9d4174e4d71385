# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Convert input columns of any type to text or numbers.

Times are read in timestamps.py; rows are validated in data/events.py and data/items.py.
"""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from recdiv_core.models.query_text import normalise_query


def as_text(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return a column of any type as strings; empty text becomes null.

    Whole floats lose their point (7.0 -> "7", because pandas widens ids); lists are joined by `|`.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_floating(array.type):
        array = _float_texts(array.cast(pa.float64()))
    if pa.types.is_nested(array.type):
        array = pa.array([_nested_text(row) for row in array.to_pylist()], pa.string())
    array = array.cast(pa.string())
    return pc.if_else(pc.equal(array, ""), pa.scalar(None, pa.string()), array)


def _float_texts(array: pa.Array) -> pa.Array:
    """Write each number in its shortest form; whole numbers keep all digits."""
    array = pc.if_else(pc.is_finite(array), array, None)
    is_whole = pc.and_(pc.equal(pc.floor(array), array), pc.less(pc.abs(array), 2.0**63))
    whole = pc.if_else(is_whole, array, 0.0).cast(pa.int64(), safe=False)
    return pc.if_else(is_whole, whole.cast(pa.string()), array.cast(pa.string()))


def _nested_text(row: Any) -> str | None:
    if row is None:
        return None
    if isinstance(row, list) and not any(isinstance(value, dict | list) for value in row):
        return "|".join(str(value) for value in row if value is not None)
    if isinstance(row, list) and all(isinstance(value, tuple) for value in row):
        row = {str(key): value for key, value in row}  # a map
    return json.dumps(row, default=str, ensure_ascii=False)


def as_floats(text: pa.Array) -> Any:
    """Return [N] float64 of a string column; NaN = no number."""
    is_number = pc.match_substring_regex(text, r"^[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?$")
    kept = pc.if_else(is_number.fill_null(False), text, pa.scalar(None, pa.string()))
    return kept.cast(pa.float64()).fill_null(float("nan")).to_numpy(zero_copy_only=False)


def as_mask(flags: pa.Array) -> Any:
    """Return [N] bool of a boolean column; null = False."""
    return flags.fill_null(False).to_numpy(zero_copy_only=False)


def as_numbers(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return a column of any type as float64; other values become null."""
    return pa.array(as_floats(as_text(column)), from_pandas=True)


CODES: Final = (
    "AED|ARS|AUD|BGN|BRL|CAD|CHF|CLP|CNY|COP|CZK|DKK|EGP|EUR|GBP|HKD|HUF|IDR|ILS|INR|JPY|KES|KRW|"
    "MXN|MYR|NGN|NOK|NZD|PEN|PHP|PKR|PLN|RON|RSD|RUB|SAR|SEK|SGD|THB|TRY|TWD|UAH|USD|VND|ZAR|"
    "Rs|Rp|RM|kr|Ft|Kč|zł|lei|din|лв|грн|руб|р|元|円|원|บาท"  # noqa: RUF001
)
CURRENCY: Final = rf"(?:[^\W\d_]{{0,3}}[$\u00a2-\u00a5\u0e3f\u20a0-\u20cf]|(?:{CODES})\.?)"
"""A currency sign, perhaps after letters (US$), or a code: letters alone may be part of an id."""
PRICE: Final = re.compile(
    rf"(?:{CURRENCY}\s*)?([0-9][0-9.,'\u2019\s]*?)(?:[,.][-\u2013])?(?:\s*{CURRENCY})?"
)
GROUPED: Final = re.compile(r"[1-9][0-9]{0,2}([.,'\u2019\s])(?:[0-9]{2,3}\1)*[0-9]{3}")
"""Digits in groups, with one mark: the last has 3 digits, the others 3 or, as in India, 2."""


def as_prices(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return a column of prices of any type as float64; other values become null.

    >>> as_prices(
    ...     pa.array(["12.5", "$1,299.00", "1.299,50 €", "CHF 1'299", "12,99", "free"])
    ... ).to_pylist()
    [12.5, 1299.0, 1299.5, 1299.0, 12.99, None]
    """
    texts = as_text(column)
    numbers = pa.array(as_floats(texts), from_pandas=True)
    if numbers.null_count == texts.null_count:
        return numbers
    coded = texts.dictionary_encode()
    read = pa.array([price_of(text) for text in coded.dictionary.to_pylist()], pa.float64())
    return pc.coalesce(numbers, read.take(coded.indices))


def price_of(text: str) -> float | None:
    """Return the number of a price as people write it; None = it is none.

    A point or comma before the last digits is the decimal mark, unless exactly 3 digits follow it:
    `12,9` is 12.9, and both `1,299` and `1.299 EUR` are 1299.
    """
    match = PRICE.fullmatch(text.strip())
    if match is None:
        return None
    whole, cents = match[1].strip(), "0"
    if not GROUPED.fullmatch(whole) and (found := re.fullmatch(r"(.*)([.,])([0-9]*)", whole)):
        whole, mark, cents = found.groups()
        if mark in whole:
            return None
    if not whole.isdecimal() and not GROUPED.fullmatch(whole):
        return None
    return float(f"{re.sub(r'[^0-9]', '', whole)}.{cents or 0}")


def drop_null_words(texts: pa.Array, words: Sequence[str]) -> pa.Array:
    """Replace words for a missing value by null: blank text, and `words` in any case.

    >>> drop_null_words(pa.array(["a", " NULL", "", None]), ["null"]).to_pylist()
    ['a', None, None, None]
    """
    bare = pc.utf8_trim_whitespace(texts)
    is_null = pc.is_in(pc.utf8_lower(bare), pa.array([*map(str.lower, words), ""], pa.string()))
    return pc.if_else(is_null, pa.scalar(None, pa.string()), texts)


def clean_ids(
    column: pa.ChunkedArray | pa.Array, words: Sequence[str]
) -> tuple[pa.Array, collections.Counter[str]]:
    """Return ids in one spelling, so that a log and a catalogue agree.

    `1`, `"1"`, `1.0` and `" 1"` are one id. Blanks around an id are removed, and so is the `.0` of
    a whole number, which tools write when a column has missing values. `words` are
    `data.null_words`.

    Returns:
        ids: [N] string; null = missing.
        coerced: change -> number of changed values.

    >>> ids, coerced = clean_ids(pa.array(["1", " 1", "1.0", "NULL"]), ["null"])
    >>> ids.to_pylist()
    ['1', '1', '1', None]
    >>> sorted(coerced)
    ['blanks around an id left out', 'point of a whole number left out']
    """
    texts = drop_null_words(as_text(column), words)
    bare = pc.utf8_trim_whitespace(texts)
    whole = pc.replace_substring_regex(bare, r"^([+-]?[0-9]+)\.0+$", r"\1")
    coerced: collections.Counter[str] = collections.Counter()
    for change, before, after in (
        ("blanks around an id left out", texts, bare),
        ("point of a whole number left out", bare, whole),
    ):
        if num_changed := pc.sum(pc.not_equal(before, after)).as_py():
            coerced[change] = num_changed
    return whole, coerced


def normalise_queries(texts: pa.Array) -> pa.Array:
    """Apply `normalise_query` to [N] strings; an empty result becomes null."""
    coded = texts.dictionary_encode()
    spelt = [normalise_query(text) or None for text in coded.dictionary.to_pylist()]
    return pa.array(spelt, pa.string()).take(coded.indices)
