"""The order of training: each user once an epoch, the same batches on any number of workers."""

import itertools
import tracemalloc
from collections import Counter

import hypothesis.strategies as st
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given

from recdiv_core.data import plan
from recdiv_core.data.plan import Fragment, num_steps, plan_windows
from recdiv_core.data.reading import list_fragments
from recdiv_core.schema import TRAIN_EXAMPLE
from tests.test_batches import train_rows, write_shards
from tests.worlds import read_train

sizes = st.lists(st.integers(1, 16), max_size=12)


def fragments_of(row_counts):
    return [Fragment(f"part-{i % 3}.parquet", i // 3, rows) for i, rows in enumerate(row_counts)]


def users_of(fragments):
    return [(f.path, f.row_group, row) for f in fragments for row in range(f.num_rows)]


def parts_of(fragments, *, rank=0, world_size=1, accumulation=1, batch_size=8, seed=0, **steps):
    """Return the users of each part of one rank's steps: [[(path, row group, row)]] a step."""
    windows = plan_windows(
        fragments,
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        accumulation=accumulation,
        seed=seed,
        **steps,
    )
    found = []
    for window in windows:
        known = users_of(window.fragments)
        users = iter([known[row] for row in window.rows])
        found += [[list(itertools.islice(users, n)) for n in step] for step in window.sizes]
    return found


def batches_of(fragments, *, world_size=1, **settings):
    """Return the users of each step, all ranks' parts one after another."""
    ranks = [
        parts_of(fragments, rank=rank, world_size=world_size, **settings)
        for rank in range(world_size)
    ]
    return [
        [user for parts in step for part in parts for user in part]
        for step in zip(*ranks, strict=True)
    ]


@pytest.fixture
def small_windows(monkeypatch):
    """Make windows of 64 users: no test needs as many users as real ones hold."""
    monkeypatch.setattr(plan, "WINDOW_USERS", 64)


@given(
    row_counts=sizes,
    batch_size=st.integers(1, 40),
    world_size=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    first_epoch=st.integers(0, 3),
    window_users=st.integers(1, 200),
)
def test_an_epoch_holds_every_user_once_in_full_batches(
    row_counts, batch_size, world_size, accumulation, first_epoch, window_users
):
    fragments = fragments_of(row_counts)
    steps = num_steps(sum(row_counts), batch_size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "WINDOW_USERS", window_users)
        batches = batches_of(
            fragments,
            batch_size=batch_size,
            world_size=world_size,
            accumulation=accumulation,
            start_step=first_epoch * steps,
            epochs=first_epoch + 2,
        )
    assert len(batches) == 2 * steps
    for epoch in (batches[:steps], batches[steps:]):
        assert sorted(user for batch in epoch for user in batch) == sorted(users_of(fragments))
        assert all(len(batch) == batch_size for batch in epoch[:-1])


@given(sizes, st.integers(1, 40), st.integers(1, 4), st.integers(1, 3), st.integers(1, 200))
def test_batches_are_the_same_on_any_number_of_workers_and_parts(
    row_counts, batch_size, world_size, accumulation, window_users
):
    fragments = fragments_of(row_counts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "WINDOW_USERS", window_users)
        split = batches_of(
            fragments, batch_size=batch_size, world_size=world_size, accumulation=accumulation
        )
        assert split == batches_of(fragments, batch_size=batch_size)


@given(sizes.filter(any), st.integers(1, 20), st.integers(0, 60), st.integers(1, 60))
def test_a_resumed_run_reads_what_was_left(row_counts, batch_size, start_step, window_users):
    fragments = fragments_of(row_counts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "WINDOW_USERS", window_users)
        whole = batches_of(fragments, batch_size=batch_size, epochs=3)
        rest = batches_of(fragments, batch_size=batch_size, epochs=3, start_step=start_step)
    assert rest == whole[start_step:]


@pytest.mark.parametrize("batch_size", [2, 7, 16, 101, 500])
@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_all_ranks_take_equal_shares_of_as_many_steps(batch_size, accumulation, world_size):
    fragments = fragments_of([16] * 6 + [5])
    ranks = [
        parts_of(
            fragments,
            batch_size=batch_size,
            rank=rank,
            world_size=world_size,
            accumulation=accumulation,
        )
        for rank in range(world_size)
    ]
    for step in zip(*ranks, strict=True):
        assert {len(parts) for parts in step} == {accumulation}
        shares = [sum(map(len, parts)) for parts in step]
        assert max(shares) - min(shares) <= accumulation


@pytest.mark.parametrize("change", [{"seed": 1}, {"start_step": 8, "epochs": 2}])
def test_another_seed_or_epoch_gives_another_order(change):
    fragments = fragments_of([2] * 30)
    first, other = batches_of(fragments), batches_of(fragments, **change)
    assert len(first) == len(other) == 8
    assert first != other


def test_no_fragments_make_no_steps():
    assert batches_of([]) == []


def test_a_users_place_in_the_epoch_is_uniform(small_windows):
    fragments = fragments_of([32] * 10)
    counts = np.zeros((4, 10))  # of 4 users, one a row; of tenths of the epoch
    followed = [("part-0.parquet", 0, 0), ("part-0.parquet", 0, 1), ("part-1.parquet", 2, 31)]
    followed += [("part-2.parquet", 0, 16)]
    for seed in range(400):
        order = [user for batch in batches_of(fragments, seed=seed) for user in batch]
        places = {user: place * 10 // len(order) for place, user in enumerate(order)}
        for number, user in enumerate(followed):
            counts[number, places[user]] += 1
    chi_squares = ((counts - 40) ** 2 / 40).sum(axis=1)
    assert chi_squares.max() < 27.9  # one in a thousand, with 9 degrees of freedom


def test_neighbours_in_a_row_group_rarely_share_a_batch(small_windows):
    fragments = fragments_of([32] * 10)
    together = 0
    for seed in range(100):
        batch_of = {u: n for n, batch in enumerate(batches_of(fragments, seed=seed)) for u in batch}
        pairs = itertools.pairwise(users_of(fragments))
        together += sum(batch_of[a] == batch_of[b] for a, b in pairs if a[:2] == b[:2])
    # of two users of a row group both are in one window of 64, in one of its 8 batches
    assert together / (100 * 310) == pytest.approx(7 / 63, rel=0.1)


def test_a_batch_mixes_row_groups(small_windows):
    fragments = fragments_of([8] * 64)
    batches = batches_of(fragments, batch_size=8)
    assert all(len({user[:2] for user in batch}) >= 3 for batch in batches)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_rank_reads_little_more_than_its_share(world_size):
    fragments = fragments_of([1024] * 64)
    (window,) = plan_windows(
        fragments, batch_size=1024, rank=0, world_size=world_size, accumulation=1, seed=0
    )
    assert len(window.fragments) <= 64 / world_size + 8


def test_a_window_of_heavy_users_holds_fewer_of_them():
    heavy = [Fragment("a", number, 1000, 16 << 20) for number in range(100)]
    window = next(plan_windows(heavy, batch_size=100, rank=0, world_size=1, accumulation=1, seed=0))
    num_bytes = sum(fragment.num_bytes for fragment in window.fragments)
    assert num_bytes <= plan.WINDOW_BYTES + (32 << 20)
    assert len(window.rows) >= 14_000


def test_large_batches_still_part_users_of_a_row_group():
    fragments = fragments_of([100] * 100)
    batches = batches_of(fragments, batch_size=100_000 // 40)
    groups = [Counter(user[:2] for user in batch) for batch in batches]
    assert max(max(group.values()) for group in groups) < 60


def test_planning_ten_million_users_takes_little_memory():
    fragments = [Fragment("a", number, 1024) for number in range(10_000)]
    steps = num_steps(10_240_000, 1024)
    tracemalloc.start()
    windows = plan_windows(
        fragments,
        batch_size=1024,
        rank=0,
        world_size=1,
        accumulation=1,
        seed=0,
        start_step=2 * steps - 200,  # the end of the second epoch
        epochs=100,
    )
    found = list(itertools.islice(windows, 6))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(len(window.sizes) for window in found) >= 200
    assert peak < 16 << 20


def test_users_are_read_from_the_shards_as_planned(tmp_path):
    write_shards(tmp_path / "train", train_rows(23), TRAIN_EXAMPLE, num_shards=3, fragment_rows=4)
    fragments = list_fragments(tmp_path, "train")
    assert sum(fragment.num_rows for fragment in fragments) == 23
    where = {"batch_size": 5, "rank": 1, "world_size": 2, "accumulation": 2, "epochs": 2}
    planned = parts_of(fragments, **where)
    read = list(read_train(tmp_path, seed=0, **where))
    assert len(read) == len(planned) == 10
    for parts, users in zip(read, planned, strict=True):
        for examples, part in zip(parts, users, strict=True):
            groups = [pq.ParquetFile(path).read_row_group(group) for path, group, _ in part]
            rows = [g.slice(u[2], 1).to_pylist()[0] for g, u in zip(groups, part, strict=True)]
            assert examples.items.tolist() == [item for row in rows for item in row["items"]]
            assert examples.lengths.tolist() == [len(row["items"]) for row in rows]
