"""Complete histories, joined shard by shard from the staged events."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from recdiv_core.data import split
from recdiv_core.data.requests import ensure_requests, join_shard
from recdiv_core.data.shards import staged_file
from recdiv_core.errors import UserError
from recdiv_core.schema import EVAL_EXAMPLE, MAX_EXAMPLE_EVENTS, NO_QUERY
from tests.test_split import cuts, logs, make_events

EVERYTHING = np.ones(6, bool)
property_test = settings(deadline=None, derandomize=True)


def write_splits(events, counts, in_core_V=EVERYTHING) -> Path:
    """Write the staged events, and a shard of each split that has a row, as prepare does."""
    prepared = Path(tempfile.mkdtemp())
    (prepared / "stage").mkdir()
    offsets = pa.array(events.offsets_B, pa.int32())
    items, times = (
        pa.ListArray.from_arrays(offsets, pa.array(values))
        for values in (events.items_N, events.times_N)
    )
    staged = pa.table({"user_id": events.user_ids, "items": items, "times": times})
    pq.write_table(staged, staged_file(prepared, 0))
    is_train = split.mark_train_events(events, counts, in_core_V, 1)
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


def test_a_data_set_without_events_is_refused(tmp_path, manifest):
    with pytest.raises(UserError, match=r"keeps no events; run `recdiv prepare` again"):
        ensure_requests(tmp_path, manifest)


def complete(events, counts):
    prepared = write_splits(events, counts)
    return join_shard(prepared, "part-00000.parquet", has_times=True)


@property_test
@given(logs, cuts)
def test_a_request_holds_all_events_of_its_user(users, cut):
    events = make_events(users)
    counts = split.count_temporal(events.times_N, events.offsets_B, *cut)
    requests = complete(events, counts)
    assert requests.schema == EVAL_EXAMPLE
    rows = {row["user_id"]: row for row in requests.to_pylist()}
    assert len(rows) == requests.num_rows == len(users)
    for number, user in enumerate(users):
        row = rows[f"u{number}"]
        in_order = sorted(user, key=lambda event: event[0])
        assert row["history_times"] == [time for time, _, _ in in_order]
        assert row["history"] == [item for _, item, _ in in_order]
        assert row["is_cold_user"] == all(time >= cut[0] for time, _, _ in user)
        assert not row["targets"]
        assert row["query"] == NO_QUERY


def test_rows_of_a_long_user_are_one_history_again():
    long = [(time, time % 6, NO_QUERY) for time in range(3 * MAX_EXAMPLE_EVENTS)]
    events = make_events([long, [(0, 3, NO_QUERY)]])
    requests = complete(events, np.array([[len(long), 0, 0], [1, 0, 0]])).to_pylist()
    assert [row["history"] for row in requests] == [[item for _, item, _ in long], [3]]


def test_a_user_outside_the_core_has_no_request():
    events = make_events([[(0, 5, NO_QUERY)], [(0, 2, NO_QUERY), (9, 5, NO_QUERY)]])
    counts = split.count_temporal(events.times_N, events.offsets_B, 20, 30)
    in_core_V = np.arange(6) < 5
    prepared = write_splits(events, counts, in_core_V)
    requests = join_shard(prepared, "part-00000.parquet", has_times=True).to_pylist()
    assert [(row["user_id"], row["history"]) for row in requests] == [("u1", [2, 5])]


def test_a_log_without_times_has_none_in_its_requests():
    events = make_events([[(0, 1, NO_QUERY), (1, 2, NO_QUERY)]])
    prepared = write_splits(events, np.array([[2, 0, 0]]))
    (request,) = join_shard(prepared, "part-00000.parquet", has_times=False).to_pylist()
    assert request["history"] == [1, 2]
    assert request["history_times"] is None
    assert request["target_times"] is None
