"""Read separated text files (CSV, TSV, `::` and so on).

Blocks of lines are parsed in csv_lines.py and decoded in text_lines.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from recdiv_core.errors import UserError
from recdiv_core.formats import csv_rows
from recdiv_core.formats.csv_lines import parse_block
from recdiv_core.formats.files import TextFormat
from recdiv_core.formats.text_lines import TextFile, check_lines, cut_lines, line_places, open_text
from recdiv_core.formats.units import RawBatch, ReadUnit, choose_columns, make_table
from recdiv_core.wording import counted

TAB_EXTENSIONS: Final = (".tsv", ".tab", ".inter", ".item", ".user")
SPELLED: Final[Mapping[str, str]] = {"\\t": "\t", "tab": "\t", "space": " ", "\\x01": "\x01"}
"""Separators that are hard to type."""
GUESSES: Final = (",", "\t", ";", "|", "::", "\x01", " ")


@dataclass(frozen=True)
class Header:
    """Columns of a file, and the lines before its first row."""

    names: tuple[str, ...]
    num_bytes: int
    num_header: int
    num_blank: int


def find_separator(text: TextFormat, path: str) -> str:
    """Return the separator of fields: the user's setting, else the one of the extension.

    Raises:
        UserError: the setting cannot be a separator.
    """
    given = SPELLED.get(text.separator, text.separator)
    if any(mark in given for mark in '"\r\n\0'):
        raise UserError(
            f"{text.prefix}separator={text.separator!r} holds a quotation mark, a line end or NUL; "
            "allowed: any other text, such as ',' ';' '|' '::' or tab"
        )
    parts = path.lower().rsplit("/", 1)[-1].split(".")[-2:]
    return given or ("\t" if any(f".{part}" in TAB_EXTENSIONS for part in parts) else ",")


def read_csv_header(file: TextFile, text: TextFormat, path: str) -> Header:
    """Read the column names, or take them from the settings."""
    separator = find_separator(text, path)
    fields, num_lines, num_blank = csv_rows.read_first(file.head, separator.encode())
    found = tuple(value.decode("utf-8", "replace").strip() for value in fields)
    given = tuple(name.strip() for name in text.header)
    if not given or found == given:
        nexts = line_places(file.head)[2]
        end = int(nexts[num_blank + num_lines - 1]) if num_blank + num_lines else 0
        return Header(found, end, num_lines, num_blank)
    if fields and len(found) != len(given):
        first = file.head.lstrip(b"\r\n").split(b"\n", 1)[0].decode("utf-8", "replace").strip()
        raise UserError(
            f"{text.prefix}header names {counted(len(given), 'column')}, the first line of {path} "
            f"has {len(found)}: {first[:200]!r} ({text.prefix}separator={separator!r})"
        )
    return Header(given, 0, 0, 0)


def guess_separator(file: TextFile, wanted: set[str]) -> str:
    """Return the separator that yields the wanted columns in the first line; empty = none."""
    for separator in GUESSES:
        fields, _, _ = csv_rows.read_first(file.head, separator.encode())
        if wanted <= {value.decode("utf-8", "replace").strip() for value in fields}:
            return separator
    return ""


def first_rows(file: TextFile, separator: str, count: int = 20) -> list[list[str]]:
    """Return the fields of the first well-formed lines."""
    lines = [line for line in file.head.split(b"\n", 2 * count) if line.strip()]
    rows = [csv_rows.split_line(line.rstrip(b"\r"), separator.encode())[0] for line in lines]
    return [[value.decode("utf-8", "replace") for value in row] for row in rows[:count]]


def read_csv(
    unit: ReadUnit, columns: Mapping[str, str] | None, block_bytes: int
) -> Iterator[RawBatch]:
    """Read a separated text file, a batch for each block of lines."""
    file = open_text(unit.path, unit.text)
    header = read_csv_header(file, unit.text, unit.path)
    separator = find_separator(unit.text, unit.path).encode()
    shape = csv_rows.find_shape(file.head, separator, len(header.names))
    chosen = choose_columns(columns, header.names)
    skipped = (header.num_header, header.num_blank)
    num_lines, num_known = sum(skipped), sum(skipped)
    held: bytes = b""
    held_bad: dict[int, str] = {}
    for data, count, is_last in _without(header, cut_lines(file, unit.path, block_bytes)):
        num_known += count
        fresh, bad = check_lines(data, file.marks_undecodable)
        shift = held.count(b"\n") if held else 0
        bad = held_bad | {number + shift: reason for number, reason in bad.items()}
        data = held + fresh
        parsed = parse_block(
            data, shape, list(chosen.values()), bad, num_lines=shift + count, is_last=is_last
        )
        num_known += parsed.num_added
        held = data[parsed.num_bytes :]
        held_bad = {k - parsed.num_lines: why for k, why in parsed.undecodable.items()}
        held_bad = {k: why for k, why in held_bad.items() if k >= 0}
        arrays = dict(zip(chosen, parsed.table.columns, strict=True))
        first = num_lines + 1
        yield RawBatch(
            make_table(arrays, parsed.lines_N + first, unit, columns),
            tuple((unit.first_row + first + k, text, why) for k, text, why in parsed.broken),
            num_lines=parsed.num_lines + sum(skipped),
            num_header=skipped[0],
            num_blank=parsed.num_blank + skipped[1],
            num_continued=parsed.num_continued,
            num_stray_quotes=parsed.num_stray_quotes,
        )
        num_lines += parsed.num_lines
        skipped = (0, 0)
    assert num_lines == num_known, f"{num_lines} lines were read of the {num_known} in {unit.path}"


def _without(
    header: Header, blocks: Iterator[tuple[bytes, int]]
) -> Iterator[tuple[bytes, int, bool]]:
    """Leave out the header; yield blocks, their number of lines, and whether one is the last."""
    bytes_left, lines_left = header.num_bytes, header.num_header + header.num_blank
    held, num_held = b"", 0
    for data, count in blocks:
        if held:
            yield held, num_held, False
        cut = min(bytes_left, len(data))
        num_cut = lines_left if cut == bytes_left else count
        held, num_held = data[cut:] if cut else data, count - num_cut
        bytes_left, lines_left = bytes_left - cut, lines_left - num_cut
    yield held, num_held, True
