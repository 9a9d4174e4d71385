"""The words of the built-in shop: its categories, brands, colours and languages.

words.yaml holds the words; goods.py makes the items from them. The one idea: departments hold
aisles and aisles hold leaves, in the order in which people buy them. So the number of a leaf is its
position in this order, and its neighbours go with it. The imported goods of a department have
titles in one foreign language.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import yaml


class Leaf(NamedTuple):
    """A leaf category: its name, the noun of its titles, its median price and its foreign noun."""

    name: str
    noun: str
    price: float
    foreign: str


class Aisle(NamedTuple):
    """A mid-level category; its leaves are in the order in which people buy them."""

    department: str
    name: str
    materials: tuple[str, ...]
    leaves: tuple[Leaf, ...]


class Language(NamedTuple):
    """Title pattern and words of a department's imports; `colours` are in the order of COLOURS."""

    pattern: str
    colours: tuple[str, ...]
    features: tuple[str, ...]


def _aisle(department: str, name: str, words: Any) -> Aisle:
    leaves = tuple(Leaf(leaf, *facts) for leaf, facts in words["leaves"].items())
    return Aisle(department, name, tuple(words["materials"]), leaves)


def _language(pattern: str, colours: list[str], features: list[str]) -> Language:
    return Language(pattern, tuple(colours), tuple(features))


_WORDS: Final[Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))
_DEPARTMENTS: Final = _WORDS["departments"]

DEPARTMENTS: Final[tuple[str, ...]] = tuple(_DEPARTMENTS)
AISLES: Final = tuple(
    _aisle(department, name, words)
    for department, parts in _DEPARTMENTS.items()
    for name, words in parts["aisles"].items()
)
COLOURS: Final[tuple[str, ...]] = tuple(_WORDS["colours"])
FEATURES: Final[tuple[str, ...]] = tuple(_WORDS["features"])
BRANDS: Final[dict[str, tuple[str, ...]]] = {
    department: tuple(start + parts["brand_ending"] for start in _WORDS["brands"])
    for department, parts in _DEPARTMENTS.items()
}
NUM_BRANDS: Final = len(_WORDS["brands"])
"""Brands per department; brand 0 is the cheapest, the last one the most expensive."""
LANGUAGES: Final = {
    department: _language(**_WORDS["languages"][parts["imports"]])
    for department, parts in _DEPARTMENTS.items()
}

LEAVES: Final = tuple(leaf for aisle in AISLES for leaf in aisle.leaves)
LEAF_AISLE: Final = np.repeat(np.arange(len(AISLES)), [len(aisle.leaves) for aisle in AISLES])
"""Aisle of each leaf; the leaves of an aisle are neighbours."""
AISLE_START: Final = np.searchsorted(LEAF_AISLE, np.arange(len(AISLES) + 1))
"""[aisles + 1] first leaf of each aisle; the last entry is the number of leaves."""
AISLE_PATHS: Final = tuple(f"{aisle.department} > {aisle.name}" for aisle in AISLES)
LEAF_PATHS: Final = tuple(
    f"{AISLE_PATHS[aisle]} > {leaf.name}" for aisle, leaf in zip(LEAF_AISLE, LEAVES, strict=True)
)
NEXT_LEAF: Final = np.concatenate(
    [np.roll(np.arange(first, last), -1) for first, last in itertools.pairwise(AISLE_START)]
)
"""Leaf that users visit after each leaf: the next one in its aisle, cyclically."""
_NEXT_AISLE: Final = np.arange(len(AISLES)).reshape(len(DEPARTMENTS), -1)
PARTNER_LEAF: Final = AISLE_START[np.roll(_NEXT_AISLE, -1, axis=1).ravel()][LEAF_AISLE]
"""Leaf that goes with each leaf: the first leaf of the next aisle of its department."""
