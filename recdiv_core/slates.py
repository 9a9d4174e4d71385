"""From scores to slates: drop what was seen, keep candidates, re-rank.

Evaluation judges what it makes, so that what is measured is what would be shipped. Not the
scoring, not the metrics, and not the reading of users. Shapes: B users, V catalogue, C candidates,
K slate length, S (user, item) pairs seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from recdiv_core.losses.soft_slates import ItemTraits, history_shares
from recdiv_core.models.top_scores import top_scores
from recdiv_core.rerank import RERANKERS, Candidates, Options
from recdiv_core.rerank.wanted import exclude, with_wanted


@dataclass(frozen=True)
class SlatePolicy:
    """How slates are made of scores.

    Attributes:
        k: slate length.
        filter_seen: leave out items of the user's history.
        method: name of the re-ranker.
        diversity: its dial, 0 = the order of the scores.
        num_candidates: top-scored items that the re-ranker chooses from; what rules ask
            for and is not among them comes besides.
        logit_adjustment: times log popularity, taken off the scores first. Menon et al., 2021,
            Long-Tail Learning via Logit Adjustment, post hoc.
        options: what re-rankers can be told besides the dial, and the rules.
    """

    k: int
    filter_seen: bool
    method: str
    diversity: float
    num_candidates: int
    logit_adjustment: float
    options: Options = field(default_factory=Options)


def make_slates(
    scores_BV: torch.Tensor,
    seen_user_S: torch.Tensor,
    seen_item_S: torch.Tensor,
    traits: ItemTraits,
    log_prior_V: torch.Tensor,
    policy: SlatePolicy,
    *,
    exposure_V: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Make a slate for each user.

    Args:
        scores_BV: float32 of the whole catalogue, higher is better; written to.
        seen_user_S: row of the user ...
        seen_item_S: ... and item_index of each item in that user's history.
        traits: what the re-ranker may know of the items.
        log_prior_V: log of each item's share of train events.
        policy: see SlatePolicy.
        exposure_V: int64 places that each item holds already in this pass over the users, for a
            re-ranker that looks at all users together; None = it looks at these users alone.

    Returns:
        slates_BK int64 item_index, best place first, -1 where a user has fewer than k items left;
        scores_BK float32 of the chosen items, -inf where there is none.
    """
    if policy.logit_adjustment:
        scores_BV -= policy.logit_adjustment * log_prior_V
    if policy.filter_seen:
        scores_BV[seen_user_S, seen_item_S] = -torch.inf
    rules = policy.options.rules
    exclude(scores_BV, rules)
    is_reranked = policy.method != "none" and policy.diversity > 0
    depth = policy.num_candidates if is_reranked or rules else policy.k
    scores_BC, candidates_BC = top_scores(scores_BV, min(depth, scores_BV.shape[1]))
    scores_BC, ranked_BC, candidates_BC = with_wanted(scores_BV, scores_BC, candidates_BC, rules)
    history_BG = (
        history_shares(seen_user_S, seen_item_S, traits, len(scores_BC))
        if is_reranked
        else scores_BC.new_zeros(len(scores_BC), traits.num_categories)
    )
    candidates = Candidates(
        ranked_BC,
        candidates_BC,
        traits,
        history_BG,
        seen_item_S.new_zeros(traits.num_items) if exposure_V is None else exposure_V,
    )
    rerank = RERANKERS[policy.method if is_reranked else "none"]
    chosen_BK = rerank(candidates, policy.k, [policy.diversity], policy.options)[:, 0]
    is_empty = chosen_BK < 0
    places = chosen_BK.clamp_min(0)
    slates_BK = candidates_BC.gather(1, places).masked_fill(is_empty, -1)
    return slates_BK, scores_BC.gather(1, places).masked_fill(is_empty, -torch.inf)


def count_above(scores_BV: torch.Tensor, items_BT: torch.Tensor) -> torch.Tensor:
    """Return how many items score above each given one, ties counting one half: [B, T] float64.

    Args:
        scores_BV: of the catalogue, -inf for items that do not count.
        items_BT: item_index that may be shown, or -1, which counts 0.
    """
    above_BT = torch.zeros(items_BT.shape, dtype=torch.float64, device=scores_BV.device)
    for column, item_B in enumerate(items_BT.unbind(dim=1)):
        rows = (item_B >= 0).nonzero().squeeze(1)
        scores_bV = scores_BV if len(rows) == len(item_B) else scores_BV[rows]
        own_b1 = scores_bV.gather(1, item_B[rows, None])
        num_above_b = (scores_bV > own_b1).sum(dim=1)
        num_alike_b = (scores_bV == own_b1).sum(dim=1) - 1
        above_BT[rows, column] = num_above_b + num_alike_b.double() / 2
    return above_BT
