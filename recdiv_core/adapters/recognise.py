"""Recognise a published data set by its file names and columns.

A file name alone proves nothing: `events.csv` may belong to any shop. If the log of a layout names
its columns, the columns decide; otherwise the number of fields must fit. Other files are inspected
in look.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from recdiv_core.adapters.layout_files import find_given, is_of
from recdiv_core.adapters.layouts import Layout, Part, layouts
from recdiv_core.config import Config, override
from recdiv_core.errors import UserError
from recdiv_core.formats.readers import find_columns
from recdiv_core.formats.sniff import Sniffed
from recdiv_core.schema import CLICK_LOG_REQUIRED


def recognise(files: Sequence[Sniffed], root: str) -> dict[str, object]:
    """Return the settings that read the files with a layout; empty = no layout fits.

    `root` is the given directory, if a directory was given.
    """
    known = layouts()
    by_name = [(name, _match(files, layout, by_name=True)) for name, layout in known.items()]
    by_columns = [(name, _match(files, layout, by_name=False)) for name, layout in known.items()]
    for name, log in (*by_name, *by_columns):
        if not log:
            continue
        for settings in _places(log, files, known[name], root):
            if _can_be_opened(settings | {"data.layout": name}):
                return settings | {"data.layout": name}
    return {}


def _match(files: Sequence[Sniffed], layout: Layout, *, by_name: bool) -> list[Sniffed]:
    for parts in layout.log:
        found = [
            file
            for part in parts
            for file in files
            if (is_of(file.file.path, part) if by_name else _has_marks(file, layout))
            and (not by_name or _fits(file, part, layout, files))
        ]
        if found:
            return found
    return []


def _has_marks(file: Sniffed, layout: Layout) -> bool:
    return bool(layout.marks) and set(layout.marks) <= set(file.columns)


def _fits(file: Sniffed, part: Part, layout: Layout, files: Sequence[Sniffed]) -> bool:
    if part.header:
        is_anybodys = any(name.startswith("*.") for name in part.names) and not any(
            is_of(other.file.path, one) for other in files for ones in layout.items for one in ones
        )
        return len(part.header) == len(file.columns) and not is_anybodys and not file.has_header
    return not layout.marks or _has_marks(file, layout)


def _places(
    log: Sequence[Sniffed], files: Sequence[Sniffed], layout: Layout, root: str
) -> list[dict[str, object]]:
    """Return ways to name the files: the directory, or each file by its path."""
    ways: list[dict[str, object]] = []
    above = {str(PurePath(file.file.path).parent) for file in log}
    if root:
        ways.append({"data.clicks": root})
    elif len(log) > 1 and len(above) == 1:
        ways.append({"data.clicks": next(iter(above))})
    if len(log) == 1:
        ways.append({"data.clicks": log[0].file.path})
    parts = [part for alternative in layout.items for part in alternative]
    items = [file for file in files if any(is_of(file.file.path, part) for part in parts)]
    if len(items) == 1:
        ways += [way | {"data.items": items[0].file.path} for way in list(ways)]
    return ways


def _can_be_opened(settings: dict[str, object]) -> bool:
    try:
        given = find_given(override(Config(), settings))
        names = given.config.data.columns.model_dump()
        wanted = {name: names[name] for name in CLICK_LOG_REQUIRED}
        find_columns(given.clicks, wanted, CLICK_LOG_REQUIRED, "data.clicks")
    except UserError:
        return False
    return True
