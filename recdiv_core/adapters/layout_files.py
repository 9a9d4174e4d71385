"""Find the input files of a config, and complete its settings by its layout.

Without `data.layout` the files are those of `data.clicks` and `data.items`. With a layout, the log,
the catalogue and their side files are found by their published names. The settings of the layout
fill in the settings that the user did not give. Layouts are defined in layouts.yaml.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from recdiv_core.adapters.layouts import COMPRESSED, Layout, Part, find_layout
from recdiv_core.config import Config, DataConfig, flatten, override
from recdiv_core.errors import UserError
from recdiv_core.formats.files import SourceFile, TextFormat, find_paths, list_files
from recdiv_core.formats.reshape import Reshape, Side
from recdiv_core.formats.sniff import encoding_of, read_head
from recdiv_core.storage.places import name_of

Alternatives = Sequence[Sequence[Part]]


@dataclass(frozen=True)
class Given:
    """Input files of a config.

    Without files in `items` the catalogue is built from the log.
    """

    config: Config
    clicks: list[SourceFile]
    items: list[SourceFile]
    beside: list[SourceFile]


def find_given(config: Config) -> Given:
    """Find the input files of a config and complete its settings.

    Raises:
        UserError: no input is given or found, or the layout is unknown or lacks a file.
    """
    data = config.data
    if not data.layout:
        items = list_files(data.items, "data.items") if data.items else []
        return Given(config, list_files(data.clicks, "data.clicks"), items, [])
    layout = find_layout(data.layout)
    config = with_settings(config, layout)
    paths = find_paths(data.clicks, "data.clicks")
    log = _match(paths, layout.log, "data.clicks", config, fallback=_is_file(data.clicks, paths))
    around = _paths_around(data.clicks, paths)
    catalogue: list[tuple[str, Part]] = []
    own: list[SourceFile] = []
    if data.items:
        found = find_paths(data.items, "data.items")
        around = sorted({*around, *_paths_around(data.items, found)})
        if _has_any(found, layout.items):
            catalogue = _match(found, layout.items, "data.items", config, fallback=False)
        else:
            own = list_files(data.items, "data.items")
            config = override(config, {"data.item_columns": _own_columns(layout, data)})
    elif layout.items and (layout.needs_items or _has_any(around, layout.items)):
        catalogue = _match(around, layout.items, "data.items", config, fallback=False)
    clicks = [_attach(path, part, around, config, "data.clicks") for path, part in log]
    items = [_attach(path, part, around, config, "data.items") for path, part in catalogue] or own
    read = {file.path for file in (*clicks, *items)}
    sides = [dict(file.reshape.side) for file in (*clicks, *items) if file.reshape]
    beside = {path for side in sides for paths in side.values() for path in paths} - read
    return Given(
        config,
        clicks,
        items,
        [file for path in sorted(beside) for file in list_files(path, "data.clicks", "csv")],
    )


def with_settings(config: Config, layout: Layout) -> Config:
    """Fill in the settings of the layout that the user did not give.

    A setting with its default value counts as not given. For a table (`data.event_names`) the
    entries of the layout are added to those of the user.
    """
    now, usual = flatten(config), flatten(Config())
    values: dict[str, object] = {}
    for name, value in layout.settings.items():
        key = f"data.{name}"
        if isinstance(value, Mapping):
            values[key] = {**value, **_table(now[key])}
        elif now[key] == usual[key]:
            values[key] = value
    return override(config, values)


def _own_columns(layout: Layout, data: DataConfig) -> dict[str, str]:
    """Return column names for a catalogue of the shop's own, where the layout does not apply."""
    mapped = [key.partition(".")[2] for key in layout.settings if key.startswith("columns.")]
    return {name: getattr(data.columns, name) for name in mapped} | data.item_columns


def _table(value: object) -> Mapping[str, object]:
    assert isinstance(value, dict)
    return value


def _paths_around(given: str, paths: Sequence[str]) -> list[str]:
    """Return the paths inside the given directory, or beside the given file."""
    if not _is_file(given, paths):
        return list(paths)
    head = paths[0][: paths[0].rindex("/")] or "/"
    return find_paths(head, "data.clicks")


def _has_any(paths: Sequence[str], alternatives: Alternatives) -> bool:
    return any(is_of(path, part) for parts in alternatives for part in parts for path in paths)


def _is_file(given: str, paths: Sequence[str]) -> bool:
    return len(paths) == 1 and name_of(given) == name_of(paths[0])


def _match(
    paths: Sequence[str], alternatives: Alternatives, key: str, config: Config, *, fallback: bool
) -> list[tuple[str, Part]]:
    """Return (file, part) pairs of the first alternative that has files."""
    for parts in alternatives:
        found = [(path, part) for part in parts for path in paths if is_of(path, part)]
        if found:
            return found
    if fallback and alternatives:  # one file under a name of the user's
        suffix = _plain(paths[0]).rpartition(".")[2]
        parts = next((p for p in alternatives if p[0].names[0].endswith(suffix)), alternatives[0])
        return [(paths[0], parts[0])]
    expected = " or ".join(
        " and ".join(_say(name) for part in parts for name in part.names) for parts in alternatives
    )
    given = config.data.items if key == "data.items" and config.data.items else config.data.clicks
    archives = [name_of(path) for path in paths if path.endswith((".zip", ".tar.gz", ".tgz"))]
    hint = f"; unpack {archives[0]} first" if archives else ""
    raise UserError(
        f"{key}: the layout {config.data.layout} expects {expected} in {given}; found there: "
        f"{', '.join(sorted({name_of(path) for path in paths})[:8])}{hint}"
    )


def _say(pattern: str) -> str:
    return pattern.replace("20[0-9][0-9]-[a-z][a-z][a-z]", "2019-Oct")


def is_of(path: str, part: Part) -> bool:
    """Return whether the name of a file matches a part."""
    name = _plain(path)
    fits = any(fnmatch.fnmatch(name, pattern.lower()) for pattern in part.names)
    return fits and not any(fnmatch.fnmatch(name, pattern.lower()) for pattern in part.but_not)


def _plain(path: str) -> str:
    name = name_of(path).lower()
    suffix = next((end for end in COMPRESSED[1:] if name.endswith(end)), "")
    return name.removesuffix(suffix)


def _find_beside(part: Part, paths: Sequence[str], config: Config) -> Side:
    found: dict[str, tuple[str, ...]] = {}
    for name, patterns in part.beside.items():
        found[name] = tuple(path for path in paths if is_of(path, Part(patterns)))
        if not found[name] and name not in part.optional:
            raise UserError(
                f"data.clicks={config.data.clicks}: the layout {config.data.layout} expects "
                f"{' or '.join(patterns)} beside {part.names[0]}"
            )
    return found


def _attach(path: str, part: Part, around: Sequence[str], config: Config, key: str) -> SourceFile:
    (file,) = list_files(path, key, part.format)
    side = _find_beside(part, around, config)
    data = config.data
    is_log = key == "data.clicks"
    separator = data.separator if is_log else data.item_separator
    header = data.header if is_log else data.item_header
    encoding = data.encoding if is_log else data.item_encoding
    text = TextFormat(
        separator=separator or part.separator,
        header=header or part.header,
        encoding=_encoding(path, part) if encoding == "utf-8" else encoding,
        prefix="data." if is_log else "data.item_",
    )
    reshape = None
    if part.rows is not None or part.whole is not None:
        reshape = Reshape(part.rows or _as_they_are, part.whole, tuple(side.items()))
    constants = (*file.partitions, *part.constants.items())
    return replace(file, partitions=constants, text=text, reshape=reshape)


def _encoding(path: str, part: Part) -> str:
    """Return the encoding of the layout, or UTF-8 if the file is: versions of data sets differ."""
    if not part.encoding:
        return "utf-8"
    head = read_head(path)
    return "utf-8" if not head.isascii() and encoding_of(head) == "utf-8" else part.encoding


def _as_they_are(table: pa.Table, _: Side) -> pa.Table:
    return table
