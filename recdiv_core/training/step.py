"""One optimiser step: forward, loss, backward over a rank's parts, then update.

The loss of a step is (1 - w) * relevance / log V + w * penalty. Relevance is divided by log V, the
loss of a uniform guess, so that both terms lie in about [0, 1] and w means the same at every
catalogue size. Each sum is divided by its *global* count (positions by weight, users), so that any
number of workers and parts gives the same gradient. At w = 0 the penalty is not computed.

The host never waits for the device: counts, losses and the gradient norm stay tensors, and
`fetch_sums` copies those of many steps at once. Which losses there are: part_losses.py. Order of
the data, learning rates and logging: epoch.py.
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
from recdiv_core.losses.negatives import Negatives
from recdiv_core.training.objective import Objective
from recdiv_core.training.part_losses import PartLosses, part_losses
from recdiv_core.training.parts import Part
from recdiv_core.training.shards import average_gradients, clip_gradients
from recdiv_core.training.step_texts import EncodedTexts, StepTexts

SHOWN_KEPT: Final = 0.99
"""Share of the running exposure that a step keeps: about the last 100 batches count. With fewer, an
item that is never shown looks like an item that is shown seldom."""


@dataclass(frozen=True)
class StepSums:
    """Global sums of a step; add those of an epoch, then divide.

    Attributes:
        loss: loss of the step, times its users.
        relevance: nats, summed over positions by weight; for a conditioned model also by 1 - w.
        weight: sum of these weights.
        penalty: penalties, summed over the penalised users; 0 where no penalty is computed.
        num_penalised: penalised users.
        num_users: users.
        grad_norm: norm of the gradient before clipping; not finite where fp16 overflowed.
    """

    loss: float
    relevance: float
    weight: float
    penalty: float
    num_penalised: float
    num_users: float
    grad_norm: float

    @property
    def is_skipped(self) -> bool:
        """Whether the gradient overflowed (fp16), so that the loss scaler kept the weights."""
        return not math.isfinite(self.grad_norm)


def fetch_sums(steps: Sequence[torch.Tensor]) -> list[StepSums]:
    """Copy the results of steps to the host; the host waits once, for the last of them."""
    rows = torch.stack(list(steps)).tolist() if steps else []
    return [StepSums(*row) for row in rows]


def train_step(
    model: nn.Module,
    parts: Sequence[Part],
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    *,
    precision: torch.dtype,
    clip_norm: float,
    shown_V: torch.Tensor,
    negatives: Negatives | None,
    texts: StepTexts | None = None,
) -> torch.Tensor:
    """Do one step.

    Args:
        model: Recommender, in DDP where there are several ranks and no trained encoder.
        parts: this rank's share; parts without users are legal.
        objective: what to minimise.
        optimizer: optimiser whose learning rates are set already.
        scaler: loss scaler, enabled for fp16 only.
        precision: float32, or the type of autocast.
        clip_norm: largest gradient norm.
        shown_V: running count of how often each item stood in the slates of past steps, 0 at the
            start; updated in place where slates are formed, the same on all ranks.
        negatives: negatives of the sampled losses, the same on all ranks; None for softmax.
        texts: what this rank encodes of the step's items; None without a trained encoder.

    Returns:
        [7] float64, the fields of StepSums; see `fetch_sums`.
    """
    device, w = shown_V.device, objective.diversity_weight
    counts_2 = torch.zeros(2, dtype=torch.float64, device=device)
    for part in parts:
        counts_2[0] += part.packed.weights_N.sum(dtype=torch.float64)
        counts_2[1] += len(part.packed.last_place_B)
    _all_reduce(counts_2)
    weight, num_users = counts_2.clamp_min(1e-12)
    optimizer.zero_grad(set_to_none=True)
    sums_5, step_V = _backward(
        model,
        parts,
        objective,
        scaler,
        # each user of a conditioned model has weights of its own, which the sums hold already
        weights=(1.0, 1.0) if objective.is_conditioned else (1 - w, w),
        scales=(1 / (weight * objective.log_items), 1 / num_users),
        autocast=torch.autocast(device.type, precision, enabled=precision != torch.float32),
        exposure_V=exposure_share(shown_V),
        negatives=negatives,
        texts=texts,
    )
    scaler.unscale_(optimizer)
    grad_norm = clip_gradients(model, clip_norm)
    scaler.step(optimizer)
    scaler.update()
    _all_reduce(sums_5)
    if objective.needs_penalty:
        _all_reduce(step_V)
        running_V = shown_V * SHOWN_KEPT + step_V
        # the slates of a step that overflowed may be nonsense
        shown_V.copy_(torch.where(grad_norm.isfinite(), running_V, shown_V))
    loss = sums_5[:1] * num_users
    return torch.cat([loss, sums_5[1:], num_users[None], grad_norm.double()[None]])


def _backward(
    model: nn.Module,
    parts: Sequence[Part],
    objective: Objective,
    scaler: torch.amp.GradScaler,
    *,
    weights: tuple[float, float],
    scales: tuple[torch.Tensor, torch.Tensor],
    autocast: torch.autocast,
    exposure_V: torch.Tensor,
    negatives: Negatives | None,
    texts: StepTexts | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add up the gradients of a rank's parts; ranks meet in the very last backward.

    Returns:
        [5] float64, the loss of the step and the sums of `PartLosses`; how often each item was
        shown. Both are of this rank.
    """
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    # DDP averages gradients over ranks, where a sum is due
    scales = world_size * scales[0], world_size * scales[1]
    sums_5 = torch.zeros(5, dtype=torch.float64, device=exposure_V.device)
    shown_V = torch.zeros_like(exposure_V)
    is_ddp = isinstance(model, nn.parallel.DistributedDataParallel)
    encoded = None if texts is None else EncodedTexts(model, texts, autocast)
    for index, part in enumerate(parts):
        is_last = index == len(parts) - 1
        with contextlib.nullcontext() if is_last or not is_ddp else model.no_sync():
            losses = part_losses(
                model,
                part,
                objective,
                exposure_V=exposure_V,
                negatives=negatives,
                fresh=None if encoded is None else encoded.fresh,
                autocast=autocast,
            )
            loss = _weighted(losses, weights, scales)
            torch.autograd.backward(scaler.scale(loss))
        sums_5[0] += loss.detach().double() / world_size
        sums_5[1:] += losses.sums
        shown_V += losses.shown_V
    if encoded is not None:
        encoded.backward()
    if world_size > 1 and not is_ddp:
        average_gradients(model)
    return sums_5, shown_V


def _weighted(
    losses: PartLosses, weights: tuple[float, float], scales: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """Return a part's share of the loss of the step."""
    loss = losses.relevance * scales[0].to(losses.relevance.dtype) * weights[0]
    if losses.penalty is None:
        return loss
    return loss + losses.penalty * scales[1].to(losses.penalty.dtype) * weights[1]


def _all_reduce(tensor: torch.Tensor) -> None:
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(tensor)
