"""Append: a prepared data set and new files become the next data set of its lineage.

    prepare data.base=OLD data.clicks=NEW [data.items=NEW] [data.out=DIR]

The result is equal to a preparation of all files from scratch, except that users, items and queries
are numbered differently: indices of the base never change. The settings are those of the base. It
runs in one process, without Ray, because its work grows with the changed users and not with the log
(append_shards.py). This module checks the call; append_steps.py builds. Like `prepare`, it builds a
version under a temporary name, which becomes the current one when it is complete (versions.py).
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from recdiv_core.adapters.layout_files import Given, find_given
from recdiv_core.config import Config, flatten, override
from recdiv_core.data import clicklog
from recdiv_core.data.append_steps import Step, build, read_log_facts
from recdiv_core.data.door import SETTING, Door, key_of, read_tombstones
from recdiv_core.data.fingerprint import PLACES, is_made
from recdiv_core.data.versions import (
    building,
    find_version,
    open_version,
    point,
    publish,
    version_place,
)
from recdiv_core.errors import UserError
from recdiv_core.formats.files import SourceFile, describe_sources, list_files
from recdiv_core.formats.text_lines import UnreadableFileError
from recdiv_core.schema import SCHEMA_VERSION, Manifest, check_files, read_manifest

logger = logging.getLogger(__name__)

LIMIT: Final = "data.max_quarantined"
FREE: Final = (*PLACES, SETTING, LIMIT)
"""Settings of the data that an append may give; all others are those of the base."""


def append(config: Config) -> dict[str, object]:
    """Append new files to a prepared data set.

    A data set that was made from the same base and the same files exists already: it is reused.

    Returns:
        As `clicklog.prepare`; also `base`, `generation`, `num_new_rows`, `num_changed_users`,
        `num_new_items` and `num_corrected_items`.

    Raises:
        UserError: the base cannot be appended to, or the input or a setting is wrong; no file is
            left behind.
    """
    started = time.monotonic()
    base, manifest = open_base(config)
    out = clicklog.find_target(config, default=config.data.base)
    config = with_settings_of(config, manifest)
    door = open_door(config, manifest, base, out)
    given = find_new(config, manifest)
    is_base = base == version_place(out, manifest.fingerprint)
    if is_base and not given.clicks and not given.items:
        logger.info("%s has all these files already", out)
        return clicklog.summary(out, started, is_reused=True)
    fingerprint = _fingerprint(manifest, given)
    version = version_place(out, fingerprint)
    if is_made(version, fingerprint, config):
        point(out, version)
        logger.info("%s exists already, made from the same base and files", out)
        return clicklog.summary(out, started, is_reused=True)
    with building(out) as work:
        step = Step(base, manifest, read_log_facts(base), config, given, work, door)
        facts = _built(step, fingerprint)
        clicklog.check_forgotten(out, door)
        publish(out, work, fingerprint)
    return clicklog.summary(out, started, is_reused=False) | {"base": str(base), **facts}


def _built(step: Step, fingerprint: str) -> dict[str, object]:
    try:
        return build(step, fingerprint)
    except UnreadableFileError as error:
        raise UserError(str(error).partition("\n")[0]) from None


def open_base(config: Config, *, locks: bool = True) -> tuple[Path, Manifest]:
    """Return the directory and the manifest of `data.base`; `locks` protects it from removal.

    Raises:
        UserError: it is no whole prepared data set, or does not keep its events.
    """
    base = open_version(config.data.base) if locks else find_version(config.data.base)
    if not (base / "manifest.json").is_file():
        raise UserError(f"data.base={config.data.base} is not a prepared data set")
    manifest = read_manifest(base)
    check_files(base, manifest)
    if not (base / clicklog.LOG).is_file():
        raise UserError(
            f"data.base={config.data.base} does not keep the events that an append needs: an "
            "earlier version of recdiv prepared it; run `recdiv prepare` again"
        )
    return base, manifest


def with_settings_of(config: Config, manifest: Manifest) -> Config:
    """Return the config with the settings that the base was prepared with.

    Raises:
        UserError: the call gives another value for one of them.
    """
    now, usual = flatten(config), flatten(Config())
    for key, made in manifest.settings.items():
        value = json.loads(json.dumps(now.get(key), default=dict))
        default = json.loads(json.dumps(usual.get(key), default=dict))
        if key not in FREE and value not in (made, default):
            raise UserError(
                f"{key}={value}: data.base={config.data.base} was prepared with {made}, and an "
                "append keeps the settings of its base"
            )
    kept = {key: value for key, value in manifest.settings.items() if key in now}
    free = {key: now[key] for key in PLACES}
    free[SETTING] = now[SETTING] or kept.get(SETTING, "")
    if now[LIMIT] != usual[LIMIT]:  # one bad day does not change the limit of other days
        free[LIMIT] = now[LIMIT]
    named = {"data.name": config.data.name or manifest.name, "seed": manifest.seed}
    return override(config, {**kept, **free, **named, "data.source": "files"})


def open_door(config: Config, manifest: Manifest, base: Path, out: Path) -> Door:
    """Return the door of an append.

    Raises:
        UserError: the key of `data.pseudonymise` is missing or is not that of the base, or users
            were forgotten in the data set that the append replaces, but not in the base.
    """
    pseudonyms = key_of(config.data.pseudonymise, manifest)
    tombstones = read_tombstones(base)
    if tombstones.joined(read_tombstones(out)) != tombstones:
        raise UserError(
            f"data.base={config.data.base} may hold users that `recdiv forget` removed from "
            f"data.out={out}; give data.base={out}, or another data.out"
        )
    return Door(pseudonyms, tombstones, tuple(config.data.null_words))


def find_new(config: Config, manifest: Manifest) -> Given:
    """Return the files of the call that the base has not read yet, by their content.

    Raises:
        UserError: no input is given or found.
    """
    if not config.data.clicks and not config.data.items:
        raise UserError("data.base needs data.clicks, data.items, or both: the files to append")
    if not config.data.clicks:
        listed = list_files(config.data.items, "data.items")
        return Given(config, [], _unread(listed, manifest, "data.items"), [])
    given = find_given(config)
    clicks = _unread(given.clicks, manifest, "data.clicks")
    return replace(given, clicks=clicks, items=_unread(given.items, manifest, "data.items"))


def _unread(files: Sequence[SourceFile], manifest: Manifest, key: str) -> list[SourceFile]:
    known = {json.dumps(_content(row), sort_keys=True) for row in manifest.sources}
    paths = {row["path"] for row in manifest.sources}
    unread: list[SourceFile] = []
    for file, row in zip(files, describe_sources(files), strict=True):
        if json.dumps(_content(row), sort_keys=True) in known:
            logger.info("%s: %s is in data.base already", key, row["path"])
            continue
        if row["path"] in paths and key == "data.clicks":
            logger.warning(
                "%s: %s was read before with other content: events that it no longer has stay",
                key,
                row["path"],
            )
        unread.append(file)
    return unread


def _content(row: dict[str, str | int]) -> dict[str, str | int]:
    return {name: value for name, value in row.items() if name != "path"}


def _fingerprint(base: Manifest, given: Given) -> str:
    files = [describe_sources(part) for part in (given.clicks, given.items, given.beside)]
    contents = [[_content(row) for row in rows] for rows in files]
    tree = [SCHEMA_VERSION, base.fingerprint, contents]
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
