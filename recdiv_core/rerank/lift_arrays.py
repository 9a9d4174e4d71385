# pyright: strict
"""Lifts of the items for scores that are given as a NumPy array.

    >>> lifts([[9.0, 8.0, 1.0], [9.0, 2.0, 1.0]], k=1)
    array([0.  , 1.15, 0.  ])

A training of recdiv measures lifts itself (`rerank.lift`). This is for scores of another
recommender.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from recdiv_core.items.lifts import bonus, least_users, lifts_needed, unit_of


def lifts(scores: npt.ArrayLike, k: int = 10, *, most: float = 0.4) -> npt.NDArray[np.float64]:
    """Return what to add to the scores of each item, so that rarely shown items are shown.

    Measure it on a few thousand users, and add it to the scores of all users before any re-ranking.

    Args:
        scores: [B, V] scores of users for all items, higher is better; -inf = an item that the user
            must not see, such as a seen one.
        k: slate length, >= 1.
        most: largest lift, as `rerank.lift`: 1 = the distance from the first to the 100th best item
            of a typical user.

    Returns:
        [V]; 0 = the item is shown often enough, or needs too much.

    Raises:
        ValueError: the scores are no table, or hold a NaN or +inf; `k` or `most` is out of range.
    """
    scores_BV = np.asarray(scores, dtype=np.float64)
    if scores_BV.ndim != 2 or not scores_BV.size:
        raise ValueError(
            f"scores have the shape {list(scores_BV.shape)}; allowed is [users, items], none empty"
        )
    if np.isnan(scores_BV).any() or np.isposinf(scores_BV).any():
        raise ValueError("scores hold NaN or +inf; allowed are numbers, and -inf for no item")
    if k < 1:
        raise ValueError(f"k is {k}; allowed is 1 or more")
    if not 0 <= most <= 1:
        raise ValueError(f"most is {most}; allowed are 0 to 1")
    num_users, num_items = scores_BV.shape
    best = torch.tensor(scores_BV).sort(dim=1, descending=True)
    least = least_users(num_users, num_items, k)
    needed_V = lifts_needed(best.values, best.indices, num_items, k=k, least=least)
    return bonus(needed_V, unit_of(best.values), most).numpy()
