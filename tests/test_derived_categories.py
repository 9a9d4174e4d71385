"""Categories of a shop that gives none: clusters of text vectors, and their names."""

import logging

import numpy as np
import pyarrow as pa
import pytest
from threadpoolctl import threadpool_limits

from recdiv_core.config import Config, override
from recdiv_core.data import derived_categories
from recdiv_core.data.derived_categories import (
    choose_number,
    derive_categories,
    is_wanted,
    name_clusters,
    title_words,
)
from recdiv_core.errors import UserError
from recdiv_core.schema import NO_TEXT

WORDS = ("soap", "lamp", "boots", "kettle", "tent", "puzzle", "camera", "scarf")
"""A word of all titles of a kind."""


def shop(num_kinds=8, each=20, width=16):
    """Return titles of a few kinds, and vectors around one centre per kind."""
    rng = np.random.default_rng(1)
    kind_V = np.arange(num_kinds * each) % num_kinds
    vectors = 5 * np.eye(width)[kind_V] + rng.normal(size=(len(kind_V), width)) * 0.3
    titles = [f"The {WORDS[kind]} for you, number x{row}" for row, kind in enumerate(kind_V)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return pa.array(titles), vectors.astype(np.float32), kind_V


def test_items_of_a_kind_are_in_one_category_named_after_its_word():
    titles, vectors, kind_V = shop()
    names = derive_categories(titles, titles, vectors, "auto").to_pylist()
    assert len(set(names)) == 8
    for name, kind in zip(names, kind_V, strict=True):
        assert name.split(", ")[0] == WORDS[kind]


def test_the_number_with_the_best_silhouette_is_chosen():
    number, silhouette = choose_number(twelve_kinds())
    assert number == 12
    assert silhouette > 0.8


def twelve_kinds():
    rng = np.random.default_rng(2)
    vectors = 5 * np.eye(16)[np.arange(360) % 12] + rng.normal(size=(360, 16)) * 0.2
    return vectors.astype(np.float32)


def test_a_given_number_is_kept():
    titles, vectors, _ = shop()
    assert len(derive_categories(titles, titles, vectors, 3).unique()) == 3


def test_the_number_of_threads_changes_nothing():
    titles, vectors, _ = shop()
    one = derive_categories(titles, titles, vectors, "auto")
    with threadpool_limits(limits=4):
        assert derive_categories(titles, titles, vectors, "auto").equals(one)


def test_items_without_a_text_are_in_a_category_named_so():
    titles, vectors, kind_V = shop()
    texts = pa.array(["" if row % 10 == 5 else t for row, t in enumerate(titles.to_pylist())])
    names = derive_categories(texts, texts, vectors, 8).to_pylist()
    assert all((name == NO_TEXT) == (row % 10 == 5) for row, name in enumerate(names))
    for name, kind in zip(names, kind_V, strict=True):
        assert name == NO_TEXT or name.split(", ")[0] == WORDS[kind]


def test_equal_texts_are_in_one_category():
    titles, vectors, _ = shop()
    twice = pa.concat_arrays([titles, titles])
    names = derive_categories(twice, twice, np.concatenate([vectors, vectors]), 5)
    assert names.slice(0, len(titles)).equals(names.slice(len(titles)))


def test_the_number_and_the_names_are_logged(caplog):
    titles, vectors, _ = shop()
    with caplog.at_level(logging.INFO):
        derive_categories(titles, titles, vectors, "auto")
    assert "categories: 8 derived from the texts of the items" in caplog.text
    assert all(f"{word}, " in caplog.text and "(20 items)" in caplog.text for word in WORDS)


@pytest.mark.parametrize(
    ("titles", "names"),
    [
        (["красный чай", "зелёный чай", "синяя лампа", "белая лампа"], ("чай", "лампа")),
        (
            ["\u6d17\u53d1\u6c34 A", "\u6d17\u53d1\u6c34 B", "\u53f0\u706f A", "\u53f0\u706f B"],
            ("\u53d1\u6c34", "\u53f0\u706f"),
        ),
        (["चाय लाल", "चाय हरी", "दीपक नीला", "दीपक सफेद"], ("चाय", "दीपक")),
    ],
)
def test_titles_of_any_script_give_names(titles, names):
    found = name_clusters(pa.array(titles), np.array([0, 0, 1, 1]))
    assert [name.split(", ")[0] for name in found] == list(names)


def test_a_word_of_all_titles_names_no_cluster():
    things = ["tea", "mug", "pot", "lamp", "desk", "sofa"]
    titles = pa.array([f"sale {thing}" for thing in things])
    for name in name_clusters(titles, np.array([0, 0, 0, 1, 1, 1])):
        assert "sale" not in name.split(", ")


def test_a_name_has_no_two_forms_of_a_word():
    titles = pa.array(["tea teas cup", "tea teas cup", "lamp", "lamp"])
    assert name_clusters(titles, np.array([0, 0, 1, 1])) == ["cup, tea", "lamp"]


def test_clusters_with_the_same_words_have_different_names():
    names = name_clusters(pa.array(["tea"] * 4 + ["mug"]), np.array([0, 0, 1, 1, 2]))
    assert len(set(names)) == 3
    assert name_clusters(pa.array(["", "1"]), np.array([0, 1])) == ["group 1", "group 2"]


def test_numbers_and_units_are_no_words():
    assert title_words("soap 12 4oz oz bar") == ["soap", "bar"]
    assert title_words("teacup and saucer mit henkel") == ["teacup", "saucer", "henkel"]


TEXTS = pa.array([f"text {n}" for n in range(100)])


@pytest.mark.parametrize(
    ("num_given", "texts", "wanted", "answer"),
    [
        (0, TEXTS, "auto", True),
        (9, TEXTS, "auto", True),
        (10, TEXTS, "auto", False),
        (100, TEXTS, "auto", False),
        (0, TEXTS, 0, False),
        (100, TEXTS, 5, True),
        (0, pa.array(["same"] * 100), "auto", False),
        (0, pa.array([""] * 100), "auto", False),
    ],
)
def test_categories_are_derived_where_nearly_no_item_has_one(num_given, texts, wanted, answer):
    given = ["Tea > Green"] * num_given + [None, " | ", ""] * 34
    assert is_wanted(given[:100], texts, wanted) is answer


def test_more_categories_than_texts_are_refused():
    with pytest.raises(UserError, match=r"data.derived_categories=3: the items have 2 different"):
        is_wanted([None] * 3, pa.array(["a", "b", ""]), 3)


@pytest.mark.parametrize("value", [1, -1, 1001, "many"])
def test_a_number_that_is_not_allowed_is_refused(value):
    with pytest.raises(UserError, match=r"data\.derived_categories"):
        override(Config(), {"data.derived_categories": value})


def test_the_command_line_takes_a_number_and_the_word():
    for value in ("auto", 0, 24):
        config = override(Config(), {"data.derived_categories": value})
        assert config.data.derived_categories == value


def test_a_sample_serves_for_the_choice(monkeypatch):
    monkeypatch.setattr(derived_categories, "SAMPLE", 120)
    monkeypatch.setattr(derived_categories, "SILHOUETTE_SAMPLE", 60)
    assert choose_number(twelve_kinds())[0] == 12
