# pyright: strict
"""A batch of slates beside their targets, with the intermediate results that metrics share.

Not a metric, and not the making of slates (slates/making.py). Work that several metrics need, such
as which slate items are hits, is done once for all users of the batch, so a metric is a short
function of `SlateBatch`. Work that does not depend on the cut-off is done once for the longest
slates, see `SlateBatch.cut`.

Legend: R users of a batch, B users with a target, K slate length (the cut-off k), V catalogue, D
dims, T targets of a user, L labels (categories) of an item, M = K * L labels of a slate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recdiv_core.items.traits import ItemTraits, check_range

USERS_AT_ONCE: Final = 64
"""Users whose slate vectors are gathered at once; 64 * k * D numbers stay in the cache."""

Work = TypeVar("Work")


class Intents(NamedTuple):
    """Categories that the queries of requests ask for, see query_intent.py.

    Attributes:
        category_BI: int64 category, -1 = no further intent.
        share_BI: float64 share of the query's clicks in the category; 0 without an intent.
    """

    category_BI: Tensor
    share_BI: Tensor


@dataclass(frozen=True)
class Background:
    """What the whole set of metrics needs of the users besides slates and targets.

    Attributes:
        history_user_S: int64 row of the batch, of each event of the histories.
        history_item_S: int64 item_index of each event; the events of a user are in the order of
            time, the oldest first.
        num_above_BT: float64, for each target the number of items that could have been shown and
            score higher, plus half of the other items with the same score; None = unknown, for
            slates that come without scores.
        num_rankable_B: int64 number of items that could have been shown to the user, including
            targets; None if `num_above_BT` is None.
        has_query_B: bool, whether the request has a query; None = unknown.
        intents: what the users' queries ask for; None = unknown.
        freed_BK: bool, places by score that ineligible items would hold without the mask; None =
            all items are eligible.
    """

    history_user_S: Tensor
    history_item_S: Tensor
    num_above_BT: Tensor | None = None
    num_rankable_B: Tensor | None = None
    has_query_B: Tensor | None = None
    intents: Intents | None = None
    freed_BK: Tensor | None = None


@dataclass(frozen=True)
class SlateBatch:
    """A batch of slates and their targets; every user has at least one target.

    Attributes:
        items_BK: int64 item_index, -1 after the end of a short slate.
        is_hit_BK: bool, the item is one of the user's targets.
        targets_BT: int64 item_index, rising, with -1 before the first.
        num_targets_B: int64, >= 1.
        has_targets_R: bool, which users of the whole batch have a target.
        traits: the items of the catalogue.
        background: background of these users; None if no metric needs it.
        longer: the uncut slates, if these are their first positions; None = not cut.
        needs_cosines: whether a metric needs the cosine of each pair of items (ilmd, vendi).
    """

    items_BK: Tensor
    is_hit_BK: Tensor
    targets_BT: Tensor
    num_targets_B: Tensor
    has_targets_R: Tensor
    traits: ItemTraits
    background: Background | None = None
    longer: SlateBatch | None = None
    needs_cosines: bool = False
    _done: dict[Callable[[SlateBatch], Any], Any] = field(
        default_factory=dict[Callable[["SlateBatch"], Any], Any], init=False, repr=False
    )

    def cut(self, k: int) -> SlateBatch:
        """Return the same users with slates cut to their first k positions.

        Raises:
            ValueError: k is not in 1..self.k.
        """
        if not 1 <= k <= self.k:
            raise ValueError(f"k={k}: slates of {self.k} positions can be cut to 1..{self.k}")
        if k == self.k:
            return self
        return replace(
            self,
            items_BK=self.items_BK[:, :k],
            is_hit_BK=self.is_hit_BK[:, :k],
            longer=self.whole,
        )

    @property
    def whole(self) -> SlateBatch:
        """The uncut slates."""
        return self.longer or self

    def once(self, work: Callable[[SlateBatch], Work]) -> Work:
        """Return the result of a function of these slates; it is computed only the first time.

        Use `slates.whole.once(work)` for results that do not depend on the cut-off.
        """
        if work not in self._done:
            self._done[work] = work(self)
        return self._done[work]

    @property
    def k(self) -> int:
        """The cut-off; a slate may be shorter."""
        return self.items_BK.shape[1]

    @property
    def num_users(self) -> int:
        """B."""
        return self.items_BK.shape[0]

    @property
    def needed_background(self) -> Background:
        """The background, for metrics that need it."""
        if self.background is None:
            raise ValueError("this metric needs a background: histories and ranks of targets")
        return self.background

    @cached_property
    def is_item_BK(self) -> Tensor:
        """Which positions of the slates hold an item, [B, K] bool."""
        return self.items_BK >= 0

    @cached_property
    def length_B(self) -> Tensor:
        """Number of items of each slate, [B], 0..k."""
        return self.is_item_BK.sum(dim=1)

    def look_up(self, values_V: Tensor, missing: float = 0) -> Tensor:
        """Return the value of each slate item, [B, K]; `missing` where there is no item."""
        return values_V[self.items_BK].masked_fill(~self.is_item_BK, missing)

    @cached_property
    def pair_cosines_B(self) -> Tensor:
        """Sum of the cosines of all ordered pairs of each slate's items, [B] float64.

        Computed as |sum e|^2 - sum |e|^2 for vectors e of length 1 or 0. If another metric needs
        each cosine, the vectors are fetched once for both.
        """
        if not self.needs_cosines:
            return self._look_at_vectors(cosines_BKK=None)
        if self.longer is None:
            return self._likeness[0]
        return self.cosines_BKK.flatten(1).sum(dim=1) - self.length_B

    @property
    def cosines_BKK(self) -> Tensor:
        """Cosine of each pair of items of each slate, [B, K, K] float64, 0 at empty positions.

        The diagonal is 1 also for items without a vector. float64, because in float32 the last
        digits of a product depend on the number of users.
        """
        return self.whole._likeness[1][:, : self.k, : self.k]

    @cached_property
    def _likeness(self) -> tuple[Tensor, Tensor]:
        """`pair_cosines_B` and `cosines_BKK`; the vectors are fetched once for both."""
        shape = (self.num_users, self.k, self.k)
        cosines_BKK = self.traits.unit_VD.new_empty(shape, dtype=torch.float64)
        pair_cosines_B = self._look_at_vectors(cosines_BKK)
        cosines_BKK.diagonal(dim1=1, dim2=2).copy_(self.is_item_BK)
        return pair_cosines_B, cosines_BKK

    def _look_at_vectors(self, cosines_BKK: Tensor | None) -> Tensor:
        """Return the sum of the cosines of pairs, and fill `cosines_BKK` if it is given."""
        unit_VD, squared_norm_V = self.traits.unit_VD, self.traits.squared_unit_norm_V
        rows_N = self.items_BK.flatten().clamp(min=0)
        is_empty_N = None if bool(self.is_item_BK.all()) else ~self.is_item_BK.flatten()
        found_ND = unit_VD.new_empty((USERS_AT_ONCE * self.k, unit_VD.shape[1]))
        wide_ND = torch.empty_like(found_ND, dtype=torch.float64)
        squared_length_B = squared_norm_V.new_empty(self.num_users)
        for start in range(0, self.num_users, USERS_AT_ONCE):
            users = slice(start, min(start + USERS_AT_ONCE, self.num_users))
            places = slice(self.k * users.start, self.k * users.stop)
            rows_n = rows_N[places]
            found_nD = torch.index_select(unit_VD, 0, rows_n, out=found_ND[: len(rows_n)])
            if is_empty_N is not None:
                found_nD[is_empty_N[places]] = 0
            wide_bKD = wide_ND[: len(rows_n)].copy_(found_nD).view(-1, self.k, unit_VD.shape[1])
            squared_length_B[users] = wide_bKD.sum(dim=1).square().sum(dim=1)
            if cosines_BKK is None:
                continue
            if wide_bKD.is_cuda:
                torch.bmm(wide_bKD, wide_bKD.mT, out=cosines_BKK[users])
            else:  # half the time of torch.bmm on the CPU
                np.matmul(wide_bKD.numpy(), wide_bKD.mT.numpy(), out=cosines_BKK[users].numpy())
        return squared_length_B - self.look_up(squared_norm_V).sum(dim=1)

    @cached_property
    def sorted_labels(self) -> SortedLabels:
        """The category labels of each uncut slate, sorted."""
        return sort_labels(self.items_BK, self.traits)

    @cached_property
    def category_shares_BM(self) -> Tensor:
        """Distribution of each slate over its own categories, float64, ordered as `distinct_BM`.

        An item counts 1, divided equally among its labels; an item without labels counts 0. A row
        sums to 1 (to 0 without categories) and has one positive entry per distinct category. Labels
        are sorted and equal ones added, so the cost does not depend on the number of categories.
        """
        found = self.whole.sorted_labels
        weights_BM = found.weights_BM
        if self.longer is not None:
            weights_BM = weights_BM.masked_fill(found.place_BM >= self.k, 0)
        sums_BM = torch.zeros_like(weights_BM).scatter_add(1, found.category_BM, weights_BM)
        return sums_BM / sums_BM.sum(dim=1, keepdim=True).clamp(min=1)

    @cached_property
    def num_slate_categories_B(self) -> Tensor:
        """Number of distinct categories of each slate, [B]."""
        return (self.category_shares_BM > 0).sum(dim=1)

    @cached_property
    def category_entropy_B(self) -> Tensor:
        """Shannon entropy of each slate's categories, [B], in nats."""
        return -torch.xlogy(self.category_shares_BM, self.category_shares_BM).sum(dim=1)


@dataclass(frozen=True)
class SortedLabels:
    """The labels of each slate, rising by category.

    Attributes:
        distinct_BM: int64 distinct categories, rising, then -1; the first may also be -1 = none.
        category_BM: int64 column of each label's category in `distinct_BM`.
        place_BM: int64 position of the label's item in the slate, from 0.
        weights_BM: float64 part of the item, 0 where there is no category.
    """

    distinct_BM: Tensor
    category_BM: Tensor
    place_BM: Tensor
    weights_BM: Tensor

    def count_distinct(self, length_B: Tensor) -> Tensor:
        """Return the number of distinct categories of the first `length_B` items, [B]."""
        is_own_BM = (self.place_BM < length_B[:, None]) & (self.weights_BM > 0)
        num_items_BM = torch.zeros_like(self.category_BM)
        num_items_BM.scatter_add_(1, self.category_BM, is_own_BM.long())
        return (num_items_BM > 0).sum(dim=1)


def sort_labels(items_BK: Tensor, traits: ItemTraits) -> SortedLabels:
    """Return the category labels of each row of items, -1 = no item."""
    labels_BM, place_BM, weights_BM = traits.categories.packed(items_BK)
    labels_BM, order_BM = labels_BM.sort(dim=1)
    is_new_BM = torch.zeros_like(labels_BM)
    is_new_BM[:, 1:] = labels_BM[:, 1:] != labels_BM[:, :-1]
    category_BM = is_new_BM.cumsum(dim=1)
    return SortedLabels(
        torch.full_like(labels_BM, -1).scatter(1, category_BM, labels_BM),
        category_BM,
        place_BM.gather(1, order_BM),
        weights_BM.gather(1, order_BM),
    )


def match_slates(
    slates_BK: Tensor,
    targets_BT: Tensor,
    traits: ItemTraits,
    *,
    k: int,
    background: Background | None = None,
    needs_cosines: bool = False,
) -> SlateBatch:
    """Mark the slate items that are targets; users without targets are left out.

    Args:
        slates_BK: int item_index, best first, -1 after the end. Wider than k: cut to k.
        targets_BT: int item_index in any order, padded anywhere with -1.
        traits: the items of the catalogue, on the same device.
        k: the cut-off, >= 1.
        background: background of the same users and targets; `scorecard` metrics need it.
        needs_cosines: see `SlateBatch`.

    Raises:
        ValueError: shapes do not match, an index is out of the catalogue, an item is twice in a
            slate or in a user's targets, or an item comes after a -1 in its slate.
    """
    if slates_BK.ndim != 2 or targets_BT.ndim != 2 or slates_BK.shape[0] != targets_BT.shape[0]:
        raise ValueError(
            f"expected slates [B, K] and targets [B, T]; "
            f"got {list(slates_BK.shape)} and {list(targets_BT.shape)}"
        )
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
    check_range("slates", slates_BK, traits.num_items)
    check_range("targets", targets_BT, traits.num_items)
    if background is not None:
        background = _background_with_targets(background, targets_BT)
    slates_BK = F.pad(slates_BK[:, :k].long(), (0, max(0, k - slates_BK.shape[1])), value=-1)
    targets_BT = F.pad(targets_BT.long(), (1, 0), value=-1).sort(dim=1).values  # never no column
    if bool(((slates_BK[:, 1:] >= 0) & (slates_BK[:, :-1] < 0)).any()):
        raise ValueError("an item comes after a -1 in its slate; -1 is allowed only at the end")
    _check_distinct("slates", slates_BK.sort(dim=1).values)
    _check_distinct("targets", targets_BT)

    has_targets_B = targets_BT[:, -1] >= 0
    items_BK, targets_BT = slates_BK[has_targets_B], targets_BT[has_targets_B]
    places_BK = torch.searchsorted(targets_BT, items_BK).clamp(max=targets_BT.shape[1] - 1)
    is_hit_BK = (targets_BT.gather(1, places_BK) == items_BK) & (items_BK >= 0)
    return SlateBatch(
        items_BK=items_BK,
        is_hit_BK=is_hit_BK,
        targets_BT=targets_BT,
        num_targets_B=(targets_BT >= 0).sum(dim=1),
        has_targets_R=has_targets_B,
        traits=traits,
        background=background,
        needs_cosines=needs_cosines,
    )


def _background_with_targets(background: Background, targets_BT: Tensor) -> Background:
    """Leave out users without targets, and set values at padding to 0."""
    has_targets_B = (targets_BT >= 0).any(dim=1)
    row_B = has_targets_B.cumsum(dim=0) - 1
    is_kept_S = has_targets_B[background.history_user_S]
    num_above_BT, num_rankable_B = background.num_above_BT, background.num_rankable_B
    intents, has_query_B = background.intents, background.has_query_B
    freed_BK = background.freed_BK
    if num_above_BT is not None and num_rankable_B is not None:
        shapes = (num_above_BT.shape, num_rankable_B.shape)
        if shapes != (targets_BT.shape, targets_BT.shape[:1]):
            raise ValueError(
                f"expected num_above {list(targets_BT.shape)} and num_rankable "
                f"[{len(targets_BT)}]; got {list(shapes[0])} and {list(shapes[1])}"
            )
        num_above_BT = num_above_BT.masked_fill(targets_BT < 0, 0)[has_targets_B]
        num_rankable_B = num_rankable_B[has_targets_B]
    return Background(
        history_user_S=row_B[background.history_user_S[is_kept_S]],
        history_item_S=background.history_item_S[is_kept_S],
        num_above_BT=num_above_BT,
        num_rankable_B=num_rankable_B,
        has_query_B=None if has_query_B is None else has_query_B[has_targets_B],
        intents=None if intents is None else Intents(*(part[has_targets_B] for part in intents)),
        freed_BK=None if freed_BK is None else freed_BK[has_targets_B],
    )


def _check_distinct(name: str, sorted_rows: Tensor) -> None:
    is_same = (sorted_rows[:, 1:] == sorted_rows[:, :-1]) & (sorted_rows[:, 1:] >= 0)
    if bool(is_same.any()):
        row = int(is_same.any(dim=1).int().argmax())
        item = int(sorted_rows[row, 1:][is_same[row]][0])
        raise ValueError(f"{name}: item_index {item} is twice in row {row} of the batch")
