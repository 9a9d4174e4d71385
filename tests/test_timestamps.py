"""Which unit times are written in, and what they say."""

import datetime

import pyarrow as pa
import pytest

from recdiv_core.data import timestamps


def micros(*moments):
    zone = datetime.UTC
    return [int(datetime.datetime(*m, tzinfo=zone).timestamp() * 1_000_000) for m in moments]


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [
        (["2014-01-02", "2014-01-02T03:04:05"], "iso", micros((2014, 1, 2), (2014, 1, 2, 3, 4, 5))),
        (["2014-01-02T03:04:05+02:00"], "iso", micros((2014, 1, 2, 1, 4, 5))),
        (["2014-01-02 03:04:05.25Z"], "iso", [micros((2014, 1, 2, 3, 4, 5))[0] + 250_000]),
        ([1388534400, 1388534401], "s", [1388534400_000000, 1388534401_000000]),
        (["1388534400.5"], "s", [1388534400_500000]),
        ([1388534400_123], "ms", [1388534400_123000]),
        ([1388534400_123456], "us", [1388534400_123456]),
        ([1388534400_123456_789], "ns", [1388534400_123456]),
        ([0, 1, 2], "order", [0, 1, 2]),
        ([3.0, 4.0], "order", [3, 4]),
    ],
)
def test_the_unit_of_time_is_told_by_size(values, unit, expected):
    column = pa.array(values)
    times, is_valid = timestamps.parse_times(column, unit)
    assert timestamps.detect_time_unit(column, "timestamp") == unit
    assert times.tolist() == expected
    assert is_valid.all()


def test_typed_timestamps_need_no_guess():
    moments = pa.array([datetime.datetime(2014, 1, 2)], pa.timestamp("ms"))
    days = pa.array([datetime.date(2014, 1, 2)])
    assert timestamps.detect_time_unit(moments, "timestamp") == "iso"
    assert timestamps.parse_times(moments, "iso")[0].tolist() == micros((2014, 1, 2))
    assert timestamps.parse_times(days, "iso")[0].tolist() == micros((2014, 1, 2))


def test_one_broken_time_does_not_change_the_unit():
    column = pa.array(["1388534400", "2014-01-02", "soon", None, "1e30"])
    times, is_valid = timestamps.parse_times(
        column, timestamps.detect_time_unit(column, "timestamp")
    )
    assert is_valid.tolist() == [True, False, False, False, True]
    assert times[4] > timestamps.LATEST_US


def test_large_numbers_in_a_column_named_order_are_an_order():
    assert timestamps.detect_time_unit(pa.array([1388534400]), "order") == "order"


def test_times_of_which_none_parses_are_an_error():
    with pytest.raises(ValueError, match=r"data.columns.timestamp=when.*'soon'.*allowed: ISO 8601"):
        timestamps.detect_time_unit(pa.array(["soon", "later"]), "when")
