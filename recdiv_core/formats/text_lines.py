"""Read text files as UTF-8 blocks of whole physical lines.

The lines are parsed elsewhere (csv_lines.py, json_files.py). A byte order mark decides the
encoding; without one the user's setting does. A few undecodable lines are reported one by one. A
file in another encoding is refused, with the setting that reads it.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from recdiv_core.errors import UserError
from recdiv_core.formats.compressed import read_chunks
from recdiv_core.formats.files import TextFormat

HEAD_BYTES: Final = 1 << 20
"""Bytes at the start of a file that tell its encoding and line ends."""
MAX_LINE_BYTES: Final = 256 << 20
MAX_UNDECODABLE: Final = 0.01
"""Share of a file's first lines that may be undecodable before the whole file is refused."""
MARKS: Final[tuple[tuple[bytes, str], ...]] = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class UnreadableFileError(UserError):
    """An input file ends early, or is not of the format that its extension says."""


@dataclass(frozen=True)
class TextFile:
    """An open text file: its first lines, and its whole content in chunks of UTF-8."""

    head: bytes
    """First whole lines, about HEAD_BYTES at most, without a byte order mark."""
    is_whole: bool
    """The head is the whole file."""
    chunks: Iterator[bytes]
    """The whole content, including the head; line ends are \\n or \\r\\n."""
    marks_undecodable: bool
    """Whether U+FFFD replaced bytes that the encoding of the file could not decode."""


def open_text(path: str, text: TextFormat) -> TextFile:
    """Open a text file and detect its encoding.

    Raises:
        UserError: an unknown encoding, a file in another encoding, or a file that ends within its
            first bytes.
    """
    chunks = read_chunks(path)
    first = _take(chunks, HEAD_BYTES, path)
    encoding, mark = _find_encoding(first, text, path)
    decoded = _decode(_chain(first[len(mark) :], chunks), encoding, text, path)
    is_whole = len(first) < HEAD_BYTES
    head = _take(decoded, MAX_LINE_BYTES if is_whole else HEAD_BYTES, path)
    rest = _chain(head, decoded)
    if b"\n" not in head and b"\r" in head:
        rest, head = _end_lines(rest), head.replace(b"\r", b"\n")
    whole = head if is_whole or b"\n" not in head else head[: head.rindex(b"\n") + 1]
    if encoding == "utf-8":
        _check_utf8(whole, text, path)
    return TextFile(whole, is_whole, rest, encoding != "utf-8")


def _take(chunks: Iterable[bytes], num_bytes: int, path: str) -> bytes:
    parts: list[bytes] = []
    size = 0
    try:
        for chunk in chunks:
            parts.append(chunk)
            size += len(chunk)
            if size >= num_bytes:
                break
    except (EOFError, OSError) as error:
        raise _broken_off(path, sum(part.count(b"\n") for part in parts), error) from None
    return b"".join(parts)


def _broken_off(path: str, num_lines: int, error: Exception) -> UnreadableFileError:
    return UnreadableFileError(
        f"{path} breaks off, or is damaged, in line {num_lines + 1}: {error}; nothing of it is used"
    )


def _chain(first: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from chunks


def _find_encoding(first: bytes, text: TextFormat, path: str) -> tuple[str, bytes]:
    key = f"{text.prefix}encoding"
    for mark, name in MARKS:
        if first.startswith(mark):
            return name, mark if name == "utf-8" else b""
    try:
        name = codecs.lookup(text.encoding).name
        codecs.getincrementaldecoder(name)
        b"\0\0\0\0".decode(name)  # not all codecs are of text
    except (LookupError, ValueError):
        raise UserError(
            f"{key}={text.encoding} is unknown; allowed: utf-8, latin-1, cp1252, utf-16, and the "
            "other text encodings of Python"
        ) from None
    sample = first[:4096]
    if name in ("utf-8", "utf-8-sig", "ascii") and 0 in sample[:2] and len(sample) >= 8:
        shares = [sample[start::2].count(0) / len(sample[start::2]) for start in (0, 1)]
        if max(shares) > 0.3 and min(shares) < 0.1:
            guess = "utf-16-le" if shares[1] > shares[0] else "utf-16-be"
            raise UnreadableFileError(
                f"{path} is not UTF-8: every second byte is 0; it looks like UTF-16: {key}={guess}"
            )
    return ("utf-8" if name in ("utf-8", "utf-8-sig", "ascii") else name), b""


def _decode(chunks: Iterator[bytes], encoding: str, text: TextFormat, path: str) -> Iterator[bytes]:
    if encoding == "utf-8":
        yield from chunks
        return
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    try:
        for chunk in chunks:
            yield decoder.decode(chunk).encode("utf-8", "replace")
        yield decoder.decode(b"", final=True).encode("utf-8", "replace")
    except UnicodeError as error:  # a codec that does not replace
        key = f"{text.prefix}encoding={text.encoding}"
        raise UnreadableFileError(f"{path} is not text in {key}: {error}") from None


def _end_lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Turn all line ends, also those of old Macs, into line feeds."""
    held = b""
    for chunk in chunks:
        given = held + chunk
        held = b"\r" if given.endswith(b"\r") else b""
        yield given[: len(given) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    yield held.replace(b"\r", b"\n")


def _check_utf8(head: bytes, text: TextFormat, path: str) -> None:
    """Refuse a file whose first lines show another encoding."""
    bad = find_undecodable(head)
    num_lines = head.count(b"\n") + (not head.endswith(b"\n"))
    if not bad or (0 not in bad and len(bad) <= MAX_UNDECODABLE * num_lines):
        return
    number, reason = next(iter(bad.items()))
    has_controls = any(0x80 <= byte < 0xA0 for byte in _not_utf8(head))
    guess = "cp1252" if has_controls else "latin-1"
    raise UnreadableFileError(
        f"{path} is not UTF-8: line {number + 1}, {reason} ({len(bad)} of the first {num_lines} "
        f"lines); if it is Western European text: {text.prefix}encoding={guess}"
    )


def _not_utf8(data: bytes) -> bytes:
    marked = data.decode("utf-8", "surrogateescape")
    return bytes(ord(c) - 0xDC00 for c in marked if 0xDC80 <= ord(c) <= 0xDCFF)


def find_undecodable(data: bytes) -> dict[int, str]:
    """Return the lines that are not UTF-8: line number from 0 -> reason."""
    if data.isascii():
        return {}
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        found: dict[int, str] = {}
        for number, line in enumerate(data.split(b"\n")):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                found[number] = f"byte 0x{line[error.start]:02x} at {error.start + 1} is not UTF-8"
        return found
    return {}


def cut_lines(file: TextFile, path: str, block_bytes: int) -> Iterator[tuple[bytes, int]]:
    """Yield (block of whole lines, number of lines); a block has about block_bytes.

    Raises:
        UnreadableFileError: a line is longer than MAX_LINE_BYTES.
    """
    held: list[bytes] = []
    size, num_lines = 0, 0
    try:
        for chunk in _slice(file.chunks, block_bytes):
            held.append(chunk)
            size += len(chunk)
            if size < block_bytes:
                continue
            cut = chunk.rfind(b"\n") + 1
            if cut:
                held[-1] = chunk[:cut]
                block = b"".join(held)
                count = count_lines(block)
                yield block, count
                num_lines += count
                held, size = [chunk[cut:]], len(chunk) - cut
            elif size > MAX_LINE_BYTES:
                raise UnreadableFileError(
                    f"{path} has a line of more than {MAX_LINE_BYTES >> 20} MiB: it is no text file"
                )
    except (EOFError, OSError) as error:
        num_lines += b"".join(held).count(b"\n")
        raise _broken_off(path, num_lines, error) from None
    if size:
        data = b"".join(held)
        yield data, count_lines(data)


def _slice(chunks: Iterable[bytes], num_bytes: int) -> Iterator[bytes]:
    for chunk in chunks:
        if len(chunk) <= num_bytes:
            yield chunk
        else:
            yield from (chunk[at : at + num_bytes] for at in range(0, len(chunk), num_bytes))


def check_lines(data: bytes, marks_undecodable: bool) -> tuple[bytes, dict[int, str]]:
    """Replace undecodable bytes by U+FFFD; return the block and the lines that changed."""
    if marks_undecodable:
        mark = "\ufffd".encode()
        if mark not in data:
            return data, {}
        lines = enumerate(data.split(b"\n"))
        return data, {k: "is not text in its encoding" for k, line in lines if mark in line}
    bad = find_undecodable(data)
    if bad:  # line by line: a character that is cut off must not take the line end with it
        lines = data.split(b"\n")
        for number in bad:
            lines[number] = lines[number].decode("utf-8", "replace").encode()
        data = b"\n".join(lines)
    return data, bad


def count_lines(data: bytes) -> int:
    """Return the number of physical lines; the last line may have no line end."""
    breaks = int(np.count_nonzero(np.frombuffer(data, dtype=np.uint8) == 10))
    return breaks + (bool(data) and not data.endswith(b"\n"))


def line_places(data: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the start of each line, the end of its text, and the start of the next line."""
    raw = np.frombuffer(data, dtype=np.uint8)
    breaks = np.flatnonzero(raw == 10)
    nexts = breaks + 1
    ends = breaks
    if len(data) and not data.endswith(b"\n"):
        ends, nexts = np.append(breaks, len(data)), np.append(nexts, len(data))
    starts = np.concatenate([[0], nexts[:-1]]).astype(np.int64)[: len(ends)]
    while (has_return := (ends > starts) & (raw[np.maximum(ends - 1, 0)] == 13)).any():
        ends = ends - has_return
    return starts, ends, nexts
