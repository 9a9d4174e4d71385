import dataclasses

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from recdiv_core.items.labels import labels_of_padded
from recdiv_core.items.traits import describe_items
from recdiv_core.metrics import finish
from recdiv_core.metrics.narrowing import latest_items, narrowed
from recdiv_core.metrics.slate_batch import Background, SlateBatch, match_slates
from tests.oracles import narrowed_choice
from tests.worlds import (
    histories_of,
    pad,
    random_world,
    tally_of,
    traits_of,
    with_background,
)

LABELS = [[0], [0], [1], [2], [], [0, 1]]
TRAITS = describe_items(
    torch.eye(6), labels_of_padded(pad(LABELS)), torch.ones(6).long(), num_train_users=3,
    num_categories=3,
)  # fmt: skip


def judge(slate: list[int], history: list[int], k: int = 4) -> SlateBatch:
    events = torch.tensor(history, dtype=torch.int64)
    background = Background(torch.zeros_like(events), events)
    return match_slates(pad([slate]), torch.tensor([[0]]), TRAITS, k=k, background=background)


@pytest.mark.parametrize(
    ("slate", "history", "expected"),
    [
        ([0, 1, 2], [0, 2, 3], 1.0),  # two categories, three of the user's own
        ([0, 2, 3], [0, 2, 3], 0.0),
        ([0, 2, 3], [0, 1, 2], 0.0),
        ([0, 1, 2, 3], [3, 2], 1.0),  # as many places as own items: 0, 1
        ([0, 1], [3, 2, 0], 1.0),  # as many own items as places, the latest: 0, 2
        ([0, 1], [3, 1, 0], 0.0),
        ([0, 2], [3, 2, 3, 3], 0.0),  # distinct own items: 3, 2
        ([4, 4][:1], [0], 1.0),  # no category shown
        ([0, 1, 5], [2, 3, 0], 1.0),  # an item of two categories counts in both: 2 of 3
        ([5], [0], 0.0),
    ],
)
def test_a_slate_is_narrowed_if_it_shows_fewer_categories_than_as_many_own_items(
    slate, history, expected
):
    assert narrowed(judge(slate, history)).tolist() == [expected]


@pytest.mark.parametrize(("slate", "history"), [([0, 1], []), ([0, 1], [4]), ([], [0, 2])])
def test_without_history_categories_or_slate_nobody_is_compared(slate, history):
    assert narrowed(judge(slate, history)).isnan().all()


def test_the_latest_items_are_distinct_and_each_users_own():
    background = Background(
        torch.tensor([1, 0, 1, 1, 0, 1, 1, 1]), torch.tensor([5, 3, 4, 5, 3, 0, 1, 0])
    )
    slates = match_slates(
        pad([[0, 1], [2], [3]]), torch.tensor([[0], [1], [2]]), TRAITS, k=3, background=background
    )
    assert latest_items(slates).tolist() == [[3, -1, -1], [0, 1, 5], [-1, -1, -1]]


@given(seed=st.integers(0, 10_000), k=st.integers(1, 12))
def test_narrowed_equals_its_slow_twin_at_every_cut_off(seed, k):
    world = with_background(random_world(seed, num_users=12, width=12), seed)
    slates = match_slates(
        pad(world.slates),
        pad(world.targets),
        traits_of(world),
        k=12,
        background=histories_of(world, range(12)),
    ).cut(k)
    users = zip(world.slates, world.targets, world.histories, strict=True)
    expected = [narrowed_choice(s[:k], h, world.categories) for s, targets, h in users if targets]
    found = [None if value != value else bool(value) for value in narrowed(slates).tolist()]
    assert found == expected


@given(seed=st.integers(0, 10_000))
def test_nobody_is_narrowed_by_their_own_latest_items(seed):
    world = with_background(random_world(seed, num_users=12), seed)
    own = [list(dict.fromkeys(reversed(history)))[:10] for history in world.histories]
    found = finish(tally_of(dataclasses.replace(world, slates=own), k=10))
    assert found.get("narrowed_at_10", 0.0) == 0


def test_the_users_who_are_not_compared_do_not_dilute_the_share():
    world = with_background(random_world(3), 3)
    strangers = dataclasses.replace(
        world,
        slates=world.slates * 2,
        targets=world.targets * 2,
        histories=world.histories + [[]] * 40,
    )
    share = finish(tally_of(world, k=10))["narrowed_at_10"]
    assert 0 < share < 1
    assert finish(tally_of(strangers, k=10))["narrowed_at_10"] == share
