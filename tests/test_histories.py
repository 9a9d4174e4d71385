"""Weights of the events of histories, against loops over users."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from recdiv_core.models.baselines.histories import (
    DAY_US,
    HalfLife,
    Histories,
    ages,
    falling_weights,
    halving_weights,
    join_repeats,
    read_half_life,
)

timed = st.lists(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=6), min_size=1, max_size=4
)
"""Users with (time, item) of each event."""


def histories_of(users, *, has_times=True):
    flat = [(row, *event) for row, own in enumerate(users) for event in sorted(own)]
    columns = [torch.tensor([event[place] for event in flat]).long() for place in range(3)]
    ids = [str(row) for row in range(len(users))]
    time_S = columns[1] * DAY_US if has_times else None
    return Histories(columns[0], columns[2], ids, time_S)


@given(timed)
def test_events_of_one_time_have_one_age(users):
    expected = [
        len({later for later, _ in own if later >= time})
        for own in users
        for time, _ in sorted(own)
    ]
    assert ages(histories_of(users)).tolist() == expected


@given(timed)
def test_without_times_each_event_has_its_own_age(users):
    expected = [len(own) - place for own in users for place in range(len(own))]
    assert ages(histories_of(users, has_times=False)).tolist() == expected


@given(timed, st.sampled_from([0.0, 0.5, 2.0]))
def test_falling_weights_sum_to_one(users, recency):
    histories = histories_of(users)
    weight_S = falling_weights(histories, recency)
    for row, own in enumerate(users):
        raw = [len({later for later, _ in own if later >= t}) ** -recency for t, _ in sorted(own)]
        expected = [weight / sum(raw) for weight in raw]
        assert weight_S[histories.user_S == row].tolist() == pytest.approx(expected)


@given(timed, st.sampled_from([0.5, 3.0]))
def test_weights_halve_by_days(users, half_life):
    expected = [2 ** ((time - max(own)[0]) / half_life) for own in users for time, _ in sorted(own)]
    weight_S = halving_weights(histories_of(users), HalfLife(half_life, in_days=True))
    assert weight_S.tolist() == pytest.approx(expected)


@given(timed, st.booleans())
def test_all_events_count_alike_without_a_half_life_and_without_the_times_for_it(users, has_times):
    histories = histories_of(users, has_times=has_times)
    assert (halving_weights(histories, HalfLife(0.0, in_days=True)) == 1).all()
    untimed = histories_of(users, has_times=False)
    assert (halving_weights(untimed, HalfLife(2.0, in_days=True)) == 1).all()


@given(timed, st.sampled_from(["sum", "amax"]))
def test_repeats_are_joined(users, join):
    histories = histories_of(users)
    weight_S = falling_weights(histories, 1.0)
    found = {}
    for user, item, weight in zip(
        histories.user_S.tolist(), histories.item_S.tolist(), weight_S.tolist(), strict=True
    ):
        found.setdefault((user, item), []).append(weight)
    expected = {pair: sum(own) if join == "sum" else max(own) for pair, own in found.items()}
    user_P, item_P, weight_P = join_repeats(histories, weight_S, 4, join)
    pairs = list(zip(user_P.tolist(), item_P.tolist(), strict=True))
    assert pairs == sorted(expected)
    assert weight_P.tolist() == pytest.approx([expected[pair] for pair in pairs])


def test_a_half_life_is_kept_among_the_weights():
    for in_days in (True, False):
        assert read_half_life({"half_life": HalfLife(2.5, in_days).tensor}) == HalfLife(
            2.5, in_days
        )
