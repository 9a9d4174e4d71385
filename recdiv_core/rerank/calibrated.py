# pyright: strict
"""Calibrated re-ranker: the slate's categories in the proportions of the user's history.

Not diversity for its own sake: a user who looked at one category gets that category. An item
changes the divergence only through its own categories, so the other categories are not computed.

Legend: B users, W dials, C candidates, L labels of an item.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from recdiv_core.rerank.candidates import Candidates, Options, shares_of
from recdiv_core.rerank.fading import label_finder
from recdiv_core.rerank.greedy import Novelty
from recdiv_core.rerank.relevance import zero_to_one

KEPT_TASTE: Final = 0.01
"""Share of the history mixed into the slate's distribution; keeps the divergence finite."""


def calibrated(candidates: Candidates, k: int, num_dials: int, options: Options) -> Novelty:
    """Novelty = decrease of KL(h || (1 - a) P + a h) / log(1 / a) by i's own categories.

    h is the share of each category in the history and P its share in the slate with i; an item of
    several categories counts in equal parts for each; a = 0.01. This is the greedy form of Steck
    2018, Calibrated recommendations; the part of the divergence outside i's categories is the same
    for all candidates. Relevance is scaled to [0, 1]. The dial also acts on the first position.
    Without a history or a category the novelty is 0 and the order is the model's. Cost per user:
    k C L^2, independent of the number of categories.
    """
    labels_BCL = candidates.labels_BCL("category")
    shares_BCL = shares_of(labels_BCL)
    relevance_BC = zero_to_one(candidates)
    shares_B1LC, wishes_B1LC = (
        tensor.transpose(1, 2)[:, None].contiguous()
        for tensor in (shares_BCL, candidates.wishes_BCL())
    )
    shown_BWLC = shares_B1LC.new_zeros(shares_B1LC.shape).repeat(1, num_dials, 1, 1)
    tiny = torch.finfo(relevance_BC.dtype).tiny
    shares_of_choice = label_finder(labels_BCL, shares_BCL, default=0.0)
    length = 0

    def novelty() -> Tensor:
        share = (1 - KEPT_TASTE) / (length + 1)
        without_BWLC = shown_BWLC * share + KEPT_TASTE * wishes_B1LC
        with_BWLC = without_BWLC + share * shares_B1LC
        logs_BWLC = with_BWLC.clamp_min(tiny).log() - without_BWLC.clamp_min(tiny).log()
        return (wishes_B1LC * logs_BWLC).sum(dim=2) / math.log(1 / KEPT_TASTE)

    def after(best_BW: Tensor) -> Tensor:
        nonlocal length
        length += 1
        shown_BWLC.add_(shares_of_choice(best_BW))
        return novelty()

    return Novelty(relevance_BC, novelty(), after)
