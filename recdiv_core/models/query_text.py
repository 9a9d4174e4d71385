# pyright: strict
"""The text of search queries: the spelling in which they are compared, and their words.

Preparing, training, evaluation and serving all spell queries here, so a query has one spelling. The
words serve lexical scores (baselines/query_match.py). There is no torch here, because the tasks
that read click logs would spend seconds on its import.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

WORD: Final = re.compile(r"\w+")
UNSPACED: Final = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]+)"
)
"""Scripts without blanks between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""


def normalise_query(text: str) -> str:
    r"""Return a search query in the spelling in which queries are compared.

    Unicode NFKC, case folded, single blanks, no blanks around it; "" = no query. The result does
    not change when it is normalised again.

    >>> normalise_query("  Red\u3000SHOE ")
    'red shoe'
    >>> normalise_query("Cafe\u0301 \t STRASSE ")
    'caf\xe9 strasse'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    again = unicodedata.normalize("NFKC", folded).casefold()  # folding may undo NFKC, and NFKC it
    return " ".join(unicodedata.normalize("NFKC", again).split())


def words_of(text: str) -> list[str]:
    r"""Return the words of a text, normalised, in order.

    A word is a run of letters and digits. Scripts without blanks between words give pairs of
    neighbouring characters instead.

    >>> words_of("Red SHOE, size 5")
    ['red', 'shoe', 'size', '5']
    >>> words_of("\u7ea2\u8272\u978b 5") == ["\u7ea2\u8272", "\u8272\u978b", "5"]
    True
    """
    words: list[str] = []
    for run in WORD.findall(normalise_query(text)):
        for part in filter(None, UNSPACED.split(run)):
            is_unspaced = UNSPACED.match(part) is not None and len(part) > 1
            pairs = (part[at : at + 2] for at in range(len(part) - 1))
            words += pairs if is_unspaced else (part,)
    return words


def word_keys(words: Sequence[str]) -> NDArray[np.int64]:
    """Return a number for each word, which stands for the word in a checkpoint: a 64-bit hash."""
    digests = (hashlib.blake2b(word.encode(errors="replace"), digest_size=8) for word in words)
    return np.frombuffer(b"".join(digest.digest() for digest in digests), "<i8").astype(np.int64)
