"""One optimiser step: forward, loss, backward over a rank's parts, then update.

The loss of a step is (1 - w) * relevance / log V + w * penalty. Relevance is divided by log V, the
loss of a uniform guess, so that both terms lie in about [0, 1] and w means the same at every
catalogue size. Each sum is divided by its *global* count (positions by weight, users), so that any
number of workers and parts gives the same gradient. At w = 0 the penalty is not computed. Other
balances weigh the two losses differently, or join their gradients.

The host never waits for the device: counts, losses and the gradient norm stay tensors, and
`fetch_sums` copies those of many steps at once. Which losses there are: part_losses.py. Order of
the data, learning rates and logging: epoch.py.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.distributed as dist
from torch import nn

from recdiv_core.losses.aggregate import exposure_share
from recdiv_core.losses.balance import COMBINATIONS, BalanceState, Weights, weigh
from recdiv_core.losses.negatives import Negatives
from recdiv_core.training.objective import Objective
from recdiv_core.training.part_losses import PartLosses, part_losses
from recdiv_core.training.parts import Part
from recdiv_core.training.shards import average_gradients, clip_gradients

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
    balance: BalanceState,
) -> torch.Tensor:
    """Do one step.

    Args:
        model: Recommender, in DDP where there are several ranks and no shards.
        parts: this rank's share; parts without users are legal.
        objective: what to minimise.
        optimizer: optimiser whose learning rates are set already.
        scaler: loss scaler, enabled for fp16 only.
        precision: float32, or the type of autocast.
        clip_norm: largest gradient norm.
        shown_V: running count of how often each item stood in the slates of past steps, 0 at the
            start; updated in place where slates are formed, the same on all ranks.
        negatives: negatives of the sampled losses, the same on all ranks; None for softmax.
        balance: state of the balance before the step, the same on all ranks.

    Returns:
        [7] float64, the fields of StepSums; see `fetch_sums`.
    """
    device = shown_V.device
    counts_2 = torch.zeros(2, dtype=torch.float64, device=device)
    for part in parts:
        counts_2[0] += part.packed.weights_N.sum(dtype=torch.float64)
        counts_2[1] += len(part.packed.last_place_B)
    _all_reduce(counts_2)
    weight, num_users = counts_2.clamp_min(1e-12)
    work = _Work(
        model=model,
        objective=objective,
        scaler=scaler,
        autocast=torch.autocast(device.type, precision, enabled=precision != torch.float32),
        exposure_V=exposure_share(shown_V),
        negatives=negatives,
        # each user of a conditioned model has weights of its own, which the sums hold already
        weights=(1.0, 1.0)
        if objective.is_conditioned
        else weigh(objective.balance, objective.diversity_weight, balance),
        relevance_scale=1 / (weight * objective.log_items),
        penalty_scale=1 / num_users,
    )
    optimizer.zero_grad(set_to_none=True)
    if objective.balance in COMBINATIONS and objective.diversity_weight:
        work.join_gradients(parts)
    else:
        work.accumulate(parts)

    scaler.unscale_(optimizer)
    grad_norm = clip_gradients(model, clip_norm)
    scaler.step(optimizer)
    scaler.update()
    _all_reduce(work.sums)
    if objective.needs_penalty:
        _all_reduce(work.shown_V)
        running_V = shown_V * SHOWN_KEPT + work.shown_V
        # the slates of a step that overflowed may be nonsense
        shown_V.copy_(torch.where(grad_norm.isfinite(), running_V, shown_V))
    loss = work.sums[:1] * num_users
    return torch.cat([loss, work.sums[1:], num_users[None], grad_norm.double()[None]])


class _Work:
    """The passes of one step over a rank's parts, and their sums."""

    def __init__(
        self,
        *,
        model: nn.Module,
        objective: Objective,
        scaler: torch.amp.GradScaler,
        autocast: torch.autocast,
        exposure_V: torch.Tensor,
        negatives: Negatives | None,
        weights: Weights,
        relevance_scale: torch.Tensor,
        penalty_scale: torch.Tensor,
    ) -> None:
        self.model, self.objective, self.scaler, self.autocast = model, objective, scaler, autocast
        self.exposure_V, self.negatives = exposure_V, negatives
        self.weights = weights
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self.has_ddp = isinstance(model, nn.parallel.DistributedDataParallel)
        # DDP averages gradients over ranks, where a sum is due
        self.relevance_scale = self.world_size * relevance_scale
        self.penalty_scale = self.world_size * penalty_scale
        self.sums = torch.zeros(5, dtype=torch.float64, device=exposure_V.device)
        self.shown_V = torch.zeros_like(exposure_V)

    def accumulate(self, parts: Sequence[Part]) -> None:
        """Add up the gradients of the weighted loss; ranks meet in the very last backward."""
        for index, part in enumerate(parts):
            with self._apart(index < len(parts) - 1):
                losses = self._losses(part)
                loss = self._loss(losses)
                torch.autograd.backward(self.scaler.scale(loss))
            self._count(losses, loss)
        if self.world_size > 1 and not self.has_ddp:
            average_gradients(self.model)

    def join_gradients(self, parts: Sequence[Part]) -> None:
        """Form the gradient of each objective over all parts and ranks, and join the two."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        size = sum(parameter.numel() for parameter in trained)
        both = torch.zeros(2, size, device=self.exposure_V.device)
        for part in parts:
            with self._apart(True):
                losses = self._losses(part)
                both[0] += self._gradient(self._relevance(losses), trained, is_last=False)
                both[1] += self._gradient(self._penalty(losses), trained, is_last=True)
            self._count(losses, self._loss(losses))
        _all_reduce(both)
        both /= self.world_size
        combine = COMBINATIONS[self.objective.balance]
        joined = combine(both[0], both[1], self.objective.diversity_weight)
        start = 0
        for parameter in trained:
            parameter.grad = joined[start : start + parameter.numel()].view_as(parameter).clone()
            start += parameter.numel()

    def _gradient(
        self, loss: torch.Tensor, trained: list[nn.Parameter], *, is_last: bool
    ) -> torch.Tensor:
        gradients = torch.autograd.grad(
            self.scaler.scale(loss), trained, retain_graph=not is_last, allow_unused=True
        )
        return torch.cat(
            [
                (torch.zeros_like(p) if g is None else g).flatten()
                for p, g in zip(trained, gradients, strict=True)
            ]
        )

    def _losses(self, part: Part) -> PartLosses:
        return part_losses(
            self.model,
            part,
            self.objective,
            exposure_V=self.exposure_V,
            negatives=self.negatives,
            autocast=self.autocast,
        )

    def _relevance(self, losses: PartLosses) -> torch.Tensor:
        return _times(losses.relevance, self.relevance_scale)

    def _penalty(self, losses: PartLosses) -> torch.Tensor:
        assert losses.penalty is not None
        return _times(losses.penalty, self.penalty_scale)

    def _loss(self, losses: PartLosses) -> torch.Tensor:
        loss = _times(self._relevance(losses), self.weights[0])
        is_unused = isinstance(self.weights[1], float) and not self.weights[1]
        if losses.penalty is None or is_unused:
            return loss
        return loss + _times(self._penalty(losses), self.weights[1])

    def _count(self, losses: PartLosses, loss: torch.Tensor) -> None:
        self.sums[0] += loss.detach().double() / self.world_size
        self.sums[1:] += losses.sums
        self.shown_V += losses.shown_V

    @contextlib.contextmanager
    def _apart(self, is_apart: bool) -> Iterator[None]:
        """Keep this pass's gradients from being reduced over ranks."""
        if is_apart and isinstance(self.model, nn.parallel.DistributedDataParallel):
            with self.model.no_sync():
                yield
        else:
            yield


def _times(loss: torch.Tensor, factor: torch.Tensor | float) -> torch.Tensor:
    """Multiply a loss by a factor, which is rounded to the loss's type first."""
    return loss * (factor.to(loss.dtype) if isinstance(factor, torch.Tensor) else factor)


def _all_reduce(tensor: torch.Tensor) -> None:
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(tensor)
