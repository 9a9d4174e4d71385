# pyright: strict
"""How well slates serve the intents of queries: the categories of what was clicked after a query.

An ambiguous query has several intents, a precise one has one, so a slate must be as wide as its
query and no wider. A query has the share p(c) of its clicks in each category c. Relevance here is
the category, not the single item. The metrics exist only for requests with a query that has a click
in a category; all others are left out of the means. evaluation/query_intents.py counts the clicks.

Legend: B users, K slate positions, L labels of an item, I intents of a query.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from recdiv_core.metrics.intent import REPEATED
from recdiv_core.metrics.slate_batch import Intents, SlateBatch
from recdiv_core.metrics.tally import UserMetrics


def intent_coverage(slates: SlateBatch) -> Tensor:
    """Return the share of the query's clicks in categories that the slate has.

    `sum of p(c) over the categories in the slate / sum of the k largest p(c)`. S-recall of Zhai,
    Cohen and Lafferty, 2003, Beyond Independent Relevance, with weights. In [0, 1], higher is
    better; an empty slate has 0.
    """
    intents = _intents(slates)
    if intents is None:
        return _missing(slates)
    is_served_BI = slates.once(_serves).any(dim=1)
    best_B = intents.share_BI.topk(min(slates.k, intents.share_BI.shape[1]), dim=1).values.sum(1)
    return (intents.share_BI * is_served_BI).sum(dim=1) / best_B.where(best_B > 0, torch.nan)


def intent_alpha_ndcg(slates: SlateBatch) -> Tensor:
    """Return alpha-nDCG over the intents of the query, weighted by their clicks.

    The item at rank r serves one intent: the one of its categories whose worth is largest. It gains
    this worth / log2(r + 1), and the worth of the intent falls to half. Worths start at p(c). The
    sum is divided by that of a slate that serves the intent of the largest worth at each rank.
    Clarke et al., 2008; Agrawal et al., 2009, Diversifying Search Results, for p(c). In [0, 1],
    higher is better; an empty slate has 0.
    """
    intents = _intents(slates)
    if intents is None:
        return _missing(slates)
    serves_BKI = slates.once(_serves)
    gained_B = _discounted(intents.share_BI, serves_BKI)
    ideal_B = _discounted(intents.share_BI, torch.ones_like(serves_BKI))
    return gained_B / ideal_B.where(ideal_B > 0, torch.nan)


def zero_results(slates: SlateBatch) -> Tensor:
    """Return 1 for a slate without an item in any category of the query's clicks, else 0.

    A search engine without fillers shows nothing there; an empty slate counts alike. Lower is
    better.
    """
    intents = _intents(slates)
    if intents is None:
        return _missing(slates)
    has_intent_B = (intents.share_BI > 0).any(dim=1)
    is_zero_B = ~slates.once(_serves).any(dim=2).any(dim=1)
    return is_zero_B.double().where(has_intent_B, torch.nan)


INTENT_METRICS: Final[UserMetrics] = {
    "intent_coverage": intent_coverage,
    "intent_alpha_ndcg": intent_alpha_ndcg,
    "zero_results": zero_results,
}
"""Metrics of requests with a query."""


def _intents(slates: SlateBatch) -> Intents | None:
    return None if slates.background is None else slates.background.intents


def _missing(slates: SlateBatch) -> Tensor:
    return torch.full_like(slates.num_targets_B, torch.nan, dtype=torch.float64)


def _serves(slates: SlateBatch) -> Tensor:
    """Return whether the item at each position is in each intent of the query, [B, K, I]."""
    intents = _intents(slates)
    assert intents is not None
    labels_BKL = slates.traits.categories[slates.items_BK]
    is_same_BKLI = labels_BKL[..., None] == intents.category_BI[:, None, None, :]
    return (is_same_BKLI & (labels_BKL >= 0)[..., None]).any(dim=2)


def _discounted(share_BI: Tensor, serves_BKI: Tensor) -> Tensor:
    """Return the discounted sum of the worths that a slate serves, [B]."""
    worth_BI, total_B = share_BI.clone(), share_BI.new_zeros(len(share_BI))
    for rank in range(serves_BKI.shape[1]):
        value_B1, intent_B1 = (worth_BI * serves_BKI[:, rank]).max(dim=1, keepdim=True)
        total_B += value_B1[:, 0] / torch.tensor(rank + 2.0, dtype=worth_BI.dtype).log2()
        factor_B1 = torch.where(value_B1 > 0, REPEATED, 1.0).to(worth_BI)
        worth_BI.scatter_(1, intent_B1, worth_BI.gather(1, intent_B1) * factor_B1)
    return total_B
