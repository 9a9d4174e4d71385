# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Duplicates: equal titles, titles that differ in one character, equal lists of numbers.

prepared.py decides what a duplicate means. The one idea: equal values have equal hashes, so
duplicates are neighbours in one sorted array, and pairs of items are never compared. Hashes are
64-bit sums over positions, modulo 2^64. Titles of any script are handled by code point.
N rows one after another, T titles.
"""

from __future__ import annotations

import unicodedata
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MIN_LETTERS: Final = 10
"""Fewest letters and digits of a compared title: in shorter ones, one character matters."""
VARIANTS_A_PASS: Final = 10_000_000
"""Hashes held at once; each takes about 40 bytes while they are sorted."""
TITLES_A_CHUNK: Final = 16_384

BASE: Final = np.uint64(0x9E3779B97F4A7C15)  # odd, hence with an inverse modulo 2^64
INVERSE: Final = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
SHIFTS: Final = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def normalise(titles: pa.Array) -> pa.Array:
    """Keep letters, marks and digits of titles, in lower case and one form of Unicode.

    >>> normalise(pa.array(["The  SOAP, No. 1!"])).to_pylist()
    ['the soap no 1']
    """
    # not pc.utf8_normalize, which leaves characters taken apart in any form (pyarrow 25)
    folded = [unicodedata.normalize("NFKC", title).casefold() for title in titles.to_pylist()]
    words = pc.replace_substring_regex(pa.array(folded, pa.string()), r"[^\p{L}\p{M}\p{N}]+", " ")
    return pc.utf8_trim(words, " ")


def mix(values: Any) -> Any:
    """Spread integers over 64 bits (the finaliser of splitmix64, Steele et al., 2014)."""
    mixed = np.asarray(values).astype(np.uint64) + BASE
    for shift, factor in SHIFTS:
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def powers(count: int) -> Any:
    """Return BASE^0 .. BASE^(count - 1) modulo 2^64."""
    factors = np.full(max(count, 1), BASE, dtype=np.uint64)
    factors[0] = 1
    return np.cumprod(factors)


def hash_lists(values_N: Any, offsets: Any) -> Any:
    """Return one uint64 per list: equal for equal lists, including order and length.

    Args:
        values_N: [N] integers of all lists, one after another.
        offsets: [L + 1] begin and end of each list.
    """
    lengths = np.diff(offsets)
    places = np.arange(len(values_N)) - np.repeat(offsets[:-1] - offsets[0], lengths)
    terms = mix(values_N) * powers(int(lengths.max(initial=0)))[places]
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms)])
    ends = offsets - offsets[0]
    return mix(sums[ends[1:]] - sums[ends[:-1]]) + lengths.astype(np.uint64)


def find_doubles(keys: Any) -> Any:
    """Return the positions of all keys that occur more than once, equal keys side by side."""
    order = np.argsort(keys, kind="stable")
    is_same = np.diff(keys[order]) == 0
    is_double = np.concatenate([[False], is_same]) | np.concatenate([is_same, [False]])
    return order[is_double[: len(order)]]


def find_tiny_edits(titles: pa.Array) -> Any:
    """Find pairs of titles that are equal after at most one character is removed from each.

    So one character was inserted, removed, replaced or moved. Each title is hashed without each of
    its characters, so work and memory grow with the number of characters, not of pairs.

    Args:
        titles: [T] normalised and distinct; spaces are ignored, and so are titles of fewer than
            MIN_LETTERS other characters.

    Returns:
        [P, 2] int64 positions of titles. A row joins neighbours among titles that share a
        variant, so every title with such a duplicate is in some row.
    """
    letters = pc.replace_substring(titles, " ", "")
    lengths = pc.utf8_length(letters).to_numpy()
    num_variants = int(lengths.sum()) + len(lengths)
    num_passes = max(1, -(-num_variants // VARIANTS_A_PASS))
    pairs: list[Any] = [np.zeros((0, 2), dtype=np.int64)]
    for number in range(num_passes):
        parts = [
            _variants(letters.slice(start, TITLES_A_CHUNK), start, number, num_passes)
            for start in range(0, max(len(letters), 1), TITLES_A_CHUNK)
        ]
        hashes, owners = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(hashes)
        hashes, owners = hashes[order], owners[order]
        # a title that shares a hash is a neighbour of another such title
        is_pair = (hashes[1:] == hashes[:-1]) & (owners[1:] != owners[:-1])
        pairs.append(np.sort(np.stack([owners[:-1][is_pair], owners[1:][is_pair]], 1), axis=1))
    return np.unique(np.concatenate(pairs), axis=0)


def _variants(letters: pa.Array, first: int, number: int, num_passes: int) -> tuple[Any, Any]:
    """Hash titles whole and without each character; keep the hashes of one pass.

    A title is sum c_j B^j. Without character i it is the part before i plus the part after i
    divided by B. Both parts come from one cumulative sum.

    Returns:
        Hashes, and the positions of their titles.
    """
    lengths = pc.utf8_length(letters).to_numpy()
    codes = np.frombuffer("".join(letters.to_pylist()).encode("utf-32-le"), dtype="<u4")
    is_long = lengths >= MIN_LETTERS
    codes = codes[np.repeat(is_long, lengths)]
    owners = (first + np.flatnonzero(is_long)).astype(np.int32)
    lengths = lengths[is_long]
    starts = np.cumsum(lengths) - lengths
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    terms = mix(codes) * powers(int(lengths.max(initial=0)))[places]
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms)])
    whole = sums[starts + lengths] - sums[starts]
    before = sums[:-1] - np.repeat(sums[starts], lengths)
    behind = np.repeat(sums[starts + lengths], lengths) - sums[1:]
    hashes = np.concatenate([whole, before + behind * INVERSE])
    all_owners = np.concatenate([owners, np.repeat(owners, lengths)])
    is_mine = mix(hashes) % np.uint64(num_passes) == number
    return hashes[is_mine], all_owners[is_mine]
