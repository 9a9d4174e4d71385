# pyright: strict
"""What each item lacks to be shown now and then, and what is added to its scores.

The one idea: an item comes into the slate of a user as soon as its score passes that of the last
item there. So the lift of an item is what it lacks in the slates that are easiest for it: the
smallest number that brings it into as many slates as LEAST_SHARE of an equal share of all places.
Adding it costs little accuracy, because the item replaces the last one of users who like it most.
It depends on the item alone, so a slate needs no other user, unlike with `rerank.method=exposure`.
In the problem of a least exposure for every item it is the price of one item while all others have
none (prices of items: Xu et al., 2023, P-MMF). All prices together, in rounds in which lifted items
compete, gained nothing on large catalogues.

Shapes: B users, M candidates, V catalogue, N pairs of a user and a candidate.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

LEAST_SHARE: Final = 0.5
"""Places that a lift must bring, as a share of the places per item; one at least."""

UNIT_DEPTH: Final = 100
"""Place whose distance to the first one is the unit of `rerank.lift`."""

MARGIN: Final = 0.01
"""How far a lift goes beyond what is needed, in units. Without it a lifted item would have the very
score of the item whose place it takes. Rounding would then order the two, and it differs between
batches of different sizes."""


def least_users(num_users: int, num_items: int, k: int) -> int:
    """Return in how many slates of so many users a lift must bring an item.

    >>> least_users(2_000, 1_000, 10), least_users(2_000, 100_000, 10)
    (10, 1)
    """
    return max(1, round(LEAST_SHARE * num_users * k / num_items))


def lifts_needed(
    scores_BM: Tensor, items_BM: Tensor, num_items: int, *, k: int, least: int
) -> Tensor:
    """Return what each item lacks to be among the k best items of `least` users, [V] float32.

    The other items keep their scores. 0 = it is among them already; inf = fewer than `least` users
    have it as a candidate.

    Args:
        scores_BM: scores of each user's best items, highest first; -inf = not a candidate.
        items_BM: their item_index; no item twice for a user.
        num_items: V.
        k: slate length.
        least: number of users, 1 or more.

    >>> scores, items = torch.tensor([[5.0, 4.0, 1.0], [5.0, 3.0, 2.0]]), torch.tensor([[0, 1, 2]])
    >>> lifts_needed(scores, items.expand(2, 3), 4, k=1, least=1).tolist()
    [0.0, 1.0, 3.0, inf]
    """
    k = min(k, scores_BM.shape[1])
    is_real_BM = scores_BM.isfinite()
    lacks_N = (scores_BM[:, k - 1 : k] - scores_BM).clamp_min(0)[is_real_BM]
    item_N = items_BM[is_real_BM]
    # by item, then by what it lacks
    order_N = lacks_N.argsort()
    order_N = order_N[item_N[order_N].argsort(stable=True)]
    num_users_V = item_N.bincount(minlength=num_items)
    place_V = num_users_V.cumsum(0) - num_users_V + least - 1
    needed_V = scores_BM.new_full((num_items,), torch.inf)
    has_enough_V = num_users_V >= least
    needed_V[has_enough_V] = lacks_N[order_N[place_V[has_enough_V]]]
    return needed_V


def unit_of(scores_BM: Tensor) -> Tensor:
    """Return the median over users of the distance from the first to the UNIT_DEPTH-th score.

    Users with fewer candidates count with their last one. It is 0 only if all scores are equal.

    >>> unit_of(torch.tensor([[5.0, 4.0, 1.0], [5.0, 3.0, -torch.inf]]))
    tensor(2.)
    """
    best_BM = scores_BM[:, :UNIT_DEPTH]
    is_real_BM = best_BM.isfinite()
    lowest_B = best_BM.where(is_real_BM, torch.inf).amin(1)
    distance_B = (best_BM[:, 0] - lowest_B)[is_real_BM.any(1)]
    return distance_B.median() if len(distance_B) else scores_BM.new_zeros(())


def bonus(needed_V: Tensor, unit: Tensor | float, most: float) -> Tensor:
    """Return what is added to the scores of each item, [V].

    An item gets all of its lift and a margin, or nothing: a part would rarely show the item. The
    margin falls as the lift rises, from 2 MARGIN to MARGIN. So items that are lifted to the same
    place keep their order.

    Args:
        needed_V: lifts; below 0 or inf = not known.
        unit: see `unit_of`.
        most: items that need more than this many units get nothing.

    >>> bonus(torch.tensor([0.0, 1.0, 2.0, 4.0]), 5.0, 0.4)
    tensor([0.0000, 1.0900, 2.0800, 0.0000])
    """
    is_lifted_V = (needed_V > 0) & (needed_V <= most * unit)
    lifted_V = needed_V + MARGIN * (2 * unit - needed_V)
    return torch.where(is_lifted_V, lifted_V, 0.0)
