"""Reading ahead of the training: one Ray task at a time beside each worker.

The one idea: the plan (plan.py) fixes what is read and in which order, so reading needs no shuffle
and no coordination between workers. While a worker trains on a window, a task on the same node
reads the next one into Ray's object store. Ray retries a task whose process is lost, three times.
An idle process serves the next window and the next run. A worker holds two windows at most: its
share of 2 x 65,536 users or 2 x 256 MiB.

Ray Data, which does all other bulk work here, is not used: its executor would run in the process
that trains and busy-wait there whenever more is read than is consumed (docs/scaling.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from recdiv_core.data.plan import plan_windows
from recdiv_core.data.reading import Examples, cut_window, list_fragments, read_window


def stream_train(
    prepared: Path,
    *,
    batch_size: int,
    rank: int,
    world_size: int,
    accumulation: int,
    seed: int,
    start_step: int,
    epochs: int,
) -> Iterator[list[Examples]]:
    """Stream a rank's parts of every step from `start_step` to the end; Ray must run.

    Args:
        prepared: Absolute path of a prepared data set that every node sees.
        batch_size: Users a step, over all ranks and parts.
        rank: Number of this worker, 0 .. world_size - 1.
        world_size: Number of workers.
        accumulation: Parts that a rank computes its share of a step in.
        seed: Random seed of the order.
        start_step: Steps that are done already, counted over all epochs.
        epochs: Number of epochs of the whole run.

    Yields:
        The `accumulation` parts of each step in order; a part may hold no user.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    windows = plan_windows(
        list_fragments(prepared, "train"),
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        accumulation=accumulation,
        seed=seed,
        start_step=start_step,
        epochs=epochs,
    )
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # no CPU: a small machine has none free beside its workers, and reading mostly waits
    read = ray.remote(num_cpus=0)(read_window).options(scheduling_strategy=here)
    reads = ((window, read.remote(window)) for window in windows)
    ahead = next(reads, None)
    while ahead is not None:
        window, reference = ahead
        table = ray.get(reference)
        ahead = next(reads, None)  # starts only now: two tasks would take two processes
        yield from cut_window(table, window)
