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
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch

from recdiv_core.cluster.start import start_logging
from recdiv_core.config import Config, from_tree
from recdiv_core.evaluation.evaluate import tally_dials
from recdiv_core.metrics.tally import count_users, finish
from recdiv_core.models.baselines import Baseline
from recdiv_core.schema import check_unchanged
from recdiv_core.slates.checkpoint import Progress, items_of, read_progress, save_checkpoint
from recdiv_core.slates.dataset import Dataset
from recdiv_core.slates.dials import dial_policies
from recdiv_core.slates.fitting import fit_baseline
from recdiv_core.slates.lifting import fit_lifts
from recdiv_core.slates.policy import SlatePolicy, slate_policy
from recdiv_core.slates.scoring import held_out_of_split
from recdiv_core.training.dials import dials_report, judge_dials
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
            progress = read_progress(Path(path))
        ray.train.report({**progress.metrics, **dials_report(progress)})
        return
    dataset = load_checked(config, settings["fingerprint"])
    started = time.monotonic()
    baseline = fit_baseline(config, dataset)
    took_s = time.monotonic() - started
    logger.info("%s: %s fitted in %.1f s", config.run.name, baseline.kind, took_s)
    device = ray.train.torch.get_device()
    fitted, dataset = baseline.to(device), dataset.to(device)
    fit_lifts(fitted, dataset, config)
    evaluate = partial(evaluate_under, config, fitted, dataset)
    policies = [
        slate_policy(config, dataset, fitted.lifts),
        *dial_policies(config, dataset, fitted.lifts),
    ]
    best, *on_val = evaluate("val", policies)
    metrics = {"epoch": 0, "train/fit_s": took_s, **_below("val", best)}
    ray.train.report(dict(metrics))  # a copy: the controller reads what is reported later
    metrics |= {"best/epoch": 0, **_below("best/val", best)}
    test, dials = judge_dials(config, dataset, fitted.lifts, evaluate, on_val=on_val, is_first=True)
    metrics |= _below("test", test)
    check_unchanged(dataset.prepared, dataset.manifest)
    progress = Progress(best_metrics=best, is_finished=True, metrics=metrics, dials=dials)
    with tempfile.TemporaryDirectory() as directory:
        save_checkpoint(
            Path(directory),
            config=config,
            manifest=dataset.manifest,
            progress=progress,
            weights=fitted.to(torch.device("cpu")).state(),
            training={},
            items=items_of(dataset.catalogue, dataset.catalogue.popularity_V),
        )
        ray.train.report(
            {**metrics, **dials_report(progress)},
            checkpoint=ray.train.Checkpoint.from_directory(directory),
        )


def evaluate_under(
    config: Config,
    baseline: Baseline,
    dataset: Dataset,
    split: str,
    policies: Sequence[SlatePolicy],
) -> list[dict[str, float]]:
    """Return the metrics of a split under each policy; the users are scored once."""
    share = held_out_of_split(baseline, dataset, split, config)
    tallies = tally_dials(share, dataset, policies)
    return [finish(tally) | count_users(tally) for tally in tallies]


def _below(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in values.items()}
