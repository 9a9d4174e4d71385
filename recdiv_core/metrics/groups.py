# pyright: strict
"""The metrics of parts of the shop: groups of users, and users who wanted items of a group.

Not how groups are formed (groupings.py). The one idea: a group's sums add like those of everybody;
they are of means over users alone, since what is a property of all slates together (coverage, Gini)
depends on how many users there are, and says nothing beside that of another group. A user belongs
to each group of items that a target of theirs is in, judged by those targets alone.

Legend: B users, G groups, M metrics, V catalogue, K slate places, T targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recdiv_core.metrics.facts import CatalogueFacts
from recdiv_core.metrics.judged import judge
from recdiv_core.metrics.tally import USER_METRICS


@dataclass(frozen=True)
class GroupTally:
    """Sums over the users of each group. Memory: one number a group and metric.

    Attributes:
        k: the cut-off.
        names: of the groups, such as `brand=Acme`.
        sums_GM: float64, each metric of USER_METRICS summed; the last column counts users.
    """

    k: int
    names: tuple[str, ...]
    sums_GM: Tensor

    @staticmethod
    def zeros(names: Sequence[str], *, k: int) -> GroupTally:
        """Return the tally of no users."""
        sums_GM = torch.zeros(len(names), len(USER_METRICS) + 1, dtype=torch.float64)
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
    facts: CatalogueFacts,
    *,
    k: int,
    user_groups: Mapping[str, Tensor],
    item_groups: Mapping[str, Tensor],
) -> GroupTally:
    """Judge the slates of a batch, group by group; see `tally.tally_slates`.

    Args:
        slates_BK: int item_index, best first, -1 behind the end.
        targets_BT: int item_index of held-out items, padded anywhere with -1.
        facts: of the catalogue.
        k: the cut-off.
        user_groups: name -> bool [B], users of the group.
        item_groups: name -> bool [V], items of the group.
    """
    rows = [
        _sums(slates_BK[is_in_B], targets_BT[is_in_B], facts, k=k)
        for is_in_B in user_groups.values()
    ]
    for is_in_V in item_groups.values():
        wanted_BT = targets_BT.masked_fill(~is_in_V[targets_BT], -1)  # -1 stays, whatever is there
        is_in_B = (wanted_BT >= 0).any(dim=1)
        rows.append(_sums(slates_BK[is_in_B], wanted_BT[is_in_B], facts, k=k))
    zeros = GroupTally.zeros([*user_groups, *item_groups], k=k)
    return GroupTally(k, zeros.names, torch.stack(rows).cpu()) if rows else zeros


def finish_groups(tally: GroupTally) -> dict[str, dict[str, float]]:
    """Divide: return for each group with any user `num_users` and the metrics, `ndcg_at_10`.

    A value is a mean over the group's users; groups without one are left out.
    """
    figures: dict[str, dict[str, float]] = {}
    for name, sums_M in zip(tally.names, tally.sums_GM, strict=True):
        num_users = float(sums_M[-1])
        if num_users:
            figures[name] = {"num_users": int(num_users)} | {
                f"{metric}_at_{tally.k}": float(total) / num_users
                for metric, total in zip(USER_METRICS, sums_M[:-1], strict=True)
            }
    return figures


def _sums(slates_BK: Tensor, targets_BT: Tensor, facts: CatalogueFacts, *, k: int) -> Tensor:
    slates = judge(slates_BK, targets_BT, facts, k=k)
    sums = [metric(slates).sum() for metric in USER_METRICS.values()]
    return torch.stack([*sums, sums[0].new_tensor(slates.num_users)])
