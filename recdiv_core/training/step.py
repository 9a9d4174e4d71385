"""One optimiser step: forward, loss, backward over a rank's parts, then update.

The loss of a step is (1 - w) * relevance / log V + w * penalty. Relevance is divided by log V, the
loss of a uniform guess, so that both terms live in about [0, 1] and the dial means the same at
every catalogue size. Each sum is divided by its *global* count (positions by weight, users), so
that any number of workers and parts gives the same gradient. At w = 0 the penalty is not computed
at all. What the losses are: objective.py. Not the order of the data and not the schedule (loop.py).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.distributed as dist
from torch import nn

from recdiv_core.losses.aggregate import exposure_share
from recdiv_core.training.objective import Objective, Part, part_losses

PLACES_KEPT: Final = 0.99
"""Share of the running places kept a step: about the last 100 batches count. Fewer are too few to
tell an item that is never shown from one that is shown seldom."""


@dataclass(frozen=True)
class StepSums:
    """What a step came to, as global sums; add those of an epoch, then divide.

    Attributes:
        loss: of the step, times its users.
        relevance: nats, summed over positions by weight; when conditioned, also by 1 - w.
        weight: of those positions.
        penalty: summed over penalised users; 0 at w = 0.
        num_penalised: those users.
        num_users: users.
        grad_norm: norm of the gradient before clipping.
    """

    loss: float
    relevance: float
    weight: float
    penalty: float
    num_penalised: float
    num_users: float
    grad_norm: float


def train_step(
    model: nn.Module,
    parts: Sequence[Part],
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
            sum(float(part.packed.weights_N.sum(dtype=torch.float64)) for part in parts),
            sum(len(part.packed.last_place_B) for part in parts),
        ],
        dtype=torch.float64,
        device=device,
    )
    _all_reduce(counts)
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    weight, num_users = (max(1e-12, float(count)) for count in counts)
    w = objective.diversity_weight
    # DDP averages over ranks; a conditioned part has each user's own w in its sums
    is_conditioned = any(part.dial_B is not None for part in parts)
    share = (1.0, 1.0) if is_conditioned else (1 - w, w)
    relevance_scale = world_size / (weight * math.log(max(2, objective.traits.num_items)))
    penalty_scale = world_size / num_users
    sums = torch.zeros(5, dtype=torch.float64, device=device)
    fresh_places_V = torch.zeros_like(places_V)
    exposure_V = exposure_share(places_V)

    optimizer.zero_grad(set_to_none=True)
    for index, part in enumerate(parts):
        is_last = index == len(parts) - 1
        wait = contextlib.nullcontext() if is_last or world_size == 1 else model.no_sync()  # pyright: ignore
        with wait:
            losses = part_losses(
                model,
                part,
                objective,
                exposure_V=exposure_V,
                negatives_S=negatives_S,
                autocast=torch.autocast(device.type, precision, enabled=precision != torch.float32),
            )
            loss = share[0] * (losses.relevance * relevance_scale)
            if losses.penalty is not None:
                loss = loss + share[1] * (losses.penalty * penalty_scale)
            scaler.scale(loss).backward()
        sums[0] += loss.detach().double() / world_size
        sums[1:] += losses.figures
        fresh_places_V += losses.places_V

    scaler.unscale_(optimizer)
    grad_norm = nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()
    _all_reduce(sums)
    if w > 0:
        _all_reduce(fresh_places_V)
        places_V.mul_(PLACES_KEPT).add_(fresh_places_V)
    loss, relevance, weight, penalty, num_penalised = (float(value) for value in sums)
    return StepSums(
        loss=loss * num_users,
        relevance=relevance,
        weight=weight,
        penalty=penalty,
        num_penalised=num_penalised,
        num_users=num_users,
        grad_norm=float(grad_norm),
    )


def _all_reduce(tensor: torch.Tensor) -> None:
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(tensor)
