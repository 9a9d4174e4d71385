"""Ray Train's trainer, kept by the process that calls it (ray 2.60).

What Ray starts for a run beside its workers costs as much as a short training: a process for the
controller, one that frees what the run holds should that die, one for datasets that nobody asks
for, since workers read by a plan of their own (data/plan.py). Here the caller, which would only
wait, is the controller. With the driver of a job all that it holds ends. A trial of a sweep does
not end with its job; so for the process that runs trials, one after another, Ray's clean-up stands
by. (It asks a dashboard who is alive, and where a machine has several Rays the wrong one: it takes
a live run for dead, and ends it. Here it asks the Ray that it is part of.)
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import ray
from ray._common.constants import HEAD_NODE_RESOURCE_NAME
from ray._private.state import actors
from ray.train import Result, TrainingFailedError
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.metrics import (
    ControllerMetricsCallback,
    WorkerMetricsCallback,
)
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.controller import TrainController, placement_group_cleaner
from ray.train.v2._internal.execution.failure_handling import FailureDecision, FailurePolicy
from ray.train.v2.api.callback import RayTrainCallback

from recdiv_core.cluster.failures import told_failure
from recdiv_core.training.workers import Workers


class PlannedTrainer(TorchTrainer):
    """A TorchTrainer without processes beside its workers, whose workers ask for no dataset."""

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        replaced = [DatasetsCallback, PlacementGroupCleanerCallback]
        if not str(self.run_config.name).isascii():  # Ray 2.60 counts under ASCII names only
            replaced += [ControllerMetricsCallback, WorkerMetricsCallback]
        callbacks = super()._create_default_callbacks()
        kept = [callback for callback in callbacks if not isinstance(callback, tuple(replaced))]
        return [CleanUp(), *kept] if ray.get_runtime_context().get_actor_id() else kept

    def _initialize_and_run_controller(self, **settings: Any) -> Result:
        settings["failure_policy"] = _FailurePolicy(settings["failure_policy"])
        controller = _Controller(**settings)
        with asyncio.Runner() as runner:
            try:
                # not runner.run, with which a Ctrl-C would wait until the workers have started
                runner.get_loop().run_until_complete(controller.run())
            except (KeyboardInterrupt, SystemExit):  # the latter is how Tune stops a trial
                if controller._worker_group is not None:
                    controller._worker_group.abort()
                raise
        return controller.get_result()


class _Controller(TrainController):
    worker_group_cls = Workers


class _FailurePolicy(FailurePolicy):
    """Ray's own, except that a failure which would happen again is not tried again."""

    def __init__(self, policy: FailurePolicy) -> None:
        super().__init__(policy.failure_config)
        self._policy = policy

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        if told_failure(training_failed_error) is not None:
            return FailureDecision.RAISE
        return self._policy.make_decision(training_failed_error)


class CleanUp(PlacementGroupCleanerCallback):
    """Start what frees the workers' places when this process dies; once, whatever it runs."""

    process: Any = None  # an actor

    def after_controller_start(self, train_run_context: TrainRunContext) -> None:
        """Start it, unless there is one."""
        self._controller_actor_id = ray.get_runtime_context().get_actor_id()
        if CleanUp.process is None:
            actor: Any = ray.remote(num_cpus=0)(_Cleaner)
            CleanUp.process = actor.options(
                lifetime="detached",
                resources={HEAD_NODE_RESOURCE_NAME: 0.001},
                scheduling_strategy="DEFAULT",  # not among what Tune has reserved for a trial
            ).remote(
                controller_actor_id=self._controller_actor_id,
                check_interval_s=self._check_interval_s,
                get_actor_timeout_s=self._get_actor_timeout_s,
                stop_timeout=self._stop_timeout,
            )
            CleanUp.process.start_monitoring.remote()
        self._cleaner = CleanUp.process

    def _stop_cleaner(self) -> None:
        """Leave it: it ends with this process."""


class _Cleaner(placement_group_cleaner.PlacementGroupCleaner):
    """Ray's own, which asks its own Ray."""

    def __init__(self, **settings: Any) -> None:
        placement_group_cleaner.is_actor_alive = _is_alive  # pyright: ignore[reportPrivateImportUsage]
        # it warns of what it is for: that a process has ended whose workers waited for a next run
        logging.getLogger(placement_group_cleaner.__name__).setLevel(logging.ERROR)
        super().__init__(**settings)


def _is_alive(actor_id: str, timeout: float) -> bool:
    return actors(actor_id).get("State", "DEAD") != "DEAD"
