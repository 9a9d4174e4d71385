# pyright: strict
"""The order of training: which users, in which order, in which batch. Pure; nothing is read here.

The one idea: the order is fixed by the seed before anything is read. An epoch permutes the row
groups of the shards (fragments) into one sequence of users and cuts it into windows, each a whole
number of steps. Within a window the users are permuted, and each step takes the next `batch_size`
of them. Within a step the users are sorted as they are stored, and ranks and accumulation parts
take equal consecutive shares.

Hence a batch is a function of the step's number. It is the same on any number of workers, no user
is dropped or repeated, all ranks take the same number of steps, and a run resumes at any step
without reading what came before. A rank reads only the fragments that its shares touch, because of
the sort. reading.py reads a window, streaming.py reads it ahead of the training.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

WINDOW_USERS: Final = 65_536
"""Most users in a window, unless MIN_WINDOW_STEPS batches hold more."""
WINDOW_BYTES: Final = 256 << 20
"""Most bytes of a window, as Parquet counts them before compression; the average user decides."""
MIN_WINDOW_STEPS: Final = 4
"""Fewest steps in a window, so that users of one fragment part even at very large batches."""
LEAST_STEPS: Final = 80
"""Steps of an epoch for which `train.batch_size=0` looks for a batch size."""
SMALLEST_BATCH: Final = 16
LARGEST_BATCH: Final = 256


@dataclass(frozen=True)
class Fragment:
    """One row group of one shard.

    Its rows are users; `num_bytes` is its size before compression.
    """

    path: str
    row_group: int
    num_rows: int
    num_bytes: int = 0


@dataclass(frozen=True)
class Window:
    """One rank's share of consecutive steps, and the fragments that hold it.

    Attributes:
        fragments: Fragments to read.
        rows: int64 [users], row of each user in the concatenated fragments, in order of training.
        sizes: int64 [steps, accumulation], users in each part of each step.
    """

    fragments: tuple[Fragment, ...]
    rows: Integers
    sizes: Integers


def users_a_step(batch_size: int, num_users: int) -> int:
    """Return `train.batch_size`, or a number chosen for a log if that is 0.

    An epoch has at least 80 steps where there are users enough, because a model of few steps learns
    little more than popularity.

    >>> [users_a_step(0, number) for number in (100, 3_000, 1_000_000)]
    [16, 32, 256]
    """
    if batch_size:
        return batch_size
    fitting = max(1, num_users // LEAST_STEPS)
    return min(max(1 << (fitting.bit_length() - 1), SMALLEST_BATCH), LARGEST_BATCH)


def num_steps(num_rows: int, batch_size: int) -> int:
    """Return the steps of an epoch; the last one may be short and is never dropped."""
    return -(-num_rows // batch_size)


def plan_windows(
    fragments: Sequence[Fragment],
    *,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    accumulation: int = 1,
    start_step: int = 0,
    epochs: int = 1,
) -> Iterator[Window]:
    """Plan what one rank reads from `start_step` to the end of the last epoch.

    Args:
        fragments: Row groups of the train split.
        batch_size: Users a step, over all ranks and parts.
        seed: Random seed of the order.
        rank: Number of this worker, 0 .. world_size - 1.
        world_size: Number of workers.
        accumulation: Parts that a rank computes its share of a step in.
        start_step: Steps that are done already, counted over all epochs.
        epochs: Number of epochs of the whole run.

    Yields:
        Windows in order. Planning takes memory for one window and one number a fragment.
    """
    total = sum(fragment.num_rows for fragment in fragments)
    steps = num_steps(total, batch_size)
    if not steps:
        return
    most = max(MIN_WINDOW_STEPS, _window_users(fragments, total) // batch_size)
    num_windows = -(-steps // most)
    # windows of equal length: a last window of few steps would hold whole fragments together
    edges = [steps * number // num_windows for number in range(num_windows + 1)]
    for epoch in range(start_step // steps, epochs):
        order = _generator(seed, epoch).permutation(len(fragments))
        ordered: list[Fragment] = [fragments[place] for place in order.tolist()]
        ends = np.cumsum([fragment.num_rows for fragment in ordered])
        skipped = max(0, start_step - epoch * steps)
        for number, (first, last) in enumerate(itertools.pairwise(edges)):
            if last <= skipped:
                continue
            start, stop = first * batch_size, min(last * batch_size, total)
            users = start + _generator(seed, epoch, number, 0, 0, 0).permutation(stop - start)
            batches = np.split(users, range(batch_size, stop - start, batch_size))
            mine, sizes = _share(batches[max(0, skipped - first) :], rank, world_size, accumulation)
            yield _locate(mine, sizes, ordered, ends)


def _share(
    batches: Sequence[Integers], rank: int, world_size: int, accumulation: int
) -> tuple[Integers, Integers]:
    """Return the users of one rank in each batch, and the sizes of its parts."""
    shares = np.arange(rank * accumulation, (rank + 1) * accumulation + 1)
    bounds = [len(batch) * shares // (world_size * accumulation) for batch in batches]
    mine = [
        np.sort(batch)[bound[0] : bound[-1]] for batch, bound in zip(batches, bounds, strict=True)
    ]
    return np.concatenate(mine), np.diff(np.stack(bounds))


def _locate(
    users: Integers, sizes: Integers, ordered: Sequence[Fragment], ends: Integers
) -> Window:
    """Find the fragments of users that are given as rows of the concatenated fragments.

    `users` are rows of the concatenated fragments, in order of training; `ends` are the numbers of
    rows up to the end of each fragment.
    """
    touched, which = np.unique(np.searchsorted(ends, users, side="right"), return_inverse=True)
    read: list[Fragment] = [ordered[place] for place in touched.tolist()]
    moved = np.cumsum([fragment.num_rows for fragment in read], dtype=np.int64) - ends[touched]
    return Window(tuple(read), users + moved[which], sizes)


def _window_users(fragments: Sequence[Fragment], total: int) -> int:
    """Return how many users of average size a window may hold."""
    num_bytes = sum(fragment.num_bytes for fragment in fragments)
    return min(WINDOW_USERS, WINDOW_BYTES * total // max(1, num_bytes))


def _generator(seed: int, *purpose: int) -> np.random.Generator:
    """Return a generator of random numbers for one purpose.

    Purposes here are one or five numbers. Dropout uses two, training/feed.py three.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=purpose))
