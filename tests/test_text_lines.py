"""Encodings, byte order marks and line ends, by real files."""

import gzip
import io
import zipfile

import pytest

from recdiv_core.errors import UserError
from recdiv_core.formats import readers
from recdiv_core.formats.files import TextFormat, list_files

ROWS = "user_id,item_id,timestamp\nZoë,é,5\nb,ü,6\nÅsa,x,7\n"
NAMES = {"user_id": "user_id", "item_id": "item_id", "timestamp": "timestamp"}


def read(path, encoding="utf-8", block_bytes=1 << 20):
    text = TextFormat(encoding=encoding)
    files = list_files(str(path), "data.clicks")
    columns = readers.find_columns(files, NAMES, tuple(NAMES), "data.clicks", text)
    (unit,) = readers.cut_units(files, "data.clicks", text)
    return list(readers.read_unit(unit, columns, block_bytes))


def write(tmp_path, data: bytes, name="log.csv"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def users_of(batches):
    return [user for batch in batches for user in batch.table["user_id"].to_pylist()]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path, encoding):
    assert users_of(read(write(tmp_path, ROWS.encode(encoding)))) == ["Zoë", "b", "Åsa"]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16-le", "utf-16-be"])
def test_another_encoding_is_refused_with_the_setting_that_reads_it(tmp_path, encoding):
    path = write(tmp_path, ROWS.encode(encoding))
    with pytest.raises(UserError, match=r"log\.csv is not UTF-8.*data\.encoding=(\S+)") as refused:
        read(path)
    setting = str(refused.value).rpartition("=")[2]
    assert users_of(read(path, setting)) == ["Zoë", "b", "Åsa"]


def test_an_unknown_encoding_names_the_key(tmp_path):
    path = write(tmp_path, ROWS.encode())
    for name in ("klingon", "rot13", "hex"):
        with pytest.raises(UserError, match=rf"data\.encoding={name} is unknown"):
            read(path, name)


@pytest.mark.parametrize("block_bytes", [100, 1 << 20])
def test_one_value_that_is_no_text_costs_its_own_line(tmp_path, block_bytes):
    lines = [f"u{k},i,{k}".encode() for k in range(1000)]
    lines[700] = b"caf\xe9,i,700"
    path = write(tmp_path, b"user_id,item_id,timestamp\n" + b"\n".join(lines))
    batches = read(path, block_bytes=block_bytes)
    (broken,) = [line for batch in batches for line in batch.broken]
    assert broken == (702, "caf\ufffd,i,700", "byte 0xe9 at 4 is not UTF-8")
    assert len(users_of(batches)) == 999


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"])
@pytest.mark.parametrize("is_ended", [True, False])
def test_all_line_ends_are_read(tmp_path, end, is_ended):
    data = ROWS.replace("\n", end) if is_ended else ROWS.rstrip().replace("\n", end)
    batches = read(write(tmp_path, data.encode()))
    assert users_of(batches) == ["Zoë", "b", "Åsa"]
    assert batches[0].table[readers.ROW].to_pylist() == [2, 3, 4]


def test_a_file_without_a_line_end_that_is_no_text_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("recdiv_core.formats.text_lines.MAX_LINE_BYTES", 4 << 20)
    path = write(tmp_path, ROWS.encode() + b"x" * (6 << 20))
    with pytest.raises(UserError, match="a line of more than 4 MiB: it is no text file"):
        read(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PAR1....PAR1", "is a Parquet file: rename it to .parquet"),
        (b"\xd0\xcf\x11\xe0.......", r"is an old Excel file \(.xls\)"),
        (b"%PDF-1.4 .......", "is a PDF"),
        (b"SQLite format 3\0.......", "is an SQLite database"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, data, message):
    with pytest.raises(UserError, match=f"data.clicks: .*log.csv {message}"):
        read(write(tmp_path, data))


def test_a_workbook_with_the_wrong_extension_is_named(tmp_path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("[Content_Types].xml", "")
    with pytest.raises(UserError, match=r"is an Office document: name it \.xlsx"):
        read(write(tmp_path, out.getvalue()))


def test_a_utf16_file_may_be_compressed(tmp_path):
    path = write(tmp_path, gzip.compress(ROWS.encode("utf-16")), "log.csv.gz")
    assert users_of(read(path)) == ["Zoë", "b", "Åsa"]
