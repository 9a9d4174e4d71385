"""The runs that a sweep trains before its trials: the base model and the baseline.

The base model is where every trial of a space with a warm start begins. The baseline is trained
without diversity for the trials' own epochs, once per seed: the report compares trials with it, and
constraints are shares of its metrics. A finished run is not trained again when a sweep is resumed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from recdiv_core.config import Config, override, to_yaml
from recdiv_core.fronts.trials import BASE
from recdiv_core.metrics.repeats import means_of
from recdiv_core.schema import Manifest
from recdiv_core.search_space import SearchSpace
from recdiv_core.storage.places import joined
from recdiv_core.sweep.tracking import open_trial
from recdiv_core.tracking.runs import RunHandle, finish_run
from recdiv_core.training.callback import TrackingCallback
from recdiv_core.training.launch import Outcome, launch
from recdiv_core.training.run_files import existing_result, write_result, write_run_file
from recdiv_core.wording import counted

logger = logging.getLogger(__name__)

NO_DIVERSITY: Final = {
    "loss.diversity_weight": 0.0,
    "loss.conditioned": False,
    "model.diversity": 0.0,
    "rerank.diversity": 0.0,
}


def prepare_trials(
    config: Config, space: SearchSpace, parent: RunHandle, manifest: Manifest
) -> tuple[Config, dict[str, float]]:
    """Train the base model and the baseline, where the space needs them.

    Returns:
        the config of the trials, and constrained metric -> lowest value that keeps the constraint.
    """
    if space.warm_start is not None and not config.train.init_from:
        base = override(config, {**NO_DIVERSITY, **space.warm_start})
        logger.info("training the base model, %s", counted(base.train.epochs, "epoch"))
        checkpoint = _train(base, BASE, parent, manifest).checkpoint
        config = override(config, {"train.init_from": checkpoint})
    config = with_trial_workers(config)
    # the baseline of a conditioned model that is not trained further is its dial at 0, a trial
    is_trained = bool(config.train.epochs) or not config.loss.conditioned
    if not space.constraints and (space.warm_start is None or not is_trained):
        return config, {}
    baseline = _train_baseline(config, space, parent, manifest)
    minimum = {c.metric: c.at_least * baseline[f"best/{c.metric}"] for c in space.constraints}
    return config, minimum


def with_trial_workers(config: Config) -> Config:
    """Return the config with the workers of a trial.

    The baseline has as many as a trial: the number of workers moves dropout masks, and the two are
    to differ in nothing but diversity.
    """
    scaling = config.scaling
    if not scaling.trial_workers:
        return config
    least = min(scaling.min_workers, scaling.trial_workers)
    settings = {"scaling.num_workers": scaling.trial_workers, "scaling.min_workers": least}
    return override(config, settings)


def _train_baseline(
    config: Config, space: SearchSpace, parent: RunHandle, manifest: Manifest
) -> Mapping[str, float]:
    """Train the baseline once per seed; return the means of its metrics over the seeds."""
    named = {f"plain-{seed}": seed for seed in space.seeds} or {"plain": config.seed}
    return means_of(
        [
            _train(override(config, {**NO_DIVERSITY, "seed": seed}), name, parent, manifest).metrics
            for name, seed in named.items()
        ]
    )


def _train(config: Config, name: str, parent: RunHandle, manifest: Manifest) -> Outcome:
    """Train one run of the sweep, or return its outcome if it has finished."""
    place = {"run.name": name, "run.storage": joined(config.run.storage, config.run.name)}
    config = override(config, place)
    finished = existing_result(config)
    if finished is not None:
        return Outcome(finished["checkpoint"], finished["metrics"])
    handle = open_trial(config, manifest, parent, {})
    write_run_file(config, "config.yaml", to_yaml(config))
    outcome = launch(config, manifest.fingerprint, callbacks=[TrackingCallback(handle)])
    finish_run(handle, "FINISHED")
    write_result(config, {"checkpoint": outcome.checkpoint, "metrics": outcome.metrics})
    return outcome
