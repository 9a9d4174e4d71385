from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given

from recdiv_core.data.arrays import Examples
from recdiv_core.data.batches import pack, pad_targets
from recdiv_core.data.reading import SplitRows, eval_examples, read_eval
from recdiv_core.schema import EVAL_EXAMPLE, NO_QUERY
from tests.oracles import predictions_of_users


def examples_of(users, *, queries=None, weights=None):
    """Return train examples of users given as lists of items."""
    flat = np.array([item for user in users for item in user], np.int64)
    return Examples(
        items=flat,
        lengths=np.array([len(user) for user in users], np.int64),
        queries=np.full(len(flat), NO_QUERY) if queries is None else np.array(queries, np.int64),
        weights=np.ones(len(flat), np.float32)
        if weights is None
        else np.array(weights, np.float32),
        targets=np.zeros(0, np.int64),
        target_lengths=np.zeros(0, np.int64),
    )


def eval_of(histories, *, queries=None, targets=None):
    targets = [[0]] * len(histories) if targets is None else targets
    rows = [
        {
            "user_id": str(user),
            "history": history,
            "targets": wanted,
            "query": NO_QUERY if queries is None else queries[user],
            "is_cold_user": False,
        }
        for user, (history, wanted) in enumerate(zip(histories, targets, strict=True))
    ]
    return eval_examples(pa.Table.from_pylist(rows, schema=EVAL_EXAMPLE))


def place_history(packed, place):
    """Return what the state at a flat place may see: the items of its segment up to it."""
    row, column = divmod(int(place), packed.items_RW.shape[1])
    same = packed.segment_RW[row, : column + 1] == packed.segment_RW[row, column]
    real = same & (packed.position_RW[row, : column + 1] > 0)
    return tuple(packed.items_RW[row, : column + 1][real].tolist())


def predictions(packed):
    """Return (history, target, weight, query) of every target."""
    queries = packed.queries_RW.flatten()
    return sorted(
        (place_history(packed, place), int(target), float(weight), int(queries[place]))
        for place, target, weight in zip(
            packed.target_place_N, packed.targets_N, packed.weights_N, strict=True
        )
    )


def write_shards(directory, rows, schema, *, num_shards, fragment_rows):
    directory.mkdir(parents=True)
    for shard in range(num_shards):
        table = pa.Table.from_pylist(rows[shard::num_shards], schema=schema)
        path = directory / f"part-{shard:05d}.parquet"
        pq.write_table(table, path, row_group_size=fragment_rows)


def train_rows(num_users):
    return [
        {
            "user_id": str(user),
            "items": [user] * (user % 4),
            "queries": [NO_QUERY] * (user % 4),
            "weights": [1.0] * (user % 4),
        }
        for user in range(num_users)
    ]


def eval_rows(num_users):
    return [
        {
            "user_id": str(user),
            "history": list(range(user % 3)),
            "targets": [user],
            "query": NO_QUERY,
            "is_cold_user": False,
        }
        for user in range(num_users)
    ]


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=14), max_size=6),
    st.integers(1, 6),
    st.integers(0, 100),
)
def test_every_event_is_predicted_once_from_its_own_prefix(users, max_history, seed):
    rng = np.random.default_rng(seed)
    num_events = sum(map(len, users))
    queries = rng.integers(-1, 4, num_events).tolist()
    weights = rng.choice([0.0, 0.5, 1.0], num_events).tolist()
    packed = pack(examples_of(users, queries=queries, weights=weights), max_history=max_history)
    assert predictions(packed) == predictions_of_users(users, queries, weights, max_history)


def predictions_of_two_windows(user, max_history, draw):
    """Slow twin: predictions of the last window and an earlier one, cut from the end."""
    stops = list(range(len(user), 0, -max_history))  # the last window comes first
    kept = {stops[0], stops[1 + int(draw * (len(stops) - 1))]} if stops[1:] else {*stops}
    for stop in kept:
        start = max(0, stop - max_history)
        for event in range(start, stop):
            if event > start or start == 0:
                yield tuple(user[start:event]), user[event], 1.0, NO_QUERY
            elif start in kept:  # the window before it ends here
                yield tuple(user[max(0, start - max_history) : start]), user[event], 1.0, NO_QUERY


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=24), max_size=6),
    st.integers(1, 6),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=6, max_size=6),
)
def test_a_long_train_history_keeps_its_last_window_and_one_that_is_drawn(
    users, max_history, draws
):
    draws_B = np.array(draws[: len(users)])
    packed = pack(examples_of(users), max_history=max_history, draws_B=draws_B)
    expected = [
        predictions_of_two_windows(user, max_history, draw)
        for user, draw in zip(users, draws, strict=False)
    ]
    assert predictions(packed) == sorted(prediction for own in expected for prediction in own)
    histories = [place_history(packed, place) for place in packed.last_place_B]
    assert histories == [tuple(user[-max_history:]) for user in users]
    assert packed.seen_item_S.tolist() == [item for user in users for item in user]


@given(st.lists(st.lists(st.integers(0, 9), max_size=14), max_size=6), st.integers(1, 6))
def test_a_users_last_place_has_seen_the_last_events(users, max_history):
    packed = pack(examples_of(users), max_history=max_history)
    histories = [place_history(packed, place) for place in packed.last_place_B]
    assert histories == [tuple(user[-max_history:]) for user in users]


@given(st.lists(st.lists(st.integers(0, 9), max_size=14), max_size=6), st.integers(1, 6))
def test_seen_pairs_are_the_whole_histories(users, max_history):
    packed = pack(examples_of(users), max_history=max_history)
    pairs = list(zip(packed.seen_user_S.tolist(), packed.seen_item_S.tolist(), strict=True))
    assert pairs == [(row, item) for row, user in enumerate(users) for item in user]


@given(st.lists(st.lists(st.integers(0, 9), max_size=14), max_size=6), st.integers(1, 6))
def test_each_place_knows_its_user(users, max_history):
    packed = pack(examples_of(users), max_history=max_history)
    owner = packed.user_RW.flatten()
    assert owner[packed.last_place_B].tolist() == list(range(len(users)))
    is_event = packed.position_RW.flatten() > 0
    for user, items in enumerate(users):
        own = packed.items_RW.flatten()[is_event & (owner == user)]
        assert sorted(own.tolist()) == sorted(items)


@given(st.lists(st.lists(st.integers(0, 9), max_size=14), max_size=6), st.integers(1, 6))
def test_positions_count_from_the_start_of_a_segment(users, max_history):
    packed = pack(examples_of(users), max_history=max_history)
    assert packed.items_RW.shape[1] == max_history + 1
    for segment in range(int(packed.segment_RW.max()) + 1):
        row, column = (packed.segment_RW == segment).nonzero(as_tuple=True)
        assert row.unique().numel() == 1
        assert torch.equal(column, torch.arange(len(column)) + column[0])
        assert packed.position_RW[row, column].tolist() == list(range(len(column)))


def test_short_histories_share_a_row():
    packed = pack(examples_of([[1, 2, 3], [4], [5, 6], [7]]), max_history=5)
    assert packed.items_RW.shape == (2, 6)


def test_no_user_gives_one_row_without_targets():
    packed = pack(examples_of([]), max_history=4)
    assert packed.items_RW.shape == (1, 5)
    assert packed.targets_N.numel() == packed.last_place_B.numel() == 0


def test_an_evaluation_history_keeps_its_last_window_and_its_query():
    packed = pack(eval_of([[1, 2, 3, 4], [], [5]], queries=[7, NO_QUERY, 8]), max_history=3)
    assert [place_history(packed, place) for place in packed.last_place_B] == [(2, 3, 4), (), (5,)]
    assert packed.queries_RW.flatten()[packed.last_place_B].tolist() == [7, NO_QUERY, 8]
    assert (packed.queries_RW >= 0).sum() == 2
    assert packed.seen_item_S.tolist() == [1, 2, 3, 4, 5]


def test_evaluation_of_users_without_any_history_has_a_state_for_each():
    packed = pack(eval_of([[], [], []]), max_history=3)
    assert packed.last_place_B.numel() == 3
    assert not packed.position_RW.flatten()[packed.last_place_B].any()


def test_targets_are_padded_behind_the_end():
    examples = eval_of([[], [], []], targets=[[3], [5, 1, 2], [4, 0]])
    assert pad_targets(examples).tolist() == [[3, -1, -1], [5, 1, 2], [4, 0, -1]]


@pytest.mark.parametrize("world_size", [1, 2, 3, 9])
def test_evaluation_batches_are_dealt_out_whole(tmp_path: Path, world_size):
    write_shards(tmp_path / "val", eval_rows(23), EVAL_EXAMPLE, num_shards=2, fragment_rows=4)

    def batches(rank, world_size):
        return [
            examples.targets.tolist()
            for examples in read_eval(
                tmp_path, "val", batch_size=5, rank=rank, world_size=world_size
            )
        ]

    whole = batches(0, 1)
    dealt = [batches(rank, world_size) for rank in range(world_size)]
    assert sorted(sum(whole, [])) == list(range(23))  # noqa: RUF017
    assert sorted(batch for share in dealt for batch in share) == sorted(whole)


@pytest.mark.parametrize("most", [1, 3, 64, 100, 499])
def test_a_sample_of_a_split_is_spread_evenly_and_does_not_depend_on_its_readers(tmp_path, most):
    write_shards(tmp_path / "val", eval_rows(500), EVAL_EXAMPLE, num_shards=3, fragment_rows=7)
    whole = SplitRows(tmp_path, "val")
    order = [row["targets"] for row in whole.read(0, 500).to_pylist()]

    def places(batch_size, world_size):
        batches = [
            examples.targets.tolist()
            for rank in range(world_size)
            for examples in read_eval(
                tmp_path,
                "val",
                batch_size=batch_size,
                rank=rank,
                world_size=world_size,
                most=most,
            )
        ]
        return sorted(order.index([item]) for batch in batches for item in batch)

    found = places(500, 1)
    assert found == places(1, 1) == places(13, 3)
    assert len(set(found)) == len(found) == SplitRows(tmp_path, "val", most).num_rows
    assert most * 0.5 < len(found) <= most
    gaps = np.diff([-1, *found, 500])
    assert gaps.max() <= 2 * 500 / min(64, most)


def test_a_sample_of_more_than_a_split_has_is_the_split(tmp_path):
    write_shards(tmp_path / "val", eval_rows(23), EVAL_EXAMPLE, num_shards=2, fragment_rows=4)
    whole = SplitRows(tmp_path, "val").read(0, 23)
    assert all(SplitRows(tmp_path, "val", most).read(0, 23) == whole for most in (0, 23, 24))


def test_an_empty_split_has_no_batches(tmp_path):
    assert list(read_eval(tmp_path, "val", batch_size=5, rank=0, world_size=1)) == []
