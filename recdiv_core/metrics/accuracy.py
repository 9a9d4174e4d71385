# pyright: strict
"""Accuracy of slates against held-out targets: functions of a batch, one value per user.

tally.py sums the values over users and divides last. A slate is scored by which of its k positions
are hits and by the number of targets. All metrics lie in [0, 1] and higher is better; an empty
slate scores 0 (except in auc, which uses all scores). Where libraries differ, the convention is
stated.

Legend: B users, K = k slate positions; R = items of the slate, Rel = the user's targets (not
empty).
"""

from __future__ import annotations

import torch
from torch import Tensor

from recdiv_core.metrics.slate_batch import SlateBatch


def precision(slates: SlateBatch) -> Tensor:
    """Return |R and Rel| / k; a slate shorter than k keeps the denominator k."""
    return _num_hits(slates) / slates.k


def recall(slates: SlateBatch) -> Tensor:
    """Return |R and Rel| / |Rel|; with more than k targets it stays below 1."""
    return _num_hits(slates) / slates.num_targets_B


def recall_capped(slates: SlateBatch) -> Tensor:
    """Return |R and Rel| / min(k, |Rel|), which can reach 1 for every user."""
    return _num_hits(slates) / slates.num_targets_B.clamp(max=slates.k)


def f1(slates: SlateBatch) -> Tensor:
    """Return the harmonic mean of a user's precision and recall.

    The mean over users is not the F1 of the mean precision and recall, and can rank systems in the
    opposite order (Anelli et al. 2022, Top-N Recommendation Algorithms: A Quest for the State of
    the Art, supplement).
    """
    return harmonic_mean(precision(slates), recall(slates))


def harmonic_mean(first: Tensor, second: Tensor) -> Tensor:
    """Return 2ab / (a + b), and 0 where both are 0.

    >>> harmonic_mean(torch.tensor([0.5, 0.0]), torch.tensor([1.0, 0.0]))
    tensor([0.6667, 0.0000])
    """
    total = first + second
    return torch.where(total > 0, 2 * first * second / total, torch.zeros_like(total))


def hit(slates: SlateBatch) -> Tensor:
    """Return 1 if the slate holds a target, else 0."""
    return slates.is_hit_BK.any(dim=1).double()


def mrr(slates: SlateBatch) -> Tensor:
    """Return 1 / rank of the first hit (ranks from 1), 0 without a hit."""
    return (slates.is_hit_BK / _ranks(slates)).amax(dim=1)


def map_(slates: SlateBatch) -> Tensor:
    """Return average precision: the sum of precision@j over the hits j, / min(k, |Rel|).

    RecBole and RePlay use this divisor; RecTools divides by |Rel| by default.
    """
    is_hit_BK = slates.is_hit_BK.double()
    sums_B = (is_hit_BK * is_hit_BK.cumsum(dim=1) / _ranks(slates)).sum(dim=1)
    return sums_B / slates.num_targets_B.clamp(max=slates.k)


def ndcg(slates: SlateBatch) -> Tensor:
    """Return the sum of 1 / log2(rank + 1) over hits, divided by that of the best possible slate.

    The best possible slate has min(k, |Rel|) hits in front (Jarvelin & Kekalainen 2002, Cumulated
    gain-based evaluation of IR techniques); with a single target this is 1 / log2(rank + 1).
    """
    discounts_K = 1 / (_ranks(slates) + 1).log2()
    ideal_K = discounts_K.cumsum(dim=0)
    return (slates.is_hit_BK * discounts_K).sum(dim=1) / ideal_K[
        slates.num_targets_B.clamp(max=slates.k) - 1
    ]


def auc(slates: SlateBatch) -> Tensor:
    """Return how often a target scores above a non-target; a tie counts one half.

    It uses the scores of all items that could have been shown, before any re-ranking, and not the
    slate. In [0, 1], higher is better; 0.5 = by chance, and also where every item is a target. With
    N items of which P are targets, and ranks r from 0 (ties share their mean):
    1 - (sum r - P (P - 1) / 2) / (P (N - P)), the U statistic of Mann & Whitney 1947.
    """
    background = slates.needed_background
    if background.num_above_BT is None or background.num_rankable_B is None:
        raise ValueError("auc needs to know where targets stand among all scores")
    num_targets_B = slates.num_targets_B.double()
    num_others_B = background.num_rankable_B - num_targets_B
    # of each pair of targets, one is above the other
    among_targets_B = num_targets_B * (num_targets_B - 1) / 2
    above_B = background.num_above_BT.sum(dim=1) - among_targets_B
    auc_B = 1 - above_B / (num_targets_B * num_others_B).clamp(min=1)
    return torch.where(num_others_B > 0, auc_B, torch.full_like(auc_B, 0.5))


def _num_hits(slates: SlateBatch) -> Tensor:
    return slates.is_hit_BK.sum(dim=1).double()


def _ranks(slates: SlateBatch) -> Tensor:
    return torch.arange(1, slates.k + 1, dtype=torch.float64, device=slates.is_hit_BK.device)
