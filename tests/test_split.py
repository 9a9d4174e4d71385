import itertools
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recdiv_core.config import Config, override
from recdiv_core.data import examples, split
from recdiv_core.data.cuts import Cuts
from recdiv_core.data.shards import summarise
from recdiv_core.errors import UserError
from recdiv_core.schema import MAX_EXAMPLE_EVENTS, NO_QUERY

NUM_ITEMS = 6


def make_events(users):
    """`users`: a list of lists of (time, item, query), in any order."""
    users = [sorted(events, key=lambda e: e[0]) for events in users]
    flat = [event for events in users for event in events]
    columns = np.array(flat, dtype=np.int64).reshape(-1, 3)
    return split.UserEvents(
        pa.array([f"u{n}" for n in range(len(users))], pa.string()),
        np.cumsum([0, *map(len, users)]),
        columns[:, 1].astype(np.int32),
        columns[:, 0],
        columns[:, 2].astype(np.int32),
        np.arange(len(flat), dtype=np.float32),
    )


event = st.tuples(st.integers(0, 9), st.integers(0, NUM_ITEMS - 1), st.integers(NO_QUERY, 1))
logs = st.lists(st.lists(event, min_size=1, max_size=8), min_size=1, max_size=6)
cuts = st.tuples(st.integers(1, 4), st.integers(5, 9))
property_test = settings(deadline=None, derandomize=True)


@property_test
@given(logs, cuts)
def test_temporal_parts_every_event_by_the_clock_alone(users, cut):
    events = make_events(users)
    parts = split.mark_parts(split.count_temporal(events.times_N, events.offsets_B, *cut))
    by_clock = [0 if t < cut[0] else 1 if t < cut[1] else 2 for t in events.times_N]
    assert parts.tolist() == by_clock


@property_test
@given(logs)
def test_leave_last_out_holds_out_the_last_two_of_three_or_more(users):
    events = make_events(users)
    counts = split.count_leave_last_out(events.offsets_B)
    expected = [[len(u) - 2, 1, 1] if len(u) >= 3 else [len(u), 0, 0] for u in users]
    assert counts.tolist() == expected


@property_test
@given(logs, cuts, st.integers(1, 3), st.sets(st.integers(0, NUM_ITEMS - 1)))
def test_train_holds_core_items_of_the_train_window_alone(users, cut, min_events, core):
    events = make_events(users)
    counts = split.count_temporal(events.times_N, events.offsets_B, *cut)
    in_core = np.isin(np.arange(NUM_ITEMS), list(core))
    is_train = split.mark_train_events(events, counts, in_core, min_events)
    rows = split.make_train_examples(events, is_train).to_pylist()
    expected = {}
    for number, user in enumerate(users):
        ordered = sorted(user, key=lambda e: e[0])
        items = [i for t, i, _ in ordered if t < cut[0] and i in core]
        if len(items) >= min_events:
            expected[f"u{number}"] = items
    assert {row["user_id"]: row["items"] for row in rows} == expected


@property_test
@given(logs, cuts, st.sampled_from([split.VAL, split.TEST]))
def test_eval_examples_match_a_loop_over_users(users, cut, part):
    events = make_events(users)
    counts = split.count_temporal(events.times_N, events.offsets_B, *cut)
    has_train = counts[:, 0] > 0
    rows = split.make_eval_examples(events, counts, part, has_train).to_pylist()
    start, end = (cut[0], cut[1]) if part == split.VAL else (cut[1], 10)
    expected = []
    for number, user in enumerate(users):
        ordered = sorted(user, key=lambda e: e[0])
        held_out = [e for e in ordered if start <= e[0] < end]
        if not held_out:
            continue
        query = held_out[0][2]
        first = {i: t for t, i, q in reversed(held_out) if query in (NO_QUERY, q)}
        targets = list(dict.fromkeys(i for _, i, q in held_out if query in (NO_QUERY, q)))
        expected.append(
            {
                "user_id": f"u{number}",
                "history": [i for t, i, _ in ordered if t < start],
                "targets": targets,
                "query": query,
                "is_cold_user": not any(t < cut[0] for t, _, _ in user),
                "history_times": [t for t, _, _ in ordered if t < start],
                "target_times": [first[item] for item in targets],
            }
        )
    assert rows == expected


def make_long_user(length):
    events = make_events([[(t, t % NUM_ITEMS, NO_QUERY) for t in range(length)]])
    return events, split.make_train_examples(events, np.ones(length, dtype=bool)).to_pylist()


@property_test
@given(st.integers(1, 4 * MAX_EXAMPLE_EVENTS))
def test_a_long_user_has_every_event_once_as_a_target_with_context(length):
    events, rows = make_long_user(length)
    rest = [weight for row in rows for weight in row["weights"][1:]]
    assert [rows[0]["weights"][0], *rest] == events.weights_N.tolist()
    assert all(a["items"][-1] == b["items"][0] for a, b in itertools.pairwise(rows))
    assert all(2 <= len(row["items"]) <= MAX_EXAMPLE_EVENTS for row in rows[1:])
    assert len(rows[0]["items"]) == min(length, MAX_EXAMPLE_EVENTS)


def test_queries_weights_and_times_go_with_their_items():
    events = make_events([[(0, 3, 1), (1, 2, NO_QUERY)]])
    (row,) = split.make_train_examples(events, np.array([True, True])).to_pylist()
    expected = {"items": [3, 2], "queries": [1, -1], "weights": [0.0, 1.0], "times": [0, 1]}
    assert row == {"user_id": "u0", **expected}


def test_an_order_only_log_gives_no_times():
    events = replace(make_events([[(0, 3, NO_QUERY), (1, 2, NO_QUERY)]]), has_times=False)
    (row,) = split.make_train_examples(events, np.array([True, False])).to_pylist()
    counts = np.array([[1, 1, 0]])
    (held_out,) = split.make_eval_examples(events, counts, split.VAL, np.array([True])).to_pylist()
    assert row["times"] is held_out["history_times"] is held_out["target_times"] is None


def test_ties_across_a_cut_are_counted_for_each_neighbour_pair():
    events = make_events(
        [[(5, 0, -1), (5, 1, -1), (5, 2, -1)], [(5, 0, -1), (6, 0, -1), (6, 0, -1)]]
    )
    assert split.count_ties(events, split.count_leave_last_out(events.offsets_B)) == 3


def test_an_event_at_the_cut_belongs_to_the_later_window():
    events = make_events([[(4, 0, -1), (5, 1, -1), (5, 2, -1), (7, 3, -1)]])
    counts = split.count_temporal(events.times_N, events.offsets_B, 5, 7)
    assert counts.tolist() == [[1, 2, 1]]


def test_reserved_queries_leave_train_and_stay_in_evaluation():
    events = make_events([[(0, 0, 0), (1, 1, 1), (5, 2, 0), (9, 3, 0)], [(0, 1, NO_QUERY)]])
    counts = split.count_temporal(events.times_N, events.offsets_B, 5, 9)
    is_train = split.mark_train_events(events, counts, np.ones(NUM_ITEMS, bool), 1)
    hidden = split.hide_queries(events, is_train, np.array([True, False]))
    train = split.make_train_examples(hidden, is_train)
    assert train["queries"].to_pylist() == [[NO_QUERY, 1], [NO_QUERY]]
    assert train["items"].to_pylist() == [[0, 1], [1]]
    test = split.make_eval_examples(events, counts, split.TEST, np.array([True, True]))
    assert test["query"].to_pylist() == [0]


def test_a_share_of_the_queries_is_reserved_by_their_text_alone():
    texts = [f"query {n}" for n in range(4000)]
    is_reserved = split.reserve_queries(texts, 0.2)
    assert 0.18 < is_reserved.mean() < 0.22
    assert split.reserve_queries(texts[::-1], 0.2).tolist() == is_reserved[::-1].tolist()
    assert not split.reserve_queries(texts, 0.0).any()
    assert not len(split.reserve_queries([], 0.2))


@pytest.mark.parametrize(
    ("protocol", "settings", "remedy"),
    [
        ("leave_last_out", {}, "users of three events or more"),
        ("temporal", {}, "set split.val_from and split.test_from, or split.val_share"),
        ("temporal", {"split.val_days": 1}, r"split.val_days=1, split.test_days=0: .* more days"),
        (
            "temporal",
            {"data.base": "old", "split.val_days": 1, "split.test_days": 2},
            r"keeps the split of its base \(split.val_days=1, split.test_days=2\).* together",
        ),
    ],
)
def test_an_empty_window_names_the_settings_that_can_be_changed(protocol, settings, remedy):
    counts = {"examples train": 5, "examples val": 0, "examples test": 2}
    with pytest.raises(UserError, match=f"no user has an example in val .*{remedy}"):
        examples.check_examples(counts, override(Config(), settings), Cuts(protocol))


@pytest.mark.parametrize(
    ("clicks", "given"), [("log.csv", "data.clicks=log.csv"), ("", "the data set")]
)
def test_a_data_set_without_an_event_is_refused(tmp_path, clicks, given):
    config = override(Config(), {"data.clicks": clicks, "data.events": ["click", "cart"]})
    message = f"^{given} has no event of data.events=click,cart left$"
    with pytest.raises(UserError, match=message):
        summarise(tmp_path, config)
