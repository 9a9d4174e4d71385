# pyright: strict
"""Accuracy that rewards variety: the value of a hit depends on the categories of earlier hits.

Unlike in diversity.py, an item that the user did not want has no value. Each category of a user's
targets is a need; the first hit that serves it has value 1, and each further hit REPEATED times the
value of the one before. Both metrics follow `ndeval` of the TREC web track. In [0, 1], higher is
better; without hits, or with targets without categories: 0. Ideal orders are greedy with ties to
the lower item_index, which is exact where items have one category.

Legend: B users (with a hit), K slate positions, T targets of a user, L labels of an item.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from recdiv_core.metrics.slate_batch import SlateBatch

REPEATED: Final = 0.5
"""Value of serving a need again, relative to the last time: 1 - alpha."""

LABELS_AT_ONCE: Final = 1 << 22
"""Labels of targets, including padding, that are processed at once."""


def alpha_ndcg(slates: SlateBatch) -> Tensor:
    """Return the sum over hits of gain / log2(rank + 1), divided by that of the ideal order.

    gain = sum over the hit's categories of 0.5^(hits before it with that category). Clarke et al.
    2008, Novelty and diversity in information retrieval evaluation.
    """
    whole = slates.whole.once(_gains)
    gains_BK, ideal_BK = whole.gains_BK[:, : slates.k], whole.ideal_BK[:, : slates.k]
    discounts_K = 1 / _ranks(slates.k, gains_BK.device).add(1).log2()
    ideal_B = ideal_BK @ discounts_K
    value_B = torch.where(ideal_B > 0, gains_BK @ discounts_K / ideal_B, 0.0)
    return _spread(value_B, whole.is_shown_B)


def err_ia(slates: SlateBatch) -> Tensor:
    """Return the sum over hits of gain / rank, divided by needs and by its value for k ideal items.

    Scaled as in `ndeval`; an ideal item serves all needs (Chapelle et al. 2011, Intent-based
    diversification of web search results; their form is this times 0.5 times the sum over ranks of
    0.5^(rank - 1) / rank). Every category of the targets has the same probability.
    """
    whole = slates.whole.once(_gains)
    ranks_K = _ranks(slates.k, whole.gains_BK.device)
    best = float((REPEATED ** (ranks_K - 1) / ranks_K).sum())
    gain_B = whole.gains_BK[:, : slates.k] @ (1 / ranks_K)
    return _spread(gain_B / whole.num_needs_B.clamp(min=1) / best, whole.is_shown_B)


@dataclass(frozen=True)
class _Gains:
    is_shown_B: Tensor  # users with a hit; the other fields cover only these
    num_needs_B: Tensor
    gains_BK: Tensor  # gain at each position of the slate
    ideal_BK: Tensor  # gain at each position of the ideal order of targets


def _gains(slates: SlateBatch) -> _Gains:
    """Return the gain at each position, which does not depend on later positions."""
    is_shown_B = slates.is_hit_BK.any(dim=1)
    row_B = is_shown_B.nonzero()[:, 0]
    targets_BT = slates.targets_BT[row_B]
    num_labels = max(1, targets_BT.shape[1] * slates.traits.categories.width(targets_BT))
    at_once = max(1, LABELS_AT_ONCE // num_labels)
    starts = range(0, max(1, len(row_B)), at_once)
    parts = [_gains_of(slates, row_B[start : start + at_once]) for start in starts]
    needs, gains, ideals = zip(*parts, strict=True)
    return _Gains(is_shown_B, torch.cat(needs), torch.cat(gains), torch.cat(ideals))


def _gains_of(slates: SlateBatch, row_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the number of needs, and the gains of slate and ideal order, of some users."""
    targets_BT, items_BK = slates.targets_BT[row_B], slates.items_BK[row_B]
    need_BTL = _number_needs(slates.traits.categories[targets_BT])
    hit_BK = slates.is_hit_BK[row_B]
    place_BK = torch.searchsorted(targets_BT, items_BK).clamp(max=targets_BT.shape[1] - 1)
    num_needs = int(need_BTL.max()) + 1 if need_BTL.numel() else 0
    worth_BN = need_BTL.new_ones((len(need_BTL), num_needs + 1), dtype=torch.float64)
    worth_BN[:, -1] = 0  # column of need -1: no need
    ideal_worth_BN, is_left_BT = worth_BN.clone(), targets_BT >= 0
    gains_BK = worth_BN.new_zeros(items_BK.shape)
    ideal_BK = torch.zeros_like(gains_BK)
    rows_B = torch.arange(len(targets_BT), device=targets_BT.device)
    for rank in range(slates.k):
        need_BL = need_BTL[rows_B, place_BK[:, rank]].masked_fill(~hit_BK[:, rank, None], -1)
        gains_BK[:, rank] = _serve(worth_BN, need_BL)
        if rank >= targets_BT.shape[1]:
            continue  # the ideal order has no target left
        gain_BT = ideal_worth_BN[rows_B[:, None, None], need_BTL].sum(dim=2)
        best_B = gain_BT.masked_fill(~is_left_BT, -1).argmax(dim=1)
        is_any_B = is_left_BT[rows_B, best_B]
        need_BL = need_BTL[rows_B, best_B].masked_fill(~is_any_B[:, None], -1)
        ideal_BK[:, rank] = _serve(ideal_worth_BN, need_BL)
        is_left_BT[rows_B, best_B] = False
    return need_BTL.flatten(1).amax(dim=1) + 1, gains_BK, ideal_BK


def _serve(worth_BN: Tensor, need_BL: Tensor) -> Tensor:
    """Return the value of an item that serves these needs, [B], and lower their value."""
    column_BL = need_BL % worth_BN.shape[1]
    worth_BL = worth_BN.gather(1, column_BL)
    # the needs of an item are distinct, except the column of no need, which stays 0
    worth_BN.scatter_(1, column_BL, worth_BL * REPEATED)
    return worth_BL.sum(dim=1)


def _number_needs(labels_BTL: Tensor) -> Tensor:
    """Number each user's needs from 0: [B, T, L] int64, -1 where there is none."""
    sorted_BM, order_BM = labels_BTL.flatten(1).sort(dim=1)
    is_new_BM = sorted_BM >= 0
    is_new_BM[:, 1:] &= sorted_BM[:, 1:] != sorted_BM[:, :-1]
    number_BM = (is_new_BM.cumsum(dim=1) - 1).masked_fill(sorted_BM < 0, -1)
    return torch.empty_like(number_BM).scatter_(1, order_BM, number_BM).view_as(labels_BTL)


def _spread(value_b: Tensor, is_shown_B: Tensor) -> Tensor:
    """Return the values of all users, 0 for users without a hit."""
    value_B = value_b.new_zeros(len(is_shown_B))
    value_B[is_shown_B] = value_b
    return value_B


def _ranks(k: int, device: torch.device) -> Tensor:
    return torch.arange(1, k + 1, dtype=torch.float64, device=device)
