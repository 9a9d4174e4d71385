"""The spelling and the words of queries (models/query_text.py)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.formats.values import normalise_queries
from recdiv_core.models.query_text import normalise_query, word_keys, words_of


@given(st.text(max_size=20))
def test_a_normalised_query_stays_as_it_is(text: str):
    once = normalise_query(text)
    assert normalise_query(once) == once


@given(st.lists(st.text(max_size=8)))
def test_words_do_not_depend_on_the_spelling(texts: list[str]):
    text = " ".join(texts)
    assert words_of(text) == words_of(normalise_query(text)) == words_of(text.upper().lower())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("USB-C cable, 2 m", ["usb", "c", "cable", "2", "m"]),
        ("\u7ea2\u978b", ["\u7ea2\u978b"]),
        ("\u978b", ["\u978b"]),
        ("\u7ea2\u8272\u978b\u5b5040", ["\u7ea2\u8272", "\u8272\u978b", "\u978b\u5b50", "40"]),
        ("\U0001f460 !", []),
    ],
)
def test_words_are_runs_of_letters_or_pairs_of_characters(text: str, words: list[str]):
    assert words_of(text) == words


def test_different_words_have_different_keys_that_stay():
    assert word_keys(["red", "shoe", "red"]).tolist() == [
        -6681078847286810355,
        *word_keys(["shoe"]).tolist(),
        -6681078847286810355,
    ]
    assert len(word_keys([])) == 0


def test_prepare_spells_queries_alike_and_drops_blank_ones():
    import pyarrow as pa

    spelt = normalise_queries(pa.array(["Red  SHOE", " \t", None]))
    assert spelt.to_pylist() == ["red shoe", None, None]
