# pyright: strict
"""Fairness: gaps between groups of users or items; LOWER is fairer, 0 = equal.

The metrics of each group are in groups.py. A gap compares rates (a recall, or exposure per item of
the catalogue) and never counts, so the size of a group has no effect. Groups that are too small are
left out, and with fewer than two other groups there is no gap.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Final

from torch import Tensor

from recdiv_core.metrics.tally import Tally

MIN_SIZE: Final = 30
"""Smallest number of users or targets of a group whose recall is compared."""


def gap(rates: Sequence[float]) -> float:
    """Return the largest rate minus the smallest.

    >>> gap([0.25, 0.75, 0.5])
    0.5
    """
    return max(rates) - min(rates)


def relative_spread(rates: Sequence[float]) -> float:
    """Return the population standard deviation / the mean; 0 if the mean is 0.

    >>> relative_spread([1.0, 3.0])
    0.5
    """
    mean = statistics.fmean(rates)
    return statistics.pstdev(rates) / mean if mean else 0.0


def user_fairness(
    groups: Mapping[str, Mapping[str, float]], *, k: int, min_size: int = MIN_SIZE
) -> dict[str, float]:
    """Compare groups of users.

    Args:
        groups: result of `groups.finish_groups`, the groups to compare.
        k: the cut-off.
        min_size: smallest number of users of a group.

    Returns:
        `equal_opportunity_gap`, the gap of recall, and `equal_coverage_gap`, the gap of category
        coverage; both in [0, 1].
    """
    large = [figures for figures in groups.values() if figures["num_users"] >= min_size]
    if len(large) < 2:
        return {}
    return {
        "equal_opportunity_gap": gap([figures[f"recall_at_{k}"] for figures in large]),
        "equal_coverage_gap": gap([figures[f"category_coverage_at_{k}"] for figures in large]),
    }


def item_fairness(
    tally: Tally, groups: Mapping[str, Tensor], *, min_size: int = MIN_SIZE
) -> dict[str, float]:
    """Compare groups of items.

    Args:
        tally: the sums over all users.
        groups: name -> bool [V], items of the group; they may overlap.
        min_size: smallest number of targets of a group whose recall is compared.

    Returns:
        `equal_coverage_gap` in [0, V]: gap of (share of exposure / share of the catalogue), and
        `pop_rsp`, its relative spread. `equal_opportunity_gap` in [0, 1]: gap of (hits / targets)
        over all users, and `pop_reo`, its relative spread (Zhu, Wang & Caverlee 2020, Measuring and
        mitigating item under-recommendation bias; they remove seen items from the catalogue).
        Metrics with fewer than two comparable groups are left out.
    """
    num_items, num_shown = tally.exposure_V.numel(), int(tally.exposure_V.sum())
    exposures: list[float] = []
    recalls: list[float] = []
    for is_in_V in groups.values():
        size, num_targets = int(is_in_V.sum()), int(tally.targets_V[is_in_V].sum())
        if size and num_shown:
            shown = int(tally.exposure_V[is_in_V].sum()) / num_shown
            exposures.append(shown / (size / num_items))
        if num_targets >= max(1, min_size):
            recalls.append(int(tally.hits_V[is_in_V].sum()) / num_targets)
    figures: dict[str, float] = {}
    if len(exposures) > 1:
        figures |= {"equal_coverage_gap": gap(exposures), "pop_rsp": relative_spread(exposures)}
    if len(recalls) > 1:
        figures |= {"equal_opportunity_gap": gap(recalls), "pop_reo": relative_spread(recalls)}
    return figures
