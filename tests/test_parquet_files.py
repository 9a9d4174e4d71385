"""All types that Parquet can hold arrive as a type that the rest of the code knows."""

import datetime
import decimal
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdiv_core.config import Config
from recdiv_core.data import items
from recdiv_core.errors import UserError
from recdiv_core.formats import readers, values
from recdiv_core.formats.files import list_files

DAY = datetime.datetime(2024, 1, 31, 12, 30)
TIMES = ["s", "ms", "us", "ns"]


def read(tmp_path, column, name="x"):
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({name: column}), path)
    (unit,) = readers.cut_units(list_files(str(path), "data.clicks"), "data.clicks")
    (batch,) = readers.read_unit(unit, {name: name})
    return batch.table[name].combine_chunks()


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        (pa.array(["a", None, ""], pa.large_string()), ["a", None, None]),
        (pa.array(["a", None, ""], pa.string_view()), ["a", None, None]),
        (pa.array([b"a", None], pa.binary()), ["a", None]),
        (pa.array([b"a", None], pa.large_binary()), ["a", None]),
        (pa.array([b"\x01\xff", None], pa.binary(2)), ["01ff", None]),
        (pa.array(["b", None, "b"]).dictionary_encode(), ["b", None, "b"]),
        (pa.array([7, None], pa.uint64()), ["7", None]),
        (pa.array([2**64 - 1], pa.uint64()), ["18446744073709551615"]),
        (pa.array(np.array([7, 0.5, np.nan], np.float16)), ["7", "0.5", None]),
        (pa.array([7.0, 0.5, None, np.inf], pa.float64()), ["7", "0.5", None, None]),
        (pa.array([2.0**60, 7.0]), ["1152921504606846976", "7"]),
        (pa.array([1e300, -7.0]), ["1e+300", "-7"]),
        (pa.array([decimal.Decimal("7.00"), decimal.Decimal("0.50")]), ["7.00", "0.50"]),
        (pa.array([decimal.Decimal("1700")], pa.decimal256(60, 2)), ["1700.00"]),
        (pa.array([True, None]), ["true", None]),
        (pa.array([None, None]), [None, None]),
        (pa.array([datetime.time(1, 2, 3)], pa.time64("us")), ["01:02:03.000000"]),
        (pa.array([3], pa.duration("s")), ["3"]),
        (pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int32())), ['{"k": 1}', None]),
        (pa.array([[1, 2], [3, 4]], pa.list_(pa.int32(), 2)), ["1|2", "3|4"]),
        (pa.array([["a"], [], None], pa.large_list(pa.string())), ["a", None, None]),
        (pa.array([["a", "b"]], pa.list_(pa.string_view())), ["a|b"]),
        (pa.array([{"a": [1]}, None]), ['{"a": [1]}', None]),
        (pa.array([{"a": "é"}]), ['{"a": "é"}']),
        (pa.array([uuid.UUID(int=1).bytes], pa.uuid()), [str(uuid.UUID(int=1))]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else None,
)
def test_a_type_arrives_as_text(tmp_path, column, texts):
    assert values.as_text(read(tmp_path, column)).to_pylist() == texts


@pytest.mark.parametrize("unit", TIMES)
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin", "+02:00", "Moon/Base"])
def test_times_become_microseconds_whatever_their_unit_and_zone(tmp_path, unit, zone):
    per = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    column = pa.array([1706704200 * per, None]).cast(pa.timestamp(unit, zone))
    found = read(tmp_path, column)
    assert found.type == pa.timestamp("us")
    assert found.to_pylist() == [DAY, None]


@pytest.mark.parametrize("unit", TIMES)
def test_times_out_of_range_are_moved_to_the_ends_of_the_calendar(tmp_path, unit):
    size = 2**62 if unit != "s" else 2**52  # what Parquet can hold
    column = pa.array([size, -size]).cast(pa.timestamp(unit))
    first, last = read(tmp_path, column).to_pylist()
    assert first.year in (9999, 2116)
    assert last.year in (1, 1823)


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()])
def test_dates_are_times(tmp_path, kind):
    column = pa.array([datetime.date(2024, 1, 31)], kind)
    assert read(tmp_path, column).to_pylist() == [datetime.datetime(2024, 1, 31)]


def test_text_that_is_no_text_is_repaired_and_counted(tmp_path):
    bad = pa.Array.from_buffers(
        pa.string(), 2, pa.array([b"caf\xe9", b"tea"], pa.binary()).buffers()
    )
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"x": bad}), path)
    (unit,) = readers.cut_units(list_files(str(path), "data.clicks"), "data.clicks")
    (batch,) = readers.read_unit(unit, {"x": "x"})
    assert batch.table["x"].to_pylist() == ["caf\ufffd", "tea"]
    assert batch.num_repaired == 1


def test_a_type_that_cannot_be_read_is_refused_by_name(tmp_path):
    column = pa.array([[1, 2], None], pa.list_(pa.int32(), 2))  # not even by pyarrow
    with pytest.raises(UserError, match=r"log\.parquet: vector has the type fixed_size_list"):
        read(tmp_path, column, "vector")


def test_bytes_that_are_no_text_are_refused_by_name(tmp_path):
    with pytest.raises(
        UserError, match=r"data\.clicks: .*log\.parquet: blob has the type binary.* no UTF-8 text"
    ):
        read(tmp_path, pa.array([b"\xff\xfe"]), "blob")


@pytest.mark.parametrize("name", ["a.b", "", "__row__", "ü"])
def test_odd_names_do_no_harm(tmp_path, name):
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table([["u"], [1], [2]], names=["user", name, "twice"]), path)
    pq.write_table(pa.table([["u"], [1], [2], [3]], names=["user", name, "twice", "twice"]), path)
    files = list_files(str(path), "data.clicks")
    columns = readers.find_columns(files, {"user": "user"}, ["user"], "data.clicks")
    (unit,) = readers.cut_units(files, "data.clicks")
    for wanted in (columns, None, {"user": "user", name: name}):
        (batch,) = readers.read_unit(unit, wanted)
        assert batch.table["user"].to_pylist() == ["u"]
        assert batch.table[readers.ROW].to_pylist() == [1]


def test_a_column_that_is_a_time_in_some_files_only_is_refused(tmp_path):
    for number in range(5):
        kind = pa.timestamp("us") if number != 3 else pa.int64()
        table = pa.table({"user": ["u"], "time": pa.array([5]).cast(kind)})
        pq.write_table(table, tmp_path / f"part-{number}.parquet")
    files = list_files(str(tmp_path), "data.clicks")
    names = {"user": "user", "time": "time"}
    message = r"'time' is of type timestamp\[us\] in .*part-0.* of type int64 in .*part-3"
    with pytest.raises(UserError, match=message):
        readers.find_columns(files, names, list(names), "data.clicks")


def test_ids_that_are_numbers_in_some_files_only_are_the_same_text(tmp_path):
    for number, ids in enumerate((["7"], [7], [7.0])):
        pq.write_table(pa.table({"user": ids}), tmp_path / f"part-{number}.parquet")
    files = list_files(str(tmp_path), "data.clicks")
    columns = readers.find_columns(files, {"user": "user"}, ["user"], "data.clicks")
    tables = [
        batch.table
        for unit in readers.cut_units(files, "data.clicks")
        for batch in readers.read_unit(unit, columns)
    ]
    assert [values.as_text(table["user"]).to_pylist() for table in tables] == [["7"]] * 3


def test_pictures_in_a_catalogue_are_left_out_and_said(tmp_path, caplog):
    table = pa.table({"item_id": ["a"], "title": ["A"], "picture": [b"\xff\xd8"]})
    pq.write_table(table, tmp_path / "items.parquet")
    files = list_files(str(tmp_path), "data.items")
    raw = items.read_catalogue(files, Config())
    assert raw.table.column_names == ["item_id", "title"]
    assert "columns of bytes, not text, are left out: picture" in caplog.text
