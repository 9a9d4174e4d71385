"""The mask of ineligible items, and the places that it frees.

The mask is applied before candidates are taken (making.py), so an ineligible item costs no place.
The one idea: most items are alike for all users of a batch, so a mask holds only the items that
some user of the batch must not see. eligibility.py tells which items may be shown when.

Shapes: B users, b users of a tile, V catalogue, C items that some user must not see, k places,
N places and hidden items together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from recdiv_core.rerank.top_scores import USERS_AT_ONCE, top_scores
from recdiv_core.slates.eligibility import Eligibility


class Hidden(NamedTuple):
    """The ineligible items with the highest scores of each user, by falling score.

    Attributes:
        scores_Bk: float32; -inf = no further item.
        items_Bk: int64 item_index.
    """

    scores_Bk: torch.Tensor
    items_Bk: torch.Tensor


@dataclass(frozen=True, eq=False)
class Ineligible:
    """The items that users of a batch must not see.

    Attributes:
        items_C: int64 item_index, rising.
        is_out_BC: bool [B, C], or [1, C] if all users are alike.
    """

    items_C: torch.Tensor
    is_out_BC: torch.Tensor

    def hide(
        self, scores_BV: torch.Tensor, k: int, adjustments: Sequence[torch.Tensor | None]
    ) -> list[Hidden]:
        """Set the scores of ineligible items to -inf; return the best of these items.

        Args:
            scores_BV: float32 scores; overwritten.
            k: items that are returned of each user, at most.
            adjustments: [V] numbers that are subtracted from the scores before the best are taken;
                None = nothing is subtracted.

        Returns:
            The best ineligible items under each adjustment.
        """
        width = min(k, len(self.items_C))
        if not width or not len(scores_BV):
            none = Hidden(scores_BV[:, :0], self.items_C.new_empty(len(scores_BV), 0))
            return [none for _ in adjustments]
        found: list[list[Hidden]] = [[] for _ in adjustments]
        at_once = len(scores_BV) if scores_BV.is_cuda else USERS_AT_ONCE
        for start in range(0, len(scores_BV), at_once):
            tile_bV = scores_BV[start : start + at_once]
            is_out_bC = self.is_out_BC
            if len(is_out_bC) > 1:
                is_out_bC = is_out_bC[start : start + at_once]
            own_bC = tile_bV.index_select(1, self.items_C)
            tile_bV.index_copy_(1, self.items_C, own_bC.masked_fill(is_out_bC, -torch.inf))
            own_bC.masked_fill_(~is_out_bC, -torch.inf)
            for adjustment_V, parts in zip(adjustments, found, strict=True):
                adjusted_bC = own_bC
                if adjustment_V is not None:
                    adjusted_bC = own_bC - adjustment_V[self.items_C]
                scores_bk, place_bk = top_scores(adjusted_bC, width)
                parts.append(Hidden(scores_bk, self.items_C[place_bk]))
        return [Hidden(*(torch.cat(own) for own in zip(*parts, strict=True))) for parts in found]

    def holds(self, items_BT: torch.Tensor) -> torch.Tensor:
        """Return [B, T] bool, which items users must not see; -1 = no item, which is False."""
        place_BT = torch.searchsorted(self.items_C, items_BT).clamp_max(len(self.items_C) - 1)
        if not len(self.items_C):
            return torch.zeros_like(items_BT, dtype=torch.bool)
        is_there_BT = self.items_C[place_BT] == items_BT
        is_out_BC = self.is_out_BC.expand(len(items_BT), -1)
        return is_there_BT & is_out_BC.gather(1, place_BT)


def freed_places(
    scores_BC: torch.Tensor, items_BC: torch.Tensor, hidden: Hidden, k: int
) -> torch.Tensor:
    """Tell which of the first k places by score ineligible items would hold without the mask.

    Args:
        scores_BC: highest scores of eligible items, falling; as many as there are, up to k or more.
        items_BC: their item_index.
        hidden: the best ineligible items, up to k.
        k: places.

    Returns:
        [B, k] bool. Of equal scores the lower item_index comes first, as everywhere.
    """
    shown, items_Bk = scores_BC[:, :k], items_BC[:, :k]
    scores_BN = torch.cat([shown, hidden.scores_Bk], dim=1)
    is_hidden_BN = torch.zeros_like(scores_BN, dtype=torch.bool)
    is_hidden_BN[:, shown.shape[1] :] = hidden.scores_Bk > -torch.inf
    order_BN = torch.cat([items_Bk, hidden.items_Bk], dim=1).argsort(dim=1)
    falling = scores_BN.gather(1, order_BN).argsort(dim=1, descending=True, stable=True)
    is_hidden_BN = is_hidden_BN.gather(1, order_BN.gather(1, falling))[:, :k]
    return torch.nn.functional.pad(is_hidden_BN, (0, k - is_hidden_BN.shape[1]))


def ineligible_of(eligible: Eligibility, requested_B: Any, device: torch.device) -> Ineligible:
    """Return the items that the users of a batch must not see.

    `requested_B` [B] is the time of each request in microseconds; None = unknown, so dates do not
    count.
    """
    is_open_V, dates = eligible.is_open_V, eligible.dates
    if dates is None or requested_B is None or not len(requested_B):
        items_C = np.flatnonzero(~is_open_V)
        is_out_BC = np.ones((1, len(items_C)), bool)
    else:
        times_B = np.asarray(requested_B)
        times_B = times_B[:1] if (times_B == times_B[0]).all() else times_B
        is_out_V = ~is_open_V | (dates.from_V > times_B.min()) | (dates.until_V < times_B.max())
        items_C = np.flatnonzero(is_out_V)
        is_out_BC = ~is_open_V[items_C] | (dates.from_V[items_C] > times_B[:, None])
        is_out_BC |= dates.until_V[items_C] < times_B[:, None]
    return Ineligible(torch.from_numpy(items_C).to(device), torch.from_numpy(is_out_BC).to(device))
