# pyright: strict
"""The input of the diversity regularisers: the soft slates of a batch, and the items' traits.

SoftSlates belongs to one batch; its ItemTraits are the same at every step. Only the memberships
carry gradients. soft_topk.py forms the memberships; diversity.py and aggregate.py penalise them.
Shapes: B users, M candidates, D dims, G categories, S seen pairs, N labels, V catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from recdiv_core.items.traits import ItemTraits

EMPTY_SLATE: Final = 1e-6
"""Smallest number of positions to divide by; a user who has seen the whole catalogue has none."""


@dataclass(frozen=True)
class SoftSlates:
    """The soft slates of a batch of users.

    Attributes:
        membership_BM: q, in [0, 1]; rows sum to k, or less where fewer items are left.
        candidates_BM: item_index of each candidate, distinct within a row.
        traits: the items of the catalogue.
        exposure_V: running share of all slate positions that each item has, sums to 1.
        history_BG: share of each category in each user's history; rows sum to 1, or are all 0
            without a history; None if no regulariser of the mix needs it.
        slate_size: k.
        taught_BM: bool, candidates that a re-ranker puts into the slate; None if not needed.
    """

    membership_BM: torch.Tensor
    candidates_BM: torch.Tensor
    traits: ItemTraits
    exposure_V: torch.Tensor
    history_BG: torch.Tensor | None
    slate_size: int
    taught_BM: torch.Tensor | None = None

    @property
    def num_places(self) -> float:
        """Slate positions in all if every train user is shown one slate."""
        return float(self.traits.num_train_users * self.slate_size)
