"""Layouts of well-known public data sets, as they are published: `data.layout=NAME`.

layouts.yaml holds the layouts: which files are the log and the catalogue, their text format, and
settings that a user could write in a YAML file. Settings of the user win. docs/layouts.md links the
description of each format. Functions on rows are in layout_rows.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Final

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from recdiv_core.adapters import layout_rows as rows
from recdiv_core.errors import UserError
from recdiv_core.formats.files import Format
from recdiv_core.formats.reshape import Rows

COMPRESSED: Final = ("", ".gz", ".zip", ".bz2", ".zst")
"""Extensions of compressed files, which every layout allows."""

RowsByName = Annotated[Rows, BeforeValidator(lambda name: getattr(rows, name))]
"""Function of layout_rows.py; the file gives its name."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Part:
    """Files of one shape within a published data set.

    Attributes:
        names: patterns of file names, in any case, without COMPRESSED.
        but_not: patterns of file names that are excluded.
        format: format of the files; None = given by the extension.
        separator, header, encoding: like `data.separator` and so on; empty = not fixed.
        constants: columns with one value in all rows.
        rows: function on each batch; None = no change.
        whole: function on all rows of the part together, from all its files.
        beside: name -> patterns of side files that `rows` and `whole` read.
        optional: names in `beside` that may be missing.
    """

    names: tuple[str, ...]
    but_not: tuple[str, ...] = ()
    format: Format | None = None
    separator: str = ""
    header: tuple[str, ...] = ()
    encoding: str = ""
    constants: Mapping[str, str] = Field(default_factory=dict[str, str])
    rows: RowsByName | None = None
    whole: RowsByName | None = None
    beside: Mapping[str, tuple[str, ...]] = Field(default_factory=dict[str, tuple[str, ...]])
    optional: tuple[str, ...] = ()


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Layout:
    """One published data set.

    Attributes:
        log: alternatives of parts; the first alternative with files is read, all parts together.
        items: alternatives for the catalogue; empty = the catalogue is built from the log.
        needs_items: False = without files of `items` the catalogue is built from the log.
        settings: keys below `data.`, as in a YAML file.
        marks: column names by which `recdiv init` recognises a log with renamed files.
        aliases: other names of the layout.
    """

    log: tuple[tuple[Part, ...], ...]
    items: tuple[tuple[Part, ...], ...] = ()
    needs_items: bool = True
    settings: Mapping[str, object] = Field(default_factory=dict[str, object])
    marks: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


@cache
def layouts() -> dict[str, Layout]:
    """Read the layouts of layouts.yaml, by name."""
    tree = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))
    return TypeAdapter(dict[str, Layout]).validate_python(tree)


def find_layout(name: str) -> Layout:
    """Return a layout by its name.

    Raises:
        UserError: no layout has this name; the message names similar ones.
    """
    names = {other: key for key, each in layouts().items() for other in (key, *each.aliases)}
    plain = name.strip().lower()
    if plain not in names:
        near = difflib.get_close_matches(plain, names, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UserError(f"data.layout={name} is unknown; {hint}allowed: {', '.join(layouts())}")
    return layouts()[names[plain]]
