# pyright: strict
"""Diversity inside a slate: functions of a batch, one value a user.

Not of the system as a whole (exposure.py), nor the penalties that training minimises (losses/). The
one idea: distances are between item vectors (ILD) or between categories (the rest), and none of
them looks at the targets. An empty slate scores 0 in all of them.

Legend: B users, K = k slate places, D dims, G categories of the catalogue, n = the slate's real
length. With several labels an item, a slate may show more than k categories: the measures that
are scaled by k then stay at their best value, 1 (homogeneity: 0).
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from recdiv_core.metrics.judged import JudgedSlates

USERS_AT_ONCE: Final = 256
"""Users whose slate vectors are gathered together: 256 * k * D numbers stay in the cache."""


def ild(slates: JudgedSlates) -> Tensor:
    """Return intra-list diversity, the mean of 1 - cosine over pairs of a slate's items.

    In [0, 2], higher is more diverse (Ziegler et al. 2005, Improving recommendation lists through
    topic diversification). Without a loop over pairs: for vectors e of length 1 or 0 the cosines of
    all ordered pairs add up to |sum e|^2 - sum |e|^2. An item without a vector has cosine 0 to all.
    Fewer than two items: 0.
    """
    facts = slates.facts
    squared_length_B = torch.zeros_like(slates.length_B, dtype=torch.float64)
    for start in range(0, slates.num_users, USERS_AT_ONCE):
        users = slice(start, start + USERS_AT_ONCE)
        sums_bD = facts.unit_VD[slates.items_BK[users]].sum(dim=1, dtype=torch.float64)
        squared_length_B[users] = sums_bD.square().sum(dim=1)
    own_B = facts.squared_norm_V[slates.items_BK].sum(dim=1)
    num_pairs_B = slates.length_B * (slates.length_B - 1)
    ild_B = 1 - (squared_length_B - own_B) / num_pairs_B.clamp(min=1)
    return torch.where(num_pairs_B > 0, ild_B.clamp(0, 2), torch.zeros_like(ild_B))


def category_coverage(slates: JudgedSlates) -> Tensor:
    """Return distinct categories of the slate / min(k, G). In [0, 1], higher is more diverse."""
    possible = max(1, min(slates.k, slates.facts.num_categories))
    return (slates.num_slate_categories_B.double() / possible).clamp(max=1)


def diversity_index(slates: JudgedSlates) -> Tensor:
    """Return the Shannon entropy of the slate's categories / log(min(k, G)).

    In [0, 1], higher is more diverse: 0 one category, 1 perfectly even (Shannon's index scaled as
    Pielou 1966, The measurement of diversity). 0 where min(k, G) < 2: nothing can be uneven.
    """
    shares_BM = slates.category_shares_BM
    entropy_B = -torch.xlogy(shares_BM, shares_BM).sum(dim=1)
    possible = min(slates.k, slates.facts.num_categories)
    if possible < 2:
        return torch.zeros_like(entropy_B)
    return (entropy_B / math.log(possible)).clamp(max=1)


def homogeneity(slates: JudgedSlates) -> Tensor:
    """Return log(n / distinct categories), natural logarithm.

    In [0, log k], LOWER is more diverse: 0 when every item shows a category of its own. A slate
    whose items have no category at all counts as one category.
    """
    distinct_B = slates.num_slate_categories_B.clamp(min=1)
    return (slates.length_B.clamp(min=1).double() / distinct_B).log().clamp(min=0)
