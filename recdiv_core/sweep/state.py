"""Check a sweep's saved state before it is loaded, because loading it runs code.

Ray Tune saves its state as pickles: `tuner.pkl`, the searcher, callbacks, parts of its JSON. Anyone
who can write them can run code as the user who resumes the sweep. Two checks prevent that:

    digest     `tuner.pkl` is written once, before the first trial. Its sha256 is a tag of the
               sweep's MLflow run. A file that was planted or changed later is refused.
    ownership  On a file system every file and directory of the state must belong to this user or
               to root, and no other user may write to it. This covers files that Tune rewrites,
               whose digests would be out of date after a kill.

An object store has no owners: there only the digest protects, and only `tuner.pkl`.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Final

from pyarrow.fs import FileType

from recdiv_core.errors import UserError
from recdiv_core.storage.credentials import redact
from recdiv_core.storage.places import filesystem_of, is_uri, joined

TAG: Final = "recdiv.state_sha256"
PICKLE: Final = "tuner.pkl"


def state_digest(place: str) -> str:
    """Return the sha256 of the sweep's `tuner.pkl`; empty if the file does not exist."""
    filesystem, path = filesystem_of(joined(place, PICKLE), "run.storage")
    if filesystem.get_file_info(path).type != FileType.File:
        return ""
    with filesystem.open_input_stream(path) as stream:
        return hashlib.sha256(stream.read()).hexdigest()


def check_state(place: str, recorded: str) -> None:
    """Refuse a saved state that another user may have written.

    `recorded` is the digest in the tag of the sweep's MLflow run; empty = none.

    Raises:
        UserError: a file has another owner, others may write to it, or its digest differs; in an
            object store also if no digest is recorded.
    """
    if not is_uri(place):
        _check_owners(Path(place))
        if not recorded:  # the driver was lost before it logged the digest
            return
    if state_digest(place) != recorded:
        why = "is not what this sweep wrote" if recorded else "is not on record as this sweep's"
        _refuse(joined(place, PICKLE), f"{why} (tag {TAG} of its MLflow run)")


def _check_owners(directory: Path) -> None:
    for path in (directory.parent, directory, *sorted(directory.rglob("*"))):
        found = path.lstat()
        if found.st_uid not in (os.geteuid(), 0):
            _refuse(str(path), f"belongs to the user {found.st_uid}, not to you")
        is_link = stat.S_ISLNK(found.st_mode)
        is_foreign_group = found.st_gid not in (os.getegid(), 0)
        if not is_link and (
            found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and is_foreign_group)
        ):
            _refuse(str(path), f"may be written by others (mode {stat.S_IMODE(found.st_mode):o})")


def _refuse(place: str, why: str) -> None:
    raise UserError(
        f"{redact(place)} {why}: loading it would run code that another user may have written. "
        "Give another run.name to start a new sweep"
    )
