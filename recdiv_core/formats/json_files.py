"""Read JSON Lines, JSON arrays and lines of Python literals into Arrow columns.

The first bytes tell the format: `[{` begins one array of objects, `{'` one Python dict a line
(Amazon 2014 mixes both kinds of quotation mark). Values of one type become a column of that type;
mixed types become text. Encodings are handled in text_lines.py.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from recdiv_core.formats.files import Format
from recdiv_core.formats.text_lines import (
    TextFile,
    UnreadableFileError,
    check_lines,
    cut_lines,
    open_text,
)
from recdiv_core.formats.units import RawBatch, ReadUnit, choose_columns, make_table

BATCH_ROWS: Final = 50_000
NO_OBJECT: Final = "not a JSON object"
DECODER: Final = json.JSONDecoder(parse_constant=lambda _: None)  # NaN and Infinity say nothing
SPACE: Final = re.compile(r"[\s,]*")


class _TwiceError(ValueError):
    """An object holds the same key twice."""


def find_kind(head: bytes, format: Format) -> Format:
    """Return the format of a JSON file; its first bytes decide.

    >>> find_kind(b' [{"a": 1}]', "jsonl"), find_kind(b"{'a': 1}", "jsonl")
    ('json_array', 'python_literal')
    """
    if format == "jsonl" and re.match(rb"\s*\[\s*(\{|\]|$)", head):
        return "json_array"
    if format == "jsonl" and re.match(rb"\s*\{\s*u?'", head):
        return "python_literal"
    return format


def read_json(
    unit: ReadUnit, columns: Mapping[str, str] | None, block_bytes: int
) -> Iterator[RawBatch]:
    """Read a file of JSON objects, batch by batch."""
    file = open_text(unit.path, unit.text)
    kind = find_kind(file.head, unit.format)
    if kind == "json_array":
        yield from _read_array(file, unit, columns)
        return
    parse = _parse_literal if kind == "python_literal" else _parse_line
    wanted = None if columns is None else tuple(columns.values())
    first = 1
    for block, _ in cut_lines(file, unit.path, block_bytes):
        data, undecodable = check_lines(block, file.marks_undecodable)
        lines = data.split(b"\n")
        if not lines[-1]:
            lines.pop()
        values, rows = list[dict[str, Any]](), list[int]()
        broken: list[tuple[int, str, str]] = []
        num_blank = 0
        for number, line in enumerate(lines):
            if not line.strip():
                num_blank += 1
                continue
            value, reason = undecodable.get(number), undecodable.get(number, "")
            if not reason:
                value, reason = _try(parse, line, wanted)
            if isinstance(value, dict):
                values.append(value)
                rows.append(first + number)
            else:
                text = line[:100_000].decode("utf-8", "replace")
                broken.append((unit.first_row + first + number, text, reason))
        yield _batch(values, rows, unit, columns, broken, num_blank)
        first += len(lines)


def _try(
    parse: Callable[[bytes, Sequence[str] | None], Any],
    line: bytes,
    wanted: Sequence[str] | None,
) -> tuple[Any, str]:
    """Return the value of a line, or the reason why it is no row."""
    try:
        value = parse(line, wanted)
    except RecursionError:
        return None, "JSON that is nested too deeply"
    except _TwiceError as error:
        return None, str(error)
    except (ValueError, SyntaxError, MemoryError, TypeError):
        is_open = line.strip() in (b"{", b"[{", b"}")
        return None, "a JSON object over several lines; one a line is wanted" * is_open or NO_OBJECT
    return value, NO_OBJECT


def _parse_line(line: bytes, wanted: Sequence[str] | None) -> Any:
    text = line.decode()
    value = DECODER.decode(text)
    if wanted is None or not isinstance(value, dict):
        return value
    for name in wanted:
        if name in value and text.count(f'"{name}"') > 1:
            _check_keys(text)
            break
    return value


def _check_keys(text: str) -> None:
    """Refuse an object that holds a key twice, because its value is ambiguous."""

    def pairs(given: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in given]
        found = dict(given)
        if len(found) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise _TwiceError(f"the key {twice!r} stands twice in the object")
        return found

    json.loads(text, object_pairs_hook=pairs)


def _parse_literal(line: bytes, wanted: Sequence[str] | None) -> Any:
    try:
        value = ast.literal_eval(line.decode().strip())
    except (ValueError, SyntaxError):
        return _parse_line(line, wanted)
    return {str(name): one for name, one in value.items()} if isinstance(value, dict) else value


def _read_array(
    file: TextFile, unit: ReadUnit, columns: Mapping[str, str] | None
) -> Iterator[RawBatch]:
    """Read JSON arrays of objects; the number of an element counts as its line number."""
    data = b"".join(file.chunks)
    text = check_lines(data, file.marks_undecodable)[0].decode()
    values, rows = list[dict[str, Any]](), list[int]()
    broken: list[tuple[int, str, str]] = []
    pos, number = 0, 0
    while (pos := _next_value(text, pos)) < len(text):
        number += 1
        start = pos
        try:
            value, pos = DECODER.raw_decode(text, pos)
        except (ValueError, RecursionError) as error:
            line = text.count("\n", 0, start) + 1
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise UnreadableFileError(
                f"{unit.path} is no JSON array: element {number} at line {line}: {reason}"
            ) from None
        if isinstance(value, dict):
            values.append(value)
            rows.append(number)
        else:
            broken.append((unit.first_row + number, text[start:pos][:100_000], NO_OBJECT))
        if len(values) >= BATCH_ROWS:
            yield _batch(values, rows, unit, columns, broken)
            values, rows, broken = [], [], []
    if not text.rstrip().endswith("]"):
        raise UnreadableFileError(f"{unit.path} breaks off in element {number}: no ']' at its end")
    yield _batch(values, rows, unit, columns, broken)


def _next_value(text: str, pos: int) -> int:
    """Return the start of the next element; brackets of the outer arrays are skipped."""
    found = re.compile(r"[\s,\[\]]*").match(text, pos)
    return found.end() if found else pos


def _batch(
    values: Sequence[dict[str, Any]],
    rows: Sequence[int],
    unit: ReadUnit,
    columns: Mapping[str, str] | None,
    broken: Sequence[tuple[int, str, str]],
    num_blank: int = 0,
) -> RawBatch:
    present = list(dict.fromkeys(name for value in values for name in value))
    repaired: set[int] = set()
    arrays = {
        _repair(ours): from_python([value.get(present[place]) for value in values], repaired)
        for ours, place in choose_columns(columns, present).items()
    }
    return RawBatch(
        make_table(arrays, rows, unit, columns),
        tuple(broken),
        num_lines=len(values) + len(broken) + num_blank,
        num_blank=num_blank,
        num_repaired=len(repaired),
    )


def from_python(values: list[Any], repaired: set[int]) -> pa.Array:
    """Return values as one column of their type, or as text if they have several types.

    `repaired` receives the indices where half a surrogate pair was replaced.
    """
    try:
        array = pa.array(values)
        if not pa.types.is_binary(array.type):
            return array
        return from_python([v and v.decode("utf-8", "replace") for v in values], repaired)
    except (UnicodeEncodeError, pa.ArrowException, OverflowError) as error:
        fixed = [_repair(value) for value in values]
        repaired.update(k for k, value in enumerate(values) if fixed[k] != value)
        if isinstance(error, UnicodeEncodeError):
            return from_python(fixed, repaired)
        return pa.array([_as_text(value) for value in fixed], pa.string())


def _repair(value: Any) -> Any:
    """Replace half a surrogate pair by U+FFFD; JavaScript's substring leaves such halves."""
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list | tuple):
        return [_repair(element) for element in value]
    if isinstance(value, dict):
        return {_repair(key): _repair(element) for key, element in value.items()}
    return value


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, default=str)
