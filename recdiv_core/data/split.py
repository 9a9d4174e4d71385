"""Split the events of users into train, validation and test; pure functions.

examples.py finds the cut times and does all reading and writing. The one idea: a user's events are
ordered by time, so a split is three counts per user (train, val, test), and every example is a
slice of the user's events. Shapes: B users, N events of all users, one user after another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa

from recdiv_core.schema import EVAL_EXAMPLE, MAX_EXAMPLE_EVENTS, NO_QUERY, TRAIN_EXAMPLE

TRAIN: Final = 0
VAL: Final = 1
TEST: Final = 2


@dataclass(frozen=True)
class UserEvents:
    """Events of some users, one user after another, oldest first.

    Attributes:
        user_ids: [B] string.
        offsets_B: [B + 1] int64; user b has the events offsets_B[b] to offsets_B[b + 1].
        items_N: [N] int32 item_index.
        times_N: [N] int64.
        queries_N: [N] int32 query_index, or NO_QUERY.
        weights_N: [N] float32.
        has_times: whether the times are times, not the order numbers of an order-only log.
    """

    user_ids: pa.Array
    offsets_B: Any
    items_N: Any
    times_N: Any
    queries_N: Any
    weights_N: Any
    has_times: bool = True

    @property
    def users_N(self) -> Any:
        """[N] int64: index in `user_ids` of the user of each event."""
        return np.repeat(np.arange(len(self.user_ids)), np.diff(self.offsets_B))


def count_temporal(times_N: Any, offsets_B: Any, val_from: int, test_from: int) -> Any:
    """Count each user's events before, between and after two global cut times.

    An event at a cut time belongs to the later window, so ties are never separated.

    Returns:
        [B, 3] int64: events in train, val and test.
    """
    before_val = _sum_by_user(times_N < val_from, offsets_B)
    before_test = _sum_by_user(times_N < test_from, offsets_B)
    return np.stack([before_val, before_test - before_val, np.diff(offsets_B) - before_test], 1)


def count_leave_last_out(offsets_B: Any) -> Any:
    """Put the last event of each user into test and the one before into validation.

    All events of users with fewer than 3 events are in train.

    Returns:
        [B, 3] int64: events in train, val and test.
    """
    lengths = np.diff(offsets_B)
    held_out = (lengths >= 3).astype(np.int64)
    return np.stack([lengths - 2 * held_out, held_out, held_out], 1)


def mark_parts(counts_B3: Any) -> Any:
    """Return [N] int64: TRAIN, VAL or TEST for every event."""
    return np.repeat(np.tile([TRAIN, VAL, TEST], len(counts_B3)), counts_B3.reshape(-1))


def mark_train_events(events: UserEvents, counts_B3: Any, in_core_V: Any, min_events: int) -> Any:
    """Return [N] bool: train events on core items, of users who have enough of them.

    `min_events`, at least 1, counts a user's events in the core.
    """
    is_train_N = (mark_parts(counts_B3) == TRAIN) & in_core_V[events.items_N]
    in_core_B = _sum_by_user(is_train_N, events.offsets_B) >= min_events
    return is_train_N & in_core_B[events.users_N]


def reserve_queries(texts: Sequence[str], share: float) -> Any:
    """Return [Q] bool: queries that train must not see; a hash of the text decides."""
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, "<u8") < share * 2.0**64


def hide_queries(events: UserEvents, is_train_N: Any, is_reserved_Q: Any) -> UserEvents:
    """Return the events without the reserved queries of train events; the events stay."""
    queries_N = events.queries_N
    if not len(is_reserved_Q):
        return events
    is_hidden_N = is_train_N & (queries_N != NO_QUERY) & is_reserved_Q[queries_N]
    return replace(events, queries_N=np.where(is_hidden_N, np.int32(NO_QUERY), queries_N))


def make_train_examples(events: UserEvents, is_train_N: Any) -> pa.Table:
    """Make TRAIN_EXAMPLE rows of the marked events, at most MAX_EXAMPLE_EVENTS per row.

    Longer histories have several rows. Each further row begins with the last item of the previous
    row, as context.
    """
    lengths_B = _sum_by_user(is_train_N, events.offsets_B)
    starts_B = np.cumsum(lengths_B) - lengths_B
    step = MAX_EXAMPLE_EVENTS - 1
    rows_B = _num_rows(lengths_B)
    users_R = np.repeat(np.arange(len(rows_B)), rows_B)
    first_R = (np.arange(len(users_R)) - np.repeat(np.cumsum(rows_B) - rows_B, rows_B)) * step
    lengths_R = np.minimum(lengths_B[users_R] - first_R, MAX_EXAMPLE_EVENTS)
    places, offsets = slices(starts_B[users_R] + first_R, lengths_R)
    kept = np.flatnonzero(is_train_N)[places]
    lists = (events.items_N[kept], events.queries_N[kept], events.weights_N[kept])
    columns = [events.user_ids.take(pa.array(users_R))]
    columns += [
        _lists(values, offsets, TRAIN_EXAMPLE.field(i).type) for i, values in enumerate(lists, 1)
    ]
    columns.append(_times(events, kept, offsets))
    return pa.table(columns, schema=TRAIN_EXAMPLE)


def count_train_rows(is_train_N: Any, offsets_B: Any) -> int:
    """Count the rows that `make_train_examples` makes."""
    return int(_num_rows(_sum_by_user(is_train_N, offsets_B)).sum())


def _num_rows(lengths_B: Any) -> Any:
    """Return the number of train rows of users by their number of train events."""
    step = MAX_EXAMPLE_EVENTS - 1
    return np.where(lengths_B > 0, np.maximum(-(-(lengths_B - 1) // step), 1), 0)


def any_by_user(flags_N: Any, offsets_B: Any) -> Any:
    """Return [B] bool: whether a flag of the user's events is set."""
    return _sum_by_user(flags_N, offsets_B) > 0


def take_users(events: UserEvents, places_C: Any) -> UserEvents:
    """Return the events of some users, by their indices in `user_ids`."""
    starts = events.offsets_B[places_C]
    places, offsets = slices(starts, events.offsets_B[places_C + 1] - starts)
    return UserEvents(
        events.user_ids.take(pa.array(places_C)),
        offsets,
        events.items_N[places],
        events.times_N[places],
        events.queries_N[places],
        events.weights_N[places],
        events.has_times,
    )


def make_eval_examples(events: UserEvents, counts_B3: Any, part: int, has_train_B: Any) -> pa.Table:
    """Make EVAL_EXAMPLE rows of the users with events in VAL or TEST.

    The history holds all events before the part. If the first held-out event came from a query, the
    targets are the held-out events of that query; otherwise all held-out events. A repeated target
    counts once. `part` is VAL or TEST; `has_train_B` marks users with a train example.
    """
    before_B = counts_B3[:, :part].sum(1)
    users_R = np.flatnonzero(counts_B3[:, part])
    starts_R = events.offsets_B[users_R]
    history, history_offsets = slices(starts_R, before_B[users_R])
    lengths_R = counts_B3[users_R, part]
    held_out, _ = slices(starts_R + before_B[users_R], lengths_R)
    rows_M = np.repeat(np.arange(len(users_R)), lengths_R)
    query_R = events.queries_N[starts_R + before_B[users_R]]
    of_request = (query_R[rows_M] == NO_QUERY) | (events.queries_N[held_out] == query_R[rows_M])
    held_out, rows_M = held_out[of_request], rows_M[of_request]
    is_first = _mark_first(rows_M, events.items_N[held_out])
    held_out, rows_M = held_out[is_first], rows_M[is_first]
    target_offsets = np.searchsorted(rows_M, np.arange(len(users_R) + 1))
    list_type = EVAL_EXAMPLE.field("targets").type
    columns = [
        events.user_ids.take(pa.array(users_R)),
        _lists(events.items_N[history], history_offsets, list_type),
        _lists(events.items_N[held_out], target_offsets, list_type),
        pa.array(query_R, pa.int32()),
        pa.array(~has_train_B[users_R]),
        _times(events, history, history_offsets),
        _times(events, held_out, target_offsets),
    ]
    return pa.table(columns, schema=EVAL_EXAMPLE)


def _sum_by_user(values_N: Any, offsets_B: Any) -> Any:
    sums = np.concatenate([[0], np.cumsum(values_N, dtype=np.int64)])
    return sums[offsets_B[1:]] - sums[offsets_B[:-1]]


def slices(starts: Any, lengths: Any) -> tuple[Any, Any]:
    """Return the indices of all slices, one after another, and the offsets of the slices."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    return places, offsets


def _mark_first(rows: Any, items: Any) -> Any:
    """Mark the first occurrence of each item in its row."""
    order = np.lexsort((np.arange(len(rows)), items, rows))
    is_repeat = np.zeros(len(rows), dtype=bool)
    is_repeat[order[1:]] = (np.diff(rows[order]) == 0) & (np.diff(items[order]) == 0)
    return ~is_repeat


def _times(events: UserEvents, places: Any, offsets: Any) -> pa.Array:
    """Return lists of the times of the events at `places`; nulls for an order-only log."""
    list_type = TRAIN_EXAMPLE.field("times").type
    if not events.has_times:
        return pa.nulls(len(offsets) - 1, list_type)
    return _lists(events.times_N[places], offsets, list_type)


def _lists(values: Any, offsets: Any, list_type: pa.DataType) -> pa.Array:
    flat = pa.array(values, list_type.value_type)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat, type=list_type)


def count_ties(events: UserEvents, counts_B3: Any) -> int:
    """Count pairs of consecutive events of a user with equal times in different parts."""
    parts_N = mark_parts(counts_B3)
    is_tie = (np.diff(events.times_N) == 0) & (np.diff(events.users_N) == 0)
    return int((is_tie & (np.diff(parts_N) != 0)).sum())
