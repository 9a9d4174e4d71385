"""Equal texts are encoded once, by as many actors as pay for their start."""

from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.data.text_vectors import WORK_AN_ACTOR, first_equal, num_actors

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
