"""Processes of a local Ray whose driver was killed: the next start ends them.

Ray's node and its workers end with their driver, by the kernel or within seconds. Two agents (ray
2.60) look for their node once a minute and hold memory until then. A driver marks the directory of
its session with a claim (claims.py), whose lock is free once it is gone. A process is taken for one
of that session when it belongs to this user, has lost its parent, and writes into the session's
directory. The logs stay.
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

logger = logging.getLogger(__name__)

MARK: Final = "recdiv-owner.json"
_marked_here: list[int] = []
"""The open file that the lock of this process's own session hangs on."""


def mark_session(session: Path) -> None:
    """Mark the session that this process has started, until it ends."""
    with suppress(OSError):  # a mark is of use to others alone
        descriptor = os.open(session / MARK, os.O_RDWR | os.O_CREAT, 0o600)
        lock(descriptor)
        os.write(descriptor, about_me().encode())
        _marked_here.append(descriptor)


def end_leftovers(sessions: Path) -> int:
    """End what killed drivers of this machine left running; return how many processes that were.

    Args:
        sessions: the directory that Ray keeps its sessions in.
    """
    num_ended = 0
    for mark in sessions.glob(f"session_*/{MARK}"):
        try:
            descriptor = os.open(mark, os.O_RDWR)
        except OSError:  # of another user
            continue
        try:
            if lock(descriptor) and is_of_this_machine(os.read(descriptor, 4096).decode()):
                num_ended += _end_orphans(mark.parent)
                mark.unlink(missing_ok=True)
        finally:
            os.close(descriptor)
    if num_ended:
        logger.info("ended %d processes of Ray that a killed run left", num_ended)
    return num_ended


def _end_orphans(session: Path) -> int:
    orphans = [pid for pid in _orphans() if _writes_into(pid, session.resolve())]
    for pid in orphans:
        with suppress(OSError):  # it has just ended
            os.kill(pid, signal.SIGKILL)  # their node is gone: there is nothing to hand over
    return len(orphans)


def _orphans() -> Iterator[int]:
    """Yield this user's processes whose parent has ended, as Linux tells."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            if entry.stat().st_uid == os.getuid():
                # behind the name, which may hold anything: state, parent, ...
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
