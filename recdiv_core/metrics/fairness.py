# pyright: strict
"""Are groups of users served alike, and groups of items shown alike? Gaps between groups.

Not the groups' own figures (groups.py): what is furthest apart. LOWER is fairer, 0 = alike. The one
idea: a gap compares rates (a recall, an exposure for each item of the catalogue), never counts, so
that a group's size does not decide; groups that are too small to have a rate are left out, and with
fewer than two others there is nothing to compare and no figure.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Final

from torch import Tensor

from recdiv_core.metrics.tally import Tally

MIN_SIZE: Final = 30
"""Users, or targets, that a group must have for its recall to be compared."""


def gap(rates: Sequence[float]) -> float:
    """Return the largest rate less the smallest.

    >>> gap([0.25, 0.75, 0.5])
    0.5
    """
    return max(rates) - min(rates)


def relative_spread(rates: Sequence[float]) -> float:
    """Return the standard deviation (of all, not of a sample) / the mean; 0 where the mean is 0.

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
        groups: of `groups.finish_groups`, those to be compared.
        k: the cut-off.
        min_size: users that a group must have.

    Returns:
        `equal_opportunity_gap`, of recall, and `equal_coverage_gap`, of category coverage: do all
        groups find what they want, and are all shown as wide a range? In [0, 1] both.
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
        tally: of all users.
        groups: name -> bool [V], items of the group; they may overlap.
        min_size: targets that a group must have for its recall to be compared.

    Returns:
        `equal_coverage_gap` in [0, V], of a group's share of exposure / its share of the catalogue,
        and `pop_rsp`, their relative spread; `equal_opportunity_gap` in [0, 1], of hits / targets
        in a group over all users, and `pop_reo`, their relative spread (Zhu, Wang & Caverlee 2020,
        Measuring and mitigating item under-recommendation bias). Theirs takes what a user has seen
        out of the catalogue. What cannot be compared is left out.
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
