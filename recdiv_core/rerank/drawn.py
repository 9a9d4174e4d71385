# pyright: strict
"""Draw slates and items for the rule `draw M of ATTRIBUTE=VALUE for P % of slates`.

It introduces items that no model shows by itself, such as new ones. The rule binds a share of the
slates, and each of them holds M of the items with the value, every item equally likely. The one
idea: both draws are hashes of the items of the user's history. So a server that answers one request
at a time needs no memory, evaluation and serving agree on any number of workers, and a user sees
the same slate until the next event. All requests without a history get the same slate, so a share
below 100 % binds none of them.

Legend: B users, n users of a tile, I items, M drawn items, S pairs of a user and an item of the
history.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from recdiv_core.rerank.candidates import Rule

PRIME: Final = (1 << 31) - 1
"""Hashes lie in [0, PRIME); a product of two of them fits int64."""
FACTOR: Final = 1_103_515_245
OFFSET: Final = 12_345
LOTS_AT_ONCE: Final = 1 << 20
"""Lots that are compared at once: 8 MiB."""
UNBOUND: Final = PRIME
"""Hash of an empty history: no share reaches it."""


def hash_histories(user_S: Tensor, item_S: Tensor, num_users: int) -> Tensor:
    """Return a hash of each user's history, [B] int64; UNBOUND for an empty one.

    Args:
        user_S: int64 row of the user of each item of the histories.
        item_S: int64 item_index; the order of a user's items has no effect.
        num_users: B.
    """
    sum_B = item_S.new_zeros(num_users).index_add_(0, user_S, _mix(item_S + 1))
    has_history_B = torch.zeros_like(sum_B, dtype=torch.bool).index_fill_(0, user_S, True)
    return torch.where(has_history_B, _mix(sum_B % PRIME), UNBOUND)


def are_bound(rule: Rule, hash_B: Tensor) -> Tensor:
    """Return [B] bool, the users whose slates a rule binds; only `draw` binds some."""
    if rule.kind != "draw" or rule.share == 1:
        return torch.ones_like(hash_B, dtype=torch.bool)
    return hash_B < rule.share * PRIME


def are_free(rules: Sequence[Rule], hash_B: Tensor | None) -> Tensor | None:
    """Return [B] bool, the users whose slates no rule binds; None if each rule binds all slates."""
    if hash_B is None or not all(rule.kind == "draw" and rule.share < 1 for rule in rules):
        return None
    is_free_B = torch.ones_like(hash_B, dtype=torch.bool)
    for rule in rules:
        is_free_B &= ~are_bound(rule, hash_B)
    return is_free_B


def draw(hash_B: Tensor, items_I: Tensor, is_able_BI: Tensor, count: int) -> Tensor:
    """Draw items for each user: all that are able are equally likely.

    Args:
        hash_B: see `hash_histories`.
        items_I: int64 item_index: [I] for all users, or [B, I].
        is_able_BI: bool, the items that may be drawn.
        count: items to draw, >= 0.

    Returns:
        [B, I] bool, the drawn items: `count`, or fewer if fewer are able. Of any part of the items
        that holds the drawn ones, the same are drawn.
    """
    is_drawn_BI = torch.zeros_like(is_able_BI)
    rows_N = is_able_BI.any(dim=1).nonzero()[:, 0]
    at_once = max(1, LOTS_AT_ONCE // max(1, is_able_BI.shape[1]))
    for start in range(0, len(rows_N), at_once):
        rows_n = rows_N[start : start + at_once]
        own_nI = items_I if items_I.dim() == 1 else items_I[rows_n]
        lot_nI = _mix((hash_B[rows_n, None] + _mix(own_nI + 1)) % PRIME)
        lot_nI.masked_fill_(~is_able_BI[rows_n], PRIME)
        first_nM = lot_nI.topk(min(count, lot_nI.shape[1]), dim=1, largest=False).indices
        drawn_nI = torch.zeros_like(lot_nI, dtype=torch.bool).scatter_(1, first_nM, True)
        is_drawn_BI[rows_n] = drawn_nI & is_able_BI[rows_n]
    return is_drawn_BI


def _mix(numbers: Tensor) -> Tensor:
    """Return hashes in [0, PRIME) of int64 numbers in [0, PRIME)."""
    for _ in range(2):
        numbers = (numbers * FACTOR + OFFSET) % PRIME
        numbers = (numbers * numbers + numbers) % PRIME
    return numbers
