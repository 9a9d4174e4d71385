"""Train events as arrays and their counts, against loops, on any shards and with long rows."""

from collections import Counter
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from hypothesis import HealthCheck, given, settings

from recdiv_core.data.split import UserEvents, make_train_examples
from recdiv_core.data.train_events import read_train_events
from recdiv_core.models.baselines import TrainEvents
from recdiv_core.models.baselines.histories import DAY_US
from recdiv_core.models.baselines.popularity import (
    count_adopted,
    count_recent,
    fit_adoption,
)
from recdiv_core.models.baselines.train_events import user_matrix
from recdiv_core.schema import MAX_EXAMPLE_EVENTS, TRAIN_EXAMPLE
from tests.test_baselines import events_of

NUM_ITEMS = 6
histories_of_users = st.lists(
    st.lists(st.integers(0, NUM_ITEMS - 1), min_size=1, max_size=7), min_size=1, max_size=8
)


def write_train(prepared, histories, *, times=None, num_shards=1):
    (prepared / "train").mkdir(parents=True, exist_ok=True)
    for old in (prepared / "train").iterdir():
        old.unlink()
    rows = [
        {"user_id": f"u{u}", "items": own, "queries": [-1] * len(own), "weights": [1.0] * len(own)}
        | {"times": times[u] if times else None}
        for u, own in enumerate(histories)
    ]
    for shard in range(num_shards):
        table = pa.Table.from_pylist(rows[shard::num_shards], TRAIN_EXAMPLE)
        pq.write_table(table, prepared / "train" / f"part-{shard:05d}.parquet", row_group_size=2)
    return prepared


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories_of_users, st.integers(1, 3))
def test_events_are_those_of_the_histories_on_any_number_of_shards(tmp_path, histories, num_shards):
    events = read_train_events(write_train(tmp_path, histories, num_shards=num_shards))
    in_order = [own for shard in range(num_shards) for own in histories[shard::num_shards]]
    expected = [(place, item) for place, own in enumerate(in_order) for item in own]
    assert list(zip(events.user_E.tolist(), events.item_E.tolist(), strict=True)) == expected
    assert events.num_users == len(histories)


@given(histories_of_users, st.sampled_from([0.1, 0.25, 0.5, 1.0]))
def test_recent_events_are_counted_as_by_a_counter(histories, share):
    counter = Counter(item for own in histories for item in own[-ceil(share * len(own)) :])
    expected = [counter[item] for item in range(NUM_ITEMS)]
    counts = count_recent(events_of(histories), NUM_ITEMS, days=1, share=share)
    assert counts.tolist() == expected


@given(histories_of_users, st.integers(1, 20))
def test_with_times_the_last_days_of_the_log_are_recent(histories, days):
    events = events_of(histories)
    rng = np.random.default_rng(days)
    time_E = rng.integers(0, 10 * DAY_US, len(events.item_E))
    with_times = TrainEvents(events.user_E, events.item_E, time_E)
    expected = [0] * NUM_ITEMS
    for item, time in zip(events.item_E.tolist(), time_E.tolist(), strict=True):
        expected[item] += max(time_E.tolist()) - time < days * DAY_US
    assert count_recent(with_times, NUM_ITEMS, days=days, share=1).tolist() == expected


@given(histories_of_users, st.sampled_from([0.1, 0.25, 0.5, 1.0]))
def test_users_who_lately_took_an_item_first_are_counted_as_by_a_loop(histories, share):
    adopted, without = [0] * NUM_ITEMS, [len(histories)] * NUM_ITEMS
    for own in histories:
        recent_from = len(own) - ceil(share * len(own))
        for item in set(own):
            if own.index(item) >= recent_from:
                adopted[item] += 1
            else:
                without[item] -= 1
    made = count_adopted(events_of(histories), NUM_ITEMS, days=1, share=share)
    assert [counts.tolist() for counts in made] == [adopted, without]


def test_repeats_of_old_buyers_count_nothing_where_slates_leave_out_own_items():
    histories = [[0, 1, 1, 1, 1], [2, 1, 1, 1, 3], [4, 5, 2, 5, 3]]
    adopted, without = count_adopted(events_of(histories), NUM_ITEMS, days=1, share=0.4)
    assert adopted[[1, 3]].tolist() == [0, 2]
    assert without[[1, 3]].tolist() == [1, 3]
    rates = fit_adoption(adopted, without)["popular_V"]
    assert rates.argmax() == 3
    assert torch.isfinite(rates).all()


@given(histories_of_users, st.integers(1, 3))
def test_times_go_with_their_events(histories, num_shards):
    times = [list(range(len(own))) for own in histories]
    with TemporaryDirectory() as place:
        prepared = write_train(Path(place), histories, times=times, num_shards=num_shards)
        events = read_train_events(prepared)
    in_order = [own for shard in range(num_shards) for own in histories[shard::num_shards]]
    assert events.time_E is not None
    assert events.time_E.tolist() == [time for own in in_order for time in range(len(own))]


@given(histories_of_users)
def test_the_users_of_items_are_counted_once(histories):
    bought = user_matrix(events_of(histories), NUM_ITEMS).toarray()
    assert bought.tolist() == [[float(i in own) for i in range(NUM_ITEMS)] for own in histories]


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
    read = read_train_events(tmp_path)
    assert read.item_E.tolist() == items.tolist()
    assert np.bincount(read.user_E).tolist() == lengths


def test_no_train_event_counts_nothing(tmp_path):
    events = read_train_events(write_train(tmp_path, []))
    assert events.num_users == 0
    assert not count_recent(events, NUM_ITEMS, days=1, share=0.5).any()
    assert user_matrix(events, NUM_ITEMS).shape == (0, NUM_ITEMS)
