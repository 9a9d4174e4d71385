# pyright: strict
"""What the metrics look at: a batch of slates beside the truth.

Not a metric, and not how slates are made (slates.py). The one idea: everything that several metrics
need (which slate items are hits, how a slate spreads over categories) is worked out here once, for
all users of the batch together, so that a metric is a short function of `JudgedSlates`.

Legend: B users, K slate length (the cut-off k), V catalogue, D dims, T targets of a user,
L labels (categories) of an item, M = K * L labels of a slate.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from recdiv_core.metrics.facts import CatalogueFacts, check_range

USERS_AT_ONCE: Final = 64
"""Users whose slate vectors are gathered together: 256 * k * D numbers stay in the cache."""


@dataclass(frozen=True)
class Background:
    """What the whole set of metrics asks about users, beside slates and targets.

    Attributes:
        history_user_S: int64, row of the batch ...
        history_item_S: ... and item_index of each event of that user's history.
        num_above_BT: float64, for each target how many of the items that could have been shown
            score higher, and half of those that score the same (itself left out).
        num_rankable_B: int64, how many items could have been shown to the user, targets among them.
    """

    history_user_S: Tensor
    history_item_S: Tensor
    num_above_BT: Tensor
    num_rankable_B: Tensor


@dataclass(frozen=True)
class JudgedSlates:
    """A batch of slates and the truth about them; every user has at least one target.

    Attributes:
        items_BK: int64 item_index, -1 behind the end of a short slate.
        is_hit_BK: bool, the item is one of the user's targets.
        targets_BT: int64 item_index, rising, -1 before the first.
        num_targets_B: int64, >= 1.
        facts: what is known of the items.
        background: of these users, row by row; None where no metric asks for it.
    """

    items_BK: Tensor
    is_hit_BK: Tensor
    targets_BT: Tensor
    num_targets_B: Tensor
    facts: CatalogueFacts
    background: Background | None = None

    @property
    def k(self) -> int:
        """Return the cut-off, which a slate may be shorter than."""
        return self.items_BK.shape[1]

    @property
    def num_users(self) -> int:
        """Return B."""
        return self.items_BK.shape[0]

    @property
    def needed_background(self) -> Background:
        """Return the background, for metrics that cannot do without it."""
        if self.background is None:
            raise ValueError("this metric needs a background: histories and places of targets")
        return self.background

    def vectors(self, users: slice) -> Tensor:
        """Return the unit vectors of the slates of some users, [b, K, D] float32."""
        items_bK = self.items_BK[users]
        rows = items_bK.flatten() % len(self.facts.unit_VD)  # -1: the last one, no item
        return self.facts.unit_VD.index_select(0, rows).view(*items_bK.shape, -1)

    @cached_property
    def is_item_BK(self) -> Tensor:
        """Return which places of the slates hold an item."""
        return self.items_BK >= 0

    @cached_property
    def length_B(self) -> Tensor:
        """Return how many items each slate really has, 0..k."""
        return self.is_item_BK.sum(dim=1)

    @cached_property
    def cosines_BKK(self) -> Tensor:
        """Return the cosine of every two items of each slate, float64, 0 at empty places.

        1 of an item with itself, though it has no vector. (In float32 a product's last digits
        depend on how many users it is taken of.)
        """
        cosines_BKK = torch.zeros(
            (self.num_users, self.k, self.k), dtype=torch.float64, device=self.items_BK.device
        )
        for start in range(0, self.num_users, USERS_AT_ONCE):
            users = slice(start, start + USERS_AT_ONCE)
            vectors_bKD = self.vectors(users).double()
            torch.bmm(vectors_bKD, vectors_bKD.mT, out=cosines_BKK[users])
        cosines_BKK.diagonal(dim1=1, dim2=2).copy_(self.is_item_BK)
        return cosines_BKK

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


def judge(
    slates_BK: Tensor,
    targets_BT: Tensor,
    facts: CatalogueFacts,
    *,
    k: int,
    background: Background | None = None,
) -> JudgedSlates:
    """Set slates beside the targets, leaving out users without any.

    Args:
        slates_BK: int item_index, best first, -1 behind the end. Wider than k: cut to k.
        targets_BT: int item_index in any order, padded anywhere with -1.
        facts: of the catalogue, on the same device.
        k: the cut-off, >= 1.
        background: of the same users and targets; the metrics of `scorecard` need it.

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
    check_range("slates", slates_BK, facts.num_items)
    check_range("targets", targets_BT, facts.num_items)
    if background is not None:
        background = _background_of_judged(background, targets_BT)
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
        targets_BT=targets_BT,
        num_targets_B=(targets_BT >= 0).sum(dim=1),
        facts=facts,
        background=background,
    )


def _background_of_judged(background: Background, targets_BT: Tensor) -> Background:
    """Leave out users without targets, and set what stands at the padding of targets to 0."""
    num_users = len(targets_BT)
    shapes = (background.num_above_BT.shape, background.num_rankable_B.shape)
    if shapes != (targets_BT.shape, (num_users,)):
        raise ValueError(
            f"expected num_above {list(targets_BT.shape)} and num_rankable [{num_users}]; "
            f"got {list(shapes[0])} and {list(shapes[1])}"
        )
    has_targets_B = (targets_BT >= 0).any(dim=1)
    row_B = has_targets_B.cumsum(dim=0) - 1
    is_kept_S = has_targets_B[background.history_user_S]
    return Background(
        history_user_S=row_B[background.history_user_S[is_kept_S]],
        history_item_S=background.history_item_S[is_kept_S],
        num_above_BT=background.num_above_BT.masked_fill(targets_BT < 0, 0)[has_targets_B],
        num_rankable_B=background.num_rankable_B[has_targets_B],
    )


def _check_distinct(name: str, sorted_rows: Tensor) -> None:
    is_same = (sorted_rows[:, 1:] == sorted_rows[:, :-1]) & (sorted_rows[:, 1:] >= 0)
    if bool(is_same.any()):
        row = int(is_same.any(dim=1).int().argmax())
        item = int(sorted_rows[row, 1:][is_same[row]][0])
        raise ValueError(f"{name}: item_index {item} stands twice in row {row} of the batch")
