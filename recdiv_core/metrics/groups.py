# pyright: strict
"""Metrics of parts of the shop: groups of users, and users with targets in a group of items.

How groups are formed is in groupings.py. The sums of a group add like those of all users. Only
means over users are computed: coverage and Gini depend on the number of users and do not compare
between groups. A user belongs to each group of items that contains one of their targets, and is
scored there by these targets alone.

Legend: B users, G groups, N (group, user) pairs, M metrics, V catalogue, K slate positions, T
targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recdiv_core.items.traits import ItemTraits
from recdiv_core.metrics.slate_batch import Background, SlateBatch, match_slates
from recdiv_core.metrics.tally import SLATE_METRICS, TARGET_METRICS, USER_METRICS, UserMetrics


@dataclass(frozen=True)
class GroupTally:
    """Sums over the users of each group. Memory: two numbers per group and metric.

    Attributes:
        k: the cut-off.
        names: names of the groups, such as `brand=Acme`.
        sums_GM: float64, each metric of USER_METRICS summed, then the number of users for whom each
            exists; the last column counts all users.
    """

    k: int
    names: tuple[str, ...]
    sums_GM: Tensor

    @staticmethod
    def zeros(names: Sequence[str], *, k: int) -> GroupTally:
        """Return the tally of no users."""
        sums_GM = torch.zeros(len(names), 2 * len(USER_METRICS) + 1, dtype=torch.float64)
        return GroupTally(k, tuple(names), sums_GM)

    def __add__(self, other: GroupTally) -> GroupTally:
        """Return the tally of both sets of users."""
        if (self.k, self.names) != (other.k, other.names):
            raise ValueError(
                f"tallies of k={self.k}, {len(self.names)} groups and of k={other.k}, "
                f"{len(other.names)} groups do not add"
            )
        return GroupTally(self.k, self.names, self.sums_GM + other.sums_GM)


def tally_groups(
    slates_BK: Tensor,
    targets_BT: Tensor,
    traits: ItemTraits,
    *,
    k: int,
    user_groups: Mapping[str, Tensor],
    item_groups: Mapping[str, Tensor],
    background: Background | None = None,
) -> GroupTally:
    """Sum the metrics of a batch of slates by group; see `tally.tally_slates`.

    Args:
        slates_BK: int item_index, best first, -1 after the end.
        targets_BT: int item_index of held-out items, padded anywhere with -1.
        traits: the items of the catalogue.
        k: the cut-off.
        user_groups: name -> bool [B], users of the group.
        item_groups: name -> bool [V], items of the group.
        background: histories of the same users, for `narrowed`.
    """
    return groups_of_batch(
        match_slates(slates_BK, targets_BT, traits, k=k, background=background),
        user_groups=user_groups,
        item_groups=item_groups,
    )


def groups_of_batch(
    slates: SlateBatch,
    *,
    user_groups: Mapping[str, Tensor],
    item_groups: Mapping[str, Tensor],
) -> GroupTally:
    """Sum over the users of each group; arguments as `tally_groups`.

    Metrics without targets are the same in all groups. Metrics with targets are the same in all
    groups of users, and are computed separately for each group of items.
    """
    zeros = GroupTally.zeros([*user_groups, *item_groups], k=slates.k)
    if not zeros.names:
        return zeros
    ones_B = torch.ones_like(slates.num_targets_B, dtype=torch.float64)
    of_slates_BM = _values(slates, SLATE_METRICS)
    rows: list[Tensor] = []
    if user_groups:
        of_targets_BM = _values(slates, TARGET_METRICS)
        values_BM = _with_counts(torch.cat([of_targets_BM, of_slates_BM], dim=1), ones_B)
        is_in_GB = torch.stack([*user_groups.values()])[:, slates.has_targets_R]
        rows.append(is_in_GB.double() @ values_BM)
    if item_groups:
        is_in_GV = torch.stack([*item_groups.values()])
        group_N, user_N, within = _by_item_group(slates, is_in_GV)
        values_NM = torch.cat([_values(within, TARGET_METRICS), of_slates_BM[user_N]], dim=1)
        values_NM = _with_counts(values_NM, ones_B[user_N])
        sums_GM = values_NM.new_zeros(len(is_in_GV), values_NM.shape[1])
        rows.append(sums_GM.index_add_(0, group_N, values_NM))
    return GroupTally(slates.k, zeros.names, torch.cat(rows).cpu())


def _by_item_group(slates: SlateBatch, is_in_GV: Tensor) -> tuple[Tensor, Tensor, SlateBatch]:
    """Return group, user and slates of the N pairs of a group and a user with a target in it.

    Only the targets in the group count as hits.
    """
    is_wanted_GBT = is_in_GV[:, slates.targets_BT] & (slates.targets_BT >= 0)
    group_N, user_N = is_wanted_GBT.any(dim=2).nonzero(as_tuple=True)
    is_wanted_NT, items_NK = is_wanted_GBT[group_N, user_N], slates.items_BK[user_N]
    within = replace(
        slates,
        items_BK=items_NK,
        is_hit_BK=slates.is_hit_BK[user_N] & is_in_GV[group_N[:, None], items_NK],
        targets_BT=slates.targets_BT[user_N].masked_fill(~is_wanted_NT, -1).sort(dim=1).values,
        num_targets_B=is_wanted_NT.sum(dim=1),
        background=None,
        longer=None,
    )
    return group_N, user_N, within


def _values(slates: SlateBatch, metrics: UserMetrics) -> Tensor:
    """Return [B, M] float64."""
    return torch.stack([slates.once(metric) for metric in metrics.values()], dim=1)


def _with_counts(values_BM: Tensor, ones_B: Tensor) -> Tensor:
    """Return values with 0 for NaN, then 1 for each value that exists, then 1 for each user."""
    exists_BM = ~values_BM.isnan()
    values_BM = values_BM.where(exists_BM, 0.0)
    return torch.cat([values_BM, exists_BM.double(), ones_B[:, None]], dim=1)


def finish_groups(tally: GroupTally) -> dict[str, dict[str, float]]:
    """Divide the sums: return `num_users` and the metrics (`ndcg_at_10`) of each group.

    A metric is a mean over the users of the group for whom it exists. Groups without users are left
    out, and so is a metric that exists for no user.
    """
    num_metrics = len(USER_METRICS)
    figures: dict[str, dict[str, float]] = {}
    for name, sums_M in zip(tally.names, tally.sums_GM, strict=True):
        num_users = float(sums_M[-1])
        if num_users:
            figures[name] = {"num_users": int(num_users)} | {
                f"{metric}_at_{tally.k}": float(total) / float(count)
                for metric, total, count in zip(
                    USER_METRICS, sums_M[:num_metrics], sums_M[num_metrics:-1], strict=True
                )
                if float(count)
            }
    return figures
