"""Equal texts are encoded once."""

from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.data.text_vectors import first_equal

TEXTS = st.lists(st.lists(st.integers(0, 3), max_size=3), max_size=12)


@given(TEXTS)
def test_each_text_is_sent_to_the_first_text_that_equals_it(texts):
    assert first_equal(texts).tolist() == [texts.index(text) for text in texts]
