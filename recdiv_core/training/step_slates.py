"""The soft slates of a step: what the users of a part would be shown after their last event.

Diversity regularisers (losses/) are functions of these slates. How a soft top k is computed stands
in losses/soft_topk.py. Shapes: see data/batches.py; M candidates, K slate length, A users.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import torch

from recdiv_core.items.traits import history_shares
from recdiv_core.losses.diversity import NEEDS_HISTORY, NEEDS_TEACHER
from recdiv_core.losses.soft_slates import SoftSlates
from recdiv_core.losses.soft_topk import soft_topk, standardise
from recdiv_core.models.baselines.histories import Histories
from recdiv_core.rerank import RERANKERS, Candidates, Options
from recdiv_core.rerank.top_scores import top_scores
from recdiv_core.training.objective import Objective
from recdiv_core.training.parts import Part

SEEN_SCORE: Final = -1e3
"""Standardised score of a seen item among the candidates: far below any other's."""


def soft_slates(
    states: torch.Tensor,
    items_VD: torch.Tensor,
    part: Part,
    objective: Objective,
    exposure_V: torch.Tensor,
) -> tuple[SoftSlates, SoftSlates]:
    """Form soft slates of unseen items; with dials, only for users whose dial is above 0.

    The scores are blended as in evaluation. Gradients reach the learned score only.

    Returns:
        the slates, and the same slates for regularisers that look inside one slate. For a
        conditioned model the gradients of the second reach only the states and the dial's own dims.
    """
    packed, dials = part.packed, part.dials
    shown = packed if dials is None else dials
    seen_user_S, seen_item_S = shown.seen_user_S, shown.seen_item_S
    last_place_A = packed.last_place_B if dials is None else packed.last_place_B[dials.above_B]
    users_AD, items_VD = states[last_place_A].float(), items_VD.float()
    with torch.no_grad():
        scores_AV = users_AD @ items_VD.T
        factor_A1, added_AV = scores_AV.new_ones(len(scores_AV), 1), None
        if objective.blend is not None:
            nameless = [""] * len(users_AD)
            histories = Histories(seen_user_S, seen_item_S, nameless, shown.seen_time_S)
            factor_A1, added_AV = objective.blend.around(
                scores_AV, histories, None if dials is None else dials.dial_A
            )
            scores_AV.mul_(factor_A1).add_(added_AV)
        scores_AV[seen_user_S, seen_item_S] = -torch.inf
        depth = min(objective.slate_candidates, items_VD.shape[0])
        best_AM, candidates_AM = top_scores(scores_AV, depth)
        is_seen_AM = best_AM == -torch.inf  # only where fewer than `depth` items are left
        added_AM = 0.0 if added_AV is None else added_AV.gather(1, candidates_AM)

    def form(vectors_VD: torch.Tensor) -> torch.Tensor:
        learned_AM = torch.einsum("bd,bmd->bm", users_AD, vectors_VD[candidates_AM])
        scores_AM = factor_A1 * learned_AM + added_AM
        formed = soft_topk(
            standardise(scores_AM).masked_fill(is_seen_AM, SEEN_SCORE),
            objective.slate_size,
            objective.slate_temperature,
        )
        return formed.masked_fill(is_seen_AM, 0.0)

    asked = {name for name, weight in objective.mix.items() if weight}
    history_AG = taught_AM = None
    if asked & (NEEDS_HISTORY | NEEDS_TEACHER):
        history_AG = history_shares(seen_user_S, seen_item_S, objective.traits, len(users_AD))
        if asked & NEEDS_TEACHER:
            taught_AM = _taught(best_AM, candidates_AM, history_AG, objective)
    slates = SoftSlates(
        membership_BM=form(items_VD),
        candidates_BM=candidates_AM,
        traits=objective.traits,
        exposure_V=exposure_V,
        history_BG=history_AG,
        slate_size=objective.slate_size,
        taught_BM=taught_AM,
    )
    if not objective.is_conditioned:
        return slates, slates
    shared_VD, own_VD = items_VD.tensor_split([objective.shared_dim], dim=1)
    inside_VD = torch.cat([shared_VD.detach(), own_VD], dim=1)
    return slates, replace(slates, membership_BM=form(inside_VD))


def count_shown(slates: SoftSlates, num_items: int) -> torch.Tensor:
    """Count how often each item stands in the hard slates, [V] float32.

    The hard slate of a user is the best K candidates; seen items have no membership.
    """
    slate_AK = slates.candidates_BM[:, : slates.slate_size]
    is_shown_AK = slates.membership_BM.detach()[:, : slates.slate_size] > 0
    shown_V = torch.zeros(num_items, device=slate_AK.device)
    return shown_V.index_add_(0, slate_AK.flatten(), is_shown_AK.flatten().to(shown_V.dtype))


def _taught(
    best_AM: torch.Tensor,
    candidates_AM: torch.Tensor,
    history_AG: torch.Tensor,
    objective: Objective,
) -> torch.Tensor:
    """Return the candidates that the teacher puts into the slate, [A, M] bool."""
    method, dial = objective.teacher
    candidates = Candidates(best_AM, candidates_AM, objective.traits, history_AG)
    chosen_AK = RERANKERS[method](candidates, objective.slate_size, [dial], Options())[:, 0]
    is_chosen_AK = chosen_AK >= 0
    taught_AM = torch.zeros_like(candidates_AM)
    taught_AM.scatter_add_(1, chosen_AK.clamp_min(0), is_chosen_AK.to(taught_AM.dtype))
    return taught_AM > 0
