"""Run a search space: many training runs on one cluster, one MLflow run each under one parent.

A trial is `override(config, sample)` and the same `launch` that `pipelines.train` calls. Prepared
data and text vectors are made once, before the first trial; with a warm start so is the base model
that all trials start from. The driver of the sweep keeps the runs of all in MLflow (sweep_runs.py).
A sweep whose run.name exists goes on where it stopped.
"""

from __future__ import annotations

import json
import logging
import math
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ray import tune
from ray._common.constants import HEAD_NODE_RESOURCE_NAME
from ray.tune.schedulers import FIFOScheduler

from recdiv_core.cluster.start import start_ray
from recdiv_core.config import Config, override, to_yaml
from recdiv_core.data.plan import track_readers_here
from recdiv_core.data.text_vectors import ensure_vectors
from recdiv_core.errors import UserError
from recdiv_core.fronts.trials import BASE
from recdiv_core.metrics.repeats import means_of
from recdiv_core.report.dashboard import trials_url
from recdiv_core.report.report import report
from recdiv_core.schema import Manifest, check_unchanged
from recdiv_core.search_space import SearchSpace, at_k
from recdiv_core.storage.credentials import redact
from recdiv_core.storage.places import joined
from recdiv_core.sweep import state as sweep_state
from recdiv_core.sweep.early_stopping import FrontScheduler, RungMemory
from recdiv_core.sweep.search import FrontSearch, GridWalk, Hours, check_search, most_trials
from recdiv_core.sweep.state import check_state, state_digest
from recdiv_core.sweep.tracking import TrialTracking, open_parent, open_trial, trial_name
from recdiv_core.sweep.trial import trial_function
from recdiv_core.tracking.runs import (
    RunHandle,
    close_stale_children,
    finish_run,
    finished_trials,
    machine_watched,
    param_value,
    set_tags,
    tag_of,
)
from recdiv_core.tracking.store import tracking_uri
from recdiv_core.training.callback import TrackingCallback
from recdiv_core.training.checks import check_config, cpus_per_worker, measured_names
from recdiv_core.training.launch import Outcome, launch, ray_storage, shared_places
from recdiv_core.training.run_files import (
    claim_run,
    existing_result,
    on_own_version,
    place_run,
    write_result,
    write_run_file,
)
from recdiv_core.training.workers import handed_on

logger = logging.getLogger(__name__)

DRIVER_PLACE: Final = {"CPU": 0.0, HEAD_NODE_RESOURCE_NAME: 0.001}
"""Of a process that runs trials and keeps their workers: beside the driver of the sweep, so that
whatever other node is lost takes workers alone, and those are started again."""

NO_DIVERSITY: Final = {
    "loss.diversity_weight": 0.0,
    "loss.conditioned": False,
    "model.diversity": 0.0,
    "rerank.diversity": 0.0,
}


def run(config: Config, space: SearchSpace, name: str) -> dict[str, Any]:
    """Run the space and draw its report.

    Args:
        config: what all trials share, with `space.fixed` applied.
        space: what is swept.
        name: of the space, shown in MLflow.

    Returns:
        `{"experiment", "parent_run_id", "num_trials", "front", ...}`.

    Raises:
        UserError: a bad config, or a cluster that cannot hold even one trial.
    """
    config = on_own_version(place_run(config, name))
    check_search(space, name)
    space = at_k(space, config.eval.k, name)
    hours = Hours(space.max_hours)
    swept = {*space.parameters, *(space.warm_start or {})}
    config, manifest = check_config(config, swept=swept)
    _check_objectives(config, space, name)
    if existing_result(config) is None:
        with claim_run(config):
            if existing_result(config) is None:  # another process may just have ended
                return _run(config, space, name, manifest, hours=hours)
    logger.info("run.name=%s is finished already", config.run.name)
    return _result(config, open_parent(config, space, name, manifest, reopen=False))


def _run(
    config: Config, space: SearchSpace, name: str, manifest: Manifest, *, hours: Hours
) -> dict[str, Any]:
    """Run a sweep that is not finished, from where it stopped."""
    asked = config
    tracking_uri(config)
    start_ray(config, shared_places(config))
    track_readers_here()
    handle = open_parent(config, space, name, manifest, reopen=True)
    logger.info("the trials in MLflow (`make dashboard`): %s", trials_url(handle))
    status = "FAILED"
    try:
        ensure_vectors(Path(config.data.prepared), manifest)
        write_run_file(config, "config.yaml", to_yaml(config))
        baseline: Mapping[str, float] = {}
        with handed_on():
            if space.warm_start is not None:
                config, baseline = _with_base(config, space, handle, manifest)
            elif space.constraints:
                baseline = _train_baseline(config, space, handle, manifest)
        least = _least(space, baseline)
        set_tags(handle, {"recdiv.least": json.dumps(least)})
        with machine_watched(handle):
            _run_trials(config, space, least, handle, manifest, hours=hours)
        check_unchanged(Path(config.data.prepared), manifest)
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):  # the latter is Ray's answer to SIGTERM
        status = "KILLED"
        raise KeyboardInterrupt from None
    finally:
        stale = close_stale_children(handle)
        if stale:
            logger.warning("%d trials were still running: marked KILLED", stale)
        finish_run(handle, status)
    result = _result(asked, handle)
    write_result(config, result)
    return result


def _check_objectives(config: Config, space: SearchSpace, name: str) -> None:
    """Refuse objectives that no trial would report, too few for a front, seeds of nothing."""
    if len(space.objectives) < 2:
        raise UserError(
            f"--space {name} has {len(space.objectives)} objectives; a front needs two or more"
        )
    k = config.eval.k
    if "eval.k" in space.parameters:
        raise UserError(f"--space {name}: eval.k cannot be swept: figures of different k differ")
    falling = [f"gini_at_{k}", f"homogeneity_at_{k}"]
    measured = [f"val/{metric}" for metric in measured_names(k) + falling]
    for objective in space.objectives:
        if objective.metric not in measured:
            raise UserError(
                f"--space {name} trades off {objective.metric}, which is not measured with "
                f"eval.k={k}; allowed: {', '.join(measured)}"
            )
    rising = [f"val/{metric}" for metric in measured_names(k)]
    for constraint in space.constraints:
        if constraint.metric not in rising:
            raise UserError(
                f"--space {name} constrains {constraint.metric}; allowed with eval.k={k}: "
                f"{', '.join(rising)}"
            )
    if space.seeds and not config.train.epochs:
        raise UserError(
            f"--space {name}: seeds={space.seeds} have no effect where nothing is trained "
            "(train.epochs=0)"
        )
    if space.constraints and config.loss.conditioned and not config.train.epochs:
        raise UserError(
            f"--space {name} has constraints, but no baseline: of a conditioned model that is "
            "trained no further (train.epochs=0) none is trained"
        )


def _result(config: Config, parent: RunHandle) -> dict[str, Any]:
    drawn = report(config, parent_run_id=parent.run_id)
    return {
        "experiment": drawn["experiment"],
        "parent_run_id": parent.run_id,
        "num_trials": drawn["num_trials"],
        "front": drawn["front"],
        "headline": drawn["headline"],
        "dashboard": drawn["dashboard"],
        "report": drawn["report"],
    }


def _least(space: SearchSpace, baseline: Mapping[str, float]) -> dict[str, float]:
    """Return what a trial must reach of each constrained metric, a share of the baseline's."""
    return {c.metric: c.at_least * baseline[f"best/{c.metric}"] for c in space.constraints}


def _with_base(
    config: Config, space: SearchSpace, parent: RunHandle, manifest: Manifest
) -> tuple[Config, Mapping[str, float]]:
    """Train the model that every trial starts from, unless one is given, and the baseline.

    Returns:
        the config of the trials, and the figures of the baseline, none where it is not trained.
    """
    if not config.train.init_from:
        base = override(config, {**NO_DIVERSITY, **(space.warm_start or {})})
        logger.info("training the base model, %d epochs", base.train.epochs)
        checkpoint = _train_once(base, BASE, parent, manifest).checkpoint
        config = override(config, {"train.init_from": checkpoint})
    if config.train.epochs or not config.loss.conditioned:
        # the baseline of the front: what the same further epochs do without diversity (of a
        # conditioned model that is trained no further, dial 0 is the baseline)
        return config, _train_baseline(config, space, parent, manifest)
    return config, {}


def _train_baseline(
    config: Config, space: SearchSpace, parent: RunHandle, manifest: Manifest
) -> Mapping[str, float]:
    """Train the w = 0 model, once a seed; return its figures, their means over the seeds."""
    named = {f"plain-{seed}": seed for seed in space.seeds} or {"plain": config.seed}
    return means_of(
        [
            _train_once(
                override(config, {**NO_DIVERSITY, "seed": seed}), name, parent, manifest
            ).metrics
            for name, seed in named.items()
        ]
    )


def _train_once(config: Config, name: str, parent: RunHandle, manifest: Manifest) -> Outcome:
    """Train one run outside the search, once a sweep."""
    config = override(
        config,
        {
            "run.name": name,
            "run.storage": joined(config.run.storage, config.run.name),
        },
    )
    finished = existing_result(config)
    if finished is not None:
        return Outcome(finished["checkpoint"], finished["metrics"])
    handle = open_trial(config, manifest, parent, {})
    write_run_file(config, "config.yaml", to_yaml(config))
    outcome = launch(config, manifest.fingerprint, callbacks=[TrackingCallback(handle)])
    finish_run(handle, "FINISHED")
    result = {"checkpoint": outcome.checkpoint, "metrics": outcome.metrics}
    write_result(config, result)
    return outcome


def _run_trials(
    config: Config,
    space: SearchSpace,
    least: Mapping[str, float],
    parent: RunHandle,
    manifest: Manifest,
    *,
    hours: Hours,
) -> None:
    import ray

    cluster = ray.cluster_resources()
    concurrent = concurrent_trials(config, cluster)
    cpus_per_worker(config, cluster, concurrent)  # refuses here what could never start
    root = joined(config.run.storage, config.run.name)
    trainable = tune.with_resources(
        trial_function(config, manifest.fingerprint, root, concurrent),
        DRIVER_PLACE,
    )
    # a searcher holds the domains itself; Tune walks only those that are given to it
    is_walked = space.search == "grid" and not space.seeds
    parameters = dict(space.parameters) if is_walked else {}
    place = joined(root, "tune")
    stored = ray_storage(place)
    where, filesystem = stored["storage_path"], stored.get("storage_filesystem")
    if tune.Tuner.can_restore(where, storage_filesystem=filesystem):
        check_state(place, tag_of(parent, sweep_state.TAG))
        logger.info("going on with the sweep in %s", redact(place))
        tuner = tune.Tuner.restore(
            where,
            storage_filesystem=filesystem,
            trainable=trainable,
            param_space=parameters,
            resume_unfinished=True,
            restart_errored=True,
        )
    else:
        scheduler, callbacks = _scheduler(config, space)
        tracking = TrialTracking(config, space, root, parent, manifest)
        tuner = tune.Tuner(
            trainable,
            param_space=parameters,
            tune_config=tune.TuneConfig(
                num_samples=space.num_samples if is_walked else most_trials(space),
                # a grid's walk knows itself how many run at once
                max_concurrent_trials=None if is_walked else concurrent,
                reuse_actors=True,
                search_alg=GridWalk(hours, max_concurrent=concurrent)
                if is_walked
                else _searcher(config, space, least, parent, manifest, hours=hours),
                scheduler=scheduler,
                trial_name_creator=trial_name,
                trial_dirname_creator=trial_name,
            ),
            run_config=tune.RunConfig(
                name="tune", callbacks=[tracking, *callbacks], verbose=0, **ray_storage(root)
            ),
        )
        set_tags(parent, {sweep_state.TAG: state_digest(place)})
    on_interrupt = signal.getsignal(signal.SIGINT)
    grid = tuner.fit()
    # Tune answers Ctrl-C by saving its state and returning early; it puts the handler back then,
    # and only then
    if signal.getsignal(signal.SIGINT) is on_interrupt:
        raise KeyboardInterrupt
    signal.signal(signal.SIGINT, on_interrupt)
    if len(grid) and grid.num_errors == len(grid):
        raise RuntimeError(f"all {len(grid)} trials failed; the first one: {grid.errors[0]}")


def _searcher(
    config: Config,
    space: SearchSpace,
    least: Mapping[str, float],
    parent: RunHandle,
    manifest: Manifest,
    *,
    hours: Hours,
) -> FrontSearch:
    """Return what chooses the trials' settings, with what earlier sweeps teach it."""
    searcher = FrontSearch(space, config, least, hours)
    if space.learn_from_earlier:
        runs = finished_trials(parent, config, manifest, list(space.parameters))
        learnt = 0
        for run in runs:
            sample = {key: param_value(text) for key, text in run.data.params.items()}
            best = [name for name in run.data.metrics if name.startswith("best/val/")]
            figures = {name.removeprefix("best/"): run.data.metrics[name] for name in best}
            learnt += searcher.learn(sample, figures)
        logger.info("the search knows %d trials of earlier sweeps", learnt)
    return searcher


def _scheduler(config: Config, space: SearchSpace) -> tuple[FIFOScheduler, list[tune.Callback]]:
    """Return what stops trials that fall behind, and what saves its state with the sweep."""
    epochs = config.train.epochs
    if space.grace_epochs >= epochs or space.seeds:
        return FIFOScheduler(), []
    scheduler = FrontScheduler(space.objectives, grace_epochs=space.grace_epochs, epochs=epochs)
    return scheduler, [RungMemory(scheduler)]


def concurrent_trials(config: Config, cluster: Mapping[str, float]) -> int:
    """Return how many trials run at once: one worker a CPU or GPU, at least one trial."""
    if config.scaling.max_concurrent_trials:
        return config.scaling.max_concurrent_trials
    units = cluster.get("GPU" if config.scaling.use_gpu else "CPU", 0.0)
    return max(1, math.floor(units / config.scaling.num_workers))
