"""Excel workbooks: all sheets with the same columns, row by row."""

import datetime
import sys

import openpyxl
import pytest

from recdiv_core.errors import UserError
from recdiv_core.formats import readers
from recdiv_core.formats.files import list_files

HEADER = ["Invoice", "StockCode", "InvoiceDate", "Price"]
DAY = datetime.datetime(2010, 12, 1, 8, 26)


@pytest.fixture
def book(tmp_path):
    made = openpyxl.Workbook()
    sheets = [made.active, made.create_sheet("2010"), made.create_sheet("notes")]
    for sheet in sheets[:2]:
        sheet.append(HEADER)
        sheet.append([536365, "85123A", DAY, 2.55])
        sheet.append([])
        sheet.append(["C536379", 22633, DAY, 7])
    sheets[2].append(["a note"])
    made.save(tmp_path / "retail.xlsx")
    return tmp_path / "retail.xlsx"


def test_all_sheets_with_the_same_columns_are_read(book, caplog):
    files = list_files(str(book), "data.clicks")
    names = {"user_id": "Invoice", "item_id": "StockCode", "timestamp": "InvoiceDate"}
    columns = readers.find_columns(files, names, list(names), "data.clicks")
    (unit,) = readers.cut_units(files, "data.clicks")
    batches = list(readers.read_unit(unit, columns))
    rows = [row for batch in batches for row in batch.table.to_pylist()]
    assert [row["user_id"] for row in rows] == ["536365", "C536379"] * 2
    assert [row["item_id"] for row in rows] == ["85123A", "22633"] * 2
    assert rows[0]["timestamp"] == DAY
    assert [row[readers.ROW] for row in rows] == [2, 4, 6, 8]
    assert sum(batch.num_blank for batch in batches) == 2
    assert "sheet 'notes' is left out" in caplog.text


def test_without_the_package_the_message_says_what_to_install(book, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(UserError, match="pip install openpyxl, or save it as CSV"):
        readers.read_header(list_files(str(book), "data.clicks")[0], "data.clicks")


def test_a_file_that_is_no_workbook_is_refused(tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"a,b\n1,2\n")
    with pytest.raises(UserError, match=r"a\.xlsx is not readable as xlsx"):
        readers.read_header(list_files(str(tmp_path), "data.clicks")[0], "data.clicks")
