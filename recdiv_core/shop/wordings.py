"""The texts of the built-in shop's queries: in the words of its titles, or in other words.

A query names a leaf, and half of the queries name a colour. Titles have the words of the leaf, so
`red trainers` shares words with what it means. Colloquial queries share none: `crimson kicks`,
`rot turnschuhe`, or `footwear`, which may mean any leaf of an aisle. wordings.yaml holds the words.
A query and its wording are two numbers, so both kinds come from one simulation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from recdiv_core.shop.words import AISLES, COLOURS, LEAF_AISLE, LEAVES

Words = Literal["titles", "colloquial"]

_WORDS: Final[Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))

NOUN_SHARES: Final = (0.34, 0.24, 0.16, 0.14, 0.12)
"""Shares of the wordings of a leaf: synonym, phrase, German, Spanish, and the phrase of its aisle.
"""
COLOUR_SHARES: Final = (0.65, 0.35)
"""Shares of the two other words for a colour."""
NUM_WORDINGS: Final = len(NOUN_SHARES) * len(COLOUR_SHARES)
"""Wordings of a query."""


def choose_wording(noun: NDArray[np.float64], colour: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the wording of each query, 0 .. NUM_WORDINGS - 1, from two uniform numbers."""
    which = np.searchsorted(np.cumsum(NOUN_SHARES)[:-1], noun, side="right")
    shade = np.searchsorted(np.cumsum(COLOUR_SHARES)[:-1], colour, side="right")
    return which * len(COLOUR_SHARES) + shade


def query_texts(words: Words) -> list[str]:
    """Return the texts of all queries: leaf by leaf, colour by colour (none first), by wording.

    >>> query_texts("titles")[0], query_texts("titles")[NUM_WORDINGS]
    ('kettle', 'red kettle')
    >>> query_texts("colloquial")[NUM_WORDINGS]
    'crimson stovetop boiler'
    """
    texts: list[str] = []
    for leaf, aisle in zip(LEAVES, LEAF_AISLE, strict=True):
        nouns = [*_WORDS["leaves"][leaf.name], _WORDS["aisles"][AISLES[aisle].name]]
        for colour in ("", *COLOURS):
            shades = _WORDS["colours"][colour] if colour else ["", ""]
            own = [f"{shade} {noun}".strip() for noun in nouns for shade in shades]
            texts += [f"{colour} {leaf.noun}".strip()] * len(own) if words == "titles" else own
    return texts


def leaves_of_queries(words: Words) -> dict[str, set[int]]:
    """Return the leaves that each query may mean.

    >>> leaves_of_queries("titles")["red kettle"]
    {0}
    """
    meant: dict[str, set[int]] = {}
    for number, text in enumerate(query_texts(words)):
        leaf = number // (NUM_WORDINGS * (len(COLOURS) + 1))
        meant.setdefault(text, set()).add(leaf)
    return meant
