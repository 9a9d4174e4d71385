"""Complete histories, joined shard by shard from examples as the split makes them."""

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from hypothesis import given, settings

from recdiv_core.data import split
from recdiv_core.data.requests import join_shard
from recdiv_core.schema import EVAL_EXAMPLE, MAX_EXAMPLE_EVENTS, NO_QUERY
from tests.test_split import cuts, logs, make_events

property_test = settings(deadline=None, derandomize=True)


def write_splits(events, counts) -> Path:
    """Write a shard of each split that has a row, as prepare does."""
    prepared = Path(tempfile.mkdtemp())
    is_train = split.mark_train_events(events, counts, np.ones(6, bool), 1)
    has_train = counts[:, 0] > 0
    tables = {
        "train": split.make_train_examples(events, is_train),
        "val": split.make_eval_examples(events, counts, split.VAL, has_train),
        "test": split.make_eval_examples(events, counts, split.TEST, has_train),
    }
    for name, table in tables.items():
        (prepared / name).mkdir()
        if table.num_rows:
            pq.write_table(table, prepared / name / "part-00000.parquet", 2)
    return prepared


def without_queries(users):
    return [[(time, item, NO_QUERY) for time, item, _ in events] for events in users]


@property_test
@given(logs, cuts)
def test_a_request_holds_all_events_of_its_user(users, cut):
    users = without_queries(users)
    events = make_events(users)
    counts = split.count_temporal(events.times_N, events.offsets_B, *cut)
    requests = join_shard(write_splits(events, counts), "part-00000.parquet")
    assert requests.schema == EVAL_EXAMPLE
    expected, times = {}, {}
    for number, user in enumerate(users):
        parts = [[], [], []]
        for time, item, _ in sorted(user, key=lambda e: e[0]):
            parts[0 if time < cut[0] else 1 if time < cut[1] else 2].append(item)
        last = max(place for place, part in enumerate(parts) if part)
        before = list(itertools.chain(*parts[:last])) if last else []
        # what a split holds out stands there once, however often it was met
        held_out = list(dict.fromkeys(parts[last])) if last else parts[0]
        expected[f"u{number}"] = before + held_out
        times[f"u{number}"] = [
            min(t for t, i, _ in user if i == item and (not last or t >= cut[last - 1]))
            for item in held_out
        ]
    assert {row["user_id"]: row["history"] for row in requests.to_pylist()} == expected
    for row in requests.to_pylist():
        own = row["history_times"]
        assert own == sorted(own)
        assert len(own) == len(row["history"])
        if max(own) >= cut[0]:  # held-out events, each item at its first time
            assert own[-len(times[row["user_id"]]) :] == times[row["user_id"]]
    assert all(not row["targets"] for row in requests.to_pylist())


def test_rows_of_a_long_user_are_one_history_again():
    long = [(time, time % 6, NO_QUERY) for time in range(3 * MAX_EXAMPLE_EVENTS)]
    events = make_events([long, [(0, 3, NO_QUERY)], long[:MAX_EXAMPLE_EVENTS]])
    everything = np.array([[len(long), 0, 0], [1, 0, 0], [MAX_EXAMPLE_EVENTS, 0, 0]])
    requests = join_shard(write_splits(events, everything), "part-00000.parquet").to_pylist()
    assert [row["user_id"] for row in requests] == ["u0", "u1", "u2"]
    histories = [[item for _, item, _ in long], [3], [i for _, i, _ in long[:MAX_EXAMPLE_EVENTS]]]
    assert [row["history"] for row in requests] == histories


def test_a_user_without_train_events_is_cold():
    events = make_events([[(8, 1, NO_QUERY)], [(0, 2, NO_QUERY), (9, 3, NO_QUERY)]])
    counts = split.count_temporal(events.times_N, events.offsets_B, 4, 6)
    requests = join_shard(write_splits(events, counts), "part-00000.parquet").to_pylist()
    assert {row["user_id"]: row["is_cold_user"] for row in requests} == {"u0": True, "u1": False}


def test_of_a_request_by_query_its_own_events_are_known():
    events = make_events([[(0, 1, NO_QUERY), (8, 2, 1), (9, 3, 0), (9, 4, 1)]])
    counts = split.count_temporal(events.times_N, events.offsets_B, 4, 6)
    (request,) = join_shard(write_splits(events, counts), "part-00000.parquet").to_pylist()
    assert request["history"] == [1, 2, 4]
    assert request["query"] == NO_QUERY
