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

from collections.abc import Iterable, Iterator

from recdiv_core.data.arrays import Examples
from recdiv_core.data.plan import Window
from recdiv_core.data.reading import cut_window, read_window


def stream_windows(windows: Iterable[Window]) -> Iterator[list[Examples]]:
    """Stream one rank's windows, in order; Ray must run.

    Every node must see the shards.

    Yields:
        The accumulation parts of each step in order; a part may hold no user.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

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
