"""Dates on sale: columns of any form of time become times, or one line names the fault."""

from datetime import UTC, date, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdiv_core.config import Config, override
from recdiv_core.data import items
from recdiv_core.data.sale_dates import ALWAYS, FOREVER, sale_dates
from recdiv_core.errors import UserError
from recdiv_core.formats.files import list_files

JANUARY = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp())
US = 1_000_000
A_DAY = 86_400


def catalogue(tmp_path, **columns):
    """Return the catalogue of a file with these columns."""
    number = len(next(iter(columns.values())))
    rows = {"item_id": [f"i{row}" for row in range(number)], "title": ["t"] * number, **columns}
    pq.write_table(pa.table(rows), tmp_path / "items.parquet")
    return tmp_path / "items.parquet"


def read(path, **settings):
    values = {key.replace("__", "."): value for key, value in settings.items()}
    files = list_files(str(path), "data.items")
    return items.read_catalogue(files, override(Config(), values)).table


def dates(table):
    """Return item_id -> first and last time."""
    found = sale_dates(table)
    pairs = zip(found.from_V.tolist(), found.until_V.tolist(), strict=True)
    return dict(zip(table["item_id"].to_pylist(), pairs, strict=True))


@pytest.mark.parametrize(
    "values",
    [
        ["2024-01-01", None],
        ["2024-01-01T00:00:00Z", ""],
        ["20240101", "null"],
        [JANUARY, None],
        [JANUARY * 1000, None],
        [datetime(2024, 1, 1, tzinfo=UTC), None],
        [date(2024, 1, 1), None],
    ],
)
def test_a_start_of_any_form_is_the_same_time(tmp_path, values):
    found = dates(read(catalogue(tmp_path, available_from=values)))
    assert found == {"i0": (JANUARY * US, FOREVER), "i1": (ALWAYS, FOREVER)}


def test_a_form_of_the_settings_is_read(tmp_path):
    path = catalogue(tmp_path, available_from=["01.02.2024"], available_until=["2024-03-01"])
    found = dates(read(path, data__timestamp_format="%d.%m.%Y"))
    assert found["i0"] == ((JANUARY + 31 * A_DAY) * US, (JANUARY + 61 * A_DAY) * US - 1)


@pytest.mark.parametrize(
    ("value", "last_s"),
    [
        ("2024-01-01", A_DAY),
        ("20240101", A_DAY),
        (date(2024, 1, 1), A_DAY),
        ("2024-01-01T06:00:00", 6 * 3600),
        (JANUARY + 60, 60),
    ],
)
def test_an_end_without_a_clock_includes_its_day(tmp_path, value, last_s):
    found = dates(read(catalogue(tmp_path, available_until=[value])))
    assert found["i0"] == (ALWAYS, (JANUARY + last_s) * US - (last_s == A_DAY))


@pytest.mark.parametrize("name", ["available_from", "available_until"])
def test_a_broken_value_is_named_with_its_column_and_row(tmp_path, name):
    path = tmp_path / "items.csv"
    path.write_text(f"item_id,title,{name}\na,t,2024-01-01\nb,t,2024-01-02\nc,t,2024-13-01\n")
    with pytest.raises(UserError) as error:
        read(path)
    said = f"items.csv: row 4: {name}='2024-13-01' is no time, the column holds ISO 8601"
    assert said in str(error.value)
    assert f"data.columns.{name}" in str(error.value)


def test_a_column_of_words_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"'launch'.*data\.columns\.available_from.*'soon'"):
        read(catalogue(tmp_path, launch=["soon", "later"]), data__columns__available_from="launch")


def test_order_numbers_are_kept_as_another_attribute(tmp_path, caplog):
    table = read(catalogue(tmp_path, available_from=[3, 7]))
    assert sorted(table["given_available_from"].to_pylist()) == [3, 7]
    assert not sale_dates(table).is_limited
    assert "order numbers" in caplog.text


def test_a_column_that_is_called_otherwise_is_no_date(tmp_path):
    path = catalogue(tmp_path, available_from=["never"], shelf=["2024-01-01"])
    table = read(path, data__columns__available_from="shelf")
    assert table["given_available_from"].to_pylist() == ["never"]
    assert dates(table)["i0"][0] == JANUARY * US


def test_items_that_end_before_they_start_are_counted(tmp_path, caplog):
    read(catalogue(tmp_path, available_from=["2024-01-03"], available_until=["2024-01-01"]))
    assert "1 item with available_until before available_from" in caplog.text


def test_a_table_of_raw_values_is_read_too():
    table = pa.table({"item_id": ["a"], "available_from": [JANUARY * 1000]})
    assert dates(table) == {"a": (JANUARY * US, FOREVER)}
