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
from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

WORD: Final = re.compile(r"\w+")
UNSPACED: Final = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]+)"
)
"""Scripts without blanks between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""

SCRIPTS: Final = ("latin", "cyrillic", "greek", "arabic", "hebrew", "han_kana_hangul", "other")
"""Scripts of queries that are reported apart."""
SCRIPT_NAMES: Final = {
    **{name.upper(): name for name in SCRIPTS[:5]},
    **dict.fromkeys(("CJK", "HIRAGANA", "KATAKANA", "HANGUL"), "han_kana_hangul"),
}
"""First word of the Unicode name of a letter -> its script."""

SHORT: Final = 3
"""Letters of words that have no plural s."""


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
    r"""Return the words of a text, normalised, in order, without the s of a plural.

    A word is a run of letters and digits. Scripts without blanks between words give pairs of
    neighbouring characters instead. Harman, 1991, How Effective Is Suffixing?, describes such a
    stemmer; it changes few words of languages whose plurals have no s.

    >>> words_of("Red SHOES, size 5")
    ['red', 'shoe', 'size', '5']
    >>> words_of("dresses batteries glass")
    ['dress', 'battery', 'glass']
    >>> words_of("\u7ea2\u8272\u978b 5") == ["\u7ea2\u8272", "\u8272\u978b", "5"]
    True
    """
    words: list[str] = []
    for run in WORD.findall(normalise_query(text)):
        for part in filter(None, UNSPACED.split(run)):
            is_unspaced = UNSPACED.match(part) is not None and len(part) > 1
            pairs = (part[at : at + 2] for at in range(len(part) - 1))
            words += pairs if is_unspaced else (_singular(part),)
    return words


def _singular(word: str) -> str:
    if len(word) <= SHORT or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes", "zes")):
        return word[:-2]
    return word.removesuffix("s")


def script_of(text: str) -> str:
    """Return the script of most letters of a text, one of SCRIPTS; `other` without letters.

    >>> [script_of(text) for text in ("Belt 5", "\u0447\u0430\u0441\u044b", "\u76f8\u673a", "42")]
    ['latin', 'cyrillic', 'han_kana_hangul', 'other']
    """
    names = (unicodedata.name(letter, "").partition(" ")[0] for letter in text if letter.isalpha())
    counts = Counter(SCRIPT_NAMES.get(name, "other") for name in names)
    return max(SCRIPTS, key=counts.__getitem__) if counts else "other"


def word_keys(words: Sequence[str]) -> NDArray[np.int64]:
    """Return a number for each word, which stands for the word in a checkpoint: a 64-bit hash."""
    digests = (hashlib.blake2b(word.encode(errors="replace"), digest_size=8) for word in words)
    return np.frombuffer(b"".join(digest.digest() for digest in digests), "<i8").astype(np.int64)
