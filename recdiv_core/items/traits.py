# pyright: strict
"""The items of a catalogue as losses, re-rankers and metrics see them: one description for all.

The same at every step and for all users; what belongs to one batch is in losses, rerank and
metrics. What follows from the fields is a cached property, computed when it is first asked for.
Legend: B users, D dims, G categories, S seen pairs, N labels, V catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from recdiv_core.items.labels import Labels
from recdiv_core.items.popularity import (
    log_prior,
    popularity_groups,
    popularity_order,
    popularity_ranks,
    self_information,
)


@dataclass(frozen=True, eq=False)
class ItemTraits:
    """The items of a catalogue; `describe_items` makes one and checks it.

    Attributes:
        embeddings_VD: item vectors that similarity is measured in: unit length, or zeros for an
            item without a vector. The metrics normalise them again (`unit_VD`).
        categories: category indices of every item.
        num_categories: G, categories of the whole catalogue.
        num_events_V: [V] int64 train events of each item, >= 0.
        num_train_users: users with an event in the train window, >= 1.
        attributes: name -> [V] int64 index of each item's value, -1 = unknown.
    """

    embeddings_VD: Tensor
    categories: Labels
    num_categories: int
    num_events_V: Tensor
    num_train_users: int
    attributes: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def num_items(self) -> int:
        """V."""
        return self.embeddings_VD.shape[0]

    @cached_property
    def num_values(self) -> dict[str, int]:
        """Number of values of each attribute, at least 1; read from the device once."""
        return {name: max(0, int(values.max())) + 1 for name, values in self.attributes.items()}

    @cached_property
    def squared_norm_V(self) -> Tensor:
        """[V] squared length of each embedding, in its dtype: 1 up to rounding, or 0."""
        return self.embeddings_VD.detach().square().sum(1)

    @cached_property
    def unit_VD(self) -> Tensor:
        """[V, D] float32 embeddings of length 1, or 0 for items without a vector."""
        return F.normalize(self.embeddings_VD.float(), dim=1)

    @cached_property
    def squared_unit_norm_V(self) -> Tensor:
        """[V] float64 squared length of each row of `unit_VD`."""
        return self.unit_VD.square().sum(dim=1, dtype=torch.float64)

    @cached_property
    def log_prior_V(self) -> Tensor:
        """[V] float32 log of each item's smoothed share of train events."""
        return log_prior(self.num_events_V)

    @cached_property
    def popularity_share_V(self) -> Tensor:
        """[V] float32 smoothed share of train events; > 0, sums to 1."""
        return self.log_prior_V.exp()

    @cached_property
    def self_information_V(self) -> Tensor:
        """[V] float64 bits; see `popularity.self_information`."""
        return self_information(self.num_events_V, self.num_train_users)

    @cached_property
    def popularity_order_V(self) -> Tensor:
        """[V] int64; see `popularity.popularity_order`."""
        return popularity_order(self.num_events_V)

    @cached_property
    def popularity_rank_V(self) -> Tensor:
        """[V] int64; see `popularity.popularity_ranks`."""
        return popularity_ranks(self.num_events_V)

    @cached_property
    def popularity_group_V(self) -> Tensor:
        """[V] int64 index into POPULARITY_GROUPS."""
        return popularity_groups(self.num_events_V)

    def to(self, device: torch.device | str) -> ItemTraits:
        """Return the same items with their tensors on another device."""
        return replace(
            self,
            embeddings_VD=self.embeddings_VD.to(device),
            categories=self.categories.to(device),
            num_events_V=self.num_events_V.to(device),
            attributes={name: value.to(device) for name, value in self.attributes.items()},
        )


def describe_items(
    embeddings_VD: Tensor,
    categories: Labels,
    num_events_V: Tensor,
    *,
    num_train_users: int,
    num_categories: int,
    attributes: Mapping[str, Tensor] | None = None,
) -> ItemTraits:
    """Check the arrays that describe a catalogue, and return them as one object.

    Args:
        embeddings_VD: item vectors of unit length, or zeros; the metrics accept any length.
        categories: category indices of each item; an item may have none.
        num_events_V: [V] int64 train events of each item.
        num_train_users: users with an event in the train window, >= 1.
        num_categories: categories of the whole catalogue.
        attributes: name -> [V] int, the value of each item, -1 = unknown.

    Raises:
        ValueError: shapes do not fit, or a category, attribute or count is out of range.
    """
    num_items = embeddings_VD.shape[0]
    if embeddings_VD.ndim != 2 or num_events_V.ndim != 1:
        raise ValueError(
            "expected embeddings [V, D] and events [V]; got "
            f"{list(embeddings_VD.shape)}, {list(num_events_V.shape)}"
        )
    if not num_items or len(categories) != num_items or num_events_V.shape[0] != num_items:
        raise ValueError(
            f"embeddings, categories and events must describe the same number of items, at least "
            f"one; got {num_items} embeddings, {len(categories)} rows of categories, "
            f"{num_events_V.shape[0]} numbers of events"
        )
    if num_train_users < 1 or bool((num_events_V < 0).any()):
        raise ValueError(
            f"expected num_train_users >= 1 and num_events >= 0; got {num_train_users} users and "
            f"a minimum of {int(num_events_V.min())} events"
        )
    check_range("categories", categories.values_N[:-1], num_categories)
    checked: dict[str, Tensor] = {}
    for name, values_V in (attributes or {}).items():
        if values_V.shape != (num_items,):
            raise ValueError(
                f"attribute {name}: expected [{num_items}] values, got {list(values_V.shape)}"
            )
        check_range(f"attribute {name}", values_V, int(values_V.max()) + 1)
        checked[name] = values_V.long()
    return ItemTraits(
        embeddings_VD, categories, num_categories, num_events_V, num_train_users, checked
    )


def check_range(name: str, indices: Tensor, size: int) -> None:
    """Raise ValueError unless all indices are whole numbers in -1..size - 1."""
    if indices.is_floating_point():
        raise ValueError(f"{name} must be whole numbers, got {indices.dtype}")
    if not indices.numel():
        return
    low, high = (int(bound) for bound in indices.aminmax())
    if low < -1 or high >= size:
        raise ValueError(f"{name} must lie in -1..{size - 1}, got {low}..{high}")


def history_shares(user_S: Tensor, item_S: Tensor, traits: ItemTraits, num_users: int) -> Tensor:
    """Return the share of each category in each user's history.

    Every event counts alike; an item with several labels counts in equal parts for each.

    Args:
        user_S: row of each event's user, in [0, num_users).
        item_S: item_index of each event.
        traits: holds the categories of the items.
        num_users: B.

    Returns:
        [B, G], rows sum to 1; a row of zeros for a user without events.
    """
    row_N, label_N, part_N = traits.categories.spread(item_S)
    cell_N = user_S[row_N] * traits.num_categories + label_N
    events = part_N.new_zeros(num_users * traits.num_categories).index_add_(0, cell_N, part_N)
    events_BG = events.view(num_users, traits.num_categories)
    return events_BG / events_BG.sum(1, keepdim=True).clamp_min(1e-12)
