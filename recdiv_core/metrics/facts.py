# pyright: strict
"""What metrics know of each item of the catalogue: likeness, categories, attributes, popularity.

Not of slates or users (judged.py). The one idea: it is checked and brought into its final form
once, and every tensor has a last row that stands for no item, so that item_index -1 points at it.

Legend: V catalogue, D dims, G categories of the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from recdiv_core.items.labels import Labels

HEAD_SHARE: Final = 0.5
"""Of the train events, that the most popular items make which are called the head."""

TAIL_FROM: Final = 0.8
"""Of the train events, that head and middle make together; what is left is the tail."""

POPULARITY_GROUPS: Final = ("head", "mid", "tail")


@dataclass(frozen=True)
class CatalogueFacts:
    """What the metrics must know of each item; made once by `catalogue_facts`.

    Each tensor has one row more than there are items: the last one stands for no item (a zero
    vector, no category, 0 bits), so that item_index -1 of a short slate points at it.

    Attributes:
        unit_VD: float32 vectors of length 1, or 0 for items without a vector.
        squared_norm_V: float64, `unit_VD` squared and summed: 1 up to rounding, or 0.
        categories: of each item, none of no item.
        self_information_V: float64, -log2 of the share of train users who met the item, >= 0.
        popularity_V: float64, train events.
        popularity_place_V: int64, 0 = the item with most train events, ties by item_index; V = no
            item.
        popularity_rank_V: int64, 1 = the largest number of train events that occurs, 2 the next;
            V + 1 = no train event, or no item.
        popularity_group_V: int64, place in POPULARITY_GROUPS, see `popularity_groups`; -1 = none.
        attributes: name -> int64, an item's value, -1 = unknown.
        num_items: V.
        num_categories: G, categories of the whole catalogue.
    """

    unit_VD: Tensor
    squared_norm_V: Tensor
    categories: Labels
    self_information_V: Tensor
    popularity_V: Tensor
    popularity_place_V: Tensor
    popularity_rank_V: Tensor
    popularity_group_V: Tensor
    attributes: Mapping[str, Tensor]
    num_items: int
    num_categories: int

    def to(self, device: torch.device | str) -> CatalogueFacts:
        """Return the facts on another device."""
        moved: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in moved.items():
            if isinstance(value, (Tensor, Labels)):
                moved[name] = value.to(device)
        moved["attributes"] = {name: value.to(device) for name, value in self.attributes.items()}
        return CatalogueFacts(**moved)

    def with_attributes(self, attributes: Mapping[str, Tensor]) -> CatalogueFacts:
        """Return the facts with further attributes: name -> int [V], -1 = unknown."""
        return replace(self, attributes={**self.attributes, **self._padded(attributes)})

    def _padded(self, attributes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        padded: dict[str, Tensor] = {}
        for name, values_V in attributes.items():
            if values_V.shape != (self.num_items,):
                shape = list(values_V.shape)
                raise ValueError(
                    f"attribute {name}: expected [{self.num_items}] values, got {shape}"
                )
            check_range(f"attribute {name}", values_V, int(values_V.max()) + 1)
            moved_V = values_V.long().to(self.unit_VD.device)
            padded[name] = F.pad(moved_V, (0, 1), value=-1)
        return padded


def catalogue_facts(
    embeddings_VD: Tensor,
    categories: Labels,
    popularity_V: Tensor,
    *,
    num_train_users: int,
    num_categories: int,
    attributes: Mapping[str, Tensor] | None = None,
) -> CatalogueFacts:
    """Check and prepare what the metrics must know of the catalogue; stays on its device.

    Args:
        embeddings_VD: item vectors that ILD is measured in, any length (normalised here).
        categories: of each item; one may have none.
        popularity_V: int, train events of each item. Unseen items count as met by one user, and no
            item as met by more than all, so that self-information is finite and not negative.
        num_train_users: users with an event in the train window, >= 1.
        num_categories: categories of the whole catalogue.
        attributes: name -> int [V], the value of each item, -1 = unknown.

    Raises:
        ValueError: shapes that do not fit, or a category or count out of its range.
    """
    num_items = embeddings_VD.shape[0]
    if embeddings_VD.ndim != 2 or popularity_V.ndim != 1:
        raise ValueError(
            "expected embeddings [V, D], popularity [V]; got "
            f"{list(embeddings_VD.shape)}, {list(popularity_V.shape)}"
        )
    if not num_items or len(categories) != num_items or popularity_V.shape[0] != num_items:
        raise ValueError(
            f"the same number of items, at least one, in all facts; got {num_items} embeddings, "
            f"{len(categories)} rows of categories, {popularity_V.shape[0]} counts"
        )
    if num_train_users < 1 or bool((popularity_V < 0).any()):
        raise ValueError(
            f"counts of the train window: num_train_users >= 1, popularity >= 0; "
            f"got {num_train_users} and a minimum of {int(popularity_V.min())}"
        )
    check_range("categories", categories.values_N[:-1], num_categories)
    unit_VD = F.pad(F.normalize(embeddings_VD.float(), dim=1), (0, 0, 0, 1))
    place_V = popularity_V.argsort(descending=True, stable=True).argsort()
    share_V = popularity_V.double().clamp(min=1) / num_train_users
    facts = CatalogueFacts(
        unit_VD=unit_VD,
        squared_norm_V=unit_VD.square().sum(dim=1, dtype=torch.float64),
        categories=categories,
        self_information_V=F.pad(-share_V.clamp(max=1).log2(), (0, 1)),
        popularity_V=F.pad(popularity_V.double(), (0, 1)),
        popularity_place_V=F.pad(place_V, (0, 1), value=num_items),
        popularity_rank_V=F.pad(_distinct_ranks(popularity_V), (0, 1), value=num_items + 1),
        popularity_group_V=F.pad(popularity_groups(popularity_V), (0, 1), value=-1),
        attributes={},
        num_items=num_items,
        num_categories=num_categories,
    )
    return facts.with_attributes(attributes or {})


def popularity_groups(popularity_V: Tensor) -> Tensor:
    """Return the group of each item: 0 the head, 1 the middle, 2 the tail, [V] int64.

    Items are taken from the most popular one down, ties by item_index. The head is the fewest that
    make HEAD_SHARE of all events, head and middle the fewest that make TAIL_FROM; the rest, and
    every item that nobody met, is the tail.

    >>> popularity_groups(torch.tensor([1, 60, 0, 25, 14]))
    tensor([2, 0, 2, 1, 2])
    """
    events_V, order_V = popularity_V.double().sort(descending=True, stable=True)
    share_before_V = (events_V.cumsum(dim=0) - events_V) / events_V.sum().clamp(min=1)
    group_V = (share_before_V >= HEAD_SHARE).long() + (share_before_V >= TAIL_FROM).long()
    group_V[events_V == 0] = len(POPULARITY_GROUPS) - 1
    return torch.empty_like(group_V).scatter_(0, order_V, group_V)


def _distinct_ranks(popularity_V: Tensor) -> Tensor:
    """Return 1 for the largest number that occurs, 2 for the next; V + 1 for 0."""
    events_V, order_V = popularity_V.sort(descending=True)
    rank_V = torch.ones_like(order_V)
    rank_V[1:] += (events_V[1:] != events_V[:-1]).cumsum(dim=0)
    rank_V = torch.empty_like(rank_V).scatter_(0, order_V, rank_V)
    return rank_V.masked_fill(popularity_V == 0, len(popularity_V) + 1)


def check_range(name: str, indices: Tensor, size: int) -> None:
    """Refuse indices that are no whole numbers in -1..size - 1."""
    if indices.is_floating_point():
        raise ValueError(f"{name} must be whole numbers, got {indices.dtype}")
    if not indices.numel():
        return
    low, high = (int(bound) for bound in indices.aminmax())
    if low < -1 or high >= size:
        raise ValueError(f"{name} must lie in -1..{size - 1}, got {low}..{high}")
