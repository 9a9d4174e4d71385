"""One optimiser step: forward, loss, backward over a rank's parts, then update.

The loss of a step is (1 - w) * relevance / log V + w * penalty. Relevance is divided by log V, the
loss of a uniform guess, so that both terms live in about [0, 1] and the dial means the same at
every catalogue size. Each sum is divided by its *global* count (positions by weight, users), so
that any number of workers and parts gives the same gradient. At w = 0 the penalty is not computed
at all. Other balances weigh the two losses otherwise, or join their gradients; adversarial training
goes over a part, or the step, more than once. What the losses are: objective.py. Not the order of
the data and not the schedule (loop.py).
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

from recdiv_core.losses.adversarial import awp, backpropagate
from recdiv_core.losses.aggregate import exposure_share
from recdiv_core.losses.balance import COMBINATIONS, BalanceState, loss_weights
from recdiv_core.losses.negatives import Negatives
from recdiv_core.training.objective import Objective, Part, PartLosses, part_losses, part_passes
from recdiv_core.training.shards import clip_gradients

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
        penalty: summed over penalised users; 0 where no penalty is asked for.
        num_penalised: those users.
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
        """Whether the loss scaler left the weights as they were: the gradient overflowed (fp16)."""
        return not math.isfinite(self.grad_norm)


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
    negatives: Negatives | None,
    balance: BalanceState,
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
            in place where slates are formed, the same on all ranks.
        negatives: of the sampled losses, the same on all ranks; None for the exact softmax.
        balance: what the balance remembers of past steps, the same on all ranks.
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
    weight, num_users = (max(1e-12, float(count)) for count in counts)
    work = _Work(
        model=model,
        objective=objective,
        scaler=scaler,
        autocast=torch.autocast(device.type, precision, enabled=precision != torch.float32),
        exposure_V=exposure_share(places_V),
        negatives=negatives,
        shares=_shares(objective, balance),
        relevance_scale=1 / (weight * objective.log_items),
        penalty_scale=1 / num_users,
    )
    optimizer.zero_grad(set_to_none=True)
    if objective.balance in COMBINATIONS and objective.diversity_weight:
        work.join_gradients(parts)
    else:
        work.accumulate(parts)
        if objective.attack.kind == "awp":
            parameters = dict(model.named_parameters())
            gradients = {n: p.grad.clone() for n, p in parameters.items() if p.grad is not None}
            with awp(parameters, gradients, gamma=objective.attack.epsilon):
                optimizer.zero_grad(set_to_none=True)
                work.accumulate(parts, counts=False)

    scaler.unscale_(optimizer)
    grad_norm = float(clip_gradients(model.parameters(), clip_norm))
    scaler.step(optimizer)
    scaler.update()
    _all_reduce(work.sums)
    if objective.needs_penalty:
        _all_reduce(work.places_V)
        if math.isfinite(grad_norm):  # slates of a step that overflowed may hold no numbers
            places_V.mul_(PLACES_KEPT).add_(work.places_V)
    loss, relevance, weight, penalty, num_penalised = (float(value) for value in work.sums)
    return StepSums(
        loss=loss * num_users,
        relevance=relevance,
        weight=weight,
        penalty=penalty,
        num_penalised=num_penalised,
        num_users=num_users,
        grad_norm=grad_norm,
    )


def _shares(objective: Objective, balance: BalanceState) -> tuple[float, float]:
    """Return the factors of relevance and penalty in the loss of this step."""
    if objective.is_conditioned:
        return 1.0, 1.0  # each user's own w is in the sums
    w = objective.diversity_weight
    if objective.balance in COMBINATIONS or not objective.needs_penalty:
        return 1 - w, w
    return loss_weights(objective.balance, w, balance)


class _Work:
    """The passes of one step over a rank's parts, and what they add up to."""

    def __init__(
        self,
        *,
        model: nn.Module,
        objective: Objective,
        scaler: torch.amp.GradScaler,
        autocast: torch.autocast,
        exposure_V: torch.Tensor,
        negatives: Negatives | None,
        shares: tuple[float, float],
        relevance_scale: float,
        penalty_scale: float,
    ) -> None:
        self.model, self.objective, self.scaler, self.autocast = model, objective, scaler, autocast
        self.exposure_V, self.negatives = exposure_V, negatives
        self.shares = shares
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        # DDP averages gradients over ranks, where a sum is due
        self.relevance_scale = self.world_size * relevance_scale
        self.penalty_scale = self.world_size * penalty_scale
        self.sums = torch.zeros(5, dtype=torch.float64, device=exposure_V.device)
        self.places_V = torch.zeros_like(exposure_V)

    def accumulate(self, parts: Sequence[Part], *, counts: bool = True) -> None:
        """Add up the gradients of the weighted loss; ranks meet in the very last backward."""
        for index, part in enumerate(parts):
            is_last_part = index == len(parts) - 1
            for attack in part_passes(part, self.objective):
                with self._apart(not (is_last_part and attack.is_last)):
                    noise = attack.noise_PD if self.objective.attack.is_noise else None
                    losses = self._losses(part, noise)
                    loss = self._loss(losses)
                    ascent = self._ascent(losses)
                    backpropagate(
                        attack,
                        self.scaler.scale(loss),
                        None if ascent is None else self.scaler.scale(ascent),
                    )
                if counts and attack.is_first:
                    self._count(losses, loss)

    def join_gradients(self, parts: Sequence[Part]) -> None:
        """Form the gradient of each objective over all parts and ranks, and join the two."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        size = sum(parameter.numel() for parameter in trained)
        both = torch.zeros(2, size, device=self.exposure_V.device)
        for part in parts:
            with self._apart(True):
                losses = self._losses(part, None)
                assert losses.penalty is not None
                relevance = losses.relevance * self.relevance_scale
                penalty = losses.penalty * self.penalty_scale
                both[0] += self._gradient(relevance, trained, is_last=False)
                both[1] += self._gradient(penalty, trained, is_last=True)
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

    def _losses(self, part: Part, noise: torch.Tensor | None) -> PartLosses:
        return part_losses(
            self.model,
            part,
            self.objective,
            exposure_V=self.exposure_V,
            negatives=self.negatives,
            autocast=self.autocast,
            noise=noise,
        )

    def _loss(self, losses: PartLosses) -> torch.Tensor:
        loss = self.shares[0] * (losses.relevance * self.relevance_scale)
        if losses.penalty is None or not self.shares[1]:
            return loss
        return loss + self.shares[1] * (losses.penalty * self.penalty_scale)

    def _ascent(self, losses: PartLosses) -> torch.Tensor | None:
        """Return what noise climbs, where that is not the loss itself."""
        ascends = self.objective.attack.ascends
        if ascends == "loss" or not self.objective.attack.is_noise:
            return None
        if ascends == "relevance":
            return losses.relevance * self.relevance_scale
        assert losses.penalty is not None
        return losses.penalty * self.penalty_scale

    def _count(self, losses: PartLosses, loss: torch.Tensor) -> None:
        self.sums[0] += loss.detach().double() / self.world_size
        self.sums[1:] += losses.figures
        self.places_V += losses.places_V

    @contextlib.contextmanager
    def _apart(self, is_apart: bool) -> Iterator[None]:
        """Keep this pass's gradients from being reduced over ranks."""
        if is_apart and self.world_size > 1:
            with self.model.no_sync():  # pyright: ignore
                yield
        else:
            yield


def _all_reduce(tensor: torch.Tensor) -> None:
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(tensor)
