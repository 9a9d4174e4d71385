"""Values of any type as text and as numbers."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.formats import values


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (pa.array([1, None, 3]), ["1", None, "3"]),
        (pa.array([7.0, None, float("nan")]), ["7", None, None]),
        (pa.array([7.5]), ["7.5"]),
        (
            pa.array([1e17, -1e15, 2.0**63]),
            ["1" + 17 * "0", "-1" + 15 * "0", "9.223372036854776e+18"],
        ),
        (pa.array(["", "a"]), [None, "a"]),
        (pa.array(["b", "b"]).dictionary_encode(), ["b", "b"]),
        (pa.array([["a", "b"], None]), ["a|b", None]),
    ],
)
def test_ids_of_any_type_become_text(given, text):
    assert values.as_text(given).to_pylist() == text


def test_ids_lose_blanks_and_the_point_of_a_whole_number_and_nothing_else():
    ids, coerced = values.clean_ids(pa.array(["1.5", " 2.00", "a.0", "-3.0", None]), [])
    assert ids.to_pylist() == ["1.5", "2", "a.0", "-3", None]
    assert coerced == {
        "blanks around an id left out": 1,
        "point of a whole number left out": 2,
    }


def test_what_is_unknown_is_not_true():
    assert values.as_mask(pa.array([True, None, False])).tolist() == [True, False, False]


def test_text_that_is_no_number_becomes_null():
    assert values.as_numbers(pa.array(["5.04", "free", None])).to_pylist() == [5.04, None, None]
    assert np.isclose(values.as_numbers(pa.array([1.25]))[0].as_py(), 1.25)


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ("19,99 €", 19.99),
        ("€ 1.299,00", 1299.0),
        ("1.299 €", 1299.0),
        ("$1,299", 1299.0),
        ("US$ 12", 12.0),
        ("1 299,50 zł", 1299.5),
        ("CHF 1'299.90", 1299.9),
        ("₹1,23,456.00", 123456.0),
        ("Rs. 499", 499.0),
        ("19,- €", 19.0),
        ("€0.125", 0.125),
        ("12.99 USD", 12.99),
        ("1.234.567,8", 1234567.8),
        ("12.34.56", None),
        ("$10 - $20", None),
        ("from 5", None),
        ("free", None),
        ("€", None),
        ("M12", None),
        ("12 ml", None),
        ("EUR12", 12.0),
        ("1200円", 1200.0),
    ],
)
def test_prices_are_read_as_people_write_them(text, price):
    assert values.price_of(text) == price


def test_a_number_is_the_same_price_as_before():
    column = pa.array(["12.5", "1.299", "-3", "1e3", None, "2,5"])
    assert values.as_prices(column).to_pylist() == [12.5, 1.299, -3.0, 1000.0, None, 2.5]


@given(st.integers(0, 10**9), st.sampled_from([",", " ", "'"]))
def test_any_price_is_read_back_with_groups_of_digits(cents, mark):
    written = f"{cents / 100:,.2f}".replace(",", mark)
    assert values.price_of(f"{written} EUR") == cents / 100
