# pyright: strict
"""The k items with the highest scores of each user.

Not a re-ranker: the order is that of the scores. A full selection reads each row several times and
costs more on the CPU than the matrix product that made the scores. So the maxima of groups of eight
items are compared first: the best k items lie in the k groups with the highest maxima, and only
these groups are searched. NumPy selects, because its partition is vectorised and torch's is not.
Shapes: B users, b users at once, V catalogue, k items wanted.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

GROUP: Final = 8
"""Items per group; larger groups have cheaper maxima and leave more items to select from."""

USERS_AT_ONCE: Final = 64
"""Users per selection; intermediate results then stay in the cache."""


def top_scores(scores_BV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k highest scores of each user: `scores_BV.topk(k, dim=1)` in a third of the time.

    Of equal scores the lower index comes first, which torch does not promise. On a GPU the host
    waits once for the scores, to find ties for the last position. NaN counts as the highest, as it
    does for torch; k is at most V.

    Returns:
        values_Bk falling, and index_Bk int64.
    """
    num_items = scores_BV.shape[1]
    most = min(k + 1, num_items)  # the one behind the last place shows a tie
    # with few groups nothing is saved; a GPU's own selection reads each row once
    if num_items // GROUP < 2 * most or scores_BV.is_cuda:
        values, index = scores_BV.topk(most, dim=1)
    else:
        starts = range(0, max(1, len(scores_BV)), USERS_AT_ONCE)
        tiles = [_top_of_groups(scores_BV[start : start + USERS_AT_ONCE], most) for start in starts]
        values, index = (torch.cat(parts) for parts in zip(*tiles, strict=True))
    index = _by_index(values, index)
    if 0 < k < most:
        is_tied_B = ~(values[:, k - 1] > values[:, k])
        for row_1 in is_tied_B.nonzero():
            row = int(row_1)
            _settle_tie(scores_BV[row], values[row, :k], index[row, :k])
    return values[:, :k], index[:, :k]


def _settle_tie(scores_V: Tensor, values_k: Tensor, index_k: Tensor) -> None:
    """Give the places that equal scores compete for to the lowest of their indices."""
    last = values_k[-1]
    is_equal_k, is_equal_V = (
        each.isnan() if bool(last.isnan()) else each == last for each in (values_k, scores_V)
    )
    num_places = int(is_equal_k.sum())
    index_k[len(index_k) - num_places :] = is_equal_V.nonzero()[:num_places, 0]


def _by_index(falling_bk: Tensor, index_bk: Tensor) -> Tensor:
    """Return the index of falling values; equal values have rising indices."""
    if falling_bk.is_cuda:
        return _by_two_sorts(falling_bk, index_bk)
    is_tied_b = ~(falling_bk[:, 1:] < falling_bk[:, :-1]).all(dim=1)
    if bool(is_tied_b.any()):
        tied_tk = index_bk[is_tied_b]
        keys = (-tied_tk.numpy(), falling_bk[is_tied_b].numpy())
        order_tk = torch.from_numpy(np.lexsort(keys, axis=1)).flip(1)  # pyright: ignore[reportUnknownMemberType]
        index_bk[is_tied_b] = tied_tk.gather(1, order_tk)
    return index_bk


def _by_two_sorts(falling_bk: Tensor, index_bk: Tensor) -> Tensor:
    """Return the same without reading values on the host."""
    index_bk, order_bk = index_bk.sort(dim=1)
    order_bk = falling_bk.gather(1, order_bk).sort(dim=1, descending=True, stable=True).indices
    return index_bk.gather(1, order_bk)


def _top_of_groups(scores_bV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    num_users, num_items = scores_bV.shape
    num_groups = num_items // GROUP
    # group g holds items g, g + num_groups, ...: maxima of whole vectors, not inside them
    grouped_bGg = scores_bV[:, : GROUP * num_groups].view(num_users, GROUP, num_groups)
    best_bk = _largest(grouped_bGg.amax(dim=1), k)
    first_G = num_groups * torch.arange(GROUP)
    left = torch.arange(GROUP * num_groups, num_items)
    index_bN = torch.cat(
        [(best_bk[:, None] + first_G[:, None]).flatten(1), left.expand(num_users, -1)], dim=1
    )
    first_b1 = num_items * torch.arange(num_users)[:, None]
    places = (index_bN + first_b1).flatten()  # among all numbers: faster than a gather by rows
    values_bN = scores_bV.flatten().index_select(0, places).view_as(index_bN)
    place_bk = _largest(values_bN, k)
    values_bk = values_bN.gather(1, place_bk)
    order_bk = torch.from_numpy(np.argsort(values_bk.numpy(), axis=1)).flip(1)  # pyright: ignore[reportUnknownMemberType]
    return values_bk.gather(1, order_bk), index_bN.gather(1, place_bk.gather(1, order_bk))


def _largest(values_bN: Tensor, k: int) -> Tensor:
    """Return the indices of the k largest of each row, unordered; NaN is the largest."""
    first = values_bN.shape[1] - k
    place_bN = np.argpartition(values_bN.numpy(), first, axis=1)
    return torch.from_numpy(place_bN[:, first:])  # pyright: ignore[reportUnknownMemberType]
