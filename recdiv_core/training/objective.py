"""What a step minimises: relevance and diversity penalty of one part of its batch, as sums.

Both are sums over the part, to be divided by the *global* counts (step.py), so that ranks and parts
do not matter. A conditioned model is trained at many weights at once: each user of the batch has a
dial d, the model is told it, and the loss of that user is the one of w = d * diversity_weight.
Shapes: see data/batches.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from recdiv_core.data.batches import Packed
from recdiv_core.losses.diversity import NEEDS_HISTORY, penalty
from recdiv_core.losses.relevance import sampled_softmax, softmax
from recdiv_core.losses.soft_slates import ItemTraits, SoftSlates, history_shares
from recdiv_core.losses.soft_topk import soft_topk, standardise
from recdiv_core.models.recommender import FreshText

SEEN_SCORE: Final = -1e3
"""Standardised score of a seen item among the candidates: far below any other's."""


@dataclass(frozen=True)
class Objective:
    """What a step minimises; see LossConfig for each.

    Attributes:
        relevance: `softmax` or `sampled_softmax`.
        temperature: scores are dot products divided by it.
        num_negatives: of the sampled softmax.
        logq_alpha: of the sampled softmax.
        diversity_weight: w; of a conditioned model the one at dial 1.
        mix: regulariser -> weight.
        slate_size: k of the soft slate.
        slate_candidates: items that it is formed over.
        slate_temperature: its softness.
        traits: what all users' slates are judged by.
    """

    relevance: str
    temperature: float
    num_negatives: int
    logq_alpha: float
    diversity_weight: float
    mix: Mapping[str, float]
    slate_size: int
    slate_candidates: int
    slate_temperature: float
    traits: ItemTraits


@dataclass(frozen=True)
class Part:
    """Users of a step that are computed at once.

    Attributes:
        packed: their histories.
        fresh: items whose text is encoded anew, when the encoder is trained.
        dial_B: [B] in [0, 1], the dial of each user, or None for a model without one.
    """

    packed: Packed
    fresh: FreshText | None = None
    dial_B: torch.Tensor | None = None


@dataclass(frozen=True)
class PartLosses:
    """Sums over a part.

    Attributes:
        relevance: nats by the weights of positions; when conditioned, also by 1 - w of the user.
        penalty: over users; when conditioned, by w of the user. None where nobody has a w > 0.
        figures: [4] float64 without gradient: nats, their weight, penalties, penalised users.
        places_V: places of each item in the hard slates of penalised users.
    """

    relevance: torch.Tensor
    penalty: torch.Tensor | None
    figures: torch.Tensor
    places_V: torch.Tensor


def part_losses(
    model: nn.Module,
    part: Part,
    objective: Objective,
    *,
    exposure_V: torch.Tensor,
    negatives_S: torch.Tensor | None,
    autocast: torch.autocast,
) -> PartLosses:
    """Run the model on a part and sum its losses."""
    packed, dial_B = part.packed, part.dial_B
    weights_N = packed.weights_N
    with autocast:
        dial_RW = None
        if dial_B is not None:
            dial_RW = dial_B[packed.user_RW] if len(dial_B) else torch.zeros_like(packed.user_RW)
            user_N = packed.user_RW.flatten()[packed.target_place_N]
            weights_N = weights_N * (1 - objective.diversity_weight * dial_B[user_N])
        states, items_VD = model(
            packed.items_RW,
            packed.position_RW,
            packed.segment_RW,
            packed.queries_RW,
            part.fresh,
            dial_RW,
        )
        relevance = _relevance(states, items_VD, packed, weights_N, objective, negatives_S)
    figures = torch.zeros(4, dtype=torch.float64, device=exposure_V.device)
    figures[0] = relevance.detach()
    figures[1] = weights_N.sum(dtype=torch.float64)
    places_V = torch.zeros_like(exposure_V)
    if objective.diversity_weight == 0:
        return PartLosses(relevance, None, figures, places_V)
    slates = soft_slates(states, items_VD, packed, dial_B, objective, exposure_V)
    penalty_B = penalty(slates, objective.mix)
    figures[2] = penalty_B.detach().sum(dtype=torch.float64)
    figures[3] = len(penalty_B)
    if dial_B is not None:
        penalty_B = penalty_B * objective.diversity_weight * dial_B[dial_B > 0]
    _add_places(places_V, slates)
    return PartLosses(relevance, penalty_B.sum(), figures, places_V)


def _relevance(
    states: torch.Tensor,
    items_VD: torch.Tensor,
    packed: Packed,
    weights_N: torch.Tensor,
    objective: Objective,
    negatives_S: torch.Tensor | None,
) -> torch.Tensor:
    hidden_ND = states[packed.target_place_N]
    if objective.relevance == "softmax":
        return softmax(
            hidden_ND,
            items_VD,
            packed.targets_N,
            weights_N,
            temperature=objective.temperature,
        )
    assert negatives_S is not None
    return sampled_softmax(
        hidden_ND,
        items_VD,
        packed.targets_N,
        weights_N,
        negatives_S,
        temperature=objective.temperature,
        logq_alpha=objective.logq_alpha,
    )


def soft_slates(
    states: torch.Tensor,
    items_VD: torch.Tensor,
    packed: Packed,
    dial_B: torch.Tensor | None,
    objective: Objective,
    exposure_V: torch.Tensor,
) -> SoftSlates:
    """Form soft slates of the unseen items that users would be shown after their last event.

    With dials, of the users alone whose dial is above 0.
    """
    last_place_B, seen_user_S, seen_item_S = (
        packed.last_place_B,
        packed.seen_user_S,
        packed.seen_item_S,
    )
    if dial_B is not None:
        is_on_B = dial_B > 0
        last_place_B = last_place_B[is_on_B]
        is_on_S = is_on_B[seen_user_S]
        seen_user_S = (is_on_B.cumsum(0) - 1)[seen_user_S[is_on_S]]
        seen_item_S = seen_item_S[is_on_S]
    users_BD = states[last_place_B].float()
    items_VD = items_VD.float()
    with torch.no_grad():
        scores_BV = users_BD @ items_VD.T
        scores_BV[seen_user_S, seen_item_S] = -torch.inf
        depth = min(objective.slate_candidates, items_VD.shape[0])
        best_BM, candidates_BM = scores_BV.topk(depth, dim=1)
        is_seen_BM = best_BM == -torch.inf  # only where fewer than `depth` items are left
    scores_BM = torch.einsum("bd,bmd->bm", users_BD, items_VD[candidates_BM])
    membership_BM = soft_topk(
        standardise(scores_BM).masked_fill(is_seen_BM, SEEN_SCORE),
        objective.slate_size,
        objective.slate_temperature,
    )
    history_BG = None
    if NEEDS_HISTORY & {name for name, weight in objective.mix.items() if weight}:
        history_BG = history_shares(seen_user_S, seen_item_S, objective.traits, len(users_BD))
    return SoftSlates(
        membership_BM=membership_BM.masked_fill(is_seen_BM, 0.0),
        candidates_BM=candidates_BM,
        traits=objective.traits,
        exposure_V=exposure_V,
        history_BG=history_BG,
        slate_size=objective.slate_size,
    )


def _add_places(places_V: torch.Tensor, slates: SoftSlates) -> None:
    """Count the hard slates: candidates come best first, seen ones have no membership."""
    slate_BK = slates.candidates_BM[:, : slates.slate_size]
    is_shown_BK = slates.membership_BM.detach()[:, : slates.slate_size] > 0
    places_V.index_add_(0, slate_BK.flatten(), is_shown_BK.flatten().to(places_V.dtype))
