"""The training loop that every Ray Train worker runs.

The one idea: a step is a function of its number. Its rows come from the plan, its learning rate
from the schedule, its dropout from a seed made of (seed, step, rank); so a run that lost a worker,
or whose driver was killed, goes on from a checkpoint exactly as it would have gone on. Workers talk
through `ray.train.report` alone, every rank equally often; rank 0 brings the checkpoint.
"""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import nn

from recdiv_core.cluster.start import quieten
from recdiv_core.config import Config, from_tree
from recdiv_core.data.plan import num_steps, start_reader, stream_train
from recdiv_core.errors import DivergedError
from recdiv_core.evaluation.evaluate import tally_split
from recdiv_core.losses.balance import BalanceState, observe
from recdiv_core.metrics.tally import finish, judged_users
from recdiv_core.models.recommender import Recommender
from recdiv_core.models.text_encoder import pad_tokens
from recdiv_core.schema import check_unchanged, read_manifest
from recdiv_core.slates.checkpoint import (
    Progress,
    check_data,
    load_training,
    load_weights,
    newest_whole,
    read_progress,
    save_checkpoint,
)
from recdiv_core.slates.checkpoint_copies import local_checkpoint
from recdiv_core.slates.dataset import Dataset, load_dataset, tokens_of
from recdiv_core.slates.loading import build_model
from recdiv_core.slates.policy import slate_policy
from recdiv_core.storage.credentials import RedactingFormatter
from recdiv_core.training.build import build_objective, parameter_groups
from recdiv_core.training.feed import Feed
from recdiv_core.training.objective import Objective
from recdiv_core.training.run_files import last_checkpoint
from recdiv_core.training.shards import load_optimizer, load_whole, shard_encoder, whole
from recdiv_core.training.step import StepSums, train_step

logger = logging.getLogger(__name__)

PRECISIONS: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
REFRESH_ROWS: Final = 64
LOG_EVERY_S: Final = 10.0
MIN_SCALE: Final = 1.0
"""Loss scale of fp16 below which a training has diverged: gradients overflow even unscaled."""
MAX_SKIPPED: Final = 0.5
"""Share of a run's steps that may overflow; a scaler that starts too high loses some sixteen."""
REMEDY: Final = (
    "lower train.learning_rate or loss.diversity_weight, or set train.precision=bf16 or fp32, "
    "under another run.name"
)
PREEMPTION_STEPS: Final = 5
"""How often workers ask whether one of their machines will be taken away; it costs a meeting."""


def train_loop(settings: dict[str, Any]) -> None:
    """Train, evaluate and checkpoint; the entry point of a worker.

    Args:
        settings: `config`, the Config as a nested mapping, and `fingerprint` of the data set that
            the driver checked.
    """
    config = from_tree(settings["config"])
    start_logging()
    if config.train.epochs:
        start_reader()
    torch.set_num_threads(config.scaling.threads_per_worker)
    trainer = _Trainer(config, settings["fingerprint"])
    if trainer.progress.is_finished:
        # the driver may have been lost between the last checkpoint and its figures
        ray.train.report(dict(trainer.progress.metrics))
        return
    trainer.train()
    trainer.finish()


class _Trainer:
    """One rank's state: model, optimiser, and where it stands."""

    def __init__(self, config: Config, fingerprint: str) -> None:
        self.config = config
        self.rank = ray.train.get_context().get_world_rank()
        self.world_size = ray.train.get_context().get_world_size()
        self.device = ray.train.torch.get_device()
        self.dataset = load_checked(config, fingerprint).to(self.device)
        # the one place that seeds: weights are the same on every rank
        torch.manual_seed(config.seed)  # noqa: TID251
        self.model = build_model(config, self.dataset)
        if config.train.init_from:
            start = local_checkpoint(config.train.init_from, "train.init_from")
            load_weights(start, self.model, may_lack="dial")
        self.progress = Progress()
        self.best_weights = _copy_weights(self.model)
        self.places_V = torch.zeros(len(self.dataset.catalogue), device=self.device)
        self.balance = BalanceState()
        self.sums: list[StepSums] = []  # of this epoch's steps, those before a restart too
        self.waited_s = 0.0  # for data, in this epoch
        self.num_skipped = 0  # steps that overflowed, of the whole run (fp16)
        self.doomed_nodes: set[str] = set()  # those that a checkpoint was written for
        training: dict[str, Any] = {}
        checkpoint = last_checkpoint(config)
        if checkpoint is not None:
            with checkpoint.as_directory() as path:
                place = newest_whole(Path(path))
                check_data(place, self.dataset.manifest, self.dataset.prepared)
                self.progress = read_progress(place)
                load_weights(place, self.model)
                training = load_training(place)
            self.best_weights = training["best_weights"] or _copy_weights(self.model)
            self.places_V.copy_(training["places_V"])
            self.balance = BalanceState(**training["balance"])
            self.sums = [StepSums(*row) for row in training["sums"]]
            self.num_skipped = training.get("num_skipped", 0)
        if config.scaling.shard_encoder and self.world_size > 1:
            shard_encoder(self.model, self.device)
        self.model.to(self.device)
        if config.train.compile:
            self.model.compile_towers()
        self.wrapped: nn.Module = ray.train.torch.prepare_model(
            self.model, parallel_strategy_kwargs={"forward_sync_buffers": False}
        )
        self.optimizer = torch.optim.AdamW(
            parameter_groups(
                self.model,
                learning_rate=config.train.learning_rate,
                text_learning_rate=config.train.text_learning_rate,
                weight_decay=config.train.weight_decay,
            )
        )
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=config.train.precision == "fp16"
        )
        if training:
            load_optimizer(self.optimizer, training["optimizer"])
            self.scaler.load_state_dict(training["scaler"])
        self.objective = build_objective(config, self.dataset, self.model)
        self.tokens = tokens_of(self.dataset) if self.model.encoder is not None else None
        self.feed = Feed(
            config,
            self.dataset,
            self.objective,
            self.tokens,
            rank=self.rank,
            world_size=self.world_size,
        )
        self.steps_an_epoch = num_steps(self.feed.num_users, config.train.batch_size)

    def train(self) -> None:
        """Run epochs until the last one or until patience ends; with none, judge what is there."""
        train = self.config.train
        if not train.epochs and not self.progress.is_finished:
            self._end_epoch(0, self._evaluate("val"), {})
        first_epoch = self.progress.step // self.steps_an_epoch
        if self.progress.metrics:
            # the driver may have been lost between the checkpoint of an epoch and its figures
            ray.train.report({**self.progress.metrics, "is_repeated": 1.0})
        stream = stream_train(
            self.dataset.prepared,
            batch_size=train.batch_size,
            rank=self.rank,
            world_size=self.world_size,
            accumulation=train.accumulation,
            seed=self.config.seed,
            start_step=self.progress.step,
            epochs=train.epochs,
        )
        for epoch in range(first_epoch + 1, train.epochs + 1):
            if self.progress.epochs_without_better >= train.patience:
                logger.info("no better epoch in %d: stopping", train.patience)
                break
            check_unchanged(self.dataset.prepared, self.dataset.manifest)
            started = time.monotonic()
            num_before = len(self.sums)  # a restart in mid-epoch
            self._train_epoch(stream, epoch)
            train_s = time.monotonic() - started
            self._refresh_text()
            values = self._evaluate("val")
            eval_s = time.monotonic() - started - train_s
            num_users = sum(sums.num_users for sums in self.sums[num_before:])
            figures = _epoch_figures(self.sums)
            if self.config.train.precision == "fp16":
                figures["train/skipped_steps"] = float(sum(s.is_skipped for s in self.sums))
            figures |= {
                "train/epoch_s": train_s,
                "train/eval_s": eval_s,
                "train/data_wait_s": self.waited_s,
                "train/users_per_s": num_users / train_s,
            }
            self.sums, self.waited_s = [], 0.0
            if self.rank == 0:
                self._log_epoch(epoch, values, figures, time.monotonic() - started)
            self._end_epoch(epoch, values, figures)
        check_skipped(self.num_skipped, self.progress.step, self.config.train.precision)

    def _train_epoch(self, stream: Any, epoch: int) -> None:
        self.model.train()
        last_log = time.monotonic()
        while self.progress.step < epoch * self.steps_an_epoch:
            step = self.progress.step
            asked = time.monotonic()
            examples = next(stream)
            self.waited_s += time.monotonic() - asked
            parts = self.feed.parts(examples, step)
            self._set_rates(step)
            # dropout differs between ranks and steps, and is the same when a step is done again
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
            self.progress = replace(self.progress, step=step + 1)
            if self.rank == 0 and time.monotonic() - last_log > LOG_EVERY_S:
                last_log = time.monotonic()
                done = step + 1 - (epoch - 1) * self.steps_an_epoch
                logger.info("epoch %d: step %d of %d", epoch, done, self.steps_an_epoch)
            if (step + 1) % self.steps_an_epoch and self._must_checkpoint(step + 1):
                self._report({})

    def _must_checkpoint(self, step: int) -> bool:
        """Tell, alike on all ranks, whether a checkpoint is due inside the epoch."""
        every = self.config.train.checkpoint_every_steps
        is_due = every > 0 and step % every == 0
        if self.config.scaling.preemptible and step % PREEMPTION_STEPS == 0:
            doomed = ray.train.get_preemption_info()  # all ranks meet here
            fresh = set(doomed.preempted_node_ids if doomed else ()) - self.doomed_nodes
            if fresh and self.rank == 0:
                logger.warning("a machine will be taken away: checkpoint at step %d", step)
            self.doomed_nodes |= fresh
            is_due |= bool(fresh)
        return is_due

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

    def _evaluate(self, split: str) -> dict[str, float]:
        (tally,) = tally_split(
            self.model,
            self.dataset,
            split,
            [slate_policy(self.config, self.dataset)],
            max_history=self.config.model.max_history,
            batch_size=self.config.eval.batch_size,
            dial=self.config.model.diversity,
            rank=self.rank,
            world_size=self.world_size,
        )
        flat = tally.flat()
        if self.world_size > 1:
            dist.all_reduce(flat)
        tally = tally.from_flat(flat)
        return finish(tally) | judged_users(tally)

    def _end_epoch(
        self, epoch: int, values: Mapping[str, float], figures: Mapping[str, float]
    ) -> None:
        name = self.config.eval.objective_at_k
        is_better = (
            self.config.train.select == "last"
            or not self.progress.best_metrics
            or values[name] > self.progress.best_metrics[name]
        )
        if is_better:
            self.best_weights = _copy_weights(self.model)
            self.progress = replace(
                self.progress, best_epoch=epoch, best_metrics=values, epochs_without_better=0
            )
        else:
            waited = self.progress.epochs_without_better + 1
            self.progress = replace(self.progress, epochs_without_better=waited)
        metrics = {**figures, **{f"val/{key}": value for key, value in values.items()}}
        self.progress = replace(self.progress, metrics={"epoch": epoch, **metrics})
        self._report(self.progress.metrics)

    def _log_epoch(
        self, epoch: int, values: Mapping[str, float], figures: Mapping[str, float], took_s: float
    ) -> None:
        name, k = self.config.eval.objective_at_k, self.config.eval.k
        epochs = self.config.train.epochs
        logger.info(
            "%s: epoch %d of %d: loss %.4f, val/%s %.4f, val/coverage_at_%d %.4f, "
            "%.0f users/s, at most %.0f s left",
            self.config.run.name,
            epoch,
            epochs,
            figures["train/loss"],
            name,
            values[name],
            k,
            values[f"coverage_at_{k}"],
            figures["train/users_per_s"],
            took_s * (epochs - epoch),
        )

    def finish(self) -> None:
        """Evaluate the selected epoch (`train.select`) on test; leave it as the last checkpoint."""
        load_whole(self.model, self.best_weights)
        values = self._evaluate("test")
        best = self.progress.best_metrics
        metrics = {
            **self.progress.metrics,
            "best/epoch": self.progress.best_epoch,
            **{f"best/val/{name}": value for name, value in best.items()},
            **{f"test/{name}": value for name, value in values.items()},
        }
        self.progress = replace(self.progress, is_finished=True, metrics=metrics)
        self._report(metrics)

    def _report(self, metrics: Mapping[str, float]) -> None:
        """Hand metrics to the controller, none inside an epoch; rank 0 brings the checkpoint."""
        check_unchanged(self.dataset.prepared, self.dataset.manifest)
        best = self.progress.best_metrics.get(self.config.eval.objective_at_k, 0.0)
        reported = {**metrics, "selection": best, "step": self.progress.step}
        # all ranks meet here where the encoder is in shards
        weights, optimizer = whole(self.model.state_dict()), whole(self.optimizer.state_dict())
        if self.rank:
            ray.train.report(reported)
            return
        is_best = self.progress.is_finished or (
            self.progress.best_epoch * self.steps_an_epoch == self.progress.step
        )
        with tempfile.TemporaryDirectory() as directory:
            save_checkpoint(
                Path(directory),
                config=self.config,
                manifest=self.dataset.manifest,
                progress=self.progress,
                weights=weights,
                training={
                    "optimizer": optimizer,
                    "scaler": self.scaler.state_dict(),
                    "places_V": self.places_V,
                    "balance": asdict(self.balance),
                    "sums": [astuple(sums) for sums in self.sums],
                    "num_skipped": self.num_skipped,
                    "best_weights": None if is_best else self.best_weights,
                },
            )
            ray.train.report(reported, checkpoint=ray.train.Checkpoint.from_directory(directory))


def load_checked(config: Config, fingerprint: str) -> Dataset:
    """Load the data set of a run, after a check that it is the one that the driver checked.

    Raises:
        UserError: it was replaced since.
    """
    prepared = Path(config.data.prepared)
    manifest = read_manifest(prepared)
    check_unchanged(prepared, manifest.model_copy(update={"fingerprint": fingerprint}))
    return load_dataset(prepared)


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


def _epoch_figures(sums: Sequence[StepSums]) -> dict[str, float]:
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


def _copy_weights(model: Recommender) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in whole(model.state_dict()).items()}


def start_logging() -> None:
    """Show our own progress in a worker's log, and not a line of Ray's for every report."""
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter("%(asctime)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    import ray.train.v2._internal.execution.context as context

    logging.getLogger(context.__file__).setLevel(logging.WARNING)
    quieten()
