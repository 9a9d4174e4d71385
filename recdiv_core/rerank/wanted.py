# pyright: strict
"""Items that rules add to the candidates or remove from them.

Not the choosing among them (quota.py). A rule of an item, or of a rare value, must not fail because
no such item has a high score.

Legend: B users, V catalogue, C candidates, I items that a rule asks for, M the most it asks for, A
items added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from recdiv_core.rerank.candidates import Candidates, Rule
from recdiv_core.rerank.drawn import are_bound, draw
from recdiv_core.rerank.top_scores import top_scores


def exclude(scores_BV: Tensor, rules: Sequence[Rule]) -> None:
    """Set the scores of excluded items to -inf, so that other items become candidates."""
    for rule in rules:
        if rule.kind == "exclude":
            scores_BV[:, rule.labels.has_any_V] = -torch.inf


def with_wanted(
    scores_BV: Tensor,
    scores_BC: Tensor,
    items_BC: Tensor,
    rules: Sequence[Rule],
    hash_B: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Add to the candidates the best items that `include` and `at least` ask for, and drawn ones.

    Items without a score, such as seen items, are not added.

    Args:
        scores_BV: scores of the whole catalogue.
        scores_BC: scores of the candidates, falling; all other items score less.
        items_BC: item_index of the candidates.
        rules: all rules; only these kinds matter here.
        hash_B: hashes of the histories, see drawn.py; None = no rule draws.

    Returns:
        scores_BC, the scores to rank by, and items_BC. An added item ranks as if it had the score
        of the last candidate; its own low score would change the scale that the dial weighs.
    """
    asking = [rule for rule in rules if rule.kind in ("include", "at least", "draw")]
    if not asking:
        return scores_BC, scores_BC, items_BC
    is_there_BV = torch.zeros_like(scores_BV, dtype=torch.bool).scatter_(1, items_BC, True)
    added_BA, score_BA = items_BC[:, :0], scores_BC[:, :0]
    for rule in asking:
        item_I = rule.labels.has_any_V.nonzero()[:, 0]
        is_there_BI, own_BI = is_there_BV[:, item_I], scores_BV[:, item_I]
        lacks_B1 = rule.count - is_there_BI.sum(dim=1, keepdim=True)
        if rule.kind == "draw" and hash_B is not None:
            is_able_BI = (own_BI > -torch.inf) & are_bound(rule, hash_B)[:, None]
            is_drawn_BI = draw(hash_B, item_I, is_able_BI, rule.count)
            own_BI.masked_fill_(~is_drawn_BI, -torch.inf)
            lacks_B1 = (is_drawn_BI & ~is_there_BI).sum(dim=1, keepdim=True)
        most = min(rule.count, len(item_I))
        if not most or not bool((lacks_B1 > 0).any()):
            continue
        own_BI.masked_fill_(is_there_BI, -torch.inf)
        score_BM, place_BM = top_scores(own_BI, most)
        is_beyond_BM = torch.arange(most, device=score_BM.device) >= lacks_B1
        score_BM = score_BM.masked_fill(is_beyond_BM, -torch.inf)
        item_BM = item_I[place_BM]
        is_there_BV.scatter_(1, item_BM, is_there_BV.gather(1, item_BM) | (score_BM > -torch.inf))
        added_BA = torch.cat([added_BA, item_BM], dim=1)
        score_BA = torch.cat([score_BA, score_BM], dim=1)
    score_BA, order_BA = score_BA.sort(dim=1, descending=True, stable=True)
    ranked_BA = torch.where(score_BA > -torch.inf, scores_BC[:, -1:], -torch.inf)
    return (
        torch.cat([scores_BC, score_BA], dim=1),
        torch.cat([scores_BC, ranked_BA], dim=1),
        torch.cat([items_BC, added_BA.gather(1, order_BA)], dim=1),
    )


def without_excluded(candidates: Candidates, rules: Sequence[Rule]) -> Candidates:
    """Turn excluded candidates into padding."""
    excluding = [rule for rule in rules if rule.kind == "exclude"]
    if not excluding:
        return candidates
    scores_BC = candidates.scores_BC
    for rule in excluding:
        is_out_BC = rule.labels.has_any_V[candidates.items_BC]
        scores_BC = scores_BC.masked_fill(is_out_BC, -torch.inf)
    return replace(candidates, scores_BC=scores_BC)
