"""Decide which files are the click log and the catalogue, and find the settings that read them.

sniff.py samples the files. recognise.py detects a published data set by file names and columns.
mapping.py derives the settings, and shop_config.py writes them to a file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pyarrow as pa

from recdiv_core.adapters import by_values, guess
from recdiv_core.adapters.guess import Guess
from recdiv_core.adapters.layout_files import find_given
from recdiv_core.adapters.mapping import Findings, Group, describe_items, describe_log, join
from recdiv_core.adapters.recognise import recognise
from recdiv_core.config import ColumnsConfig, Config, override
from recdiv_core.errors import UserError
from recdiv_core.formats.files import find_paths, list_files
from recdiv_core.formats.readers import ROW, cut_units, read_header, read_unit
from recdiv_core.formats.sniff import IS_EMPTY, NAMES, Sniffed, printable, sniff
from recdiv_core.formats.values import as_text
from recdiv_core.storage.places import absolute_place, is_uri

SNIFFED_ALIKE: Final = 3
"""Largest number of sampled files with names like `part-0001.csv`; all others are assumed equal."""
MAX_SNIFFED: Final = 100
NO_DATA: Final = (
    *(".jpg", ".jpeg", ".png", ".gif", ".webp", ".svg", ".pdf", ".html", ".md", ".py", ".ipynb"),
    *(".yaml", ".yml", ".toml", ".sh", ".log", ".npy", ".npz", ".pt", ".pkl", ".crc", ".sha256"),
)
"""Extensions of files that are skipped in a directory."""


def look_at(given: Sequence[str]) -> Findings:
    """Inspect files, directories, globs or URIs.

    Raises:
        UserError: no file is found, no file can be a click log, a named file is empty, or what
            `prepare` made is given.
    """
    _refuse_prepared(given)
    paths = sorted({path for one in given for path in find_paths(one, "FILE")})
    likely = [path for path in paths if not path.lower().endswith(NO_DATA)]
    sniffed, alike = _sniff_all(likely or paths)
    _refuse_empty(given, sniffed)
    findings = Findings()
    readable = [file for file in sniffed if not file.problem]
    if not readable:
        raise UserError(_say_unreadable(sniffed))
    one = given[0].rstrip("/") or "/"
    root = one if len(given) == 1 and not any(c in one for c in "*?[") and one not in paths else ""
    root = root if not root or is_uri(root) else str(Path(root).expanduser().absolute())
    groups = [_group(file, alike[file.file.path]) for file in readable]
    groups = _by_values(groups, has_names=False)
    if layout := recognise(readable, root):
        used = _describe_layout(layout, groups, paths, findings)
        _list_unused(groups, sniffed, used, findings)
        return findings
    log = _find_log(groups)
    if log is None:
        raise UserError(
            "none of the files looks like a click log with a user, an item and a time in each row; "
            f"inspected: {'; '.join(_say(file) for file in readable[:5])}"
        )
    _check_extension(log.sample)
    _check_names(log.sample, log.log)
    wanted = log.column(log.log["item_id"].column).values
    items = _find_items([group for group in groups if group.sample is not log.sample], wanted)
    if items is not None:
        _check_extension(items.sample)
        _check_names(items.sample, items.items)
    describe_log(log, paths, findings, has_items=items is not None)
    if items is not None:
        names = ColumnsConfig().model_dump()
        expected = {
            role: str(findings.settings.get(f"data.columns.{role}", names[role])) for role in names
        }
        describe_items(items, wanted, paths, expected, findings)
    _list_unused(groups, sniffed, [log, *([items] if items else [])], findings)
    return findings


def _refuse_prepared(given: Sequence[str]) -> None:
    for one in given:
        files = [f"{one}/{name}" for name in ("manifest.json", "catalogue.parquet")]
        if not is_uri(one) and all(map(os.path.isfile, files)):  # False for a name no file can have
            raise UserError(
                f"{one} is a prepared data set: run `recdiv train data.prepared={one}`, or give "
                "the click log that it was made from"
            )


def _refuse_empty(given: Sequence[str], sniffed: Sequence[Sniffed]) -> None:
    """Refuse an empty file that is named itself: another file would take its place.

    A file without an extension, such as `_SUCCESS`, holds no data.
    """
    named = {absolute_place(one, "FILE") for one in given}
    for file in sniffed:
        path = file.file.path
        if file.problem == IS_EMPTY and absolute_place(path, "FILE") in named and "." in file.name:
            raise UserError(f"FILE={path} is an empty file")


def _list_unused(
    groups: Sequence[Group], sniffed: Sequence[Sniffed], used: Sequence[Group], findings: Findings
) -> None:
    """List the other files, with the reason if one would be a catalogue but for its ids."""
    paths = {group.sample.file.path for group in used}
    has_items = len(used) > 1
    reasons = {group.sample.file.path: group.why_no_catalogue for group in groups}
    for file in sniffed:
        if file.file.path not in paths:
            why = "" if has_items else reasons.get(file.file.path, "")
            said = f"{file.describe()}; {why}" if why else file.describe()
            findings.table.append((file.name, "not used", said))


def _describe_layout(
    settings: Mapping[str, object],
    groups: Sequence[Group],
    paths: Sequence[str],
    findings: Findings,
) -> list[Group]:
    """Record a published layout; add the shop's own catalogue if the layout has none.

    Returns:
        The groups of files that `prepare` will read.
    """
    findings.settings |= settings
    findings.notes["data.layout"] = "the files have the names and columns of this layout"
    opened = find_given(override(Config(), settings))
    roles = {file.path: "further file" for file in opened.beside}
    roles |= {file.path: "catalogue" for file in opened.items}
    roles |= {file.path: "click log" for file in opened.clicks}
    used: list[Group] = []
    for group in groups:
        if role := roles.get(group.sample.file.path):
            findings.table.append((group.sample.name, role, group.sample.describe()))
            used.append(group)
    own = [g for g in groups if g.sample.file.path not in roles and g.items_score > 0]
    if opened.items or not own:
        return used
    unit = cut_units(opened.clicks, "data.clicks")[0]
    batch = next(read_unit(unit, {"item_id": opened.config.data.columns.item_id}))
    wanted = as_text(batch.table["item_id"])
    best = max(own, key=lambda group: join(group, wanted)[1][0])
    if join(best, wanted)[1][0] >= 0.5:
        describe_items(best, wanted, paths, ColumnsConfig().model_dump(), findings)
        used.append(best)
    return used


def _check_extension(file: Sniffed) -> None:
    """Refuse a file that `prepare` would not open because of its extension."""
    try:
        list_files(file.file.path, "FILE")
    except UserError as error:
        raise UserError(f"{error}; it holds {NAMES[file.file.format]}, so rename it") from None


def _check_names(file: Sniffed, roles: Mapping[str, Guess]) -> None:
    """Refuse a file where a role has two columns of one name, as `prepare` does."""
    header = read_header(file.file, "FILE")
    twice = [
        (role, found.column) for role, found in roles.items() if header.count(found.column) > 1
    ]
    if twice:
        role, name = twice[0]
        raise UserError(
            printable(
                f"{file.name} has more than one column {name!r}, which looks like its {role}: "
                "rename all but one"
            )
        )


def _say(file: Sniffed) -> str:
    return printable(f"{file.name} ({', '.join(file.columns)[:120]})")


def _say_unreadable(files: Sequence[Sniffed]) -> str:
    said = printable("; ".join(f"{file.name}: {file.problem}" for file in files[:5]))
    return f"none of the {len(files)} files can be read: {said}"


def _sniff_all(paths: Sequence[str]) -> tuple[list[Sniffed], dict[str, tuple[str, ...]]]:
    shapes: dict[str, list[str]] = {}
    for path in paths:
        head, _, name = path.rpartition("/")
        shapes.setdefault(re.sub(r"[0-9]+", "#", f"{head}/{name}"), []).append(path)
    sniffed: list[Sniffed] = []
    alike: dict[str, tuple[str, ...]] = {}
    for same in list(shapes.values())[:MAX_SNIFFED]:
        looked = [sniff(path) for path in same[:SNIFFED_ALIKE]]
        by_columns: dict[tuple[str, ...], list[Sniffed]] = {}
        for file in looked:
            by_columns.setdefault(tuple(file.columns), []).append(file)
        for number, files in enumerate(by_columns.values()):
            sniffed.append(_together(files))
            further = same[SNIFFED_ALIKE:] if not number else []
            alike[files[0].file.path] = (*(file.file.path for file in files), *further)
    return _merge_alike(sniffed, alike)


def _merge_alike(
    sniffed: list[Sniffed], alike: dict[str, tuple[str, ...]]
) -> tuple[list[Sniffed], dict[str, tuple[str, ...]]]:
    """Merge groups of files with equal named columns and different file names."""
    kept: dict[object, Sniffed] = {}
    for file in sniffed:
        named = file.has_header and not file.problem and file.columns
        key = (file.file.format, tuple(file.columns)) if named else file.file.path
        first = kept.setdefault(key, file)
        if first is not file:
            alike[first.file.path] += alike.pop(file.file.path)
            kept[key] = _together([first, file])
    return list(kept.values()), alike


def _together(files: Sequence[Sniffed]) -> Sniffed:
    """Return the first file, with the samples of all files."""
    try:
        tables = [file.table for file in files]
        return replace(files[0], table=pa.concat_tables(tables, promote_options="permissive"))
    except pa.ArrowException:  # types differ
        return files[0]


def _group(file: Sniffed, files: tuple[str, ...]) -> Group:
    columns = tuple(guess.columns_of(file.table, [ROW]))
    log = guess.guess_roles(columns, guess.OF_LOG)
    return Group(files, file, columns, log, guess.guess_roles(columns, guess.OF_ITEMS))


def _by_values(groups: Sequence[Group], *, has_names: bool) -> list[Group]:
    """Guess what names do not tell, of the files with a header or of those without one."""
    guessed: list[Group] = []
    for group in groups:
        if group.sample.has_header != has_names:
            guessed.append(group)
            continue
        others = [
            column.values
            for other in groups
            if other is not group
            for column in other.columns
            if column.num_distinct > 0.9 * len(column.values)
        ]
        log = by_values.guess_log(group.columns, others, group.log)
        is_log = log and not has_names
        items = {} if is_log else by_values.guess_items(group.columns, group.items)
        guessed.append(replace(group, log=log, items=items))
    return guessed


def _find_log(groups: Sequence[Group]) -> Group | None:
    """Return the click log, by names if they tell it; of files guessed by values the longest."""
    log = max(groups, key=lambda group: group.log_score)
    if log.log_score >= 0:
        return log
    likely = [group for group in _by_values(groups, has_names=True) if group.log_score >= 0]
    return max(likely, key=lambda group: (group.num_rows, group.log_score), default=None)


def _find_items(others: Sequence[Group], wanted: pa.Array) -> Group | None:
    """Return the catalogue, by names if they tell it, else by the item ids of the log."""
    items = max(others, key=lambda group: group.items_score, default=None)
    if items is None or items.items_score > 0:
        return items
    likely = [group for group in _by_values(others, has_names=True) if group.items_score > 0]
    shares = [join(group, wanted)[1][0] for group in likely]
    return likely[shares.index(max(shares))] if max(shares, default=0.0) >= 0.5 else None
