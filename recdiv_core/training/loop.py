"""The training loop that every Ray Train worker runs.

The one idea: a step is a function of its number. Its rows come from the plan, its learning rate
from the schedule, its dropout from a seed made of (seed, step, rank). So a run that lost a worker
or its driver continues from a checkpoint as if nothing had happened, and without dropout any number
of workers gives the same weights. Workers talk to Ray through `ray.train.report` alone; every rank
calls it equally often, and rank 0 adds the checkpoint.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import ray.train
import ray.train.torch
import torch

from recdiv_core.cluster.start import start_logging
from recdiv_core.config import Config, from_tree
from recdiv_core.data.plan import plan_windows
from recdiv_core.data.reading import list_fragments
from recdiv_core.data.streaming import stream_windows
from recdiv_core.models.recommender import Recommender
from recdiv_core.schema import check_unchanged, read_manifest
from recdiv_core.slates.carry import carried
from recdiv_core.slates.checkpoint import (
    Progress,
    items_of,
    load_weights,
    newest_whole,
    read_config,
    read_progress,
    read_tensors,
    save_checkpoint,
)
from recdiv_core.slates.checkpoint_copies import local_checkpoint
from recdiv_core.slates.dataset import Dataset, load_dataset
from recdiv_core.slates.fitting import fit_terms
from recdiv_core.slates.lifting import fit_lifts
from recdiv_core.slates.lineage import check_data
from recdiv_core.slates.loading import OWN_AT_START, build_model
from recdiv_core.training.blending import keeps_weights, log_blend
from recdiv_core.training.dials import dials_report, judge_dials
from recdiv_core.training.divergence import check_skipped
from recdiv_core.training.epoch import Learner
from recdiv_core.training.run_files import last_checkpoint
from recdiv_core.training.selection import Selected, improves, next_selected
from recdiv_core.training.shards import load_whole, shard_encoder, whole
from recdiv_core.wording import counted

logger = logging.getLogger(__name__)

PREEMPTION_STEPS: Final = 5
"""Steps between two questions whether a machine will be taken away; all ranks wait for each."""


MANY_EVENTS: Final = 3_000_000
"""Events of a log whose terms take more than half a minute to count."""


def train_loop(settings: dict[str, Any]) -> None:
    """Train, evaluate and checkpoint; the entry point of a worker.

    Args:
        settings: `config`, the Config as a nested mapping, and `fingerprint` of the data set that
            the driver checked.
    """
    config = from_tree(settings["config"])
    start_logging()
    torch.set_num_threads(config.scaling.threads_per_worker)
    trainer = _Trainer(config, settings["fingerprint"])
    if trainer.progress.is_finished:
        # the driver may have died after the last checkpoint, before it logged the metrics
        ray.train.report({**trainer.progress.metrics, **dials_report(trainer.progress)})
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
        dataset = load_checked(config, fingerprint)
        if self.rank == 0 and config.model.blend and dataset.manifest.num_events >= MANY_EVENTS:
            logger.info(
                "%s: counting the terms of model.blend, which may take minutes", config.run.name
            )
        terms = fit_terms(config, dataset)
        self.dataset = dataset.to(self.device)
        # the one place that seeds: weights are the same on every rank
        torch.manual_seed(config.seed)  # noqa: TID251
        self.model = build_model(config, self.dataset, terms)
        fits_blend = True
        if config.train.init_from:
            given = local_checkpoint(config.train.init_from, "train.init_from")
            start = carried(given, self.dataset.prepared, self.dataset.manifest)
            load_weights(start, self.model, own=OWN_AT_START)
            fits_blend = not keeps_weights(config, read_config(given))
        self.scratch = tempfile.TemporaryDirectory(prefix="recdiv-")
        self.progress = Progress()
        self.best_weights = _copy_weights(self.model)
        self.doomed_nodes: set[str] = set()  # a checkpoint was written for these
        if self.rank == 0 and config.scaling.min_workers:
            on = counted(self.world_size, "worker")
            logger.info("%s: training on %s", config.run.name, on)
        training: dict[str, Any] = {}
        checkpoint = last_checkpoint(config)
        if checkpoint is not None:
            with checkpoint.as_directory() as path:
                place = newest_whole(Path(path))
                check_data(place, self.dataset.manifest, self.dataset.prepared)
                self.progress = read_progress(place)
                load_weights(place, self.model)
                training = read_tensors(place, "training.pt")
            self.best_weights = training["best_weights"] or _copy_weights(self.model)
        is_sharded = config.scaling.shard_encoder and self.world_size > 1
        if is_sharded:
            shard_encoder(self.model, self.device)
        self.model.to(self.device)
        if config.train.compile:
            self.model.compile_towers()
        self.learner = Learner(
            config,
            self.dataset,
            self.model,
            ray.train.torch.prepare_model(
                self.model,
                # the gradients of a trained encoder go another way, see step_texts.py
                parallel_strategy="ddp" if self.model.encoder is None else None,
                parallel_strategy_kwargs={"forward_sync_buffers": False},
            ),
            rank=self.rank,
            world_size=self.world_size,
            saved=training,
            fits_blend=fits_blend,
        )

    def train(self) -> None:
        """Run epochs until the last one or until patience ends; with no epoch, only evaluate."""
        train = self.config.train
        if not train.epochs and not self.progress.is_finished:
            self._end_epoch(0, self.learner.validate(is_final=True), {})
        first_epoch = self.progress.step // self.learner.steps_an_epoch
        if self.progress.metrics:
            # the driver may have died after the checkpoint, before it logged the metrics
            ray.train.report({**self.progress.metrics, "is_repeated": 1.0})
        stream = stream_windows(
            plan_windows(
                list_fragments(self.dataset.prepared, "train"),
                batch_size=self.learner.feed.batch_size,
                rank=self.rank,
                world_size=self.world_size,
                accumulation=train.accumulation,
                seed=self.config.seed,
                start_step=self.progress.step,
                epochs=train.epochs,
            )
        )
        for epoch in range(first_epoch + 1, train.epochs + 1):
            if self.progress.epochs_without_better >= train.patience:
                logger.info("no better epoch in %d: stopping", train.patience)
                break
            check_unchanged(self.dataset.prepared, self.dataset.manifest)
            started = time.monotonic()
            last_step = epoch * self.learner.steps_an_epoch
            steps = range(self.progress.step, last_step)
            for step, metrics in self.learner.train_epoch(stream, steps):
                self.progress = replace(self.progress, step=step + 1)
                if metrics:
                    ray.train.report({**metrics, "step": step + 1})
                if step + 1 < last_step and self._must_checkpoint(step + 1):
                    self._report({})
            is_final = train.select == "last" and epoch == train.epochs
            values, train_metrics = self.learner.end_epoch(is_final=is_final)
            if self.rank == 0:
                self._log_epoch(epoch, values, train_metrics, time.monotonic() - started)
            self._end_epoch(epoch, values, train_metrics)
        check_skipped(self.learner.num_skipped, self.progress.step, train.precision)

    def _must_checkpoint(self, step: int) -> bool:
        """Return whether a checkpoint is due inside the epoch; all ranks return the same."""
        every = self.config.train.checkpoint_every_steps
        is_due = every > 0 and step % every == 0
        if self.config.scaling.preemptible and step % PREEMPTION_STEPS == 0:
            doomed = ray.train.get_preemption_info()  # waits for all ranks
            fresh = set(doomed.preempted_node_ids if doomed else ()) - self.doomed_nodes
            if fresh and self.rank == 0:
                logger.warning("a machine will be taken away: checkpoint at step %d", step)
            self.doomed_nodes |= fresh
            is_due |= bool(fresh)
        return is_due

    def _end_epoch(
        self, epoch: int, values: Mapping[str, float], train_metrics: Mapping[str, float]
    ) -> None:
        train, name, so_far = self.config.train, self.config.eval.objective_at_k, self.progress
        before = Selected(so_far.best_metrics, so_far.highest) if so_far.best_metrics else None
        selected = next_selected(train.select, name, values, before, train.tie)
        if selected.metrics is values:
            self.best_weights = _copy_weights(self.model)
            self.progress = replace(self.progress, best_epoch=epoch, best_metrics=values)
        is_better = improves(train.select, before, selected)
        self.progress = replace(
            self.progress,
            highest=selected.highest,
            epochs_without_better=0 if is_better else so_far.epochs_without_better + 1,
        )
        metrics = {**train_metrics, **{f"val/{key}": value for key, value in values.items()}}
        self.progress = replace(self.progress, metrics={"epoch": epoch, **metrics})
        self._report(self.progress.metrics)

    def _log_epoch(
        self,
        epoch: int,
        values: Mapping[str, float],
        train_metrics: Mapping[str, float],
        took_s: float,
    ) -> None:
        name, k = self.config.eval.objective_at_k, self.config.eval.k
        epochs = self.config.train.epochs
        logger.info(
            "%s: epoch %d of %d: loss %.4f, val/%s %.4f, val/coverage_at_%d %.4f, "
            "%.0f users/s, at most %.0f s left",
            self.config.run.name,
            epoch,
            epochs,
            train_metrics["train/loss"],
            name,
            values[name],
            k,
            values[f"coverage_at_{k}"],
            train_metrics["train/users_per_s"],
            took_s * (epochs - epoch),
        )

    def finish(self) -> None:
        """Evaluate the selected epoch (`train.select`); leave it as the last checkpoint."""
        load_whole(self.model, self.best_weights)
        if self.rank == 0:
            epoch, has_queries = self.progress.best_epoch, self.dataset.queries_QH is not None
            log_blend(self.config.run.name, epoch, self.model.blend, has_queries=has_queries)
        if not self.learner.under_dials:
            fit_lifts(self.model, self.dataset, self.config)
        values, dials = judge_dials(
            self.config,
            self.dataset,
            self.model.lifts,
            self.learner.evaluate_under,
            on_val=self.learner.under_dials,
            is_first=self.rank == 0,
        )
        best = self.progress.best_metrics
        metrics = {
            **self.progress.metrics,
            "best/epoch": self.progress.best_epoch,
            **{f"best/val/{name}": value for name, value in best.items()},
            **{f"test/{name}": value for name, value in values.items()},
        }
        self.progress = replace(self.progress, is_finished=True, metrics=metrics, dials=dials)
        self._report(metrics)

    def _report(self, metrics: Mapping[str, Any]) -> None:
        """Report metrics, none inside an epoch; rank 0 adds the checkpoint.

        Ray uploads a checkpoint while training goes on, and keeps the order of the reports. The
        last report waits for all uploads.
        """
        check_unchanged(self.dataset.prepared, self.dataset.manifest)
        best = self.progress.best_metrics.get(self.config.eval.objective_at_k, 0.0)
        reported = {**metrics, "selection": best, "step": self.progress.step}
        reported |= dials_report(self.progress)
        # collective where the encoder is in shards
        weights, training = whole(self.model.state_dict()), self.learner.state(self.progress.step)
        if self.model.blend is not None:
            weights |= self.model.blend.terms_state()
        if self.rank:
            ray.train.report(reported)
            return
        is_best = self.progress.is_finished or (
            self.progress.best_epoch * self.learner.steps_an_epoch == self.progress.step
        )
        mode = ray.train.CheckpointUploadMode
        directory = tempfile.mkdtemp(dir=self.scratch.name)
        save_checkpoint(
            Path(directory),
            config=self.config,
            manifest=self.dataset.manifest,
            progress=self.progress,
            weights=weights,
            training={**training, "best_weights": None if is_best else self.best_weights},
            items=items_of(self.dataset.catalogue, self.dataset.catalogue.popularity_V),
        )
        ray.train.report(
            reported,
            checkpoint=ray.train.Checkpoint.from_directory(directory),
            checkpoint_upload_mode=mode.SYNC if self.progress.is_finished else mode.ASYNC,
            delete_local_checkpoint_after_upload=True,
        )


def load_checked(config: Config, fingerprint: str) -> Dataset:
    """Load the data set of a run.

    Raises:
        UserError: it is not the data set that the driver checked.
    """
    prepared = Path(config.data.prepared)
    manifest = read_manifest(prepared)
    check_unchanged(prepared, manifest.model_copy(update={"fingerprint": fingerprint}))
    return load_dataset(prepared)


def _copy_weights(model: Recommender) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in whole(model.state_dict()).items()}
