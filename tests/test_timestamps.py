"""Which unit times are written in, and what they say."""

import datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.errors import UserError
from recdiv_core.formats import timestamps

OTHER_UNIT = "timestamp in another unit than the column's"


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
        (["2019-10-01 00:00:00 UTC", "2019/10/01 GMT"], "iso", micros((2019, 10, 1)) * 2),
        (
            ["2019-10-01 02:00:00+0200", "2019-09-30T19:00:00,000-05:00"],
            "iso",
            micros((2019, 10, 1)) * 2,
        ),
        ([20240131, 20240201], "digits", micros((2024, 1, 31), (2024, 2, 1))),
        (["20240131235958"], "digits", micros((2024, 1, 31, 23, 59, 58))),
        ([0, 1, 2], "order", [0, 1, 2]),
        ([3.0, 4.0], "order", [3, 4]),
    ],
)
def test_the_unit_of_time_is_told_by_size(values, unit, expected):
    column = pa.array(values)
    found = timestamps.detect_times(column, "timestamp")
    times, faults = timestamps.parse_times(column, found)
    assert found.unit == unit
    assert times.tolist() == expected
    assert not faults.any()


JANUARY = micros((2024, 1, 12, 22))
DAY = micros((2024, 1, 12))


@pytest.mark.parametrize(
    ("value", "pattern", "expected"),
    [
        ("12 Jan 2024 22:00", "%d %b %Y %H:%M", JANUARY),
        (" Jan 12, 2024", "%b %d, %Y", DAY),
        ("12-JAN-2024", "%d-%b-%Y", DAY),
        ("12 january 2024", "%d %B %Y", DAY),
        ("Jan. 12, 2024, 10:00:00 pm", "%b. %d, %Y, %I:%M:%S %p", JANUARY),
        ("January 12, 2024 at 10:00PM", "%B %d, %Y at %I:%M%p", JANUARY),
        ("Fri, 12 Jan 2024 22:00:00 GMT", "%a, %d %b %Y %H:%M:%S GMT", JANUARY),
        ("Fri Jan 12 22:00:00 2024", "%a %b %d %H:%M:%S %Y", JANUARY),
        ("Fri Jan 12 22:00:00 +0000 2024", "%a %b %d %H:%M:%S %z %Y", JANUARY),
        ("12/Jan/2024:23:00:00 +0100", "%d/%b/%Y:%H:%M:%S %z", JANUARY),
        ("12 Jan 2024 20:00:00.0-02:00", "%d %b %Y %H:%M:%S.%f%z", JANUARY),
    ],
)
def test_a_month_in_words_tells_the_format(value, pattern, expected):
    column = pa.array([value])
    found = timestamps.detect_times(column, "timestamp")
    assert str(found) == pattern
    times, faults = timestamps.parse_times(column, found)
    assert times.tolist() == expected
    assert not faults.any()


@given(st.datetimes(datetime.datetime(1970, 1, 2), datetime.datetime(2100, 1, 1)), st.data())
def test_a_format_with_the_name_of_the_month_is_found_again(moment, data):
    date = data.draw(st.sampled_from(["%d {} %Y", "%d-{}-%Y", "{} %d, %Y", "%A, {} %d, %Y"]))
    clock = data.draw(st.sampled_from(["", " %H:%M:%S", " %I:%M %p", ", %H:%M"]))
    moment = moment.replace(month=data.draw(st.integers(6, 12)), day=min(moment.day, 28))
    pattern = date.format(data.draw(st.sampled_from(["%b", "%B"]))) + clock
    column = pa.array([moment.strftime(pattern)])
    again = datetime.datetime.strptime(column[0].as_py(), pattern)
    found = timestamps.detect_times(column, "timestamp")
    assert timestamps.parse_times(column, found)[0].tolist() == micros(again.timetuple()[:6])


def test_a_broken_value_among_named_months_is_a_fault():
    values = ["May 3, 2024", "June 4, 2024", "soon"]
    assert faults_of(values) == ["", "", "timestamp does not parse"]


@pytest.mark.parametrize("value", ["12 Sept 2024", "12 Jan 2024 10:00 11:00"])
def test_a_month_in_words_that_is_not_read_asks_for_the_format(value):
    with pytest.raises(UserError, match=r"month is a word, .*; say which: data\.timestamp_format="):
        timestamps.detect_times(pa.array([value]), "timestamp")


def faults_of(values, name="timestamp", pattern=""):
    column = pa.array(values)
    found = timestamps.detect_times(column, name, pattern)
    return [timestamps.FAULTS[code] for code in timestamps.parse_times(column, found)[1]]


def test_typed_timestamps_need_no_guess():
    moments = pa.array([datetime.datetime(2014, 1, 2)], pa.timestamp("ms"))
    days = pa.array([datetime.date(2014, 1, 2)])
    for column in (moments, days):
        found = timestamps.detect_times(column, "timestamp")
        assert timestamps.parse_times(column, found)[0].tolist() == micros((2014, 1, 2))


def test_typed_timestamps_out_of_range_and_of_an_unknown_zone_are_named():
    column = pa.array([2**60, -(2**62), 5, None], pa.timestamp("s", tz="Nowhere/City"))
    times, faults = timestamps.parse_times(column, timestamps.detect_times(column, "timestamp"))
    assert times.tolist() == [0, 0, 5_000_000, 0]
    assert faults.tolist() == [1, 1, 0, 1]


def test_times_of_day_and_durations_are_no_times():
    for kind in (pa.time64("us"), pa.duration("s")):
        with pytest.raises(UserError, match="have no date"):
            timestamps.detect_times(pa.array([5], kind), "when")


def test_one_broken_time_does_not_change_the_unit():
    assert faults_of(["1388534400", "2014-01-02", "soon", None, "1e30"]) == [
        "",
        *["timestamp does not parse"] * 3,
        OTHER_UNIT,
    ]


@pytest.mark.parametrize(
    "values",
    [
        [1388534400_123, 1388534401_000, 1388534400],
        [1388534400, 1388534401, 1388534400_123456],
        ["2014-01-02", "2014-01-03", "1388534400"],
        [1388534400_123456, 1388534400_123457, 0],
    ],
)
def test_a_time_in_another_unit_is_named_and_lands_in_no_january_1970(values):
    assert faults_of(values) == ["", "", OTHER_UNIT]


def test_large_numbers_in_a_column_named_order_are_an_order():
    assert timestamps.detect_times(pa.array([1388534400]), "order").unit == "order"


def test_consecutive_numbers_that_look_like_dates_now_and_then_are_an_order():
    column = pa.array(range(20240000, 20250000))
    assert timestamps.detect_times(column, "timestamp").unit == "order"


def test_times_of_which_none_parses_are_an_error():
    with pytest.raises(UserError, match=r"data.columns.timestamp=when.*'soon'.*allowed: ISO 8601"):
        timestamps.detect_times(pa.array(["soon", "later"]), "when")


@pytest.mark.parametrize(
    ("values", "fitting", "other"),
    [
        (["03/04/2024", "05/06/2024"], ["'%d/%m/%Y'", "'%m/%d/%Y'"], "%y"),
        (["31/01/2024 10:00"], ["'%d/%m/%Y %H:%M'"], "%m/%d"),
        (["12/25/2010 8:26"], ["'%m/%d/%Y %H:%M'"], "%d/%m"),
        (["1.2.24"], ["'%d.%m.%y'", "'%m.%d.%y'"], "%Y"),
    ],
)
def test_a_date_whose_day_or_month_may_come_first_asks_for_its_format(values, fitting, other):
    with pytest.raises(UserError, match="say which") as refused:
        timestamps.detect_times(pa.array(values), "when")
    said = str(refused.value)
    assert all(f"data.timestamp_format={pattern}" in said for pattern in fitting)
    assert other not in said.partition("(found")[0]


def test_a_given_format_is_the_one_that_counts():
    column = pa.array(["31/01/2024 10:00", "2024-01-31"])
    found = timestamps.detect_times(column, "when", "%d/%m/%Y %H:%M")
    times, faults = timestamps.parse_times(column, found)
    assert times.tolist() == [*micros((2024, 1, 31, 10)), 0]
    assert faults.tolist() == [0, 1]
    with pytest.raises(UserError, match=r"no value is written as data.timestamp_format=%Y"):
        timestamps.detect_times(pa.array(["soon"]), "when", "%Y")


@given(
    moment=st.datetimes(datetime.datetime(1974, 1, 1), datetime.datetime(2100, 1, 1)),
    unit=st.sampled_from([("s", 1_000_000), ("ms", 1_000), ("us", 1), ("ns", 0)]),
)
def test_a_moment_is_the_same_in_any_unit(moment, unit):
    (expected,) = micros(moment.timetuple()[:6])
    name, scale = unit
    number = expected // scale if scale else expected * 1000
    found = timestamps.detect_times(pa.array([number]), "timestamp")
    assert found.unit == name
    assert timestamps.parse_times(pa.array([number]), found)[0].tolist() == [expected]
    spelt = pa.array([moment.replace(microsecond=0).isoformat(sep=" ") + " UTC"])
    assert timestamps.read_times(spelt)[0].tolist() == [expected]


@pytest.mark.parametrize("pattern", ["%Q", "%", "%Y%Y"])
def test_a_pattern_that_is_none_names_the_key(pattern):
    with pytest.raises(UserError, match=f"data.timestamp_format={pattern} cannot be used"):
        timestamps.detect_times(pa.array(["2024"]), "timestamp", pattern)
