"""Which files a path stands for, and the columns that Hive's folders are."""

import pytest

from recdiv_core.errors import UserError
from recdiv_core.formats import readers
from recdiv_core.formats.files import find_partitions, list_files

NAMES = {"user_id": "user_id", "item_id": "item_id", "event": "event", "dt": "dt"}


def write(root, path, rows=("a,i",), header="user_id,item_id"):
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join([header, *rows]) + "\n")


def read_all(given, required=("user_id", "item_id")):
    files = list_files(str(given), "data.clicks")
    columns = readers.find_columns(files, NAMES, required, "data.clicks")
    units = readers.cut_units(files, "data.clicks")
    tables = [batch.table for unit in units for batch in readers.read_unit(unit, columns)]
    return [
        {n: v for n, v in row.items() if n != readers.ROW} for t in tables for row in t.to_pylist()
    ]


@pytest.fixture
def hive(tmp_path):
    write(tmp_path, "log/event=click/dt=2024-01-01/part-0.csv", ["a,i", "b,j"])
    write(tmp_path, "log/event=add%20to%20cart/dt=2024-01-02/part-0.csv")
    write(tmp_path, "log/event=click/dt=__HIVE_DEFAULT_PARTITION__/part-0.csv")
    return tmp_path / "log"


def test_folders_are_columns_of_every_row(hive):
    found = {(row["event"], row["dt"]) for row in read_all(hive, ("user_id", "event"))}
    assert found == {("click", "2024-01-01"), ("add to cart", "2024-01-02"), ("click", None)}


@pytest.mark.parametrize(
    "given",
    [
        "{}/event=click",
        "{}/event=click/",
        "{}/event=click/*/part-0.csv",
        "{}/event=cl*/*",
        "file://{}/event=click",
        "file://{}/event=cl*/*",
        "{}/event=click/dt=2024-01-01/part-0.csv",
        "file://{}/event=click/dt=2024-01-01/part-0.csv",
    ],
)
def test_folders_in_the_given_path_are_columns_too(hive, given):
    rows = read_all(given.format(hive))
    assert {row["event"] for row in rows} == {"click"}
    assert "2024-01-01" in {row["dt"] for row in rows}


def test_a_folder_further_up_is_no_column():
    assert find_partitions(("/", "run=7", "log"), ("dt=1",)) == (("dt", "1"),)
    assert find_partitions(("/", "a=1", "b=2"), ()) == (("a", "1"), ("b", "2"))
    assert find_partitions(("/", "=x"), ("y=",)) == (("y", ""),)


def test_of_a_column_in_the_file_and_in_its_folder_the_files_counts(tmp_path, caplog):
    write(tmp_path, "event=click/log.csv", ["a,i,view"], "user_id,item_id,event")
    with caplog.at_level("INFO"):
        assert read_all(tmp_path)[0]["event"] == "view"
    assert "column 'event' is in the files and in the names of their folders" in caplog.text


def test_a_column_that_some_files_lack_is_said(tmp_path, caplog):
    write(tmp_path, "a.csv", ["a,i,click"], "user_id,item_id,event")
    write(tmp_path, "b.csv")
    assert [row.get("event") for row in read_all(tmp_path)] == ["click", None]
    assert "no column 'event' in 1 of 2 files" in caplog.text


def test_a_required_column_that_some_files_lack_is_refused(tmp_path):
    write(tmp_path, "a.csv")
    write(tmp_path, "b.csv", ["a"], "user_id")
    with pytest.raises(UserError, match=r"b\.csv has no column 'item_id'.*other files .* have it"):
        read_all(tmp_path)


@pytest.mark.parametrize(
    "name", ["a.tsv", "a.inter", "a.item.gz", "a.tab.zst", "b.user", "a.TSV.BZ2"]
)
def test_the_extension_says_that_tabs_separate(tmp_path, name):
    write(tmp_path, name, ["a\ti"], "user_id\titem_id")
    assert read_all(tmp_path / name) == [{"user_id": "a", "item_id": "i"}]


@pytest.mark.parametrize("name", ["a.txt", "a.dat", "a.data", "a.csv"])
def test_other_text_is_separated_by_commas(tmp_path, name):
    write(tmp_path, name)
    assert read_all(tmp_path / name) == [{"user_id": "a", "item_id": "i"}]


@pytest.mark.parametrize("separator", ["\t", ";", "|", "::"])
def test_another_separator_is_named(tmp_path, separator):
    write(tmp_path, "a.csv", [separator.join("ai")], separator.join(["user_id", "item_id"]))
    with pytest.raises(UserError, match=r"separated by .* set data\.separator=") as refused:
        read_all(tmp_path)
    assert repr(separator) in str(refused.value)


def test_a_first_line_that_is_data_is_shown_with_the_setting_that_names_columns(tmp_path):
    write(tmp_path, "a.csv", ["u2,i2,1700000001"], "u1,i1,1700000000")
    message = r"looks like data.*'u1,i1,1700000000'.*data\.header=\[column1,column2,column3\]"
    with pytest.raises(UserError, match=message):
        read_all(tmp_path)


def test_names_of_the_catalogue_name_its_own_keys(tmp_path):
    write(tmp_path, "items.csv", ["1,x"], "id,title")
    files = list_files(str(tmp_path), "data.items")
    text = readers.TextFormat(prefix="data.item_")
    with pytest.raises(UserError, match=r"data\.item_columns\.item_id=id"):
        readers.find_columns(files, {"item_id": "item_id"}, ["item_id"], "data.items", text)


def test_names_given_are_taken_and_their_number_is_checked(tmp_path):
    write(tmp_path, "a.csv", ["a,i"], "b,j")
    files = list_files(str(tmp_path), "data.clicks")
    text = readers.TextFormat(header=("user_id", "item_id"))
    (unit,) = readers.cut_units(files, "data.clicks", text)
    (batch,) = readers.read_unit(unit, None)
    assert batch.table["user_id"].to_pylist() == ["b", "a"]
    assert batch.num_header == 0
    text = readers.TextFormat(header=("user_id", "item_id", "timestamp"))
    with pytest.raises(UserError, match=r"data\.header names 3 columns, the first line .* has 2"):
        readers.read_header(files[0], "data.clicks", text)


def test_names_given_that_are_also_the_first_line_are_no_row(tmp_path):
    write(tmp_path, "a.csv")
    text = readers.TextFormat(header=("user_id", "item_id"))
    files = list_files(str(tmp_path), "data.clicks")
    (unit,) = readers.cut_units(files, "data.clicks", text)
    (batch,) = readers.read_unit(unit, None)
    assert (batch.table.num_rows, batch.num_header, batch.num_lines) == (1, 1, 2)


def test_a_name_in_other_letters_is_suggested(tmp_path):
    write(tmp_path, "a.csv", header="User_ID,item_id")
    with pytest.raises(UserError, match=r"did you mean data\.columns\.user_id=User_ID"):
        read_all(tmp_path)
