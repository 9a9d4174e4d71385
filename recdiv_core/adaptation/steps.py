"""The steps of a text encoder on its own: batches, encoding, optimiser and progress.

One process does the work, as a catalogue is small beside a click log. objectives.py has the losses
of a step.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recdiv_core.config import Pooling
from recdiv_core.errors import DivergedError
from recdiv_core.models.encoder_description import pool
from recdiv_core.models.text_encoder import pad_tokens
from recdiv_core.models.text_groups import CALL_TOKENS, group_by_length

logger = logging.getLogger(__name__)

WARMUP_SHARE: Final = 0.1
"""Share of the steps over which the learning rate rises from 0; then it falls to 0 linearly."""
CLIP_NORM: Final = 1.0
"""Largest gradient norm; larger gradients are scaled down to it."""
LOG_EVERY_S: Final = 10.0
ENCODED_AT_ONCE: Final = 256
"""Texts that are encoded at once without gradients."""

StepLoss = Callable[[int], Mapping[str, Tensor]]
"""Function of the number of a step; it returns named losses, whose sum is minimised."""


def batches(rows: NDArray[np.int64], size: int, rng: np.random.Generator) -> Iterator[NDArray]:
    """Yield batches of rows without end: permutations of all rows, one after another."""
    left = rows[:0]
    while True:
        while len(left) < size:
            left = np.concatenate([left, rng.permutation(rows)])
        yield left[:size]
        left = left[size:]


class Texts:
    """Token ids of texts, and the device that encodes them.

    On a GPU, encoders compute in bfloat16.
    """

    def __init__(self, tokens: Sequence[list[int]], pooling: Pooling, device: torch.device) -> None:
        self.tokens, self.device = tokens, device
        self.pooling: Pooling = pooling

    def padded(self, rows: Sequence[int] | NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return token ids and mask of some rows, [N, L] int64, on the CPU."""
        return pad_tokens([self.tokens[int(row)] for row in rows])

    def autocast(self) -> torch.autocast:
        """Return the context in which encoders compute."""
        is_gpu = self.device.type == "cuda"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=is_gpu)

    def encode(self, encoder: nn.Module, rows: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """Return the unit vectors of some rows, [N, H] float32, in groups of similar length."""
        lengths = [len(self.tokens[int(row)]) for row in rows]
        groups = group_by_length(lengths, CALL_TOKENS[self.device.type])
        vectors: list[Tensor] = []
        for group in groups:
            input_ids, mask = (
                each.to(self.device) for each in self.padded(np.asarray(rows)[group])
            )
            with self.autocast():
                hidden = encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state
            vectors.append(pool(hidden.float(), mask, self.pooling))
        order = torch.as_tensor(np.argsort(np.concatenate(groups)), device=self.device)
        return torch.cat(vectors)[order]

    def encode_all(self, encoder: nn.Module, rows: NDArray[np.int64]) -> Tensor:
        """Return the unit vectors of many rows without gradients, [N, H] float32."""
        progress = Progress("encoded", "texts", len(rows))
        order = np.argsort([len(self.tokens[int(row)]) for row in rows], kind="stable")
        vectors: list[Tensor] = []
        with torch.inference_mode():
            for start in range(0, len(order), ENCODED_AT_ONCE):
                some = order[start : start + ENCODED_AT_ONCE]
                vectors.append(self.encode(encoder, rows[some]))
                progress.show(start + len(some))
        back = torch.as_tensor(np.argsort(order), device=self.device)
        return torch.cat(vectors)[back].clone()


class Progress:
    """Log how much is done, the rate and the time left, every LOG_EVERY_S seconds."""

    def __init__(self, verb: str, unit: str, total: int) -> None:
        self.verb, self.unit, self.total = verb, unit, total
        self.started = self.shown = time.monotonic()

    def show(self, done: int, rest: str = "") -> None:
        """Log the progress if it is time to, and at the end."""
        now = time.monotonic()
        if now - self.shown < LOG_EVERY_S and done < self.total:
            return
        self.shown = now
        rate = done / max(now - self.started, 1e-9)
        left_s = (self.total - done) / rate
        logger.info(
            "%s %d of %d %s, %.2g a second, %.0f s left%s",
            *(self.verb, done, self.total, self.unit, rate, left_s, rest),
        )


def take_steps(
    groups: Sequence[Mapping[str, Any]], step_loss: StepLoss, num_steps: int
) -> dict[str, list[float]]:
    """Minimise the sum of the losses of each step.

    A group of AdamW's parameters has `params` and its peak learning rate `lr`.

    Returns:
        Mean of each loss in the first and in the last tenth of the steps.

    Raises:
        DivergedError: a loss is not finite.
    """
    # without weight decay, which would pull words that the shop does not use to 0
    optimizer = torch.optim.AdamW([dict(group) for group in groups], weight_decay=0.0)
    trained = [weight for group in optimizer.param_groups for weight in group["params"]]
    peaks = [group["lr"] for group in optimizer.param_groups]
    found: dict[str, list[float]] = {}
    progress = Progress("took", "steps", num_steps)
    for step in range(num_steps):
        factor = rate_factor(step, num_steps)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        losses = step_loss(step)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(trained, CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()
        for name, loss in losses.items():
            found.setdefault(name, []).append(loss.item())
        if not np.isfinite([own[-1] for own in found.values()]).all():
            raise DivergedError(
                f"step {step + 1}: the loss is not finite; a smaller adapt.learning_rate may help"
            )
        tenth = max(1, num_steps // 10)
        shown = (f"{name} {np.mean(own[-tenth:]):.4f}" for name, own in found.items())
        progress.show(step + 1, f"; {', '.join(shown)}")
    tenth = max(1, num_steps // 10)
    return {
        name: [round(float(np.mean(part)), 4) for part in (own[:tenth], own[-tenth:])]
        for name, own in found.items()
    }


def rate_factor(step: int, num_steps: int) -> float:
    """Return the factor on the learning rate at a step, in (0, 1].

    >>> [rate_factor(step, 20) for step in (0, 1, 2, 19)]
    [0.5, 1.0, 1.0, 0.05555555555555555]
    """
    rising = max(1, round(WARMUP_SHARE * num_steps))
    return min((step + 1) / rising, (num_steps - step) / max(1, num_steps - rising))
