# pyright: strict
"""Diversity of all slates together, split into a part within slates and a part between users.

Not the diversity of one slate (diversity.py) nor the spread over items (exposure.py). A slate is a
distribution p_u over categories; a slate without any category is all of one further category,
"none". With P the mean of all p_u and 1 - sum of squares as diversity (Gini-Simpson):

    total = 1 - |P|^2 = mean (1 - |p_u|^2) + mean |p_u - P|^2 = within + between

The split is exact and both parts are >= 0, because this diversity is concave (Rao 1982, Diversity
and dissimilarity coefficients; Lande 1996, Statistics and partitioning of species diversity, and
similarity among multiple communities). `within` is the mean of `diversity.gini_simpson`. If all
users see the same varied slate, within is high and between is 0.

Legend: B users of a batch, G categories, M labels of a slate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recdiv_core.metrics.slate_batch import SlateBatch


def sum_shares(slates: SlateBatch) -> Tensor:
    """Return the sum of the slates' distributions over categories, [G] float64 (at least [1])."""
    sums_G = torch.zeros(
        max(1, slates.traits.num_categories), dtype=torch.float64, device=slates.items_BK.device
    )
    labels_BM = slates.whole.sorted_labels.distinct_BM.clamp(min=0)  # -1 has a share of 0
    return sums_G.index_add_(0, labels_BM.flatten(), slates.category_shares_BM.flatten())


def total_diversity(shares_G: Tensor, num_users: int) -> float:
    """Return the Gini-Simpson diversity of all slates together.

    In [0, 1 - 1 / (G + 1)], higher = the shop as a whole shows more categories, more evenly.

    Args:
        shares_G: see `sum_shares`, over all users.
        num_users: number of users, >= 1.
    """
    mix_G = shares_G / num_users
    none = (1 - mix_G.sum()).clamp(min=0)
    return float((1 - mix_G.square().sum() - none.square()).clamp(min=0))


def between_diversity(shares_G: Tensor, within: float, num_users: int) -> float:
    """Return the part of the total that lies between users; 0 if all users see the same mix.

    In [0, 1), higher = slates of users differ more in their categories.

    Args:
        shares_G: see `sum_shares`, over all users.
        within: mean of `gini_simpson` over the same users.
        num_users: number of users, >= 1.
    """
    return max(0.0, total_diversity(shares_G, num_users) - within)


def distances_from_mix(slates: SlateBatch, shares_G: Tensor, num_users: int) -> Tensor:
    """Return |p_u - P|^2 of each user, [B] float64; their mean over all users is `between`.

    P is a mean over users too, but its variation matters only in second order, because P minimises
    the mean. So intervals of the mean of these values are intervals of `between`.

    Args:
        slates: slates of some of the users.
        shares_G: see `sum_shares`, over all users.
        num_users: number of all users, >= 1.
    """
    mix_G, shares_BM = shares_G / num_users, slates.category_shares_BM
    none = (1 - mix_G.sum()).clamp(min=0)
    labels_BM = slates.whole.sorted_labels.distinct_BM.clamp(min=0)
    common_B = (shares_BM * mix_G[labels_BM]).sum(dim=1)
    is_none_B = slates.num_slate_categories_B == 0
    common_B = torch.where(is_none_B, none, common_B)
    own_B = torch.where(is_none_B, 1.0, shares_BM.square().sum(dim=1))
    return (own_B - 2 * common_B + mix_G.square().sum() + none.square()).clamp(min=0)
