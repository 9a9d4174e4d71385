# pyright: strict
"""Diversity inside a slate: functions of a batch, one value per user.

Not of all slates together (exposure.py), nor the penalties that training minimises (losses/).
Distances are between item vectors (ILD) or between categories (the rest); targets have no effect.
An empty slate scores 0 in all of them.

Legend: B users, K = k slate positions, D dims, G categories of the catalogue, n = length of the
slate. If items have several labels, a slate may show more than k categories; metrics that are
scaled by k then stay at their best value, 1 (homogeneity: 0).
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from recdiv_core.metrics.slate_batch import SlateBatch


def ild(slates: SlateBatch) -> Tensor:
    """Return intra-list diversity, the mean of 1 - cosine over pairs of a slate's items.

    In [0, 2], higher is more diverse (Ziegler et al. 2005, Improving recommendation lists through
    topic diversification). An item without a vector has cosine 0 to all. Fewer than two items: 0.
    """
    num_pairs_B = slates.length_B * (slates.length_B - 1)
    ild_B = 1 - slates.pair_cosines_B / num_pairs_B.clamp(min=1)
    return torch.where(num_pairs_B > 0, ild_B.clamp(0, 2), torch.zeros_like(ild_B))


def category_coverage(slates: SlateBatch) -> Tensor:
    """Return distinct categories of the slate / min(k, G). In [0, 1], higher is more diverse."""
    possible = max(1, min(slates.k, slates.traits.num_categories))
    return (slates.num_slate_categories_B.double() / possible).clamp(max=1)


def diversity_index(slates: SlateBatch) -> Tensor:
    """Return the Shannon entropy of the slate's categories / log(min(k, G)).

    In [0, 1], higher is more diverse: 0 = one category, 1 = perfectly even (Shannon's index scaled
    as in Pielou 1966, The measurement of diversity). 0 where min(k, G) < 2.
    """
    entropy_B = slates.category_entropy_B
    possible = min(slates.k, slates.traits.num_categories)
    if possible < 2:
        return torch.zeros_like(entropy_B)
    return (entropy_B / math.log(possible)).clamp(max=1)


def homogeneity(slates: SlateBatch) -> Tensor:
    """Return log(n / distinct categories), natural logarithm.

    In [0, log k], LOWER is more diverse: 0 if every item shows a category of its own. A slate
    without any category counts as one category.
    """
    distinct_B = slates.num_slate_categories_B.clamp(min=1)
    return (slates.length_B.clamp(min=1).double() / distinct_B).log().clamp(min=0)


def ilmd(slates: SlateBatch) -> Tensor:
    """Return the smallest 1 - cosine of two items of the slate.

    In [0, 2], higher is more diverse: one pair of equal items gives 0, which the mean of ILD hides.
    An item without a vector has cosine 0 to all. Fewer than two items: 0.
    """
    is_item_BK = slates.is_item_BK
    later_KK = is_item_BK.new_ones((slates.k, slates.k)).triu(1)
    is_pair_BKK = is_item_BK[:, :, None] & is_item_BK[:, None, :] & later_KK
    distance_B = (
        (1 - slates.cosines_BKK).masked_fill(~is_pair_BKK, torch.inf).flatten(1).amin(dim=1)
    )
    return torch.where(distance_B.isinf(), 0.0, distance_B.clamp(0, 2))


def category_ild(slates: SlateBatch) -> Tensor:
    """Return the mean over pairs of a slate's items of 1 - Jaccard of their sets of categories.

    In [0, 1], higher is more diverse. An item without a category shares none with any other. Fewer
    than two items: 0.
    """
    distance_BP = slates.whole.once(_category_distances)
    # items come first, so the pairs of the first n positions are the pairs of the slate
    num_pairs_B = slates.length_B * (slates.length_B - 1) // 2
    pair_P = torch.arange(distance_BP.shape[1], device=num_pairs_B.device)
    is_pair_BP = pair_P < num_pairs_B[:, None]
    return (distance_BP * is_pair_BP).sum(dim=1) / num_pairs_B.clamp(min=1)


def _category_distances(slates: SlateBatch) -> Tensor:
    """Return 1 - Jaccard of each pair of positions, [B, K (K - 1) / 2], early positions first."""
    second_P, first_P = torch.tril_indices(slates.k, slates.k, -1, device=slates.items_BK.device)
    found = slates.sorted_labels
    num_labels = found.category_BM.shape[1]
    has_BN = torch.zeros(slates.num_users, slates.k * num_labels, device=second_P.device)
    cell_BM = found.place_BM * num_labels + found.category_BM
    has_BN.scatter_add_(1, cell_BM, (found.weights_BM > 0).float())
    has_BKG = has_BN.view(slates.num_users, slates.k, num_labels)
    common_BKK = torch.bmm(has_BKG, has_BKG.mT)  # whole numbers, exact in float32
    common_BP = common_BKK[:, first_P, second_P]
    sizes_BK = common_BKK.diagonal(dim1=1, dim2=2)
    union_BP = sizes_BK[:, first_P] + sizes_BK[:, second_P] - common_BP
    return 1 - common_BP.double() / union_BP.clamp(min=1).double()


def gini_simpson(slates: SlateBatch) -> Tensor:
    """Return 1 - sum p^2 over the slate's categories: how often two samples from it differ.

    In [0, 1 - 1 / distinct], higher is more diverse; with replacement (Simpson 1949, Measurement of
    diversity). No categories: 0. The mean over users is the part of `total_diversity` that lies
    within slates (between.py).
    """
    shares_BM = slates.category_shares_BM
    has_any_B = slates.num_slate_categories_B > 0
    return torch.where(has_any_B, 1 - shares_BM.square().sum(dim=1), 0.0).clamp(min=0)


def effective_categories(slates: SlateBatch) -> Tensor:
    """Return exp(Shannon entropy of the slate's categories), natural logarithm.

    In [1, distinct categories], higher is more diverse: the number of equally common categories
    that would be as diverse (Hill 1973, Diversity and evenness, of order 1). No categories: 0.
    """
    number_B = slates.category_entropy_B.exp()
    return torch.where(slates.num_slate_categories_B > 0, number_B, 0.0)


def attribute_coverage(slates: SlateBatch, *, values_V: Tensor) -> Tensor:
    """Return distinct known values of an attribute in the slate / min(k, values that exist).

    In [0, 1], higher is more diverse. For brand, colour, price band or any other column.

    Args:
        slates: the batch.
        values_V: [V] int64 index of each item's value, -1 = unknown.
    """
    values_BK = slates.look_up(values_V, missing=-1).sort(dim=1).values
    is_new_BK = values_BK >= 0
    is_new_BK[:, 1:] &= values_BK[:, 1:] != values_BK[:, :-1]
    num_values = int(values_V.max()) + 1
    return is_new_BK.sum(dim=1).double() / max(1, min(slates.k, num_values))


def vendi(slates: SlateBatch) -> Tensor:
    """Return exp(entropy of the eigenvalues of K / n), K the cosines of the slate's n items.

    In [1, n], higher is more diverse: the number of mutually orthogonal items that would be as
    diverse (Friedman & Dieng 2023, The Vendi Score). An item without a vector is similar only to
    itself. Empty slate: 0.
    """
    kernel_BKK = slates.cosines_BKK / slates.length_B.clamp(min=1)[:, None, None]
    eigenvalues_BK = cast(
        "Tensor",
        torch.linalg.eigvalsh(kernel_BKK),  # pyright: ignore[reportUnknownMemberType]
    ).clamp(min=0)
    number_B = (-torch.xlogy(eigenvalues_BK, eigenvalues_BK).sum(dim=1)).exp()
    return torch.where(slates.length_B > 0, number_B, 0.0)
