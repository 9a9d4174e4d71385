# pyright: strict
"""Exposure: how the slates of all users together spread over the catalogue, and over popularity.

Not diversity inside one slate (diversity.py). The first metrics here are statistics of all slates:
exposures add up over batches and workers, and the ratio is taken once at the end. The mean of each
worker's own coverage is a different, much lower number. The metrics from novelty on are means over
users.

Exposure counts slates. Attention also weighs the rank: a position counts 1 / log2(rank + 1), as in
NDCG (position-weighted exposure; Biega et al. 2018, Equity of attention). `gini` and
`distributional_coverage` of attention tell whether rare items stand only at the end of slates.

Legend: B users, K slate length, V catalogue.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recdiv_core.items.popularity import POPULARITY_GROUPS
from recdiv_core.metrics.slate_batch import SlateBatch


def discounts(k: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the attention that each position gets, 1 / log2(rank + 1), [K] float64."""
    ranks_K = torch.arange(1, k + 1, dtype=torch.float64, device=device)
    return 1 / (ranks_K + 1).log2()


def coverage(exposure_V: Tensor) -> float:
    """Return the share of the catalogue with exposure > 0.

    In [0, 1], higher is broader. The catalogue is all V items, also cold ones. Coverage grows with
    the number of users, so compare it at equal numbers.

    >>> coverage(torch.tensor([3, 0, 1, 0]))
    0.5
    """
    return float((exposure_V > 0).double().mean())


def gini(exposure_V: Tensor) -> float:
    """Return the Gini coefficient of exposure: sum_i (2i - V - 1) x_(i) / (V sum x), x ascending.

    In [0, (V - 1) / V], LOWER is more even: 0 if all items are shown equally often. Items that are
    never shown count. No exposure at all: 0.

    >>> gini(torch.tensor([0, 0, 0, 8]))
    0.75
    """
    num_items, total = exposure_V.numel(), float(exposure_V.sum())
    if not total:
        return 0.0
    ascending_V = exposure_V.double().sort().values
    ranks_V = torch.arange(1, num_items + 1, dtype=torch.float64, device=exposure_V.device)
    return float(((2 * ranks_V - num_items - 1) * ascending_V).sum()) / (num_items * total)


def distributional_coverage(exposure_V: Tensor) -> float:
    """Return exp(entropy of exposure) / V, the effective share of the catalogue that is shown.

    In [1 / V, 1], higher is broader: 1 if all items are shown equally often. An item shown once
    counts little here, and fully in coverage. No exposure at all: 0.

    >>> distributional_coverage(torch.tensor([5, 5, 0, 0]))
    0.5
    """
    return math.exp(_entropy(exposure_V)) / exposure_V.numel() if int(exposure_V.sum()) else 0.0


def exposure_entropy(exposure_V: Tensor) -> float:
    """Return the entropy of exposure / ln V.

    In [0, 1], higher is more even. A catalogue of one item: 0. RecBole differs: it divides the
    entropy by the number of items that were shown.
    """
    num_items = exposure_V.numel()
    return _entropy(exposure_V) / math.log(num_items) if num_items > 1 else 0.0


def personalisation(exposure_V: Tensor, num_users: int, k: int) -> float:
    """Return 1 - the mean over pairs of users of |R_u and R_v| / k.

    In [0, 1], higher = slates of users differ more. Computed without a loop over pairs: an item in
    x slates is common to x (x - 1) / 2 pairs. Fewer than two users: 0.
    """
    if num_users < 2:
        return 0.0
    exposure_V = exposure_V.double()
    num_common = float((exposure_V * (exposure_V - 1)).sum())
    return 1 - num_common / (num_users * (num_users - 1) * k)


def _entropy(exposure_V: Tensor) -> float:
    shares_V = exposure_V.double() / exposure_V.sum().clamp(min=1)
    return float(-torch.xlogy(shares_V, shares_V).sum())


def novelty(slates: SlateBatch) -> Tensor:
    """Return the mean self-information of a slate's items, -log2(n_i / U), in bits.

    In [0, log2 U], higher is more novel; n_i = train events of the item, U = train users (Zhou et
    al. 2010, Solving the apparent diversity-accuracy dilemma of recommender systems). n_i is at
    least 1 (for items without train events) and at most U (for items bought repeatedly). Empty
    slate: 0.
    """
    bits_BK = slates.look_up(slates.traits.self_information_V)
    return bits_BK.sum(dim=1) / slates.length_B.clamp(min=1)


def popularity(slates: SlateBatch) -> Tensor:
    """Return the mean number of train events of a slate's items.

    >= 0, LOWER = fewer popular items (ARP of Yin et al. 2012, Challenging the long tail
    recommendation). Empty slate: 0.
    """
    events_BK = slates.look_up(slates.traits.num_events_V).double()
    return events_BK.sum(dim=1) / slates.length_B.clamp(min=1)


def tail_share(slates: SlateBatch) -> Tensor:
    """Return the share of a slate's items that belong to the tail.

    In [0, 1], higher = fewer popular items. The tail is every item outside the most popular
    items that make 80 % of the train events, cold items included (`popularity_groups` in
    items/popularity.py). APLT of Abdollahpouri et al. 2019 with their head. Empty slate: 0.
    """
    tail = POPULARITY_GROUPS.index("tail")
    is_tail_BK = slates.look_up(slates.traits.popularity_group_V, missing=-1) == tail
    return is_tail_BK.sum(dim=1).double() / slates.length_B.clamp(min=1)


def epc(slates: SlateBatch) -> Tensor:
    """Return expected popularity complement: the discounted mean over k of hit * (1 - n_i / U).

    In [0, 1], higher = hits on items that few users met. Discount 1 / log2(rank + 1); n_i / U as in
    novelty
    (Vargas & Castells 2011, Rank and relevance in novelty and diversity metrics).
    """
    met_BK = torch.exp2(-slates.look_up(slates.traits.self_information_V))
    discounts_K = discounts(slates.k, met_BK.device)
    return (slates.is_hit_BK * (1 - met_BK)) @ discounts_K / discounts_K.sum()


def serendipity(slates: SlateBatch) -> Tensor:
    """Return the sum over hits of max(0, (popularity rank - rank) / V), / k.

    In [0, 1), higher = hits that popularity would have ranked lower. Definition of RecTools:
    p_u(i) - p(i) with p = (V + 1 - rank) / V. Popularity ranks count distinct numbers of train
    events, so equally popular items share a rank; a cold item has p = 0.
    """
    ranks_K = torch.arange(1, slates.k + 1, device=slates.items_BK.device)
    ahead_BK = slates.look_up(slates.traits.popularity_rank_V) - ranks_K
    gains_BK = ahead_BK.clamp(min=0).double() / slates.traits.num_items
    return (gains_BK * slates.is_hit_BK).sum(dim=1) / slates.k


def unexpectedness(slates: SlateBatch) -> Tensor:
    """Return the share of the k positions with an item outside the k most popular items.

    In [0, 1], higher = less overlap with the popular list. As RePlay with the popular list as base,
    except that an empty position does not count as unexpected. Popularity is the number of train
    events; ties are broken by item_index.
    """
    is_popular_BK = slates.look_up(slates.traits.popularity_order_V) < slates.k
    return (slates.is_item_BK & ~is_popular_BK).sum(dim=1).double() / slates.k


def user_coverage(slates: SlateBatch) -> Tensor:
    """Return 1 if the slate holds an item, else 0. For targets see accuracy.hit."""
    return (slates.length_B > 0).double()


def full_slates(slates: SlateBatch) -> Tensor:
    """Return 1 if all k positions hold an item, else 0."""
    return (slates.length_B == slates.k).double()


def freed(slates: SlateBatch) -> Tensor:
    """Return the share of the first k places that ineligible items would hold without the mask.

    In [0, 1], neither direction is better. Places are those of the order by score, before any
    re-ranking; seen items hold none. NaN = all items are eligible, so there is no mask.
    """
    background = slates.background
    if background is None or background.freed_BK is None:
        return torch.full_like(slates.length_B, torch.nan, dtype=torch.float64)
    return background.freed_BK[:, : slates.k].double().mean(dim=1)
