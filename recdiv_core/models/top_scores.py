# pyright: strict
"""The best items of the catalogue for each user: what becomes candidates and slates.

Not a re-ranker: the order is that of the scores. The one idea: torch's selection reads each row
several times over, and on the CPU costs more than the product that made the scores; so first the
catalogue is looked at in groups of eight. Of the best k items none can lie outside the k groups of
the highest maxima, and only these are selected from. Shapes: B users, V catalogue, k wanted.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

GROUP: Final = 8
"""Items a group: more make the maxima cheaper and what is left to select from larger."""


def top_scores(scores_BV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Select the k highest scores of each user: `scores_BV.topk(k, dim=1)`, in half its time.

    Equal scores that compete for the last place are told apart by neither in a promised way.

    Args:
        scores_BV: float; NaN counts as the highest, as it does for torch.
        k: at most V.

    Returns:
        values_Bk falling, and index_Bk int64.
    """
    num_users, num_items = scores_BV.shape
    num_groups = num_items // GROUP
    # with few groups nothing is saved; a GPU's own selection reads each row once
    if num_groups < 2 * k or scores_BV.is_cuda:
        return scores_BV.topk(k, dim=1)
    # group g holds items g, g + num_groups, ...: maxima of whole vectors, not inside them
    grouped_BGg = scores_BV[:, : GROUP * num_groups].view(num_users, GROUP, num_groups)
    best_Bk = grouped_BGg.amax(dim=1).topk(k, dim=1, sorted=False).indices
    first_G = num_groups * torch.arange(GROUP, device=scores_BV.device)
    left = torch.arange(GROUP * num_groups, num_items, device=scores_BV.device)
    index_BN = torch.cat(
        [(best_Bk[:, None] + first_G[:, None]).flatten(1), left.expand(num_users, -1)], dim=1
    )
    values_Bk, place_Bk = scores_BV.gather(1, index_BN).topk(k, dim=1)
    return values_Bk, index_BN.gather(1, place_Bk)
