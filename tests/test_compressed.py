"""Compressed files: all their members, or a clear message; nothing is lost in between."""

import bz2
import functools
import gzip
import io
import lzma
import zipfile

import pyarrow as pa
import pytest

from recdiv_core.errors import UserError
from recdiv_core.formats import readers
from recdiv_core.formats.files import list_files

HEAD = "user_id,item_id,timestamp\n"


def lines(first, last):
    return "".join(f"u{k},i{k % 7},{1700000000 + k}\n" for k in range(first, last)).encode()


def zstd(data):
    return pa.compress(data, "zstd", asbytes=True)


def zipped(*members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return out.getvalue()


KINDS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd}


def count_rows(path):
    files = list_files(str(path), "data.clicks")
    (unit,) = readers.cut_units(files, "data.clicks")
    return sum(batch.table.num_rows for batch in readers.read_unit(unit, None))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["log.csv.{}", "log.csv", "log.csv.gz"])
def test_all_members_are_read_whatever_the_extension_says(tmp_path, kind, name):
    parts = (HEAD.encode() + lines(0, 100), lines(100, 200), b"", lines(200, 300))
    path = tmp_path / name.format(kind)
    path.write_bytes(b"".join(map(KINDS[kind], parts)))
    assert count_rows(path) == 300


@functools.cache
def large_file(kind):
    return b"".join(map(KINDS[kind], (HEAD.encode() + lines(0, 9000), lines(9000, 40_000))))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lost", [1, 9, 2000])
def test_a_file_that_breaks_off_is_refused_with_its_line(tmp_path, kind, lost):
    path = tmp_path / f"log.csv.{kind}"
    path.write_bytes(large_file(kind)[:-lost])
    with pytest.raises(UserError, match=r"log\.csv.* breaks off, or is damaged, in line \d+: "):
        count_rows(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_second_member_is_not_passed_over(tmp_path, kind):
    path = tmp_path / f"log.csv.{kind}"
    second = bytearray(KINDS[kind](lines(100, 200)))
    second[0] ^= 0xFF
    path.write_bytes(KINDS[kind](HEAD.encode() + lines(0, 100)) + second)
    with pytest.raises(UserError, match="breaks off, or is damaged"):
        count_rows(path)


def test_padding_with_zeros_after_gzip_does_no_harm(tmp_path):
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress(HEAD.encode() + lines(0, 9)) + b"\0" * 512)
    assert count_rows(path) == 9


@pytest.mark.parametrize("name", ["log.zip", "log.csv.zip"])
def test_a_zip_with_one_file_is_read(tmp_path, name):
    extras = [("__MACOSX/._log.csv", b"x"), (".DS_Store", b"y")]
    path = tmp_path / name
    path.write_bytes(zipped(("data/log.csv", HEAD.encode() + lines(0, 9)), *extras))
    assert count_rows(path) == 9


def test_a_zip_tells_by_its_member_what_it_holds(tmp_path):
    data = b'{"user_id": 1, "item_id": 2}\n'
    (tmp_path / "log.zip").write_bytes(zipped(("log.jsonl", data)))
    assert count_rows(tmp_path / "log.zip") == 1


def test_a_zip_with_several_files_lists_them(tmp_path):
    (tmp_path / "log.zip").write_bytes(zipped(("users.dat", b"a"), ("items.dat", b"b")))
    with pytest.raises(UserError, match=r"2 files \(users\.dat, items\.dat\): it must hold one"):
        count_rows(tmp_path / "log.zip")


def test_a_zip_that_breaks_off_or_is_none_is_refused(tmp_path):
    path = tmp_path / "log.csv.zip"
    path.write_bytes(zipped(("log.csv", HEAD.encode() + lines(0, 900)))[:-30])
    with pytest.raises(UserError, match="zip archive is damaged or breaks off"):
        count_rows(path)
    path = tmp_path / "log.zip"
    path.write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"data\.clicks: .*log\.zip is no zip archive"):
        count_rows(path)
