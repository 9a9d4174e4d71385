"""The steps and the evaluation of an epoch, on one rank.

A `Learner` holds what a step changes: weights, optimiser, loss scale, exposure, balance. It knows
neither Ray nor checkpoints nor the order of epochs; loop.py has these. The one idea: a step is a
function of its number. Its learning rate comes from the schedule and its dropout from a seed made
of (seed, step, rank), so a repeated step gives the same weights.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, replace
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from recdiv_core.config import Config
from recdiv_core.data.plan import num_steps
from recdiv_core.data.reading import Examples
from recdiv_core.errors import DivergedError
from recdiv_core.evaluation.evaluate import tally_split
from recdiv_core.losses.balance import BalanceState, observe
from recdiv_core.metrics.tally import count_users, finish
from recdiv_core.models.recommender import Recommender
from recdiv_core.models.text_encoder import pad_tokens
from recdiv_core.slates.dataset import Dataset, tokens_of
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import held_out_of_split
from recdiv_core.training.build import build_objective, parameter_groups
from recdiv_core.training.feed import Feed
from recdiv_core.training.objective import Objective
from recdiv_core.training.shards import load_optimizer, whole
from recdiv_core.training.step import StepSums, train_step

logger = logging.getLogger(__name__)

PRECISIONS: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
REFRESH_ROWS: Final = 64
LOG_EVERY_S: Final = 10.0
MIN_SCALE: Final = 1.0
"""Loss scale of fp16 below which a training has diverged: gradients overflow even unscaled."""
MAX_SKIPPED: Final = 0.5
"""Largest share of a run's steps that may overflow; a scale that starts too high costs about 16."""
REMEDY: Final = (
    "lower train.learning_rate or loss.diversity_weight, or set train.precision=bf16 or fp32, "
    "under another run.name"
)


class Learner:
    """One rank's model and optimiser, with what a step changes beside the weights.

    Args:
        config: of the run.
        dataset: on the device that trains.
        model: on the device, compiled and sharded where the config asks for it.
        wrapped: the same model, in DDP where there are several ranks.
        rank: this worker.
        world_size: number of workers.
        saved: `state()` of a checkpoint; empty for a new run.

    Attributes:
        steps_an_epoch: optimiser steps per epoch, the same on every rank.
        sums: sums of each step of this epoch, those before a restart included.
        num_skipped: steps of the whole run that overflowed (fp16).
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        model: Recommender,
        wrapped: nn.Module,
        *,
        rank: int,
        world_size: int,
        saved: Mapping[str, Any],
    ) -> None:
        self.config, self.dataset, self.model, self.wrapped = config, dataset, model, wrapped
        self.rank, self.world_size = rank, world_size
        self.device = dataset.text_VH.device
        self.optimizer = torch.optim.AdamW(
            parameter_groups(
                model,
                learning_rate=config.train.learning_rate,
                text_learning_rate=config.train.text_learning_rate,
                weight_decay=config.train.weight_decay,
            )
        )
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=config.train.precision == "fp16"
        )
        self.places_V = torch.zeros(len(dataset.catalogue), device=self.device)
        self.balance = BalanceState()
        self.sums: list[StepSums] = []
        self.num_skipped = 0
        self._waited_s = 0.0  # for data, in this epoch
        self._started = 0.0
        self._num_before = 0  # steps of this epoch before a restart
        if saved:
            self._load(saved)
        self.objective = build_objective(config, dataset, model)
        self.tokens = tokens_of(dataset) if model.encoder is not None else None
        self.feed = Feed(
            config, dataset, self.objective, self.tokens, rank=rank, world_size=world_size
        )
        self.steps_an_epoch = num_steps(self.feed.num_users, config.train.batch_size)

    def _load(self, saved: Mapping[str, Any]) -> None:
        self.places_V.copy_(saved["places_V"])
        self.balance = BalanceState(**saved["balance"])
        self.sums = [StepSums(*row) for row in saved["sums"]]
        self.num_skipped = saved.get("num_skipped", 0)
        load_optimizer(self.optimizer, saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs beside the weights.

        With a sharded encoder this is a collective call: every rank must make it.
        """
        return {
            "optimizer": whole(self.optimizer.state_dict()),
            "scaler": self.scaler.state_dict(),
            "places_V": self.places_V,
            "balance": asdict(self.balance),
            "sums": [astuple(sums) for sums in self.sums],
            "num_skipped": self.num_skipped,
        }

    def train_epoch(self, stream: Iterator[list[Examples]], steps: range) -> Iterator[int]:
        """Take the steps of an epoch, or the rest of them; yield the number of each one done."""
        self.model.train()
        self._started, self._num_before = time.monotonic(), len(self.sums)
        last_log = self._started
        for step in steps:
            asked = time.monotonic()
            examples = next(stream)
            self._waited_s += time.monotonic() - asked
            self._step(examples, step)
            if self.rank == 0 and time.monotonic() - last_log > LOG_EVERY_S:
                last_log = time.monotonic()
                epoch, done = divmod(step, self.steps_an_epoch)
                logger.info("epoch %d: step %d of %d", epoch + 1, done + 1, self.steps_an_epoch)
            yield step

    def _step(self, examples: Sequence[Examples], step: int) -> None:
        parts = self.feed.parts(examples, step)
        self._set_rates(step)
        # dropout differs between ranks and steps, and is the same when a step is repeated
        seed = np.random.SeedSequence(self.config.seed, spawn_key=(step, self.rank))
        torch.manual_seed(int(seed.generate_state(1)[0]))  # noqa: TID251
        self.sums.append(
            train_step(
                self.wrapped,
                parts,
                self._objective_at(step),
                self.optimizer,
                self.scaler,
                precision=PRECISIONS[self.config.train.precision],
                clip_norm=self.config.train.clip_norm,
                places_V=self.places_V,
                negatives=self.feed.negatives(parts, step),
                balance=self.balance,
            )
        )
        self._check_finite(self.sums[-1], step)
        if self.sums[-1].is_skipped:
            self.num_skipped += 1
            check_scale(self.scaler.get_scale(), step, self.num_skipped)
        else:
            self._observe(self.sums[-1])

    def end_epoch(self) -> tuple[dict[str, float], dict[str, float]]:
        """Evaluate on the validation split, and close the epoch's sums.

        Returns:
            the metrics of the split, and what training reports of the epoch (`train/...`).
        """
        train_s = time.monotonic() - self._started
        self._refresh_text()
        values = self.evaluate("val")
        eval_s = time.monotonic() - self._started - train_s
        metrics = epoch_means(self.sums)
        if self.config.train.precision == "fp16":
            metrics["train/skipped_steps"] = float(sum(s.is_skipped for s in self.sums))
        num_users = sum(sums.num_users for sums in self.sums[self._num_before :])
        metrics |= {
            "train/epoch_s": train_s,
            "train/eval_s": eval_s,
            "train/data_wait_s": self._waited_s,
            "train/users_per_s": num_users / train_s,
        }
        self.sums, self._waited_s = [], 0.0
        return values, metrics

    def _check_finite(self, sums: StepSums, step: int) -> None:
        """Stop a run that has diverged, which no later step brings back; fp16 skips such steps."""
        if self.config.train.precision != "fp16" and not math.isfinite(sums.loss + sums.grad_norm):
            raise DivergedError(
                f"training diverged: loss {sums.loss}, gradient norm {sums.grad_norm} at step "
                f"{step}; lower train.learning_rate or loss.diversity_weight, under another "
                "run.name"
            )

    def _objective_at(self, step: int) -> Objective:
        factor = warmup(
            step,
            num_steps=self.config.train.epochs * self.steps_an_epoch,
            share=self.config.loss.diversity_warmup,
        )
        if factor == 1:
            return self.objective
        w = factor * self.objective.diversity_weight
        return replace(self.objective, diversity_weight=w)

    def _set_rates(self, step: int) -> None:
        train = self.config.train
        factor = schedule(
            step,
            num_steps=train.epochs * self.steps_an_epoch,
            warmup_steps=train.warmup_steps,
            final_share=train.final_lr_share,
        )
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor

    def _observe(self, sums: StepSums) -> None:
        """Let the balance remember a step's global losses."""
        loss = self.config.loss
        self.balance = observe(
            self.balance,
            relevance=sums.relevance / max(1e-12, sums.weight) / self.objective.log_items,
            penalty=sums.penalty / max(1.0, sums.num_penalised),
            min_diversity=loss.min_diversity,
            rate=loss.constraint_rate,
        )

    def _refresh_text(self) -> None:
        """Encode the whole catalogue with the weights of now, each rank its share."""
        if self.tokens is None or self.model.text_VH is None:
            return
        num_items = len(self.tokens)
        share = -(-num_items // self.world_size)
        mine = range(self.rank * share, min((self.rank + 1) * share, num_items))
        vectors = torch.zeros(share, self.model.text_VH.shape[1], device=self.device)
        with torch.no_grad():  # inference_mode would spoil what a sharded encoder puts together
            for start in range(0, share, REFRESH_ROWS):
                rows = mine[start : start + REFRESH_ROWS]
                # where this rank has none left it encodes one more all the same: all meet in shards
                texts = [self.tokens[row] for row in rows] or [self.tokens[0]]
                input_ids, mask = pad_tokens(texts)
                encoded = self.model.encode(input_ids.to(self.device), mask.to(self.device))
                vectors[start : start + len(rows)] = encoded[: len(rows)]
        gathered = [torch.zeros_like(vectors) for _ in range(self.world_size)]
        if self.world_size > 1:
            dist.all_gather(gathered, vectors)
        else:
            gathered = [vectors]
        self.model.text_VH.copy_(torch.cat(gathered)[:num_items])

    def evaluate(self, split: str) -> dict[str, float]:
        """Return the metrics of a split, over the users of all ranks."""
        share = held_out_of_split(
            self.model,
            self.dataset,
            split,
            self.config,
            rank=self.rank,
            world_size=self.world_size,
        )
        tally = tally_split(share, self.dataset, slate_policy(self.config, self.dataset))
        flat = tally.flat()
        if self.world_size > 1:
            dist.all_reduce(flat)
        tally = tally.from_flat(flat)
        return finish(tally) | count_users(tally)


def check_scale(scale: float, step: int, num_skipped: int) -> None:
    """Stop a training of fp16 whose every step overflows, however little the loss is scaled.

    Raises:
        DivergedError: the scale is below MIN_SCALE.
    """
    if scale < MIN_SCALE:
        raise DivergedError(
            f"training diverged: {num_skipped} steps overflowed train.precision=fp16 and were "
            f"skipped, the loss scale is {scale:g} at step {step}, below {MIN_SCALE:g}; {REMEDY}"
        )


def check_skipped(num_skipped: int, num_steps: int, precision: str) -> None:
    """Refuse to finish a training most of whose steps left the weights as they were.

    Raises:
        DivergedError: more than MAX_SKIPPED of the steps were skipped.
    """
    if num_skipped > MAX_SKIPPED * num_steps:
        raise DivergedError(
            f"training diverged: {num_skipped} of {num_steps} steps overflowed "
            f"train.precision={precision} and were skipped; allowed is a share of "
            f"{MAX_SKIPPED:g}; {REMEDY}"
        )


def schedule(step: int, *, num_steps: int, warmup_steps: int, final_share: float) -> float:
    """Return the factor on the learning rate at a step: linear warm-up, then a cosine fall.

    >>> schedule(0, num_steps=100, warmup_steps=10, final_share=0.1)
    0.1
    >>> round(schedule(99, num_steps=100, warmup_steps=10, final_share=0.1), 3)
    0.1
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    through = (step - warmup_steps) / max(1, num_steps - warmup_steps - 1)
    return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * min(1.0, through)))


def warmup(step: int, *, num_steps: int, share: float) -> float:
    """Return the factor on the diversity weight at a step: it rises over a share of the steps.

    Above 0 from the first step on, so that exposure is counted from there.

    >>> [warmup(step, num_steps=8, share=0.5) for step in (0, 1, 3, 7)]
    [0.25, 0.5, 1.0, 1.0]
    """
    return min(1.0, (step + 1) / max(1.0, share * num_steps))


def epoch_means(sums: Sequence[StepSums]) -> dict[str, float]:
    """Divide an epoch's sums: mean losses a position and a user, mean gradient norm.

    Steps that were skipped do not count: their figures may be no numbers. Where all were skipped
    there is no mean: NaN, which is not logged as a figure.
    """
    sums = [s for s in sums if not s.is_skipped]
    if not sums:
        names = ("loss", "relevance", "penalty", "grad_norm")
        return {f"train/{name}": math.nan for name in names}
    num_users = max(1.0, sum(s.num_users for s in sums))
    return {
        "train/loss": sum(s.loss for s in sums) / num_users,
        "train/relevance": sum(s.relevance for s in sums) / max(1e-12, sum(s.weight for s in sums)),
        "train/penalty": sum(s.penalty for s in sums)
        / max(1.0, sum(s.num_penalised for s in sums)),
        "train/grad_norm": float(np.mean([s.grad_norm for s in sums])),
    }
