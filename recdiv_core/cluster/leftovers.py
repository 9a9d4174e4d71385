"""End processes of a local Ray whose driver was killed, when the next Ray starts.

Ray's node and its workers end with their driver, within seconds. Ray's dashboard and two agents
(ray 2.60) notice it within a minute and hold memory until then. A driver marks the directory of its
session with a locked file (storage/claims.py); the lock is free once the driver has ended. A
process belongs to that session if this user owns it, its parent has ended, and it writes into the
directory of the session. The logs stay.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from recdiv_core.storage.claims import about_me, is_of_this_machine, lock
from recdiv_core.wording import counted

logger = logging.getLogger(__name__)

MARK: Final = "recdiv-owner.json"
_marked_here: list[int] = []
"""Open file that holds the lock on this process's own session."""


def mark_session(session: Path) -> None:
    """Mark the session that this process has started, until it ends."""
    with suppress(OSError):  # this process does not need the mark itself
        descriptor = os.open(session / MARK, os.O_RDWR | os.O_CREAT, 0o600)
        lock(descriptor)
        os.write(descriptor, about_me().encode())
        _marked_here.append(descriptor)


def end_leftovers(sessions: Path) -> int:
    """End the processes that killed drivers of this machine left; return their number."""
    num_ended = 0
    for mark in sessions.glob(f"session_*/{MARK}"):
        try:
            descriptor = os.open(mark, os.O_RDWR)
        except OSError:  # it belongs to another user
            continue
        try:
            if lock(descriptor) and is_of_this_machine(os.read(descriptor, 4096).decode()):
                num_ended += _end_orphans(mark.parent)
                mark.unlink(missing_ok=True)
        finally:
            os.close(descriptor)
    if num_ended:
        ended = counted(num_ended, "process", "processes")
        logger.info("ended %s of Ray that an earlier run left", ended)
    return num_ended


def _end_orphans(session: Path) -> int:
    orphans = [pid for pid in _orphans() if _writes_into(pid, session.resolve())]
    for pid in orphans:
        with suppress(OSError):  # it has just ended
            os.kill(pid, signal.SIGKILL)  # its node is gone: a graceful end has no purpose
    return len(orphans)


def _orphans() -> Iterator[int]:
    """Yield this user's processes whose parent has ended (Linux)."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            if entry.stat().st_uid == os.getuid():
                # after the name, which may hold any character: state, parent, ...
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if fields[1] == "1":
                    yield int(entry.name)


def _writes_into(pid: int, directory: Path) -> bool:
    with suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if link.readlink().is_relative_to(directory):
                    return True
    return False
