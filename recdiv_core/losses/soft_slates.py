# pyright: strict
"""What a diversity regulariser may look at: the soft slates of a batch, and the items' traits.

SoftSlates is of one batch; the ItemTraits in it are the same at every step. Everything but the
memberships is a constant of the optimisation. How the memberships are formed is in soft_topk.py;
what they cost in diversity.py (inside one slate) and aggregate.py (all slates together).
Shapes: B users, M candidates, D dims, G categories, S seen pairs, N labels, V catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from recdiv_core.items.traits import ItemTraits

EMPTY_SLATE: Final = 1e-6
"""Places below which nothing is divided: a user who has seen the whole catalogue has none."""


@dataclass(frozen=True)
class SoftSlates:
    """The soft slates of a batch of users.

    Attributes:
        membership_BM: q, in [0, 1], rows sum to k (to less where fewer items are left).
        candidates_BM: item_index of each candidate, no item twice in a row.
        traits: what all users' slates are judged by.
        exposure_V: running share of all slate places that each item holds, sums to 1.
        history_BG: share of each category in each user's history, rows sum to 1, all 0 without a
            history; None where no regulariser of the mix asks for it.
        slate_size: k.
        taught_BM: bool, the candidates that a re-ranker puts into the slate; None where it is not
            asked.
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
        """Slate places there are when every train user is shown one slate."""
        return float(self.traits.num_train_users * self.slate_size)
