"""From ragged examples to tensors: the packing of histories.

Histories differ in length, and padding each to the longest would waste most of the work. Instead
several histories share a row. Each has its own segment number, and the session tower separates
them. plan.py decides which examples make a batch. Shapes: R packed rows, W width, N targets,
B users, S seen pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from recdiv_core.data.arrays import Examples


@dataclass(frozen=True)
class Packed:
    """Histories packed into rows of equal width, as tensors.

    Attributes:
        items_RW: int64 item_index; 0 at starts and empty cells.
        position_RW: int64 position in the history: 0 = start (or empty cell), then 1, 2, ...
        segment_RW: int64 number of the cell's history, -1 = empty cell.
        user_RW: int64 index in `last_place_B` of the cell's user; 0 in empty cells.
        queries_RW: int64 query_index of the request that is answered at the cell, or -1.
        target_place_N: int64 flat cell (r * W + w) whose state predicts each target.
        targets_N: int64 item_index of each target.
        weights_N: float32 weight of each target.
        last_place_B: int64 flat cell of the latest state of each user.
        seen_user_S: int64 index in `last_place_B` of the user of each seen pair.
        seen_item_S: int64 item_index of each seen pair, from the whole history.
        seen_time_S: int64 microseconds of each seen pair; None for a log without times.
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
    seen_time_S: torch.Tensor | None = None

    def to(self, device: torch.device) -> Packed:
        """Return the batch on another device."""
        own: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in own.items():
            if value is not None:
                own[name] = value.to(device, non_blocking=True)
        return Packed(**own)


def pack(examples: Examples, *, max_history: int, draws_B: np.ndarray | None = None) -> Packed:
    """Pack histories into rows by first fit in order of falling length, without loops over events.

    A train history longer than `max_history` is cut into windows from its end. Each event is
    predicted exactly once. The first event of a further window is predicted from the end of the
    previous window, as in evaluation. An evaluation history keeps only its last window. A window
    begins with an extra start cell, which predicts the first event of a history. Without users the
    result is one row with a start cell and no target, so every rank can take the step.

    With `draws_B` a train history keeps its last window and one earlier window. Without the window
    before it, the first event of a window is not predicted.

    Args:
        examples: Ragged examples.
        max_history: Most events of a window, >= 1.
        draws_B: a random number in [0, 1) for each user, which chooses the earlier window; None =
            all windows.
    """
    is_train = examples.weights.size > 0 or examples.target_lengths.size == 0
    windows = _windows(examples.lengths, max_history, every=is_train)
    if draws_B is not None:
        windows = _last_and_one(windows, draws_B)
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
    queries = np.full(num_places, -1, np.int64)  # NO_QUERY of schema.py, which needs pyarrow
    segment[base] = np.arange(len(base))
    if not len(base):
        segment[0] = 0  # one start cell: a rank without users still has a batch
    place = base[window] + 1 + within
    items[place] = examples.items[event]
    position[place] = within + 1
    segment[place] = window
    user[base] = windows.user
    user[place] = windows.user[window]
    end_place = base + sizes - 1
    last_place = end_place[windows.is_last]
    if is_train:
        is_later = (within == 0) & ~windows.is_first[window]
        follows = windows.stop[window - 1] == windows.start[window]
        from_place = np.where(is_later & follows, end_place[window - 1], place - 1)
        is_predicted = ~is_later | follows
        queries[from_place[is_predicted]] = examples.queries[event[is_predicted]]
        is_target = is_predicted & (examples.weights[event] > 0)
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
    if examples.times is not None:
        arrays["seen_time_S"] = examples.times
    return Packed(**{name: torch.from_numpy(array.copy()) for name, array in arrays.items()})


def pad_targets(examples: Examples) -> torch.Tensor:
    """Pad the held-out items of evaluation users: [B, T] int64, -1 after the end, T >= 1."""
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
    is_first: np.ndarray  # first window of its history
    is_last: np.ndarray  # last window of its history; one per user, in the order of users
    user: np.ndarray


def _windows(lengths: np.ndarray, max_history: int, *, every: bool) -> _Windows:
    """Cut each history into windows of `max_history` from its end; keep all, or the last."""
    ends = np.cumsum(lengths)
    starts = ends - lengths
    counts = np.maximum(1, -(-lengths // max_history)) if every else np.ones_like(lengths)
    user = np.repeat(np.arange(len(lengths)), counts)
    from_end = np.cumsum(counts)[user] - 1 - np.arange(len(user))
    stop = ends[user] - from_end * max_history
    start = np.maximum(starts[user], stop - max_history)
    is_first, is_last = start == starts[user], from_end == 0
    return _Windows(start, stop, is_first=is_first, is_last=is_last, user=user)


def _last_and_one(windows: _Windows, draws_B: np.ndarray) -> _Windows:
    """Keep the last window of each user, and one earlier window where there is one."""
    counts = np.bincount(windows.user, minlength=len(draws_B))
    last = np.cumsum(counts) - 1
    chosen = last - 1 - (draws_B * (counts - 1)).astype(np.int64)
    kept = np.sort(np.concatenate([last, chosen[counts > 1]]))
    own = {field.name: getattr(windows, field.name)[kept] for field in fields(windows)}
    return _Windows(**own)


def _first_fit(sizes: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Assign histories to rows; return row and offset of each, and the number of rows."""
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
    """Concatenate the ranges [start_i, stop_i); return the numbers, and i of each."""
    lengths = stop - start
    owner = np.repeat(np.arange(len(start)), lengths)
    first = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) - first[owner] + start[owner], owner
