"""Audit of the tokeniser: does the encoder know the scripts of the texts?

A tokeniser without a script's characters turns its words into one and the same unknown token. Texts
in this script then look alike to the encoder. An encoder with bytes as tokens has no unknown token.
N texts.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Final

import numpy as np

from recdiv_core.data.audit.findings import Finding, find

MAX_UNKNOWN: Final = 0.2
"""Share of unknown tokens in a script, above which the encoder does not know it."""
MIN_SHARE: Final = 0.01
"""Least share of the texts that a script has, to be judged."""
MAX_TEXTS: Final = 20_000
"""Texts that are looked at, evenly spread."""


@lru_cache(maxsize=65_536)
def _script_of_letter(letter: str) -> str:
    """Return the first word of a letter's Unicode name, such as LATIN; "" = no letter."""
    return unicodedata.name(letter, "").partition(" ")[0] if letter.isalpha() else ""


def script_of(text: str) -> str:
    r"""Return the script of most letters of a text, by its name in Unicode; "" without letters.

    >>> script_of("Nike \u7ea2\u8272\u8fd0\u52a8\u978b 42"), script_of("42")
    ('CJK', '')
    """
    found = Counter(script for letter in text if (script := _script_of_letter(letter)))
    return max(found, key=lambda script: (found[script], script), default="")


def audit_scripts(
    kind: str,
    texts: Sequence[str],
    tokens: Sequence[list[int]],
    unknown: int | None,
    special: Collection[int] = (),
) -> Finding:
    """Find the scripts that an encoder does not know, by the share of their unknown tokens.

    Other tokens in `special` than the unknown one do not count; None = there is no unknown one.

    Returns:
        a finding that counts the texts in these scripts, among MAX_TEXTS, with the unknown tokens
        and all tokens of each script.
    """
    rows = np.unique(np.linspace(0, len(texts) - 1, min(len(texts), MAX_TEXTS)).astype(int))
    num_texts, num_tokens, num_unknown = Counter[str](), Counter[str](), Counter[str]()
    for row in rows:
        script, ids = script_of(texts[int(row)]), tokens[int(row)]
        num_texts[script] += 1
        num_tokens[script] += sum(token == unknown or token not in special for token in ids)
        num_unknown[script] += 0 if unknown is None else ids.count(unknown)
    judged = [s for s in num_texts if s and num_texts[s] >= MIN_SHARE * len(rows)]
    bad = [script for script in judged if num_unknown[script] > MAX_UNKNOWN * num_tokens[script]]
    return find(
        f"{kind} in a script that the encoder does not know",
        sum(num_texts[script] for script in bad),
        [f"{s}: {num_unknown[s] / num_tokens[s]:.0%} of its tokens are unknown" for s in bad],
        {script: [num_unknown[script], num_tokens[script]] for script in sorted(judged)},
    )
