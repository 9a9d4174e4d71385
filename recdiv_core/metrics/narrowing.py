# pyright: strict
"""Does a slate show fewer categories than the user chose? One value per user.

Not calibration (calibration.py), which compares shares of categories, nor diversity of the slate by
itself (diversity.py): a user of one category is served well by one category. The number of distinct
categories grows with the number of items, so a slate is compared with equally many own items.

Legend: B users, K slate length, S events of histories, V catalogue.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recdiv_core.metrics.slate_batch import SlateBatch, SortedLabels, sort_labels


def narrowed(slates: SlateBatch) -> Tensor:
    """Return 1 where the slate shows fewer distinct categories than the user's latest items.

    0 or 1, LOWER is better; the mean is the share of users whose choice is narrowed. The first n
    items of the slate are compared with the n latest distinct items of the history, n = the shorter
    of both. NaN = not compared: the slate is empty, or none of these own items has a category. A
    mean leaves these users out. Without a background nobody is compared.
    """
    of_slate_B, of_history_B = slates.once(breadths)
    is_narrowed_B = (of_slate_B < of_history_B).double()
    return torch.where(of_history_B > 0, is_narrowed_B, torch.nan)


def breadths(slates: SlateBatch) -> tuple[Tensor, Tensor]:
    """Return the number of distinct categories of equally many shown and own items, [B] each.

    Both are 0 for an empty slate or history.
    """
    if slates.background is None:
        none_B = torch.zeros_like(slates.length_B)
        return none_B, none_B
    latest_BK = slates.whole.once(latest_items)
    num_latest_B = (latest_BK >= 0).sum(dim=1)
    length_B = torch.minimum(slates.length_B, num_latest_B)
    own = slates.whole.once(_latest_labels)
    return slates.whole.sorted_labels.count_distinct(length_B), own.count_distinct(length_B)


def latest_items(slates: SlateBatch) -> Tensor:
    """Return the K latest distinct items of each history, the latest first, padded with -1."""
    background, num_items = slates.needed_background, slates.traits.num_items
    user_S = background.history_user_S.flip(0)  # the latest event of each user first
    item_S = background.history_item_S.flip(0)
    key_S, order_S = (user_S * num_items + item_S).sort(stable=True)
    is_latest_S = torch.ones_like(key_S, dtype=torch.bool)
    is_latest_S[1:] = key_S[1:] != key_S[:-1]
    kept_N = order_S[is_latest_S].sort().values
    user_N, order_N = user_S[kept_N].sort(stable=True)
    item_N = item_S[kept_N][order_N]
    num_own_B = torch.bincount(user_N, minlength=slates.num_users)
    place_N = torch.arange(len(user_N), device=user_N.device)
    place_N -= (num_own_B.cumsum(dim=0) - num_own_B)[user_N]
    latest_BK = torch.full_like(slates.items_BK, -1)
    is_near_N = place_N < slates.k
    latest_BK[user_N[is_near_N], place_N[is_near_N]] = item_N[is_near_N]
    return latest_BK


def _latest_labels(slates: SlateBatch) -> SortedLabels:
    return sort_labels(slates.once(latest_items), slates.traits)
