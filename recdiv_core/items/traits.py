"""What regularisers and re-rankers know of the items: vectors, categories, shares of exposure.

The same at every step and for all users; what belongs to one batch is in losses and rerank.
Shapes: B users, D dims, G categories, S seen pairs, N labels, V catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch

from recdiv_core.items.labels import Labels


@dataclass(frozen=True)
class ItemTraits:
    """What all users' slates are judged by; the same at every step.

    Attributes:
        embeddings_VD: unit item vectors of a fixed yardstick (the text vectors); zero rows allowed.
        categories: category indices of every item; at least one an item.
        num_categories: G.
        popularity_V: share of all train events that each item holds, sums to 1.
        num_places: places that there are when every user is shown one slate.
        attributes: name -> [V] int64 index of each item's value, -1 = unknown.
    """

    embeddings_VD: torch.Tensor
    categories: Labels
    num_categories: int
    popularity_V: torch.Tensor
    num_places: float
    attributes: Mapping[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])

    @property
    def num_items(self) -> int:
        """V."""
        return self.embeddings_VD.shape[0]

    @cached_property
    def squared_norm_V(self) -> torch.Tensor:
        """[V] 1 of a unit vector, 0 of a vector of zeros."""
        return self.embeddings_VD.detach().square().sum(1)


def history_shares(
    user_S: torch.Tensor, item_S: torch.Tensor, traits: ItemTraits, num_users: int
) -> torch.Tensor:
    """Share each user's history out over the categories.

    Every event counts alike; an item of several labels gives each an equal part.

    Args:
        user_S: row of each event's user, in [0, num_users).
        item_S: item_index of each event.
        traits: holds the categories of the items.
        num_users: B.

    Returns:
        [B, G], rows sum to 1; a row of zeros for a user without events.
    """
    row_N, label_N, part_N = traits.categories.spread(item_S)
    place_N = user_S[row_N] * traits.num_categories + label_N
    events = part_N.new_zeros(num_users * traits.num_categories).index_add_(0, place_N, part_N)
    events_BG = events.view(num_users, traits.num_categories)
    return events_BG / events_BG.sum(1, keepdim=True).clamp_min(1e-12)
