"""From ragged examples to tensors: the packing of histories.

Histories differ in length; padding each to the longest would waste most of the work. Several share
a row instead, each with its own segment number, and the session tower keeps them apart. Which
examples make a batch is the plan's business (plan.py). Shapes: R packed rows, W width, N targets,
B users, S seen pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import torch

from recdiv_core.data.reading import Examples
from recdiv_core.schema import NO_QUERY

HIDDEN_ITEM: Final = -1
"""At the place of an event that is hidden as an input; the session tower meets a zero vector."""


@dataclass(frozen=True)
class Packed:
    """Histories packed into rows of equal width, as tensors.

    Attributes:
        items_RW: int64 item_index; 0 at starts and empty places, HIDDEN_ITEM at hidden events.
        position_RW: int64, 0 = start of a history (or empty), then 1, 2, ...
        segment_RW: int64, history that a place belongs to, -1 = empty.
        user_RW: int64, row of `last_place_B` whose history it is; 0 at empty places.
        queries_RW: int64 query_index of the request to be answered at a place, or -1.
        target_place_N: int64, flat places (r * W + w) whose state predicts an item.
        targets_N: int64 item_index predicted there.
        weights_N: float32.
        last_place_B: int64, flat place of each user's latest state.
        seen_user_S: int64, row of `last_place_B` ...
        seen_item_S: ... and item_index of every item in that user's whole history.
    """

    items_RW: torch.Tensor
    position_RW: torch.Tensor
    segment_RW: torch.Tensor
    user_RW: torch.Tensor
    queries_RW: torch.Tensor
    target_place_N: torch.Tensor
    targets_N: torch.Tensor
    weights_N: torch.Tensor
    last_place_B: torch.Tensor
    seen_user_S: torch.Tensor
    seen_item_S: torch.Tensor

    def to(self, device: torch.device) -> Packed:
        """Return the batch on another device."""
        moved = {f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)}
        return Packed(**moved)


def pack(examples: Examples, *, max_history: int) -> Packed:
    """Pack histories into rows, first-fit on falling length, without loops over events.

    A train history longer than `max_history` is cut, from its end, into windows; each event is
    predicted exactly once, the first one of a further window from the end of the window before, so
    that a full window is trained on as it is met in evaluation. An evaluation history keeps its
    last window. A window begins with one extra place, from which a history's first event is
    predicted. No user at all gives one row with a start place, no target and no user, so that every
    rank can step.

    Args:
        examples: ragged examples.
        max_history: events a window holds at most, >= 1.
    """
    is_train = examples.weights.size > 0 or examples.target_lengths.size == 0
    windows = _windows(examples.lengths, max_history, every=is_train)
    width = max_history + 1
    sizes = windows.stop - windows.start + 1
    row, offset, num_rows = _first_fit(sizes, width)
    base = row * width + offset

    event, window = _ranges(windows.start, windows.stop)
    within = event - windows.start[window]
    num_places = max(1, num_rows) * width
    items = np.zeros(num_places, np.int64)
    position = np.zeros(num_places, np.int64)
    segment = np.full(num_places, -1, np.int64)
    user = np.zeros(num_places, np.int64)
    queries = np.full(num_places, NO_QUERY, np.int64)
    segment[base] = np.arange(len(base))
    if not len(base):
        segment[0] = 0  # one start place, so that a rank without users still has a batch
    place = base[window] + 1 + within
    items[place] = examples.items[event]
    if examples.is_hidden is not None:
        items[place[examples.is_hidden[event]]] = HIDDEN_ITEM
    position[place] = within + 1
    segment[place] = window
    user[base] = windows.user
    user[place] = windows.user[window]
    end_place = base + sizes - 1
    last_place = end_place[windows.is_last]
    if is_train:
        goes_on = (within == 0) & ~windows.is_first[window]
        from_place = np.where(goes_on, end_place[window - 1], place - 1)
        queries[from_place] = examples.queries[event]
        is_target = examples.weights[event] > 0
        target_place, targets = from_place[is_target], examples.items[event[is_target]]
        weights = examples.weights[event[is_target]]
    else:
        queries[last_place] = examples.queries
        target_place, targets = np.zeros(0, np.int64), np.zeros(0, np.int64)
        weights = np.zeros(0, np.float32)
    arrays = {
        "items_RW": items.reshape(-1, width),
        "position_RW": position.reshape(-1, width),
        "segment_RW": segment.reshape(-1, width),
        "user_RW": user.reshape(-1, width),
        "queries_RW": queries.reshape(-1, width),
        "target_place_N": target_place,
        "targets_N": targets,
        "weights_N": weights.astype(np.float32),
        "last_place_B": last_place,
        "seen_user_S": np.repeat(np.arange(len(examples.lengths)), examples.lengths),
        "seen_item_S": examples.items,
    }
    return Packed(**{name: torch.from_numpy(array.copy()) for name, array in arrays.items()})


def pad_targets(examples: Examples) -> torch.Tensor:
    """Pad the held-out items of evaluation users: [B, T] int64, -1 behind the end, T >= 1."""
    widest = int(examples.target_lengths.max(initial=1))
    padded = np.full((len(examples.target_lengths), widest), -1, np.int64)
    user = np.repeat(np.arange(len(examples.target_lengths)), examples.target_lengths)
    starts = np.cumsum(examples.target_lengths) - examples.target_lengths
    padded[user, np.arange(len(examples.targets)) - starts[user]] = examples.targets
    return torch.from_numpy(padded)


@dataclass(frozen=True)
class _Windows:
    start: np.ndarray  # into the flat events
    stop: np.ndarray
    is_first: np.ndarray  # of its history; the others follow the window before them
    is_last: np.ndarray  # holds its last one; exactly one a user, in the users' order
    user: np.ndarray


def _windows(lengths: np.ndarray, max_history: int, *, every: bool) -> _Windows:
    """Cut each history, from its end, into windows of `max_history`: all, or only the last."""
    ends = np.cumsum(lengths)
    starts = ends - lengths
    counts = np.maximum(1, -(-lengths // max_history)) if every else np.ones_like(lengths)
    user = np.repeat(np.arange(len(lengths)), counts)
    from_end = np.cumsum(counts)[user] - 1 - np.arange(len(user))
    stop = ends[user] - from_end * max_history
    start = np.maximum(starts[user], stop - max_history)
    is_first, is_last = start == starts[user], from_end == 0
    return _Windows(start, stop, is_first=is_first, is_last=is_last, user=user)


def _first_fit(sizes: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Place histories into rows: row and offset of each, and the number of rows."""
    row = np.zeros(len(sizes), np.int64)
    offset = np.zeros(len(sizes), np.int64)
    free = np.full(len(sizes) + 1, width, np.int64)
    used = 0
    for index in np.argsort(-sizes, kind="stable"):
        best = int(np.argmax(free[: used + 1] >= sizes[index]))
        used = max(used, best + 1)
        row[index], offset[index] = best, width - free[best]
        free[best] -= sizes[index]
    return row, offset, used


def _ranges(start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate the ranges [start_i, stop_i): their numbers, and i of each."""
    lengths = stop - start
    owner = np.repeat(np.arange(len(start)), lengths)
    first = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) - first[owner] + start[owner], owner
