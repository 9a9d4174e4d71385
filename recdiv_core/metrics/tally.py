# pyright: strict
"""Sums that add: what a set of users contributes to the metrics.

Not a metric. Add first and divide last: a `Tally` of a batch, of a worker's users, or of all users
is the same kind of object. Tallies add in any order, so the metrics do not depend on the number of
workers:

    tally = Tally.zeros(traits, k=10)
    for slates_BK, targets_BT in batches:
        tally += tally_slates(slates_BK, targets_BT, traits, k=10)
    flat = tally.flat()
    torch.distributed.all_reduce(flat)
    metrics = finish(tally.from_flat(flat))

The tables here are the metrics of every epoch; `scorecard` has the others. To add a metric, write
one function and add its line to a table there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from recdiv_core.errors import UserError
from recdiv_core.items.traits import ItemTraits
from recdiv_core.metrics import accuracy, between, diversity, exposure, narrowing
from recdiv_core.metrics.slate_batch import Background, SlateBatch, match_slates

UserMetrics = Mapping[str, Callable[[SlateBatch], Tensor]]

TARGET_METRICS: Final[UserMetrics] = {
    "precision": accuracy.precision,
    "recall": accuracy.recall,
    "f1": accuracy.f1,
    "hit": accuracy.hit,
    "mrr": accuracy.mrr,
    "map": accuracy.map_,
    "ndcg": accuracy.ndcg,
}
"""Metrics of every epoch that need targets."""

SLATE_METRICS: Final[UserMetrics] = {
    "category_coverage": diversity.category_coverage,
    "ild": diversity.ild,
    "diversity_index": diversity.diversity_index,
    "homogeneity": diversity.homogeneity,
    "gini_simpson": diversity.gini_simpson,
    "novelty": exposure.novelty,
    "narrowed": narrowing.narrowed,
}
"""Metrics of every epoch that need no targets; `narrowed` needs histories."""

USER_METRICS: Final[UserMetrics] = {**TARGET_METRICS, **SLATE_METRICS}
"""Metrics of every epoch that are averaged over users: slates of a batch -> [B] float64.

NaN = the metric does not exist for this user, who is left out of its mean."""


def _of_queries(metric: Callable[[SlateBatch], Tensor]) -> Callable[[SlateBatch], Tensor]:
    """Return the metric for requests with a query alone."""

    def values(slates: SlateBatch) -> Tensor:
        background, values_B = slates.background, slates.once(metric)
        if background is None or background.has_query_B is None:
            return torch.full_like(values_B, torch.nan)
        return values_B.where(background.has_query_B, torch.nan)

    return values


SEARCH_METRICS: Final[UserMetrics] = {
    f"query_{name}": _of_queries(USER_METRICS[name])
    for name in ("ndcg", "recall", "hit", "mrr", "ild", "category_coverage")
}
"""Metrics of every epoch of requests with a query, where the log has queries."""

ELIGIBLE_METRICS: Final[UserMetrics] = {"freed": exposure.freed}
"""Metrics of every epoch where some items are not eligible."""

SYSTEM_METRICS: Final[Mapping[str, Callable[[Tensor], float]]] = {
    "coverage": exposure.coverage,
    "gini": exposure.gini,
}
"""Metrics of all slates together: exposure_V -> a number."""

ATTENTION_METRICS: Final[Mapping[str, Callable[[Tensor], float]]] = {
    "attention_coverage": exposure.distributional_coverage,
    "attention_gini": exposure.gini,
}
"""Metrics of all slates together that weigh ranks: attention_V -> a number."""

BETWEEN: Final = "between_diversity"
"""Metric of all slates together, from their categories; see `between`."""

EPOCH_METRICS: Final = (*USER_METRICS, *SYSTEM_METRICS, *ATTENTION_METRICS, BETWEEN)
"""Names of all metrics of every epoch, without SEARCH_METRICS and ELIGIBLE_METRICS."""

LOWER_IS_BETTER: Final = ("gini", "homogeneity", "narrowed", "attention_gini")
"""Metrics of every epoch for which lower is better."""

NEED_COSINES: Final = ("ilmd", "vendi")
"""Metrics that need the cosine of each pair of a slate's items."""


@dataclass(frozen=True)
class Tally:
    """Sums over users. Memory: four numbers per item of the catalogue, and one per category.

    Attributes:
        k: the cut-off of all slates.
        names: names of the metrics that are summed.
        num_users: int64 scalar, users with a target.
        num_users_without_targets: int64 scalar, users left out of all other sums.
        sums: float64 [M], sums over users, in the order of `names`.
        counts: int64 [M], users for whom each metric exists.
        shares_G: float64, sum over users of the slate's distribution over categories.
        attention_V: float64, sum over slates of 1 / log2(rank + 1) of each item.
        exposure_V: int64, number of slates with each item.
        hits_V: int64, number of slates with each item as a hit.
        targets_V: int64, number of users with each item as a target.
    """

    k: int
    names: tuple[str, ...]
    num_users: Tensor
    num_users_without_targets: Tensor
    sums: Tensor
    counts: Tensor
    shares_G: Tensor
    attention_V: Tensor
    exposure_V: Tensor
    hits_V: Tensor
    targets_V: Tensor

    @staticmethod
    def zeros(traits: ItemTraits, *, k: int, names: Iterable[str] = tuple(USER_METRICS)) -> Tally:
        """Return the tally of no users, on the device of the items."""
        names, device = tuple(names), traits.unit_VD.device

        def floats(size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.float64, device=device)

        zeros_V = torch.zeros(traits.num_items, dtype=torch.int64, device=device)
        zero = torch.zeros((), dtype=torch.int64, device=device)
        return Tally(
            k=k,
            names=names,
            num_users=zero,
            num_users_without_targets=zero,
            sums=floats(len(names)),
            counts=torch.zeros(len(names), dtype=torch.int64, device=device),
            shares_G=floats(max(1, traits.num_categories)),
            attention_V=floats(traits.num_items),
            exposure_V=zeros_V,
            hits_V=zeros_V,
            targets_V=zeros_V,
        )

    def __add__(self, other: Tally) -> Tally:
        """Return the tally of both sets of users."""
        if (
            self.k != other.k
            or self.names != other.names
            or self.exposure_V.shape != other.exposure_V.shape
            or self.shares_G.shape != other.shares_G.shape
        ):
            raise ValueError(f"tallies of {self._sizes()} and of {other._sizes()} do not add")
        return Tally(
            k=self.k,
            names=self.names,
            num_users=self.num_users + other.num_users,
            num_users_without_targets=(
                self.num_users_without_targets + other.num_users_without_targets
            ),
            sums=self.sums + other.sums,
            counts=self.counts + other.counts,
            shares_G=self.shares_G + other.shares_G,
            attention_V=self.attention_V + other.attention_V,
            exposure_V=self.exposure_V + other.exposure_V,
            hits_V=self.hits_V + other.hits_V,
            targets_V=self.targets_V + other.targets_V,
        )

    def _sizes(self) -> str:
        return (
            f"k={self.k}, {len(self.names)} metrics, {self.exposure_V.numel()} items, "
            f"{self.shares_G.numel()} categories"
        )

    def flat(self) -> Tensor:
        """Return all numbers as one float64 vector, which adds as the tally does.

        Counts stay exact up to 2^53.
        """
        users = torch.stack([self.num_users, self.num_users_without_targets])
        of_items_3V = torch.stack([self.exposure_V, self.hits_V, self.targets_V])
        counts = torch.cat([users, self.counts, of_items_3V.flatten()])
        return torch.cat([self.sums, self.shares_G, self.attention_V, counts.double()])

    def from_flat(self, flat: Tensor) -> Tally:
        """Return the tally that `flat` holds; `self` gives k, names and catalogue size."""
        num_sums, num_items = self.sums.numel(), self.exposure_V.numel()
        parts = [num_sums, self.shares_G.numel(), num_items, 2, num_sums, 3 * num_items]
        if flat.shape != (sum(parts),):
            raise ValueError(f"expected [{sum(parts)}] numbers, got {list(flat.shape)}")
        sums, shares_G, attention_V, users, counts, of_items = torch.split(flat, parts)
        exposure_V, hits_V, targets_V = of_items.long().view(3, num_items)
        return Tally(
            k=self.k,
            names=self.names,
            num_users=users[0].long(),
            num_users_without_targets=users[1].long(),
            sums=sums,
            counts=counts.long(),
            shares_G=shares_G,
            attention_V=attention_V,
            exposure_V=exposure_V,
            hits_V=hits_V,
            targets_V=targets_V,
        )


def tally_slates(
    slates_BK: Tensor,
    targets_BT: Tensor,
    traits: ItemTraits,
    *,
    k: int,
    metrics: UserMetrics = USER_METRICS,
    background: Background | None = None,
) -> Tally:
    """Sum the metrics of a batch of slates at cut-off k.

    Args:
        slates_BK: int item_index, best first, -1 after the end. Wider than k: cut to k.
        targets_BT: int item_index of held-out items, padded anywhere with -1. Users without a
            target are counted and left out of everything else, exposure included.
        traits: the items of the catalogue, on the same device.
        k: the cut-off, >= 1.
        metrics: metrics to sum: `scorecard.user_metrics` or USER_METRICS.
        background: background of the same users, if a metric needs it.

    Raises:
        ValueError: see `slate_batch.match_slates`.
    """
    slates = match_slates(
        slates_BK,
        targets_BT,
        traits,
        k=k,
        background=background,
        needs_cosines=any(name in metrics for name in NEED_COSINES),
    )
    return tally_batch(slates, metrics)


def tally_batch(slates: SlateBatch, metrics: UserMetrics = USER_METRICS) -> Tally:
    """Sum the metrics of a batch; use `slates.cut(k)` for a shorter cut-off."""

    def count(items: Tensor) -> Tensor:
        return torch.bincount(items, minlength=slates.traits.num_items)

    values_MB = torch.stack([slates.once(metric) for metric in metrics.values()])
    exists_MB = ~values_MB.isnan()
    weights_BK = exposure.discounts(slates.k, values_MB.device).expand_as(slates.items_BK)
    return Tally(
        k=slates.k,
        names=tuple(metrics),
        num_users=slates.items_BK.new_tensor(slates.num_users),
        num_users_without_targets=(~slates.has_targets_R).sum(),
        sums=values_MB.where(exists_MB, 0.0).sum(dim=1),
        counts=exists_MB.sum(dim=1),
        shares_G=between.sum_shares(slates),
        attention_V=values_MB.new_zeros(slates.traits.num_items).index_add_(
            0, slates.items_BK[slates.is_item_BK], weights_BK[slates.is_item_BK]
        ),
        exposure_V=count(slates.items_BK[slates.is_item_BK]),
        hits_V=count(slates.items_BK[slates.is_hit_BK]),
        targets_V=count(slates.targets_BT[slates.targets_BT >= 0]),
    )


def count_users(tally: Tally) -> dict[str, float]:
    """Return the number of users behind the metrics, `num_judged` of `num_held_out`.

    `num_held_out` counts the users of the split, who all have held-out items. `num_judged` leaves
    out users whose held-out items are all in their histories, if seen items are not shown.
    `num_compared` counts the users behind `narrowed`: it leaves out users who have no history or no
    category in it.
    """
    num_judged = int(tally.num_users)
    num_held_out = num_judged + int(tally.num_users_without_targets)
    counts = {"num_judged": float(num_judged), "num_held_out": float(num_held_out)}
    if "narrowed" in tally.names:
        counts["num_compared"] = float(tally.counts[tally.names.index("narrowed")])
    return counts


def finish(tally: Tally) -> dict[str, float]:
    """Divide the sums: return the metrics under names with the cut-off, such as `ndcg_at_10`.

    All metrics are 0 if every held-out item is in its user's history; `count_users` then returns 0
    users. Otherwise a metric that exists for no user is left out.

    Raises:
        UserError: the split holds no user.
    """
    num_users = int(tally.num_users)
    if not num_users and not int(tally.num_users_without_targets):
        raise UserError("the split holds no user: there is nothing to measure")
    if not num_users:
        names = (*tally.names, *SYSTEM_METRICS, *ATTENTION_METRICS, BETWEEN)
        return {f"{name}_at_{tally.k}": 0.0 for name in names}
    of_users = zip(tally.names, tally.sums, tally.counts, strict=True)
    values = {name: float(total) / int(count) for name, total, count in of_users if int(count)}
    values |= {name: metric(tally.exposure_V) for name, metric in SYSTEM_METRICS.items()}
    values |= {name: metric(tally.attention_V) for name, metric in ATTENTION_METRICS.items()}
    if "gini_simpson" in values:
        within = values["gini_simpson"]
        values[BETWEEN] = between.between_diversity(tally.shares_G, within, num_users)
    return {f"{name}_at_{tally.k}": value for name, value in values.items()}
