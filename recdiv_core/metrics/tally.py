# pyright: strict
"""Sums that add: what a set of users contributes to the metrics.

Not a metric. Add first and divide last: a `Tally` of a batch, of a worker's users, or of all users
is the same kind of object. Tallies add in any order, so the metrics do not depend on the number of
workers:

    tally = Tally.zeros(num_items, k=10, device=device)
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
from recdiv_core.metrics import accuracy, diversity, exposure
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
    "novelty": exposure.novelty,
}
"""Metrics of every epoch that need only the slates."""

USER_METRICS: Final[UserMetrics] = {**TARGET_METRICS, **SLATE_METRICS}
"""Metrics of every epoch that are averaged over users: slates of a batch -> [B] float64."""

SYSTEM_METRICS: Final[Mapping[str, Callable[[Tensor], float]]] = {
    "coverage": exposure.coverage,
    "gini": exposure.gini,
}
"""Metrics of all slates together: exposure_V -> a number."""


@dataclass(frozen=True)
class Tally:
    """Sums over users. Memory: three numbers per item of the catalogue.

    Attributes:
        k: the cut-off of all slates.
        names: names of the metrics that are summed.
        num_users: int64 scalar, users with a target.
        num_users_without_targets: int64 scalar, users left out of all other sums.
        sums: float64 [M], sums over users, in the order of `names`.
        exposure_V: int64, number of slates with each item.
        hits_V: int64, number of slates with each item as a hit.
        targets_V: int64, number of users with each item as a target.
    """

    k: int
    names: tuple[str, ...]
    num_users: Tensor
    num_users_without_targets: Tensor
    sums: Tensor
    exposure_V: Tensor
    hits_V: Tensor
    targets_V: Tensor

    @staticmethod
    def zeros(
        num_items: int,
        *,
        k: int,
        names: Iterable[str] = tuple(USER_METRICS),
        device: torch.device | str = "cpu",
    ) -> Tally:
        """Return the tally of no users."""
        names = tuple(names)
        zeros_V = torch.zeros(num_items, dtype=torch.int64, device=device)
        zero = torch.zeros((), dtype=torch.int64, device=device)
        return Tally(
            k=k,
            names=names,
            num_users=zero,
            num_users_without_targets=zero,
            sums=torch.zeros(len(names), dtype=torch.float64, device=device),
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
        ):
            raise ValueError(
                f"tallies of k={self.k}, {len(self.names)} metrics, {self.exposure_V.numel()} "
                f"items and of k={other.k}, {len(other.names)} metrics, "
                f"{other.exposure_V.numel()} items do not add"
            )
        return Tally(
            k=self.k,
            names=self.names,
            num_users=self.num_users + other.num_users,
            num_users_without_targets=(
                self.num_users_without_targets + other.num_users_without_targets
            ),
            sums=self.sums + other.sums,
            exposure_V=self.exposure_V + other.exposure_V,
            hits_V=self.hits_V + other.hits_V,
            targets_V=self.targets_V + other.targets_V,
        )

    def flat(self) -> Tensor:
        """Return all numbers as one float64 vector, which adds as the tally does.

        Counts stay exact up to 2^53.
        """
        counts = torch.stack([self.num_users, self.num_users_without_targets])
        of_items_3V = torch.stack([self.exposure_V, self.hits_V, self.targets_V])
        return torch.cat([counts.double(), self.sums, of_items_3V.double().flatten()])

    def from_flat(self, flat: Tensor) -> Tally:
        """Return the tally that `flat` holds; `self` gives k, names and catalogue size."""
        num_sums, num_items = self.sums.numel(), self.exposure_V.numel()
        size = 2 + num_sums + 3 * num_items
        if flat.shape != (size,):
            raise ValueError(f"expected [{size}] numbers, got {list(flat.shape)}")
        exposure_V, hits_V, targets_V = flat[2 + num_sums :].long().view(3, num_items)
        return Tally(
            k=self.k,
            names=self.names,
            num_users=flat[0].long(),
            num_users_without_targets=flat[1].long(),
            sums=flat[2 : 2 + num_sums],
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
    slates = match_slates(slates_BK, targets_BT, traits, k=k, background=background)
    return tally_batch(slates, metrics)


def tally_batch(slates: SlateBatch, metrics: UserMetrics = USER_METRICS) -> Tally:
    """Sum the metrics of a batch; use `slates.cut(k)` for a shorter cut-off."""

    def count(items: Tensor) -> Tensor:
        return torch.bincount(items, minlength=slates.traits.num_items)

    return Tally(
        k=slates.k,
        names=tuple(metrics),
        num_users=slates.items_BK.new_tensor(slates.num_users),
        num_users_without_targets=(~slates.has_targets_R).sum(),
        sums=torch.stack([slates.once(metric).sum() for metric in metrics.values()]),
        exposure_V=count(slates.items_BK[slates.is_item_BK]),
        hits_V=count(slates.items_BK[slates.is_hit_BK]),
        targets_V=count(slates.targets_BT[slates.targets_BT >= 0]),
    )


def count_users(tally: Tally) -> dict[str, float]:
    """Return the number of users behind the metrics, `num_judged` of `num_held_out`.

    `num_held_out` counts the users of the split, who all have held-out items. `num_judged` leaves
    out users whose held-out items are all in their histories, if seen items are not shown.
    """
    num_judged = int(tally.num_users)
    num_held_out = num_judged + int(tally.num_users_without_targets)
    return {"num_judged": float(num_judged), "num_held_out": float(num_held_out)}


def finish(tally: Tally) -> dict[str, float]:
    """Divide the sums: return the metrics under names with the cut-off, such as `ndcg_at_10`.

    All metrics are 0 if every held-out item is in its user's history; `count_users` then returns 0
    users.

    Raises:
        UserError: the split holds no user.
    """
    num_users = int(tally.num_users)
    if not num_users and not int(tally.num_users_without_targets):
        raise UserError("the split holds no user: there is nothing to measure")
    if not num_users:
        return {f"{name}_at_{tally.k}": 0.0 for name in (*tally.names, *SYSTEM_METRICS)}
    means = tally.sums / num_users
    values = {name: float(mean) for name, mean in zip(tally.names, means, strict=True)}
    values |= {name: metric(tally.exposure_V) for name, metric in SYSTEM_METRICS.items()}
    return {f"{name}_at_{tally.k}": value for name, value in values.items()}
