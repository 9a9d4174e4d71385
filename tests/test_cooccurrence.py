"""Counts of train events, against loops over users, on any shards and with long users' rows."""

from collections import Counter
from itertools import product
from math import ceil

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from recdiv_core.data.cooccurrence import count_pairs, count_recent, read_histories
from recdiv_core.data.split import UserEvents, make_train_examples
from recdiv_core.schema import MAX_EXAMPLE_EVENTS, TRAIN_EXAMPLE

NUM_ITEMS = 6
histories_of_users = st.lists(
    st.lists(st.integers(0, NUM_ITEMS - 1), min_size=1, max_size=7), min_size=1, max_size=8
)


def write_train(prepared, histories, *, num_shards=1):
    (prepared / "train").mkdir(parents=True, exist_ok=True)
    for old in (prepared / "train").iterdir():
        old.unlink()
    rows = [
        {"user_id": f"u{u}", "items": own, "queries": [-1] * len(own), "weights": [1.0] * len(own)}
        for u, own in enumerate(histories)
    ]
    for shard in range(num_shards):
        table = pa.Table.from_pylist(rows[shard::num_shards], TRAIN_EXAMPLE)
        pq.write_table(table, prepared / "train" / f"part-{shard:05d}.parquet", row_group_size=2)
    return prepared


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories_of_users, st.integers(1, 3))
def test_pairs_are_counted_as_by_loops_on_any_number_of_shards(tmp_path, histories, num_shards):
    prepared = write_train(tmp_path, histories, num_shards=num_shards)
    expected = np.zeros((NUM_ITEMS, NUM_ITEMS), int)
    for own in histories:
        for pair in product(set(own), set(own)):
            expected[pair] += 1
    assert count_pairs(prepared, NUM_ITEMS).toarray().tolist() == expected.tolist()


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories_of_users, st.integers(1, 3), st.sampled_from([0.1, 0.25, 0.5, 1.0]))
def test_recent_events_are_counted_as_by_a_counter(tmp_path, histories, num_shards, share):
    prepared = write_train(tmp_path, histories, num_shards=num_shards)
    counter = Counter(item for own in histories for item in own[-ceil(share * len(own)) :])
    expected = [counter[item] for item in range(NUM_ITEMS)]
    assert count_recent(prepared, NUM_ITEMS, share).tolist() == expected


def test_the_rows_of_a_long_user_are_one_history(tmp_path):
    lengths = [3, 2 * MAX_EXAMPLE_EVENTS + 5, 1]
    rng = np.random.default_rng(0)
    items = rng.integers(0, 50, sum(lengths)).astype(np.int32)
    events = UserEvents(
        pa.array(["a", "b", "c"]),
        np.concatenate([[0], np.cumsum(lengths)]),
        items,
        np.arange(len(items)),
        np.full(len(items), -1, np.int32),
        np.ones(len(items), np.float32),
    )
    table = make_train_examples(events, np.ones(len(items), bool))
    assert table.num_rows > 3
    (tmp_path / "train").mkdir()
    pq.write_table(table, tmp_path / "train" / "part-00000.parquet")
    ((user_N, item_N),) = read_histories(tmp_path)
    assert item_N.tolist() == items.tolist()
    assert np.bincount(user_N).tolist() == lengths


@pytest.mark.parametrize("count", [count_pairs, lambda path, v: count_recent(path, v, 0.5)])
def test_no_train_event_counts_nothing(tmp_path, count):
    assert not count(write_train(tmp_path, []), NUM_ITEMS).sum()
