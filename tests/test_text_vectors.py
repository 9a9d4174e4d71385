"""Equal texts are encoded once, by as many actors as pay for their start."""

from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.data.text_vectors import WORK_AN_ACTOR, first_equal, num_actors, paced

TEXTS = st.lists(st.lists(st.integers(0, 3), max_size=3), max_size=12)


@given(TEXTS)
def test_each_text_is_sent_to_the_first_text_that_equals_it(texts):
    assert first_equal(texts).tolist() == [texts.index(text) for text in texts]


@given(st.integers(0, 100), st.floats(0, 1e15), st.integers(1, 64))
def test_there_is_an_actor_and_each_further_one_has_a_block_a_device_and_enough_work(
    blocks, work, devices
):
    actors = num_actors(blocks, work, devices)
    assert actors >= 1
    assert actors == 1 or (actors <= min(blocks, devices) and work / actors >= WORK_AN_ACTOR)
    assert num_actors(blocks + 1, 2 * work, devices + 1) >= actors


def test_progress_is_told_now_and_then_with_the_rate_since_the_first_block():
    times = iter([30.0, 31.0, 35.0, 40.0, 41.0])
    found = list(paced([10, 10, 10, 20, 50], 100, clock=lambda: next(times)))
    assert [done for done, _ in found] == [10, 20, 30, 50, 100]
    assert [said for _, said in found if said] == [
        "50 of 100 texts, 4 a second, 12 s left",
        "100 of 100 texts",
    ]


def test_a_single_block_is_told_when_it_is_finished():
    assert list(paced([7], 7)) == [(7, "7 of 7 texts")]
