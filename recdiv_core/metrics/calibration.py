# pyright: strict
"""Calibration: does a slate spread over categories as the user's history does? One value per user.

Not diversity: a user who only buys soap is served well by soap. History and slate are two
distributions over categories; an event or item counts 1, divided equally among its labels, and one
without labels counts 0. Both metrics are LOWER when better. They are 0 for users whose history has
no category.

Legend: B users, H and M the (user, category) pairs that occur in histories and in slates.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from recdiv_core.metrics.slate_batch import SlateBatch

SMOOTHING: Final = 0.01
"""Share of the history mixed into the slate; keeps the divergence finite (Steck 2018)."""


def calibration_kl(slates: SlateBatch) -> Tensor:
    """Return KL(h || 0.99 q + 0.01 h) in nats, h and q the categories of history and slate.

    In [0, ln 100], LOWER is better; ln 100 for a slate without any category of the history (Steck
    2018, Calibrated recommendations).
    """
    user_H, history_H, slate_H = slates.once(_history_beside_slate)[:3]
    mixed_H = (1 - SMOOTHING) * slate_H + SMOOTHING * history_H
    terms_H = history_H * (history_H / mixed_H).log()
    return _sum_by_user(terms_H, user_H, slates.num_users).clamp(0, -math.log(SMOOTHING))


def calibration_js(slates: SlateBatch) -> Tensor:
    """Return the Jensen-Shannon divergence of history and slate categories, base 2.

    In [0, 1], LOWER is better; 1 where they have no category in common, or the slate has no
    category (Lin 1991, Divergence measures based on the Shannon entropy).
    """
    user_H, history_H, slate_H, user_M, slate_M, history_M = slates.once(_history_beside_slate)
    of_history_B = _sum_by_user(_half(history_H, slate_H), user_H, slates.num_users)
    of_slate_B = _sum_by_user(_half(slate_M, history_M), user_M, slates.num_users)
    has_history_B = _sum_by_user(history_H, user_H, slates.num_users) > 0
    has_slate_B = slates.num_slate_categories_B > 0
    divergence_B = torch.where(has_slate_B, (of_history_B + of_slate_B).clamp(0, 1), 1.0)
    return torch.where(has_history_B, divergence_B, 0.0)


def _half(own: Tensor, other: Tensor) -> Tensor:
    return own * (2 * own / (own + other)).log2() / 2


def _history_beside_slate(slates: SlateBatch) -> tuple[Tensor, ...]:
    """Return the shares of history and slate side by side.

    Returns:
        user, share in the history and share in the slate of each pair that occurs in histories;
        then user, share in the slate and share in the history of each pair that occurs in slates.
    """
    num_categories = max(1, slates.traits.num_categories)
    user_H, label_H, history_H = slates.whole.once(_history_shares)
    shares_BM = slates.category_shares_BM
    user_M, place_M = shares_BM.nonzero(as_tuple=True)
    slate_M = shares_BM[user_M, place_M]
    label_M = slates.whole.sorted_labels.distinct_BM[user_M, place_M]
    key_H, key_M = user_H * num_categories + label_H, user_M * num_categories + label_M
    slate_H = _look_up(key_H, key_M, slate_M)
    history_M = _look_up(key_M, key_H, history_H)
    return user_H, history_H, slate_H, user_M, slate_M, history_M


def _history_shares(slates: SlateBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Return user, category and share of each pair that occurs in histories, in rising order."""
    background, num_categories = slates.needed_background, max(1, slates.traits.num_categories)
    row_N, label_N, part_N = slates.traits.categories.spread(
        background.history_item_S, torch.float64
    )
    is_label_N = part_N > 0
    key_N = background.history_user_S[row_N] * num_categories + label_N
    key_N, order_N = key_N[is_label_N].sort()
    is_new_N = torch.ones_like(key_N, dtype=torch.bool)
    is_new_N[1:] = key_N[1:] != key_N[:-1]
    key_P = key_N[is_new_N]
    weight_P = torch.zeros_like(key_P, dtype=torch.float64)
    weight_P.index_add_(0, is_new_N.cumsum(dim=0) - 1, part_N[is_label_N][order_N])
    user_P = key_P.div(num_categories, rounding_mode="floor")
    label_P = key_P - user_P * num_categories
    return user_P, label_P, weight_P / _sum_by_user(weight_P, user_P, slates.num_users)[user_P]


def _look_up(wanted: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Return the value of each wanted key, 0 where the rising keys do not contain it."""
    if not len(keys):
        return torch.zeros_like(wanted, dtype=torch.float64)
    place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return torch.where(keys[place] == wanted, values[place], 0.0)


def _sum_by_user(values: Tensor, user: Tensor, num_users: int) -> Tensor:
    return values.new_zeros(num_users).index_add_(0, user, values)
