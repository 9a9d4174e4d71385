"""Explain why a column is missing, and which setting mends it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Final

from recdiv_core.errors import INIT_MENDS
from recdiv_core.formats.csv_files import find_separator, first_rows, guess_separator
from recdiv_core.formats.csv_rows import NUMBER
from recdiv_core.formats.files import SourceFile, TextFormat
from recdiv_core.formats.text_lines import open_text

MAX_SHOWN: Final = 300


def explain_missing(
    key: str,
    file: SourceFile,
    ours: str,
    theirs: str,
    header: Sequence[str],
    text: TextFormat,
    everywhere: Sequence[str],
) -> str:
    """Return a message that names the missing column and the setting that may find it.

    `ours` is our name of the column, `theirs` the mapped name.
    """
    if not header:
        if file.format in ("jsonl", "json_array") and (line := _first_line(file, text)):
            return f"{key}: {file.path} has no JSON object among its first lines, e.g. {line!r}"
        # blank lines alone, or a compressed file of nothing
        return f"{key}: {file.path} is an empty file: it has no column"
    columns = f"{text.prefix}columns"
    shown = ", ".join(_show(name) for name in header)
    said = f"{key}: {file.path} has no column {theirs!r}"
    if key.startswith("--"):  # the columns of an option have no setting
        return f"{said}; columns there: {shown[:MAX_SHOWN]}"
    said = f"{said} ({columns}.{ours})"
    if file.format == "csv" and (hint := _explain_text(file, theirs, text)):
        return f"{said}{hint}; {INIT_MENDS}"
    if theirs in everywhere:
        return f"{said}; other files of the input have it; columns there: {shown[:MAX_SHOWN]}"
    nearest = _nearest(theirs, header)
    hint = f"; did you mean {columns}.{ours}={nearest}?" if nearest else ""
    return f"{said}; columns there: {shown[:MAX_SHOWN]}{hint}; {INIT_MENDS}"


def _first_line(file: SourceFile, text: TextFormat) -> str:
    head = open_text(file.path, text).head.decode("utf-8", "replace")
    return next((line[:100] for line in head.splitlines() if line.strip()), "")


def _show(name: str) -> str:
    is_plain = name.isprintable() and name and name == name.strip()
    return name if is_plain else repr(name)


def _nearest(theirs: str, header: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in header}
    parts = set(theirs.lower().split("_"))
    alike = difflib.get_close_matches(theirs.lower(), lower, n=1)
    alike = alike or [name for name in lower if name in parts]
    return lower[alike[0]] if alike else None


def _explain_text(file: SourceFile, theirs: str, text: TextFormat) -> str:
    opened = open_text(file.path, text)
    separator = find_separator(text, file.path)
    guess = guess_separator(opened, {theirs})
    if guess and guess != separator:
        return f": its columns are separated by {guess!r}, set {text.prefix}separator={guess!r}"
    rows = first_rows(opened, separator)
    if text.header or not looks_like_data(rows):
        return ""
    names = [f"column{place}" for place in range(1, len(rows[0]) + 1)]
    line = separator.join(rows[0])
    return (
        f": its first line looks like data, not like the names of columns ({line[:MAX_SHOWN]!r}); "
        f"name the {len(names)} columns: {text.prefix}header=[{','.join(names)}], with your names"
    )


def looks_like_data(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the first row is a row of data rather than column names.

    >>> looks_like_data([["u1", "17"], ["u2", "18"]]), looks_like_data([["user", "t"], ["u", "18"]])
    (True, False)
    """
    if not rows:
        return False
    others = [row for row in rows[1:] if len(row) == len(rows[0])]
    return any(
        NUMBER.fullmatch(value.encode()) is not None
        and all(NUMBER.fullmatch(row[place].encode()) for row in others if row[place])
        for place, value in enumerate(rows[0])
    )
