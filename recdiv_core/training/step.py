"""One optimiser step: forward, loss, backward over a rank's parts, then update.

The loss of a step is (1 - w) * relevance / log V + w * penalty. Relevance is divided by log V, the
loss of a uniform guess, so that both terms live in about [0, 1] and the dial means the same at
every catalogue size. Each sum is divided by its *global* count (positions by weight, users), so
that any number of workers and parts gives the same gradient. At w = 0 the penalty is not computed
at all. Not the order of the data and not the schedule (loop.py).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.distributed as dist
from torch import nn

from recdiv_core.data.batches import Packed
from recdiv_core.losses.aggregate import exposure_share
from recdiv_core.losses.diversity import NEEDS_HISTORY, penalty
from recdiv_core.losses.relevance import sampled_softmax, softmax
from recdiv_core.losses.soft_slates import ItemTraits, SoftSlates, history_shares
from recdiv_core.losses.soft_topk import soft_topk, standardise
from recdiv_core.models.recommender import FreshText

PLACES_KEPT: Final = 0.99
"""Share of the running places kept a step: about the last 100 batches count. Fewer are too few to
tell an item that is never shown from one that is shown seldom."""

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
        diversity_weight: w.
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
class StepSums:
    """What a step came to, as global sums; add those of an epoch, then divide.

    Attributes:
        relevance: nats, summed over weighted positions.
        weight: of those positions.
        penalty: summed over users; 0 at w = 0.
        num_users: users.
        grad_norm: norm of the gradient before clipping.
    """

    relevance: float
    weight: float
    penalty: float
    num_users: float
    grad_norm: float


def train_step(
    model: nn.Module,
    parts: Sequence[tuple[Packed, FreshText | None]],
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    *,
    precision: torch.dtype,
    clip_norm: float,
    places_V: torch.Tensor,
    negatives_S: torch.Tensor | None,
) -> StepSums:
    """Do one step.

    Args:
        model: Recommender, wrapped in DDP when there are several ranks.
        parts: this rank's share; parts without users are legal.
        objective: what to minimise.
        optimizer: its learning rates are set already.
        scaler: loss scaler, enabled for fp16 only.
        precision: float32, or the type of autocast.
        clip_norm: largest gradient norm.
        places_V: running places of each item in the slates of past steps, 0 at the start; updated
            in place where w > 0, the same on all ranks.
        negatives_S: shared negatives of the sampled softmax, the same on all ranks.
    """
    device = places_V.device
    counts = torch.tensor(
        [
            sum(float(part.weights_N.sum(dtype=torch.float64)) for part, _ in parts),
            sum(len(part.last_place_B) for part, _ in parts),
        ],
        dtype=torch.float64,
        device=device,
    )
    _all_reduce(counts)
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    weight, num_users = (max(1e-12, float(count)) for count in counts)
    relevance_scale = world_size / (weight * math.log(max(2, objective.traits.num_items)))
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    fresh_places_V = torch.zeros_like(places_V)
    exposure_V = exposure_share(places_V)
    w = objective.diversity_weight

    optimizer.zero_grad(set_to_none=True)
    for index, (packed, fresh) in enumerate(parts):
        is_last = index == len(parts) - 1
        wait = contextlib.nullcontext() if is_last or world_size == 1 else model.no_sync()  # pyright: ignore
        autocast = torch.autocast(device.type, precision, enabled=precision != torch.float32)
        with wait:
            with autocast:
                states, items_VD = model(
                    packed.items_RW, packed.position_RW, packed.segment_RW, packed.queries_RW, fresh
                )
                relevance = _relevance(states, items_VD, packed, objective, negatives_S)
            loss = relevance * relevance_scale
            if w > 0:
                penalty_B, slates = _penalty(states, items_VD, packed, objective, exposure_V)
                loss = (1 - w) * loss + w * world_size / num_users * penalty_B.sum()
                _add_places(fresh_places_V, slates)
                sums[1] += penalty_B.detach().sum(dtype=torch.float64)
            scaler.scale(loss).backward()
        sums[0] += relevance.detach().double()

    scaler.unscale_(optimizer)
    grad_norm = nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()
    _all_reduce(sums)
    if w > 0:
        _all_reduce(fresh_places_V)
        places_V.mul_(PLACES_KEPT).add_(fresh_places_V)
    return StepSums(
        relevance=float(sums[0]),
        weight=weight,
        penalty=float(sums[1]),
        num_users=num_users,
        grad_norm=float(grad_norm),
    )


def _relevance(
    states: torch.Tensor,
    items_VD: torch.Tensor,
    packed: Packed,
    objective: Objective,
    negatives_S: torch.Tensor | None,
) -> torch.Tensor:
    hidden_ND = states[packed.target_place_N]
    if objective.relevance == "softmax":
        return softmax(
            hidden_ND,
            items_VD,
            packed.targets_N,
            packed.weights_N,
            temperature=objective.temperature,
        )
    assert negatives_S is not None
    return sampled_softmax(
        hidden_ND,
        items_VD,
        packed.targets_N,
        packed.weights_N,
        negatives_S,
        temperature=objective.temperature,
        logq_alpha=objective.logq_alpha,
    )


def _penalty(
    states: torch.Tensor,
    items_VD: torch.Tensor,
    packed: Packed,
    objective: Objective,
    exposure_V: torch.Tensor,
) -> tuple[torch.Tensor, SoftSlates]:
    """Penalise the soft slates of unseen items that users would be shown after their last event."""
    users_BD = states[packed.last_place_B].float()
    items_VD = items_VD.float()
    with torch.no_grad():
        scores_BV = users_BD @ items_VD.T
        scores_BV[packed.seen_user_S, packed.seen_item_S] = -torch.inf
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
        history_BG = history_shares(
            packed.seen_user_S, packed.seen_item_S, objective.traits, len(users_BD)
        )
    slates = SoftSlates(
        membership_BM=membership_BM.masked_fill(is_seen_BM, 0.0),
        candidates_BM=candidates_BM,
        traits=objective.traits,
        exposure_V=exposure_V,
        history_BG=history_BG,
        slate_size=objective.slate_size,
    )
    return penalty(slates, objective.mix), slates


def _add_places(places_V: torch.Tensor, slates: SoftSlates) -> None:
    """Count the hard slates: candidates come best first, seen ones have no membership."""
    slate_BK = slates.candidates_BM[:, : slates.slate_size]
    is_shown_BK = slates.membership_BM.detach()[:, : slates.slate_size] > 0
    places_V.index_add_(0, slate_BK.flatten(), is_shown_BK.flatten().to(places_V.dtype))


def _all_reduce(tensor: torch.Tensor) -> None:
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(tensor)
