"""Values of any type as text and as numbers."""

import numpy as np
import pyarrow as pa
import pytest

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
