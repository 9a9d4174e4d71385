# pyright: strict
"""Weights of labels that fall as the labels are shown: the core of xquad and alpha.

Not a re-ranker. A label of a candidate has a weight, and each choice with the same label leaves a
part of that weight. Only labels of candidates are stored, never a table of all categories.

Legend: B users, W dials, C candidates, L labels of an item.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recdiv_core.items.labels import FEW
from recdiv_core.rerank.greedy import row_finder


def fading(
    weights_BCL: Tensor, labels_BCL: Tensor, met_BCL: Tensor, num_dials: int
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Prepare novelty = sum_l weight_il prod_{j in S} (1 - met_jl), j in S with the same label.

    Args:
        weights_BCL: weight of each label of a candidate, 0 at padding.
        labels_BCL: int labels, -1 at padding.
        met_BCL: share of the demand for a label that this candidate satisfies, in [0, 1].
        num_dials: W.

    Returns:
        novelty for an empty slate [B, W, C], and the function `after` of a Novelty.
    """
    rest_of = label_finder(labels_BCL, 1 - met_BCL, default=1.0)
    left_BWLC = weights_BCL.transpose(1, 2)[:, None].repeat(1, num_dials, 1, 1)

    def after(best_BW: Tensor) -> Tensor:
        return left_BWLC.mul_(rest_of(best_BW)).sum(dim=2)

    return left_BWLC.sum(dim=2), after


def label_finder(
    labels_BCL: Tensor, values_BCL: Tensor, *, default: float
) -> Callable[[Tensor], Tensor]:
    """Prepare to look up what choices have at the labels of all candidates.

    Args:
        labels_BCL: int; -1 ends the labels. A candidate has no label twice.
        values_BCL: what each label of a candidate has.
        default: what a label has that the choice lacks.

    Returns:
        from places chosen [B, W] to [B, W, L, C]: what the same label of the choice has. What comes
        at the end of a candidate's labels means nothing.
    """
    labels_B1LC = labels_BCL.transpose(1, 2)[:, None].contiguous()
    labels_of, values_of = row_finder(labels_BCL), row_finder(values_BCL)

    def find(best_BW: Tensor) -> Tensor:
        labels_BWL, values_BWL = labels_of(best_BW), values_of(best_BW)
        found_BWLC = values_BWL.new_tensor(default)
        for label_BW, value_BW in zip(labels_BWL.unbind(2), values_BWL.unbind(2), strict=True):
            is_same_BWLC = labels_B1LC == label_BW[..., None, None]
            found_BWLC = torch.where(is_same_BWLC, value_BW[..., None, None], found_BWLC)
        return found_BWLC

    def find_in_table(best_BW: Tensor) -> Tensor:
        table_BWT = values_BCL.new_full((*best_BW.shape, table_size), default)
        table_BWT.scatter_(2, labels_of(best_BW) + 1, values_of(best_BW))
        place_BWX = (labels_B1LC.flatten(2) + 1).expand(-1, best_BW.shape[1], -1)
        return table_BWT.gather(2, place_BWX).view(*best_BW.shape, *labels_B1LC.shape[2:])

    if labels_BCL.shape[2] <= FEW or not labels_BCL.numel():
        return find
    table_size = int(labels_BCL.max()) + 2
    return find_in_table
