"""Ray Tune runs the trials of a sweep: one Tuner, new or restored.

Tune gets three parts of ours, each behind a public interface: the searcher (search.py), the
scheduler (early_stopping.py) and a callback that keeps the MLflow runs (tracking.py). Tune saves
its state in `run.storage`; a sweep that was interrupted is restored from there.
"""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Mapping
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler

from recdiv_core.config import Config, to_tree
from recdiv_core.schema import Manifest
from recdiv_core.search_space import SearchSpace
from recdiv_core.storage.credentials import redact
from recdiv_core.storage.places import joined
from recdiv_core.sweep import state as sweep_state
from recdiv_core.sweep.early_stopping import FrontScheduler, SchedulerState
from recdiv_core.sweep.search import Budget, FrontSearch
from recdiv_core.sweep.state import check_state, state_digest
from recdiv_core.sweep.tracking import TrialTracking, grid_trial_name, trial_name
from recdiv_core.sweep.trial import Trial
from recdiv_core.tracking.children import finished_trials
from recdiv_core.tracking.description import param_value
from recdiv_core.tracking.runs import RunHandle, set_tags, tag_of
from recdiv_core.training.checks import cpus_per_worker
from recdiv_core.training.launch import ray_storage
from recdiv_core.wording import counted

logger = logging.getLogger(__name__)


def run_trials(
    config: Config,
    space: SearchSpace,
    parent: RunHandle,
    manifest: Manifest,
    *,
    minimum: Mapping[str, float],
    budget: Budget,
) -> None:
    """Run the trials of a sweep, or those that an interrupted sweep has left.

    For `minimum` see `FrontSearch`.

    Raises:
        RuntimeError: all trials failed.
    """
    cluster = ray.cluster_resources()
    concurrent = concurrent_trials(config, cluster)
    cpus_per_worker(config, cluster, concurrent)  # refuses workers that could never start
    root = joined(config.run.storage, config.run.name)
    trainable = tune.with_resources(
        tune.with_parameters(
            Trial,
            shared=to_tree(config),
            fingerprint=manifest.fingerprint,
            root=root,
            concurrent=concurrent,
        ),
        _beside_this_process(),
    )
    tuner = _restored(trainable, joined(root, "tune"), parent)
    if tuner is None:
        searcher = _searcher(config, space, parent, manifest, minimum=minimum, budget=budget)
        scheduler, callbacks = _scheduler(config, space)
        callbacks.append(TrialTracking(config, space, root, parent, manifest))
        name = grid_trial_name if space.search == "grid" else trial_name
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                num_samples=searcher.num_trials,
                max_concurrent_trials=concurrent,
                reuse_actors=True,
                search_alg=searcher,
                scheduler=scheduler,
                trial_name_creator=name,
                trial_dirname_creator=name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                callbacks=callbacks,
                # Ray Train writes the checkpoints
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
                **ray_storage(root),
            ),
        )
        set_tags(parent, {sweep_state.TAG: state_digest(joined(root, "tune"))})
    _fit(tuner)


def concurrent_trials(config: Config, cluster: Mapping[str, float]) -> int:
    """Return how many trials run at once: one worker per CPU or GPU, at least one trial."""
    if config.scaling.max_concurrent_trials:
        return config.scaling.max_concurrent_trials
    units = cluster.get("GPU" if config.scaling.use_gpu else "CPU", 0.0)
    return max(1, math.floor(units / config.scaling.num_workers))


def _beside_this_process() -> dict[str, float]:
    """Return the resources of a trial's process: no CPU, a place on this node.

    When another node is lost, only workers are lost, and those are restarted.
    """
    return {"CPU": 0.0, f"node:{ray.util.get_node_ip_address()}": 0.001}


def _restored(trainable: Any, place: str, parent: RunHandle) -> tune.Tuner | None:
    """Return the Tuner of an interrupted sweep; None for a new sweep.

    `place` has Tune's state; the parent has its digest.
    """
    stored = ray_storage(place)
    where, filesystem = stored["storage_path"], stored.get("storage_filesystem")
    if not tune.Tuner.can_restore(where, storage_filesystem=filesystem):
        return None
    check_state(place, tag_of(parent, sweep_state.TAG))
    logger.info("resuming the sweep in %s", redact(place))
    return tune.Tuner.restore(
        where,
        storage_filesystem=filesystem,
        trainable=trainable,
        param_space={},
        resume_unfinished=True,
        restart_errored=True,
    )


def _fit(tuner: tune.Tuner) -> None:
    on_interrupt = signal.getsignal(signal.SIGINT)
    grid = tuner.fit()
    # after Ctrl-C Tune saves its state, returns early and restores the handler; else it does not
    if signal.getsignal(signal.SIGINT) is on_interrupt:
        raise KeyboardInterrupt
    signal.signal(signal.SIGINT, on_interrupt)
    if len(grid) and grid.num_errors == len(grid):
        raise RuntimeError(f"every trial failed ({len(grid)}); the first one: {grid.errors[0]}")


def _searcher(
    config: Config,
    space: SearchSpace,
    parent: RunHandle,
    manifest: Manifest,
    *,
    minimum: Mapping[str, float],
    budget: Budget,
) -> FrontSearch:
    """Return the searcher, after it has learnt from earlier sweeps if the space asks for that."""
    searcher = FrontSearch(space, config, minimum, budget)
    if space.learn_from_earlier:
        learnt = 0
        for run in finished_trials(parent, config, manifest, list(space.parameters)):
            settings = {key: param_value(text) for key, text in run.data.params.items()}
            metrics = {
                name.removeprefix("best/"): value
                for name, value in run.data.metrics.items()
                if name.startswith("best/val/")
            }
            learnt += searcher.learn(settings, metrics)
        logger.info("the search starts with %s of earlier sweeps", counted(learnt, "trial"))
    return searcher


def _scheduler(config: Config, space: SearchSpace) -> tuple[FIFOScheduler, list[tune.Callback]]:
    """Return the scheduler, and the callback that saves its state with the sweep."""
    epochs = config.train.epochs
    if space.grace_epochs >= epochs or space.seeds:
        return FIFOScheduler(), []
    scheduler = FrontScheduler(space.objectives, grace_epochs=space.grace_epochs, epochs=epochs)
    return scheduler, [SchedulerState(scheduler)]
