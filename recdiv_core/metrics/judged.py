# pyright: strict
"""What the metrics look at: a batch of slates beside the truth, and facts of the catalogue.

Not a metric, and not how slates are made (slates.py). The one idea: everything that several metrics
need (which slate items are hits, how a slate spreads over categories) is worked out here once, for
all users of the batch together, so that a metric is a short function of `JudgedSlates`.

Legend: B users, K slate length (the cut-off k), V catalogue, D dims, T targets of a user,
L labels (categories) of an item, M = K * L labels of a slate.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class CatalogueFacts:
    """What the metrics must know of each item; made once by `catalogue_facts`.

    Each tensor has one row more than there are items: the last one stands for no item (a zero
    vector, no category, 0 bits), so that item_index -1 of a short slate points at it.

    Attributes:
        unit_VD: float32 vectors of length 1, or 0 for items without a vector.
        squared_norm_V: float64, `unit_VD` squared and summed: 1 up to rounding, or 0.
        categories_VL: int64 category of each label, padded with -1.
        self_information_V: float64, -log2 of the share of train users who met the item, >= 0.
        num_items: V.
        num_categories: G, categories of the whole catalogue.
    """

    unit_VD: Tensor
    squared_norm_V: Tensor
    categories_VL: Tensor
    self_information_V: Tensor
    num_items: int
    num_categories: int


def catalogue_facts(
    embeddings_VD: Tensor,
    categories_VL: Tensor,
    popularity_V: Tensor,
    *,
    num_train_users: int,
    num_categories: int,
) -> CatalogueFacts:
    """Check and prepare what the metrics must know of the catalogue; stays on its device.

    Args:
        embeddings_VD: item vectors that ILD is measured in, any length (normalised here).
        categories_VL: int, an item's categories padded with -1; a row of -1 has none.
        popularity_V: int, train events of each item. Unseen items count as met by one user, and no
            item as met by more than all, so that self-information is finite and not negative.
        num_train_users: users with an event in the train window, >= 1.
        num_categories: categories of the whole catalogue.

    Raises:
        ValueError: shapes that do not fit, or a category or count out of its range.
    """
    num_items = embeddings_VD.shape[0]
    if embeddings_VD.ndim != 2 or categories_VL.ndim != 2 or popularity_V.ndim != 1:
        raise ValueError(
            "expected embeddings [V, D], categories [V, L], popularity [V]; got "
            f"{list(embeddings_VD.shape)}, {list(categories_VL.shape)}, {list(popularity_V.shape)}"
        )
    if not num_items or categories_VL.shape[0] != num_items or popularity_V.shape[0] != num_items:
        raise ValueError(
            f"the same number of items, at least one, in all facts; got {num_items} embeddings, "
            f"{categories_VL.shape[0]} rows of categories, {popularity_V.shape[0]} counts"
        )
    if num_train_users < 1 or bool((popularity_V < 0).any()):
        raise ValueError(
            f"counts of the train window: num_train_users >= 1, popularity >= 0; "
            f"got {num_train_users} and a minimum of {int(popularity_V.min())}"
        )
    _check_range("categories", categories_VL, num_categories)
    unit_VD = F.pad(F.normalize(embeddings_VD.float(), dim=1), (0, 0, 0, 1))
    share_V = popularity_V.double().clamp(min=1) / num_train_users
    return CatalogueFacts(
        unit_VD=unit_VD,
        squared_norm_V=unit_VD.square().sum(dim=1, dtype=torch.float64),
        categories_VL=F.pad(categories_VL.long(), (0, 0, 0, 1), value=-1),
        self_information_V=F.pad(-share_V.clamp(max=1).log2(), (0, 1)),
        num_items=num_items,
        num_categories=num_categories,
    )


@dataclass(frozen=True)
class JudgedSlates:
    """A batch of slates and the truth about them; every user has at least one target.

    Attributes:
        items_BK: int64 item_index, -1 behind the end of a short slate.
        is_hit_BK: bool, the item is one of the user's targets.
        num_targets_B: int64, >= 1.
        facts: what is known of the items.
    """

    items_BK: Tensor
    is_hit_BK: Tensor
    num_targets_B: Tensor
    facts: CatalogueFacts

    @property
    def k(self) -> int:
        """Return the cut-off, which a slate may be shorter than."""
        return self.items_BK.shape[1]

    @property
    def num_users(self) -> int:
        """Return B."""
        return self.items_BK.shape[0]

    @cached_property
    def is_item_BK(self) -> Tensor:
        """Return which places of the slates hold an item."""
        return self.items_BK >= 0

    @cached_property
    def length_B(self) -> Tensor:
        """Return how many items each slate really has, 0..k."""
        return self.is_item_BK.sum(dim=1)

    @cached_property
    def category_shares_BM(self) -> Tensor:
        """Return each slate's distribution over its own categories, float64, in no useful order.

        An item counts 1, shared equally among its labels; items without any count nothing. A row
        sums to 1 (to 0 without categories) and has as many positive entries as the slate has
        distinct categories. Labels are sorted and equal ones added up, so the cost does not depend
        on the number of categories.
        """
        labels_BKL = self.facts.categories_VL[self.items_BK]
        is_label_BKL = labels_BKL >= 0
        weights_BKL = is_label_BKL / is_label_BKL.sum(dim=2, keepdim=True).clamp(min=1).double()
        labels_BM, order_BM = labels_BKL.flatten(1).sort(dim=1)
        weights_BM = weights_BKL.flatten(1).gather(1, order_BM)
        is_new_BM = torch.zeros_like(labels_BM)
        is_new_BM[:, 1:] = labels_BM[:, 1:] != labels_BM[:, :-1]
        sums_BM = torch.zeros_like(weights_BM).scatter_add(1, is_new_BM.cumsum(dim=1), weights_BM)
        return sums_BM / sums_BM.sum(dim=1, keepdim=True).clamp(min=1)

    @cached_property
    def num_slate_categories_B(self) -> Tensor:
        """Return how many distinct categories each slate shows."""
        return (self.category_shares_BM > 0).sum(dim=1)


def judge(slates_BK: Tensor, targets_BT: Tensor, facts: CatalogueFacts, *, k: int) -> JudgedSlates:
    """Set slates beside the targets, leaving out users without any.

    Args:
        slates_BK: int item_index, best first, -1 behind the end. Wider than k: cut to k.
        targets_BT: int item_index in any order, padded anywhere with -1.
        facts: of the catalogue, on the same device.
        k: the cut-off, >= 1.

    Raises:
        ValueError: shapes that do not fit, an index out of the catalogue, an item that stands
            twice in a slate or in a user's targets, or an item behind the end of its slate.
    """
    if slates_BK.ndim != 2 or targets_BT.ndim != 2 or slates_BK.shape[0] != targets_BT.shape[0]:
        raise ValueError(
            f"expected slates [B, K] and targets [B, T]; "
            f"got {list(slates_BK.shape)} and {list(targets_BT.shape)}"
        )
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
    _check_range("slates", slates_BK, facts.num_items)
    _check_range("targets", targets_BT, facts.num_items)
    slates_BK = F.pad(slates_BK[:, :k].long(), (0, max(0, k - slates_BK.shape[1])), value=-1)
    targets_BT = F.pad(targets_BT.long(), (1, 0), value=-1).sort(dim=1).values  # never no column
    if bool(((slates_BK[:, 1:] >= 0) & (slates_BK[:, :-1] < 0)).any()):
        raise ValueError("an item stands behind a -1 in its slate; -1 is for the end alone")
    _check_distinct("slates", slates_BK.sort(dim=1).values)
    _check_distinct("targets", targets_BT)

    has_targets_B = targets_BT[:, -1] >= 0
    items_BK, targets_BT = slates_BK[has_targets_B], targets_BT[has_targets_B]
    places_BK = torch.searchsorted(targets_BT, items_BK).clamp(max=targets_BT.shape[1] - 1)
    is_hit_BK = (targets_BT.gather(1, places_BK) == items_BK) & (items_BK >= 0)
    return JudgedSlates(
        items_BK=items_BK,
        is_hit_BK=is_hit_BK,
        num_targets_B=(targets_BT >= 0).sum(dim=1),
        facts=facts,
    )


def _check_range(name: str, indices: Tensor, size: int) -> None:
    if indices.is_floating_point():
        raise ValueError(f"{name} must be whole numbers, got {indices.dtype}")
    if not indices.numel():
        return
    low, high = (int(bound) for bound in indices.aminmax())
    if low < -1 or high >= size:
        raise ValueError(f"{name} must lie in -1..{size - 1}, got {low}..{high}")


def _check_distinct(name: str, sorted_rows: Tensor) -> None:
    is_same = (sorted_rows[:, 1:] == sorted_rows[:, :-1]) & (sorted_rows[:, 1:] >= 0)
    if bool(is_same.any()):
        row = int(is_same.any(dim=1).int().argmax())
        item = int(sorted_rows[row, 1:][is_same[row]][0])
        raise ValueError(f"{name}: item_index {item} stands twice in row {row} of the batch")
