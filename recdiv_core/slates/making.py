"""From scores to slates: drop seen and ineligible items, take candidates, re-rank.

Evaluation and recommendation both call this module, so the measured slates are the shipped slates.
Scores come from scoring.py. Shapes: B users, V catalogue, C candidates, K slate length, W dials,
S (user, seen item) pairs, P (user, target) pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import torch

from recdiv_core.items.traits import ItemTraits, history_shares
from recdiv_core.rerank import RERANKERS, Candidates
from recdiv_core.rerank.drawn import hash_histories
from recdiv_core.rerank.top_scores import top_scores
from recdiv_core.rerank.wanted import exclude, with_wanted
from recdiv_core.slates.ineligible import Hidden, freed_places, ineligible_of
from recdiv_core.slates.policy import SlatePolicy

NUMBERS_AT_ONCE: Final = 1 << 17
"""Scores that are compared at once: 512 KiB, which fit the cache of one core."""


class Best(NamedTuple):
    """The items with the highest scores of each user, and the items that rules add.

    Attributes:
        scores_BC: float32 scores.
        ranked_BC: float32 scores to rank by; see `wanted.with_wanted`.
        items_BC: int64 item_index.
        hash_B: hashes of the histories, see `needed_hashes`.
    """

    scores_BC: torch.Tensor
    ranked_BC: torch.Tensor
    items_BC: torch.Tensor
    hash_B: torch.Tensor


@dataclass(frozen=True, eq=False)
class SlateGrid:
    """Slates of some users under each dial, and their candidates.

    Attributes:
        items_BWK: int64 item_index, best first; -1 if a user has fewer than k items left.
        scores_BWK: float32 scores of the items; -inf for no item.
        chosen_BWK: index of each item among the candidates; -1 for no item.
        candidates: candidates that the re-ranker got.
        freed_BK: bool, places by score that ineligible items would hold without the mask, see
            `freed_places`; None = all items are eligible.
    """

    items_BWK: torch.Tensor
    scores_BWK: torch.Tensor
    chosen_BWK: torch.Tensor
    candidates: Candidates
    freed_BK: torch.Tensor | None = None


def make_slates(
    scores_BV: torch.Tensor,
    seen_user_S: torch.Tensor,
    seen_item_S: torch.Tensor,
    traits: ItemTraits,
    log_prior_V: torch.Tensor,
    policy: SlatePolicy,
    requested_B: Any = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Make a slate for each user at the dial of the policy; see `make_slate_grid`.

    Returns:
        slates_BK int64 item_index, best first; -1 if a user has fewer than k items left.
        scores_BK float32 scores of the items; -inf for no item.
    """
    grid = make_slate_grid(
        scores_BV,
        seen_user_S,
        seen_item_S,
        traits,
        log_prior_V,
        policy,
        [policy.diversity],
        requested_B,
    )
    return grid.items_BWK[:, 0], grid.scores_BWK[:, 0]


def make_slate_grid(
    scores_BV: torch.Tensor,
    seen_user_S: torch.Tensor,
    seen_item_S: torch.Tensor,
    traits: ItemTraits,
    log_prior_V: torch.Tensor,
    policy: SlatePolicy,
    dials: Sequence[float],
    requested_B: Any = None,
) -> SlateGrid:
    """Make a slate for each user and dial; work that all dials share is done once.

    Args:
        scores_BV: float32 scores of the whole catalogue, higher is better; overwritten.
        seen_user_S: row of the user of each seen item.
        seen_item_S: item_index of each seen item.
        traits: description of the items for the re-ranker.
        log_prior_V: log of each item's share of train events.
        policy: see SlatePolicy; its own dial is ignored.
        dials: dials of the re-ranker, one or more.
        requested_B: time of each request in microseconds; None = unknown, so dates do not count.
    """
    lowered_V = policy.lowered_V(log_prior_V)
    if lowered_V is not None:
        scores_BV -= lowered_V
    (hidden,) = leave_out(scores_BV, seen_user_S, seen_item_S, policy, requested_B)
    policy = replace(policy, diversity=max(dials))
    history_BG = needed_shares(seen_user_S, seen_item_S, traits, len(scores_BV), policy)
    hash_B = needed_hashes(seen_user_S, seen_item_S, len(scores_BV), policy)
    best = take_best(scores_BV, policy, hash_B)
    return choose_slates(best, traits, history_BG, policy, dials, hidden)


def leave_out(
    scores_BV: torch.Tensor,
    seen_user_S: torch.Tensor,
    seen_item_S: torch.Tensor,
    policy: SlatePolicy,
    requested_B: Any = None,
    adjustments: Sequence[torch.Tensor | None] = (None,),
) -> list[Hidden | None]:
    """Set the scores of items that no slate may hold to -inf: seen, excluded, ineligible items.

    For `adjustments` see `Ineligible.hide`.

    Returns:
        The best ineligible items under each adjustment; None = all items are eligible.
    """
    if policy.filter_seen:
        scores_BV[seen_user_S, seen_item_S] = -torch.inf
    exclude(scores_BV, policy.options.rules)
    if policy.eligible is None:
        return [None for _ in adjustments]
    ineligible = ineligible_of(policy.eligible, requested_B, scores_BV.device)
    return [*ineligible.hide(scores_BV, policy.k, adjustments)]


def needed_shares(
    seen_user_S: torch.Tensor,
    seen_item_S: torch.Tensor,
    traits: ItemTraits,
    num_users: int,
    policy: SlatePolicy,
) -> torch.Tensor:
    """Return the shares of categories in the histories; zeros if the policy does not re-rank."""
    if policy.reranks:
        return history_shares(seen_user_S, seen_item_S, traits, num_users)
    return torch.zeros((num_users, traits.num_categories), device=traits.unit_VD.device)


def needed_hashes(
    seen_user_S: torch.Tensor, seen_item_S: torch.Tensor, num_users: int, policy: SlatePolicy
) -> torch.Tensor:
    """Return hashes of the histories, [B] int64; zeros if no rule draws."""
    if any(rule.kind == "draw" for rule in policy.options.rules):
        return hash_histories(seen_user_S, seen_item_S, num_users)
    return seen_item_S.new_zeros(num_users)


def take_best(scores_BV: torch.Tensor, policy: SlatePolicy, hash_B: torch.Tensor) -> Best:
    """Return the items with the highest scores; as many as the re-ranker or rules need."""
    looks_further = policy.reranks or policy.reranker_options.rules
    depth = policy.num_candidates if looks_further else policy.k
    scores_BC, items_BC = top_scores(scores_BV, min(depth, scores_BV.shape[1]))
    found = with_wanted(scores_BV, scores_BC, items_BC, policy.options.rules, hash_B)
    return Best(*found, hash_B)


def choose_slates(
    best: Best,
    traits: ItemTraits,
    history_BG: torch.Tensor,
    policy: SlatePolicy,
    dials: Sequence[float],
    hidden: Hidden | None = None,
) -> SlateGrid:
    """Re-rank the best items of each user at each dial; the dial of the policy is ignored."""
    is_reranked = policy.method != "none" and max(dials) > 0
    candidates = Candidates(best.ranked_BC, best.items_BC, traits, history_BG, best.hash_B)
    rerank = RERANKERS[policy.method if is_reranked else "none"]
    chosen_BWK = rerank(candidates, policy.k, dials, policy.reranker_options)
    is_empty_BWK = chosen_BWK < 0
    places_BX = chosen_BWK.clamp_min(0).flatten(1)
    items_BWK = best.items_BC.gather(1, places_BX).view_as(chosen_BWK)
    scores_BWK = best.scores_BC.gather(1, places_BX).view_as(chosen_BWK)
    return SlateGrid(
        items_BWK.masked_fill(is_empty_BWK, -1),
        scores_BWK.masked_fill(is_empty_BWK, -torch.inf),
        chosen_BWK,
        candidates,
        None if hidden is None else freed_places(best.scores_BC, best.items_BC, hidden, policy.k),
    )


def count_rankable(scores_BV: torch.Tensor) -> torch.Tensor:
    """Return [B] int64: the number of items of each user with a score above -inf."""
    num_items = scores_BV.shape[1]
    at_once = max(1, NUMBERS_AT_ONCE // num_items)
    # float32, because sums of bool are computed byte by byte
    is_rankable_bV = torch.empty((at_once, num_items), device=scores_BV.device)
    counts = [scores_BV.new_empty(0)]
    for scores_bV in scores_BV.split(at_once):
        torch.gt(scores_bV, -torch.inf, out=is_rankable_bV[: len(scores_bV)])
        counts.append(is_rankable_bV[: len(scores_bV)].sum(dim=1))
    return torch.cat(counts).long()


def count_above(scores_BV: torch.Tensor, items_BT: torch.Tensor) -> torch.Tensor:
    """Return [B, T] float64: the number of items that score above each given item; ties count 1/2.

    Args:
        scores_BV: scores of the catalogue; -inf = the item does not count.
        items_BT: item_index of items that count; -1 = no item, which yields 0.
    """
    num_items = scores_BV.shape[1]
    user_P, column_P = (items_BT >= 0).nonzero(as_tuple=True)
    own_P1 = scores_BV[user_P, items_BT[user_P, column_P]][:, None]
    balance_P = torch.zeros_like(own_P1[:, 0])
    at_once = max(1, NUMBERS_AT_ONCE // num_items)
    for start in range(0, len(user_P), at_once):
        pairs = slice(start, start + at_once)
        # +1 above, 0 equal, -1 below; sums of ones are exact below 2^24
        signs_pV = scores_BV.index_select(0, user_P[pairs]).sub_(own_P1[pairs]).sign_()
        torch.sum(signs_pV, dim=1, out=balance_P[pairs])
    above_BT = torch.zeros(items_BT.shape, dtype=torch.float64, device=scores_BV.device)
    above_BT[user_P, column_P] = (balance_P.double() + num_items - 1) / 2
    return above_BT
