"""Queries of the log, found again however they are typed, and kept without their texts."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.models.query_text import normalise_query
from recdiv_core.schema import NO_QUERY
from recdiv_core.slates.query_index import FILE, index_queries, read_queries, write_keys

KNOWN = ["red shoe", "STRASSE", "caf\u00e9", "jane.doe@example.com", "Red Shoe"]


@pytest.mark.parametrize(
    ("typed", "number"),
    [
        ("red shoe", 0),
        ("Red Shoe", 4),  # as it stands in the log, before its like
        ("  RED \t shoe ", 0),
        ("stra\u00dfe", 1),
        ("cafe\u0301", 2),
        ("\uff52\uff45\uff44 shoe", 0),  # full width
        ("blue shoe", NO_QUERY),
        ("redshoe", NO_QUERY),
    ],
)
def test_case_blanks_and_forms_of_letters_make_no_difference(typed: str, number: int):
    assert index_queries(KNOWN, salt="a").find(typed) == number


def test_what_a_registered_model_keeps_holds_no_query(tmp_path: Path):
    write_keys(index_queries(KNOWN, salt="ab"), tmp_path)
    text = (tmp_path / FILE).read_text(encoding="utf-8")
    assert "jane" not in text
    assert set(json.loads(text)) == {"salt", "index_of"}
    assert read_queries(tmp_path).find("Jane.Doe@example.com ") == 3


@given(st.lists(st.text(max_size=12), max_size=8))
def test_every_query_of_the_log_is_found(queries: list[str]):
    known = index_queries(queries, salt="s")
    for query in queries:
        assert queries[known.find(query)] == query
        spelt = normalise_query(query)
        assert normalise_query(queries[known.find(spelt)]) == spelt
