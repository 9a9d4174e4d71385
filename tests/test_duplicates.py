"""Doubles by hash, against twins that compare everything with everything."""

import itertools
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.data.audit import duplicates
from tests.oracles import is_tiny_edit

TITLES = st.lists(st.text("ab茶", min_size=9, max_size=12), unique=True, max_size=12)
LISTS = st.lists(st.lists(st.integers(0, 2), max_size=4), max_size=12)


def edits_of(*titles):
    return [
        tuple(sorted((titles[a], titles[b])))
        for a, b in duplicates.find_tiny_edits(pa.array(titles, pa.string()))
    ]


@given(TITLES)
def test_tiny_edits_are_those_of_the_twin(titles):
    found = edits_of(*titles)
    long = [title for title in titles if len(title) >= duplicates.MIN_LETTERS]
    twins = [pair for pair in itertools.combinations(sorted(long), 2) if is_tiny_edit(*pair)]
    assert set(found) <= set(twins)
    assert {title for pair in found for title in pair} == {t for pair in twins for t in pair}


@given(TITLES)
def test_passes_and_chunks_change_nothing(titles):
    expected = edits_of(*titles)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "VARIANTS_A_PASS", 7)
        patch.setattr(duplicates, "TITLES_A_CHUNK", 2)
        found = edits_of(*titles)
    assert {t for pair in found for t in pair} == {t for pair in expected for t in pair}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("red running shoe", "red runing shoe"),
        ("鉄道模型限定版緑色赤色箱", "鉄道模型限定版青色赤色箱"),
        ("كرسي مكتب أسود جلد", "كرسي مكتب أسود جلدي"),
    ],
)
def test_a_character_more_or_another_one_is_a_tiny_edit(first, second):
    assert edits_of(first, second) == [tuple(sorted((first, second)))]


def test_spaces_do_not_count():
    assert edits_of("shampoo 16 fl oz", "shampoo 16 floz") == [
        ("shampoo 16 fl oz", "shampoo 16 floz")
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("red shoe", "rad shoe"),  # short: one letter is a tenth and more
        ("blue running shoe", "grey running shoe"),
        ("緑茶", "紅茶"),
    ],
)
def test_another_word_is_no_tiny_edit(first, second):
    assert edits_of(first, second) == []


def test_one_title_or_none_has_no_double():
    assert edits_of() == []
    assert edits_of("a title of its own") == []


@pytest.mark.parametrize(
    ("given_title", "normal"),
    [
        ("  Red   SHOES!! ", "red shoes"),
        ("\uff34ea \u3000\u8336", "tea \u8336"),  # full width
        ("cafe\u0301", "caf\u00e9"),  # decomposed
        ("\u0939\u093f\u0928\u094d\u0926\u0940", "\u0939\u093f\u0928\u094d\u0926\u0940"),
        ("!?", ""),
    ],
)
def test_titles_of_every_script_are_normalised(given_title, normal):
    assert duplicates.normalise(pa.array([given_title])).to_pylist() == [normal]


@given(LISTS)
def test_equal_lists_and_no_others_have_equal_hashes(lists):
    offsets = np.cumsum([0, *map(len, lists)])
    hashes = duplicates.hash_lists(
        np.array(list(itertools.chain(*lists)), dtype=np.int64), offsets
    ).tolist()
    for first, second in itertools.combinations(range(len(lists)), 2):
        assert (hashes[first] == hashes[second]) == (lists[first] == lists[second])


def test_hashes_of_a_slice_are_those_of_the_whole():
    whole = duplicates.hash_lists(np.array([4, 5, 6, 7]), np.array([0, 1, 3, 4]))
    part = duplicates.hash_lists(np.array([5, 6, 7]), np.array([1, 3, 4]))
    assert part.tolist() == whole[1:].tolist()


@given(st.lists(st.integers(0, 5)))
def test_doubles_are_what_a_counter_finds(keys):
    places = duplicates.find_doubles(np.array(keys, dtype=np.int64)).tolist()
    counts = Counter(keys)
    assert sorted(places) == [i for i, key in enumerate(keys) if counts[key] > 1]
    assert [keys[i] for i in places] == sorted(keys[i] for i in places)
