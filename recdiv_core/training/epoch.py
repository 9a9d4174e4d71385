"""The steps and the evaluation of an epoch, on one rank.

A `Learner` holds what a step changes: weights, optimiser, loss scale, exposure. It knows
neither Ray nor checkpoints nor the order of epochs; loop.py has these. Two ideas. A step is a
function of its number: its learning rate comes from the schedule and its dropout from a seed made
of (seed, step, rank), so a repeated step gives the same weights. The host runs ahead of the device:
the sums of a step are fetched some steps later, with those of the steps around it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, replace
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from recdiv_core.config import Config
from recdiv_core.data.arrays import Examples
from recdiv_core.data.plan import num_steps
from recdiv_core.evaluation.evaluate import tally_dials
from recdiv_core.metrics.tally import Tally, count_users, finish
from recdiv_core.models.recommender import Recommender
from recdiv_core.slates.dataset import Dataset
from recdiv_core.slates.dials import dial_policies
from recdiv_core.slates.lifting import fit_lifts
from recdiv_core.slates.policy import SlatePolicy, slate_policy
from recdiv_core.slates.scoring import held_out_of_split
from recdiv_core.training.blending import fit_blend, sample_users
from recdiv_core.training.build import build_objective, parameter_groups
from recdiv_core.training.divergence import check_finite, check_scale
from recdiv_core.training.feed import Feed
from recdiv_core.training.item_texts import open_texts
from recdiv_core.training.objective import Objective
from recdiv_core.training.parts import to_device, with_needed
from recdiv_core.training.schedules import schedule, warmup
from recdiv_core.training.shards import load_optimizer, refresh_texts, whole
from recdiv_core.training.step import StepSums, fetch_sums, train_step
from recdiv_core.training.step_log import StepLog, means, step_metrics

logger = logging.getLogger(__name__)

PRECISIONS: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Learner:
    """One rank's model and optimiser, with what a step changes beside the weights.

    Args:
        config: of the run.
        dataset: on the device that trains.
        model: on the device, compiled and sharded where the config asks for it.
        wrapped: the same model, in DDP where there are several ranks and no trained encoder.
        rank: this worker.
        world_size: number of workers.
        saved: `state()` of a checkpoint; empty for a new run.
        fits_blend: whether the weights of the blend follow the model; see `keeps_weights`.

    Attributes:
        steps_an_epoch: optimiser steps per epoch, the same on every rank.
        sums: fetched sums of each step of this epoch, those before a restart included.
        num_skipped: fetched steps of the whole run that overflowed (fp16).
        under_dials: validation metrics under the entries of `eval.dials`; empty = not evaluated.
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
        fits_blend: bool = True,
    ) -> None:
        self.config, self.dataset, self.model, self.wrapped = config, dataset, model, wrapped
        self.rank, self.world_size = rank, world_size
        self.device = dataset.text_VH.device
        is_fp16 = config.train.precision == "fp16"
        self.optimizer = torch.optim.AdamW(
            parameter_groups(
                model,
                learning_rate=config.train.learning_rate,
                text_learning_rate=config.train.text_learning_rate,
                weight_decay=config.train.weight_decay,
            ),
            # the fused one skips an overflow on the device; another has the scaler ask the host
            fused=is_fp16 or None,
        )
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=is_fp16)
        self.shown_V = torch.zeros(len(dataset.catalogue), device=self.device)
        self.sums: list[StepSums] = []
        self.num_skipped = 0
        self.under_dials: list[dict[str, float]] = []
        self._unfetched: list[torch.Tensor] = []
        self._waited_s = 0.0  # for data, in this epoch
        self._started = 0.0
        self._num_before = 0  # steps of this epoch before a restart
        if saved:
            self._load(saved)
        self.objective = build_objective(config, dataset, model)
        self.texts = open_texts(model, dataset, config)
        self.feed = Feed(
            config, dataset, self.objective, self.texts, rank=rank, world_size=world_size
        )
        self.steps_an_epoch = num_steps(self.feed.num_users, self.feed.batch_size)
        self.log = StepLog(config.train.log_every_s, self.device)
        self.sample = sample_users(dataset) if fits_blend and model.blend is not None else []

    def _load(self, saved: Mapping[str, Any]) -> None:
        self.shown_V.copy_(saved["places_V"])
        self.sums = [StepSums(*row) for row in saved["sums"]]
        self.num_skipped = saved.get("num_skipped", 0)
        load_optimizer(self.optimizer, saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])

    def state(self, num_done: int) -> dict[str, Any]:
        """Return what a resumed run needs beside the weights, after `num_done` steps.

        With a sharded encoder this is a collective call.

        Raises:
            DivergedError: the weights are of no use.
        """
        self._fetch(num_done)
        return {
            "optimizer": whole(self.optimizer.state_dict()),
            "scaler": self.scaler.state_dict(),
            "places_V": self.shown_V,
            "sums": [astuple(sums) for sums in self.sums],
            "num_skipped": self.num_skipped,
        }

    def train_epoch(
        self, stream: Iterator[list[Examples]], steps: range
    ) -> Iterator[tuple[int, dict[str, float]]]:
        """Take the steps of an epoch, or the rest of them.

        Yields:
            the number of each finished step, and the metrics to log there (`step/...`), if any;
            the same steps have metrics on all ranks.

        Raises:
            DivergedError: a loss or gradient is not finite.
        """
        self.model.train()
        self._started, self._num_before = time.monotonic(), len(self.sums)
        self.log.start(steps.start)
        for step in steps:
            asked = time.monotonic()
            examples = next(stream)
            self._waited_s += time.monotonic() - asked
            self._step(examples, step)
            yield step, self._log_step(step) if step + 1 >= self.log.due else {}
        self._fetch(steps.stop)

    def _refresh(self) -> None:
        """Encode the texts of all items, if the encoder is trained."""
        if self.texts is not None:
            refresh_texts(self.model, self.texts, self.rank, self.world_size)

    def _step(self, examples: Sequence[Examples], step: int) -> None:
        every = self.config.train.text_refresh_steps
        if every and step and step % every == 0:
            self._refresh()
        parts = self.feed.parts(examples, step)
        negatives = self.feed.negatives(parts, step)
        texts = self.feed.step_texts(parts)
        if negatives is not None and not self.objective.reads_all:
            parts = [with_needed(part, negatives.items_S) for part in parts]
        self._set_rates(step)
        # dropout differs between ranks and steps, and is the same when a step is repeated
        seed = np.random.SeedSequence(self.config.seed, spawn_key=(step, self.rank))
        torch.manual_seed(int(seed.generate_state(1)[0]))  # noqa: TID251
        sums_7 = train_step(
            self.wrapped,
            [to_device(part, self.device) for part in parts],
            self._objective_at(step),
            self.optimizer,
            self.scaler,
            precision=PRECISIONS[self.config.train.precision],
            clip_norm=self.config.train.clip_norm,
            shown_V=self.shown_V,
            negatives=to_device(negatives, self.device),
            texts=to_device(texts, self.device),
        )
        self._unfetched.append(sums_7)

    def _fetch(self, num_done: int) -> None:
        """Fetch the sums of the last steps, and check that the training has not diverged."""
        fresh, self._unfetched = fetch_sums(self._unfetched), []
        self.sums += fresh
        if self.config.train.precision != "fp16":
            check_finite(fresh, num_done - len(fresh))
        elif any(sums.is_skipped for sums in fresh):
            self.num_skipped += sum(sums.is_skipped for sums in fresh)
            check_scale(self.scaler.get_scale(), num_done - 1, self.num_skipped)

    def _log_step(self, step: int) -> dict[str, float]:
        self._fetch(step + 1)
        seconds, num_steps = self.log.fetched(step + 1)
        if seconds is None:
            return {}
        rate = self.config.train.learning_rate * self._rate_factor(step)
        metrics = step_metrics(self.sums[-num_steps:], seconds, rate)
        if self.rank == 0:
            epoch, done = divmod(step, self.steps_an_epoch)
            logger.info(
                "%s: epoch %d: step %d of %d: loss %.4f, gradient norm %.3g, %.0f users/s, "
                "%.0f s of steps left",
                self.config.run.name,
                epoch + 1,
                done + 1,
                self.steps_an_epoch,
                metrics["step/loss"],
                metrics["step/grad_norm"],
                metrics["step/users_per_s"],
                (self.steps_an_epoch - done - 1) * seconds / num_steps,
            )
        return metrics

    def end_epoch(self, *, is_final: bool) -> tuple[dict[str, float], dict[str, float]]:
        """Evaluate on the validation split, and close the epoch's sums.

        Args:
            is_final: see `validate`.

        Returns:
            the metrics of the split, and what training reports of the epoch (`train/...`).
        """
        train_s = time.monotonic() - self._started
        self._refresh()
        values = self.validate(is_final=is_final)
        eval_s = time.monotonic() - self._started - train_s
        metrics = means(self.sums, "train/")
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

    def _rate_factor(self, step: int) -> float:
        train = self.config.train
        return schedule(
            step,
            num_steps=train.epochs * self.steps_an_epoch,
            warmup_steps=train.warmup_steps,
            final_share=train.final_lr_share,
        )

    def _set_rates(self, step: int) -> None:
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * self._rate_factor(step)

    def validate(self, *, is_final: bool) -> dict[str, float]:
        """Fit what follows the model, the blend and the lifts, and return validation metrics.

        Args:
            is_final: whether these weights are selected whatever the metrics are; then the same
                pass evaluates the entries of `eval.dials`.
        """
        fit_blend(self.model, self.dataset, self.config, self.sample)
        if is_final or self.config.rerank.lift:
            fit_lifts(self.model, self.dataset, self.config)
        lifts = self.model.lifts
        dials = dial_policies(self.config, self.dataset, lifts) if is_final else []
        own = slate_policy(self.config, self.dataset, lifts)
        values, *self.under_dials = self.evaluate_under("val", [own, *dials])
        return values

    def evaluate_under(self, split: str, policies: Sequence[SlatePolicy]) -> list[dict[str, float]]:
        """Return the metrics of a split under each policy; the users are scored once."""
        share = held_out_of_split(
            self.model,
            self.dataset,
            split,
            self.config,
            rank=self.rank,
            world_size=self.world_size,
        )
        return [self._finish(tally) for tally in tally_dials(share, self.dataset, policies)]

    def _finish(self, tally: Tally) -> dict[str, float]:
        flat = tally.flat()
        if self.world_size > 1:
            dist.all_reduce(flat)
        tally = tally.from_flat(flat)
        return finish(tally) | count_users(tally)
