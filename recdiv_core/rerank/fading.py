# pyright: strict
"""Wishes that fade as they are met: the core of xquad and alpha.

Not a re-ranker. The one idea: a label of a candidate is worth a weight, and each choice that has
the same label leaves a part of that weight; only labels of candidates are kept, never a table of
all categories.

Legend: B users, W dials, C candidates, L labels an item.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recdiv_core.rerank.greedy import row_finder


def fading(
    weights_BCL: Tensor, labels_BCL: Tensor, met_BCL: Tensor, num_dials: int
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Prepare novelty = sum_l weight_il prod_{j in S} (1 - met_jl), j in S with the same label.

    Args:
        weights_BCL: what each label of a candidate is worth, 0 at the end of the labels.
        labels_BCL: int; -1 ends the labels.
        met_BCL: share of the wish for a label that this candidate meets, in [0, 1].
        num_dials: W.

    Returns:
        novelty for an empty slate [B, W, C], and what a Novelty has as `after`.
    """
    labels_B1LC = labels_BCL.transpose(1, 2)[:, None]
    labels_of = label_finder(labels_BCL, met_BCL)
    left_BWLC = weights_BCL.transpose(1, 2)[:, None].repeat(1, num_dials, 1, 1)

    def after(best_BW: Tensor) -> Tensor:
        for label_BW1C, met_BW1C in labels_of(best_BW):
            left_BWLC.mul_(torch.where(labels_B1LC == label_BW1C, 1 - met_BW1C, 1.0))
        return left_BWLC.sum(dim=2)

    return left_BWLC.sum(dim=2), after


def label_finder(
    labels_BCL: Tensor, values_BCL: Tensor
) -> Callable[[Tensor], list[tuple[Tensor, Tensor]]]:
    """Prepare to look up the labels of choices one after another, and a value of each.

    Returns:
        from places chosen [B, W] to pairs of [B, W, 1, 1]; the end of the labels, -1, is among
        them: where a candidate has its own end, nothing may be worth anything.
    """
    labels_of, values_of = row_finder(labels_BCL), row_finder(values_BCL)

    def find(best_BW: Tensor) -> list[tuple[Tensor, Tensor]]:
        labels_BWL, values_BWL = labels_of(best_BW), values_of(best_BW)
        return [
            (labels_BWL[..., index, None, None], values_BWL[..., index, None, None])
            for index in range(labels_BCL.shape[2])
        ]

    return find
