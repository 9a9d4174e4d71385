import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdiv_core.formats import readers
from recdiv_core.formats.files import list_files

NAMES = {"user_id": "user_id", "item_id": "item_id", "timestamp": "timestamp"}
ROWS = [
    {"user_id": "007", "item_id": 'a "b", c', "timestamp": "5"},
    {"user_id": "Zoë", "item_id": "two\nlines", "timestamp": "6"},
    {"user_id": "花子", "item_id": "x", "timestamp": "7"},
]
CSV = 'user_id,item_id,timestamp\n007,"a ""b"", c",5\nZoë,"two\nlines",6\n花子,x,7\n'


def read_all(given):
    files = list_files(str(given), "data.clicks")
    columns = readers.find_columns(files, NAMES, tuple(NAMES), "data.clicks")
    units = readers.cut_units(files, "data.clicks")
    return [batch for unit in units for batch in readers.read_unit(unit, columns)]


def rows_of(batches):
    return [row for batch in batches for row in batch.table.drop_columns([readers.ROW]).to_pylist()]


def write(path, fmt):
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    if fmt == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif fmt.endswith(".gz"):
        path.write_bytes(gzip.compress((CSV if "csv" in fmt else lines).encode()))
    else:
        path.write_text(CSV if fmt == "csv" else lines, encoding="utf-8")


@pytest.mark.parametrize("fmt", ["csv", "csv.gz", "jsonl", "jsonl.gz", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path, fmt):
    write(tmp_path / f"log.{fmt}", fmt)
    assert rows_of(read_all(tmp_path / f"log.{fmt}")) == ROWS


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    (tmp_path / "log.csv").write_text(CSV, encoding="utf-8-sig")
    assert rows_of(read_all(tmp_path / "log.csv")) == ROWS


def test_a_directory_is_read_in_order_of_names_without_what_writers_left(tmp_path):
    (tmp_path / "b.csv").write_text("user_id,item_id,timestamp\nb,i,2\n")
    (tmp_path / "a.csv").write_text("user_id,item_id,timestamp\na,i,1\n")
    (tmp_path / "_SUCCESS").write_text("")
    batches = read_all(tmp_path)
    assert [row["user_id"] for row in rows_of(batches)] == ["a", "b"]
    assert [b.table[readers.ROW].to_pylist() for b in batches] == [[2], [readers.FILE_STRIDE + 2]]


@pytest.mark.parametrize("given", ["{}/*.csv", "file://{}", "file://{}/*.csv", "{}/**/a.csv"])
def test_globs_and_uris_are_found(tmp_path, given):
    (tmp_path / "a.csv").write_text("user_id,item_id,timestamp\na,i,1\n")
    assert [row["user_id"] for row in rows_of(read_all(given.format(tmp_path)))] == ["a"]


def test_parquet_row_groups_keep_their_row_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "UNIT_ROWS", 4)
    table = pa.table({"user_id": range(10), "item_id": range(10), "timestamp": range(10)})
    pq.write_table(table, tmp_path / "log.parquet", row_group_size=2)
    batches = read_all(tmp_path / "log.parquet")
    places = [place for batch in batches for place in batch.table[readers.ROW].to_pylist()]
    users = [user for batch in batches for user in batch.table["user_id"].to_pylist()]
    assert len(batches) == 3
    assert places == list(range(1, 11))
    assert users == list(range(10))


def test_lines_that_are_no_rows_are_handed_back(tmp_path):
    (tmp_path / "log.csv").write_text(CSV + "only,two\n", encoding="utf-8")
    (tmp_path / "log.jsonl").write_text(
        '{"user_id": 1, "item_id": 2, "timestamp": 3}\n{oops\n[1]\n'
    )
    broken_csv = [line for batch in read_all(tmp_path / "log.csv") for line in batch.broken]
    broken_json = [line for batch in read_all(tmp_path / "log.jsonl") for line in batch.broken]
    assert broken_csv == [(6, "only,two", "2 fields instead of 3")]
    assert [(place, reason) for place, _, reason in broken_json] == [
        (2, "not a JSON object"),
        (3, "not a JSON object"),
    ]


def test_mixed_kinds_of_json_values_become_text(tmp_path):
    (tmp_path / "log.jsonl").write_text(
        '{"user_id": 1, "item_id": "a", "timestamp": 3}\n'
        '{"user_id": "u", "item_id": "b", "timestamp": 4}\n'
    )
    assert [row["user_id"] for row in rows_of(read_all(tmp_path / "log.jsonl"))] == ["1", "u"]


def make_bad(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", b"", "empty file"),
        ("log.csv", b"\n\n", "is an empty file: it has no column"),
        ("log.csv.gz", gzip.compress(b"", mtime=0), "is an empty file: it has no column"),
        ("log.jsonl", b"{not json\n", "has no JSON object among its first lines, e.g. '{not json'"),
        ("log.jsonl", b"\n", "is an empty file"),
        ("log.csv", b"user_id,item\n1,2\n", "no column 'item_id'.*did you mean .*item_id=item"),
        ("log.parquet", b"not parquet at all", "not readable as parquet"),
        ("log.docx", b"1,2", "unknown extension; allowed: .csv"),
    ],
)
def test_a_file_that_cannot_be_used_names_the_key(tmp_path, name, content, message):
    path = make_bad(tmp_path, name, content)
    with pytest.raises(ValueError, match=f"(?s)data.clicks.*{message}"):
        read_all(path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "is empty: give a path"),
        ("nowhere.csv", "does not exist"),
        ("none/*.csv", "matches no file"),
        ("file:///none/*.csv", "matches no file|cannot be read"),
    ],
)
def test_a_path_that_leads_nowhere_names_the_key(given, message):
    with pytest.raises(ValueError, match=f"data.clicks.*({message})"):
        list_files(given, "data.clicks")


def test_an_empty_directory_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="directory without files"):
        list_files(str(tmp_path), "data.clicks")


def test_a_parquet_file_without_rows_is_an_error(tmp_path):
    pq.write_table(pa.table({"user_id": pa.array([], pa.string())}), tmp_path / "log.parquet")
    files = list_files(str(tmp_path), "data.clicks")
    with pytest.raises(ValueError, match="holds no rows"):
        readers.cut_units(files, "data.clicks")


def test_an_unknown_mapped_column_is_an_error_even_when_optional(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp,kind\na,i,1,click\n")
    files = list_files(str(tmp_path / "log.csv"), "data.clicks")
    with pytest.raises(ValueError, match=r"no column 'kinds' \(data.columns.event\).*event=kind"):
        readers.find_columns(files, {**NAMES, "event": "kinds"}, tuple(NAMES), "data.clicks")
