"""Decompress text files: gzip, bzip2, xz, Zstandard, or a zip archive with one file.

The first bytes tell the compression, not the name, so that a wrong extension does no harm. All
members of a file are read. A truncated file raises EOFError after its readable part was returned.
"""

from __future__ import annotations

import bz2
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, Final, cast

import pyarrow as pa

from recdiv_core.errors import UserError
from recdiv_core.formats.files import open_input

CHUNK_BYTES: Final = 1 << 20
INPUT_BYTES: Final = 1 << 16
"""Compressed bytes that are decompressed at once; they may grow a thousandfold."""
MAGIC: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bz2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
)
OTHER_KINDS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"PAR1", "a Parquet file: rename it to .parquet"),
    (b"ARROW1", "an Arrow IPC file: write it as Parquet"),
    (b"Obj\x01", "an Avro file: write it as Parquet"),
    (b"ORC", "an ORC file: write it as Parquet"),
    (b"%PDF", "a PDF"),
    (b"\xd0\xcf\x11\xe0", "an old Excel file (.xls): save it as .xlsx or .csv"),
    (b"SQLite format 3", "an SQLite database: export the table as CSV"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (b"Rar!", "a RAR archive: unpack it"),
)


def read_chunks(path: str) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file in order, in chunks of any size.

    Raises:
        UserError: the file is no text file, or is a zip archive with several files.
        EOFError: the compressed file is truncated.
        OSError: the file is damaged.
    """
    with open_input(path, is_seekable=False) as stream:
        first = stream.read(16)
        kind = next((name for magic, name in MAGIC if first.startswith(magic)), "")
        other = next((name for magic, name in OTHER_KINDS if first.startswith(magic)), "")
        if other:
            raise UserError(f"{path} is {other}")
        if kind == "zip":
            yield from _read_zip(path)
        elif kind == "zstd":
            yield from _read_zstd(path)
        elif kind:
            yield from _read_members(stream, first, NEW[kind])
        else:
            yield first
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk


NEW: Final[dict[str, Callable[[], Any]]] = {
    "gzip": lambda: zlib.decompressobj(31),
    "bz2": bz2.BZ2Decompressor,
    "xz": lzma.LZMADecompressor,
}


def _read_members(stream: pa.NativeFile, first: bytes, new: Callable[[], Any]) -> Iterator[bytes]:
    """Decompress each member in turn; the file classes of the libraries skip some members."""
    member, given = new(), first
    is_begun = False
    while True:
        if not given and not (given := stream.read(INPUT_BYTES)):
            break
        if not is_begun and not (given := given.lstrip(b"\0")):  # padding between members
            continue
        is_begun = True
        try:
            data = member.decompress(given)
        except (zlib.error, lzma.LZMAError) as error:
            raise OSError(str(error)) from None
        given = b""
        if data:
            yield data
        if member.eof:
            given, member, is_begun = member.unused_data, new(), False
    if is_begun:
        raise EOFError("the compressed file breaks off")


def _read_zstd(path: str) -> Iterator[bytes]:
    with pa.CompressedInputStream(open_input(path, is_seekable=False), "zstd") as stream:
        while True:
            try:
                chunk = stream.read(CHUNK_BYTES)
            except OSError as error:
                if "Truncated" in str(error):
                    raise EOFError("the compressed file breaks off") from None
                raise
            if not chunk:
                return
            yield chunk


def _read_zip(path: str) -> Iterator[bytes]:
    with open_input(path, is_seekable=True) as file:
        try:
            archive = zipfile.ZipFile(cast("IO[bytes]", file))
            with archive.open(zip_member(archive, path)) as member:
                while chunk := member.read(CHUNK_BYTES):
                    yield chunk
        except (zipfile.BadZipFile, zlib.error, pa.ArrowInvalid) as error:
            raise EOFError(f"the zip archive is damaged or breaks off ({error})") from None
        except (RuntimeError, NotImplementedError) as error:  # a password, an unknown compression
            raise UserError(f"{path} cannot be unpacked: {error}") from None


def zip_member(archive: zipfile.ZipFile, path: str) -> zipfile.ZipInfo:
    """Return the only data file of a zip archive.

    Raises:
        UserError: the archive holds no file, several files, or an Excel workbook.
    """
    names = [info.filename for info in archive.infolist()]
    if "[Content_Types].xml" in names:
        raise UserError(f"{path} is an Office document: name it .xlsx if it is a workbook")
    members = [
        info
        for info in archive.infolist()
        if not info.is_dir()
        and not info.filename.startswith("__MACOSX/")
        and not info.filename.rsplit("/", 1)[-1].startswith(".")
    ]
    if len(members) == 1:
        return members[0]
    if not members:
        raise UserError(f"{path} is a zip archive without a file")
    listed = ", ".join(info.filename for info in members[:20])
    raise UserError(
        f"{path} is a zip archive with {len(members)} files ({listed}): it must hold one. Unpack "
        "it and give the file"
    )
