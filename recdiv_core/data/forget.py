# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Forget users: check the call, build the next version, remove what else has them.

    recdiv forget USER_ID ... data.prepared=DIR [--file FILE] [--slates DIR ...]

removal.py builds the version without the users, under a temporary name: a killed command leaves the
old version or the new one, whole. A tombstone keeps later appends from bringing a user back. Then
versions without the tombstones are removed, and rows of slates. Ray does not run.
"""

from __future__ import annotations

import collections
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdiv_core.config import Config, override
from recdiv_core.data.append import open_base, with_settings_of
from recdiv_core.data.door import (
    as_stored,
    make_tombstones,
    read_tombstones,
)
from recdiv_core.data.removal import Removal, build, quarantined_rows
from recdiv_core.data.shards import list_shards, staged_file
from recdiv_core.data.versions import (
    building,
    list_versions,
    publish,
    remove_version,
    view_of,
)
from recdiv_core.errors import UserError
from recdiv_core.formats import values
from recdiv_core.schema import (
    USER_ID,
    Manifest,
    read_manifest,
)
from recdiv_core.wording import counted

logger = logging.getLogger(__name__)


def forget(
    config: Config,
    given: Sequence[str],
    *,
    slates: Sequence[Path] = (),
    unknown_ok: bool = False,
) -> dict[str, Any]:
    """Remove users from a data set and from slates.

    The same call may be repeated: users that are forgotten already are no mistake. `given` are ids
    as in the click log, or their pseudonyms. With `unknown_ok`, users that are not in the data set
    get a tombstone too.

    Returns:
        `prepared`, `num_users`, `num_forgotten_before`, `num_unknown`, `files` (rows removed from
        each file), `not_removed` (old versions that a process reads) and `others` (other data sets
        of the lineage that may have the users).

    Raises:
        UserError: no data set, a copy without a link, another key, an unknown user, or slates that
            cannot be read; then nothing is changed.
    """
    view = view_of(config.data.prepared)
    base, manifest = open_base(override(config, {"data.base": str(view)}), locks=False)
    users, raw = stored_ids(config, manifest, given)
    before = read_tombstones(base)
    is_before = before.mark(users)
    is_known = find_users(base, users)
    num_unknown = int((~is_known & ~is_before).sum())
    if num_unknown and not unknown_ok:
        which = ", ".join(str(place + 1) for place in np.flatnonzero(~is_known & ~is_before)[:5])
        raise UserError(
            f"not in data.prepared={config.data.prepared}: {num_unknown} of "
            f"{counted(len(users), 'user')} (number {which}); --unknown-ok forgets them in advance"
        )
    paths = [path for directory in slates for path in find_slates(directory)]
    tombstones = before.joined(make_tombstones(manifest.root, users.to_pylist()))
    files: collections.Counter[str] = collections.Counter()
    if not is_before.all():
        settings = with_settings_of(override(config, {"data.base": str(view)}), manifest)
        with building(view) as work:
            step = Removal(base, manifest, settings, work, users, tombstones, files)
            fingerprint = build(step)
            publish(view, work, fingerprint)
    not_removed = remove_versions(view, users)
    both = pa.array({*users.to_pylist(), *raw}, pa.string())
    for path in paths:
        files.update(remove_rows(path, both))
    return {
        "prepared": str(view),
        "num_users": len(users),
        "num_forgotten_before": int(is_before.sum()),
        "num_unknown": num_unknown,
        "files": {name: files[name] for name in sorted(files)},
        "not_removed": [str(path) for path in not_removed],
        "others": [str(path) for path in find_others(view, manifest, users)],
    }


def stored_ids(
    config: Config, manifest: Manifest, given: Sequence[str]
) -> tuple[pa.Array, list[str]]:
    """Return distinct ids as the data set holds them, and as the log has them.

    Raises:
        UserError: no user is given, or the key is missing or another one.
    """
    words = [str(word) for word in json.loads(json.dumps(manifest.settings["data.null_words"]))]
    ids = values.clean_ids(pa.array(list(given), pa.string()), words)[0].drop_null().unique()
    if not len(ids):
        raise UserError("USERS: give the ids of the users to forget, or --file FILE")
    return as_stored(ids, manifest, config.data.pseudonymise).unique(), ids.to_pylist()


def find_users(base: Path, users: pa.Array) -> Any:
    """Return [U] bool: the users with an event or a quarantined row."""
    is_found = np.zeros(len(users), bool)
    for shard in list_shards(base):
        table = pq.read_table(staged_file(base, shard), columns=[USER_ID])
        is_found |= values.as_mask(pc.is_in(users, table[USER_ID].combine_chunks()))
    names = set(users.to_pylist())
    wanted = make_tombstones("", names)
    seen: set[str] = set()
    for path in sorted((base / "quarantine").glob("clicks-*.parquet")):
        for row in quarantined_rows(path):
            if isinstance(row, str):
                seen |= {name for name in names if wanted.mentioned(row) and name in row}
            else:
                seen.add(str(row.get(USER_ID)))
    cleaned = values.clean_ids(pa.array(sorted(seen), pa.string()), ())[0]
    return is_found | values.as_mask(pc.is_in(users, cleaned))


# --------------------------------------------------------------------------- other places


def remove_versions(view: Path, users: pa.Array) -> list[Path]:
    """Remove the versions of a data set in which the users were not forgotten.

    Returns:
        versions that a process reads: they are still there.
    """
    left: list[Path] = []
    for version in list_versions(view):
        if not read_tombstones(version).mark(users).all() and not remove_version(version):
            logger.warning("%s has the users still: a process reads it; run this again", version)
            left.append(version)
    return left


def find_slates(directory: Path) -> list[Path]:
    """Return all Parquet files of a directory that have users.

    Raises:
        UserError: no such directory, no file in it, or a file that cannot be read.
    """
    paths = sorted(directory.rglob("*.parquet"))
    if not paths:
        raise UserError(f"--slates {directory} holds no Parquet file")
    try:
        return [path for path in paths if USER_ID in pq.read_schema(path).names]
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"--slates {directory}: {' '.join(str(error).split())}") from None


def remove_rows(path: Path, users: pa.Array) -> dict[str, int]:
    """Remove the rows of users from a file of slates.

    Returns:
        file -> rows removed; empty = none.
    """
    source = pq.ParquetFile(path)
    table = source.read()
    kept = table.filter(pc.invert(pc.is_in(values.as_text(table[USER_ID]), users)))
    if len(kept) == len(table):
        return {}
    rows = source.metadata.row_group(0).num_rows
    fresh = path.with_name(f".{path.name}.new")
    pq.write_table(kept, fresh, rows, compression="zstd")
    fresh.replace(path)
    return {str(path): len(table) - len(kept)}


def find_others(view: Path, manifest: Manifest, users: pa.Array) -> list[Path]:
    """Return the data sets beside this one, of the same lineage, that may have the users."""
    found: list[Path] = []
    for path in sorted(view.parent.iterdir()):
        if path == view or not (path / "manifest.json").is_file():
            continue
        try:
            is_related = read_manifest(path).root == manifest.root
        except UserError:
            continue
        if is_related and not read_tombstones(path).mark(users).all():
            logger.warning("%s is of the same lineage and may have the users too", path)
            found.append(path)
    return found
