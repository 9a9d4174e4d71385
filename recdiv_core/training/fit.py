"""Fit a reference baseline; a worker runs this instead of the training loop.

A baseline needs one pass over the train events and a closed form (models/baselines.py), on one
worker. The code that evaluates trained models evaluates it. Reports, metrics and checkpoint are
those of a training run of no epochs, so MLflow, sweeps, reports and evaluation need no special
case.
"""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch

from recdiv_core.cluster.start import start_logging
from recdiv_core.config import Config, from_tree
from recdiv_core.evaluation.evaluate import tally_split
from recdiv_core.metrics.tally import count_users, finish
from recdiv_core.models.baselines import Baseline
from recdiv_core.schema import check_unchanged
from recdiv_core.slates.checkpoint import Progress, read_progress, save_checkpoint
from recdiv_core.slates.dataset import Dataset
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import held_out_of_split
from recdiv_core.training.baselines import fit_baseline
from recdiv_core.training.loop import load_checked
from recdiv_core.training.run_files import last_checkpoint

logger = logging.getLogger(__name__)


def fit_loop(settings: dict[str, Any]) -> None:
    """Fit, evaluate and save a baseline; the entry point of the one worker.

    Args:
        settings: see `train_loop`.
    """
    config = from_tree(settings["config"])
    start_logging()
    torch.set_num_threads(config.scaling.threads_per_worker)
    checkpoint = last_checkpoint(config)
    if checkpoint is not None:
        # the checkpoint of a finished fit; its driver may have died before it logged the metrics
        with checkpoint.as_directory() as path:
            ray.train.report(dict(read_progress(Path(path)).metrics))
        return
    dataset = load_checked(config, settings["fingerprint"])
    started = time.monotonic()
    baseline = fit_baseline(config, dataset)
    took_s = time.monotonic() - started
    logger.info("%s: %s fitted in %.1f s", config.run.name, baseline.kind, took_s)
    device = ray.train.torch.get_device()
    fitted, dataset = baseline.to(device), dataset.to(device)
    best = _evaluate(config, fitted, dataset, "val")
    metrics = {"epoch": 0, "train/fit_s": took_s, **_below("val", best)}
    ray.train.report(dict(metrics))  # a copy: the controller reads what is reported later
    metrics |= {"best/epoch": 0, **_below("best/val", best)}
    metrics |= _below("test", _evaluate(config, fitted, dataset, "test"))
    check_unchanged(dataset.prepared, dataset.manifest)
    with tempfile.TemporaryDirectory() as directory:
        save_checkpoint(
            Path(directory),
            config=config,
            manifest=dataset.manifest,
            progress=Progress(best_metrics=best, is_finished=True, metrics=metrics),
            weights=baseline.weights,
            training={},
        )
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(directory))


def _evaluate(config: Config, baseline: Baseline, dataset: Dataset, split: str) -> dict[str, float]:
    share = held_out_of_split(baseline, dataset, split, config)
    tally = tally_split(share, dataset, slate_policy(config, dataset))
    return finish(tally) | count_users(tally)


def _below(prefix: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in values.items()}
