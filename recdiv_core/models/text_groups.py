"""Group texts of similar length, so that little of a batch is padding.

An encoder computes padding like any token. Texts of a step are sorted by length and cut into
groups; each group is padded to its longest text only. More groups mean less padding and more calls
of the encoder, so a call has a price in tokens. N texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

CALL_TOKENS: Final = {"cpu": 8, "cuda": 32_768}
"""Price of a call of the encoder, by kind of device: tokens that take as long as its fixed part."""
ONE_GROUP: Final = 1 << 40
"""Price of a call at which all texts form one group."""


def batches_by_length(
    lengths: Sequence[int] | NDArray[np.int64], call: int, largest: int
) -> list[NDArray]:
    """Return the groups of `group_by_length`, cut into batches of at most `largest` texts."""
    return [
        group[start : start + largest]
        for group in group_by_length(lengths, call)
        for start in range(0, len(group), largest)
    ]


def group_by_length(lengths: Sequence[int] | NDArray[np.int64], call: int) -> list[NDArray]:
    """Return groups of texts with the fewest padded tokens plus `call` per group.

    `call` is the price of a group in tokens, >= 0.

    Returns:
        Indices of the texts of each group, the longest texts first; none without texts.

    >>> [group.tolist() for group in group_by_length([3, 9, 3, 8], call=4)]
    [[3, 1], [0, 2]]
    """
    order = np.argsort(lengths, kind="stable")
    longest, counts = np.unique(lengths, return_counts=True)
    ends = np.cumsum(counts)
    starts = ends - counts
    # costs[m]: least cost of the texts of the m smallest lengths; first[m]: where their last group
    # starts
    costs, first = np.zeros(len(longest) + 1), np.zeros(len(longest) + 1, np.int64)
    for m in range(1, len(longest) + 1):
        padded = (ends[m - 1] - starts[:m]) * longest[m - 1]
        total = costs[:m] + padded + call
        first[m] = total.argmin()
        costs[m] = total[first[m]]
    groups: list[NDArray] = []
    m = len(longest)
    while m:
        groups.append(order[starts[first[m]] : ends[m - 1]])
        m = first[m]
    return groups
