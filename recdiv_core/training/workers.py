"""The workers of a run, which may be handed on to the next run of the same process (ray 2.60).

A worker that starts loads torch and what else it needs: seconds of a CPU, for trials that may train
no longer. So where runs follow each other, those that ended well leave their workers, in the places
that they have, to the next, and the barrier where they meet, a process too; the next run starts
from its seed whatever they did before. The workers of a run that failed or was stopped end with
it, and all where somebody else waits for a place.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import ray
import torch.distributed as dist
from ray.train.v2._internal.execution.checkpoint.sync_actor import SynchronizationActor
from ray.train.v2._internal.execution.worker_group import Worker, WorkerGroup, worker_group
from ray.train.v2._internal.execution.worker_group.placement_group_handle import (
    PlacementGroupHandle,
)
from ray.train.v2._internal.execution.worker_group.state import (
    WorkerGroupContext,
    WorkerGroupState,
)
from ray.util.placement_group import placement_group_table

MOST_RUNS: Final = 20
"""After so many workers start anew: a process grows by some megabytes with every run."""


@contextmanager
def handed_on() -> Iterator[None]:
    """Hand workers on between the runs of this process; end those that wait when it is over."""
    Workers.are_handed_on = True
    try:
        yield
    finally:
        Workers.are_handed_on = False
        waiting, Workers.waiting = Workers.waiting, None
        if waiting is not None:
            waiting.end()


class Workers(WorkerGroup):
    """Workers whose controller is the process that started them, an actor or not.

    Attributes:
        are_handed_on: when a run of this process has ended well.
        waiting: for the next one.
    """

    are_handed_on: ClassVar[bool] = False
    waiting: ClassVar[_Waiting | None] = None

    num_runs: int = 1
    """That these workers have had, this one included."""

    def _start_impl(self, worker_group_state_builder: Any) -> None:
        worker_group.SynchronizationActor = _Barrier  # pyright: ignore[reportPrivateImportUsage]
        super()._start_impl(worker_group_state_builder)

    def _create_placement_group(
        self, scaling_config: Any, worker_group_context: WorkerGroupContext
    ) -> PlacementGroupHandle:
        waiting = Workers.waiting
        if waiting is not None:
            if waiting.fits(worker_group_context):
                return waiting.placement_group_handle
            Workers.waiting = None
            waiting.end()
        return super()._create_placement_group(scaling_config, worker_group_context)

    def _create_workers(self, *args: Any, **settings: Any) -> list[Worker]:
        waiting, Workers.waiting = Workers.waiting, None
        if waiting is None:
            return super()._create_workers(*args, **settings)
        self.num_runs = waiting.num_runs + 1
        return waiting.workers

    def _init_train_context_on_workers(
        self,
        workers: list[Worker],
        sync_actor: Any,
        train_context_args: dict[str, list[Any]],
    ) -> None:
        started = [
            worker.actor.init_train_context.remote(
                train_run_context=self._train_run_context,
                distributed_context=worker.distributed_context,
                synchronization_actor=sync_actor,
                storage_context=self._storage_context,
                worker_callbacks=self._worker_callbacks_to_propagate,
                controller_actor=None,  # it would be asked for earlier checkpoints alone
                **{name: values[i] for name, values in train_context_args.items()},
            )
            for i, worker in enumerate(workers)
        ]
        ray.get(started)
        self._decorate_worker_log_file_paths(workers)

    def shutdown(self) -> None:
        """End the workers, or let them wait for the next run."""
        status, state = self._latest_poll_status, self._worker_group_state
        ended_well = status is not None and status.finished and not status.errors
        are_wanted = Workers.are_handed_on and self.num_runs < MOST_RUNS
        if are_wanted and ended_well and state is not None and not _somebody_waits():
            self._worker_group_state = _Waiting(
                start_time=state.start_time,
                workers=state.workers,
                placement_group_handle=state.placement_group_handle,
                sync_actor=state.sync_actor,
                context=self._worker_group_context,
                num_runs=self.num_runs,
            )
        super().shutdown()


@dataclass(frozen=True)
class _Waiting(WorkerGroupState):
    """Workers that have left one run and belong to none."""

    context: WorkerGroupContext
    num_runs: int

    def fits(self, asked: WorkerGroupContext) -> bool:
        """Return whether a run asks for as many, with as much each."""
        mine = self.context
        return (mine.num_workers, mine.resources_per_worker, mine.placement_strategy) == (
            asked.num_workers,
            asked.resources_per_worker,
            asked.placement_strategy,
        )

    def shutdown(self) -> None:
        """Leave the run, and wait."""
        ray.get([worker.actor.shutdown.remote() for worker in self.workers])
        left: list[Any] = [worker.execute_async(_leave_group) for worker in self.workers]
        ray.get(left)
        ray.get(self.sync_actor.set_required_ranks.remote(None))  # a drain notice may have cut them
        Workers.waiting = self

    def end(self) -> None:
        """End them after all."""
        super().shutdown()


class _Barrier:
    """What a group makes its barrier of, a process: that of the workers that wait, or a new one."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options

    @classmethod
    def options(cls, **options: Any) -> _Barrier:
        """Take them, as an actor's class does."""
        return cls(options)

    def remote(self, **settings: Any) -> Any:
        """Return the actor."""
        if Workers.waiting is not None:
            return Workers.waiting.sync_actor
        return SynchronizationActor.options(**self._options).remote(**settings)


def _somebody_waits() -> bool:
    """Return whether a run of this cluster waits for places that there are not yet."""
    places: dict[str, Any] = placement_group_table()
    return any(place["state"] in ("PENDING", "RESCHEDULING") for place in places.values())


def _leave_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc keeps what was freed for threads that have ended
        libc.malloc_trim(0)
