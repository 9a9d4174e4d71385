"""Directories that only one process at a time may write to.

    with claimed(LocalFileSystem(), "runs/first", "run.name=first"):  # refused while it is held
        ...

A claim is a small file, `owner.json`, with the machine, the process and the time. On a file system
the owner also holds a lock (flock) on it. The kernel frees the lock however the process ends, so a
free lock proves that an owner on this machine is gone. Locks say nothing about other machines or
object stores. There the owner rewrites the file every BEAT_S seconds (a heartbeat), and a claim
without a heartbeat for SILENT_S seconds is taken over. Clocks of two machines are never compared.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, cast

from pyarrow.fs import FileSystem, FileType, LocalFileSystem

from recdiv_core.errors import UserError
from recdiv_core.storage.interrupts import answer_sigterm

logger = logging.getLogger(__name__)

OWNER: Final = "owner.json"
PARTIAL: Final = ".partial"
UNFINISHED: Final = ".unfinished"
BEAT_S: Final = 10.0
SILENT_S: Final = 60.0
"""Several heartbeats, and longer than a network file system caches the content of a file."""
SETTLE_S: Final = 2.0
"""Wait before a claim in an object store is read back. Two claims may be written at once; the last
one counts, and both processes see it after this time."""


@contextmanager
def claimed(filesystem: FileSystem, place: str, what: str) -> Iterator[None]:
    """Claim a directory for this process, and release it at the end.

    The place is made when it is missing, and removed if the work fails and leaves nothing in it;
    `what` is its name in messages, such as `run.name=first`.

    Raises:
        UserError: another process has claimed it, or it cannot be made.
    """
    is_local = isinstance(filesystem, LocalFileSystem)
    is_new = is_local and not Path(place).exists()
    try:
        filesystem.create_dir(place, recursive=True)
    except OSError as error:
        raise UserError(f"{what} cannot be written: {' '.join(str(error).split())}") from None
    held = _LocalFile(Path(place, OWNER)) if is_local else _Object(filesystem, f"{place}/{OWNER}")
    token = secrets.token_hex(8)
    answer_sigterm()
    try:
        _take(held, token, what)
        stopped = threading.Event()
        beating = threading.Thread(target=_beat, args=(held, token, what, stopped), daemon=True)
        beating.start()
        try:
            yield
        finally:
            stopped.set()
            beating.join()
            if _is_mine(held.read(), token):
                held.remove()
    except BaseException:
        if is_new:
            with suppress(OSError):  # it holds files of the work
                Path(place).rmdir()
        raise
    finally:
        held.close()


@contextmanager
def scratch(home: Path, keep: Collection[str] = ()) -> Iterator[Path]:
    """Give a new directory below `home`, which is removed at the end unless it was renamed.

    First it removes directories that killed processes of this machine left. Whether a process on
    another machine still runs is unknown, so its directories stay. A file of a removed directory
    that has a name in `keep` moves to `home` and gets the ending `.unfinished`.
    """
    _remove_abandoned(home, keep)
    work = home / f"{secrets.token_hex(8)}{PARTIAL}"
    work.mkdir()
    owner = os.open(work / OWNER, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with suppress(OSError):  # no locks on this file system
            fcntl.flock(owner, fcntl.LOCK_EX)
        os.write(owner, about_me().encode())
        yield work
    finally:
        _discard(work, keep)
        os.close(owner)


def _discard(work: Path, keep: Collection[str]) -> None:
    for name in keep:
        with suppress(FileNotFoundError):
            (work / name).replace(work.with_name(f"{name}{UNFINISHED}"))
    shutil.rmtree(work, ignore_errors=True)


@contextmanager
def new_directory_at(out: Path) -> Iterator[Path]:
    """Give a new directory, which appears as `out` in one step at the end.

    Raises:
        UserError: another process made `out` in the meantime.
    """
    answer_sigterm()
    out.parent.mkdir(parents=True, exist_ok=True)
    with scratch(out.parent) as work:
        made = work / "made"
        made.mkdir()
        yield made
        try:
            made.rename(out)
        except OSError:
            raise UserError(f"--out {out}: another process wrote it in the meantime") from None


def _remove_abandoned(home: Path, keep: Collection[str]) -> None:
    for work in home.glob(f"*{PARTIAL}"):
        try:
            owner = os.open(work / OWNER, os.O_RDWR)
        except OSError:
            continue  # it is being made, or removed
        try:
            if lock(owner) and is_of_this_machine(os.read(owner, 4096).decode(errors="replace")):
                logger.info("removing %s, which a killed process left", work)
                _discard(work, keep)
        finally:
            os.close(owner)


def about_me(token: str = "", beat: int = 0) -> str:
    """Return who this process is, as one line of JSON."""
    facts = {
        "host": os.uname().nodename,
        "boot": _boot(),
        "pid": os.getpid(),
        "token": token,
        "beat": beat,
        "renewed": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    return json.dumps(facts) + "\n"


def is_of_this_machine(owner: str) -> bool:
    """Return whether an owner is of this machine: then a free lock proves that it is gone.

    The boot id tells the machine whatever its container is called; the host name tells it after a
    restart.
    """
    facts = _facts(owner)
    return facts.get("host") == os.uname().nodename or bool(
        _boot() and facts.get("boot") == _boot()
    )


def lock(descriptor: int) -> bool | None:
    """Lock an open file for this process alone.

    Returns:
        True = locked now, False = another process holds the lock, None = no locks here.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _boot() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")  # Linux only; elsewhere the host name must do
    return path.read_text(encoding="ascii").strip() if path.is_file() else ""


def _facts(owner: str) -> dict[str, Any]:
    try:
        tree: object = json.loads(owner)
    except ValueError:
        return {}
    return cast("dict[str, Any]", tree) if isinstance(tree, dict) else {}


def _is_mine(owner: str, token: str) -> bool:
    return _facts(owner).get("token") == token


class _LocalFile:
    """The file of a claim on a file system, open and locked where the file system has locks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        while True:
            self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            self.is_locked = lock(self.descriptor)
            if self.is_locked is not True or self._is_there():
                return
            os.close(self.descriptor)  # its owner has just left and removed it

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self.descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def read(self) -> str:
        """Return the content. A new open makes a network file system ask its server."""
        try:
            return self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def write(self, text: str) -> None:
        """Replace the content of the same file, because the lock belongs to this file."""
        content = text.encode()
        os.pwrite(self.descriptor, content, 0)
        os.ftruncate(self.descriptor, len(content))

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self.descriptor)


class _Object:
    """The object of a claim in a store."""

    is_locked = None

    def __init__(self, filesystem: FileSystem, path: str) -> None:
        self.filesystem, self.path = filesystem, path

    def read(self) -> str:
        if self.filesystem.get_file_info(self.path).type != FileType.File:
            return ""
        with self.filesystem.open_input_stream(self.path) as stream:
            return stream.read().decode(errors="replace")

    def write(self, text: str) -> None:
        with self.filesystem.open_output_stream(self.path) as stream:
            stream.write(text.encode())

    def remove(self) -> None:
        self.filesystem.delete_file(self.path)

    def close(self) -> None:
        """Nothing is open."""


def _take(held: _LocalFile | _Object, token: str, what: str) -> None:
    """Write our own line, once the previous owner is known to be gone."""
    owner = held.read()
    if held.is_locked is False:
        raise _refusal(owner, what)
    is_gone = not owner or (held.is_locked and is_of_this_machine(owner))
    if not is_gone:
        facts = _facts(owner)
        logger.info(
            "%s was claimed by process %s on %s: waiting at most %.0f s for its heartbeat",
            what,
            facts.get("pid", "?"),
            facts.get("host", "?"),
            SILENT_S,
        )
        if not _is_silent(held.read, owner):
            raise _refusal(owner, what)
    if owner:
        logger.info("%s: its owner ended without releasing it; this process takes over", what)
    held.write(about_me(token))
    if held.is_locked is None:
        time.sleep(SETTLE_S)
        now = held.read()
        if not _is_mine(now, token):
            raise _refusal(now, what)


def _refusal(owner: str, what: str) -> UserError:
    facts = _facts(owner)
    return UserError(
        f"{what} is being written by another process: {facts.get('pid', '?')} on "
        f"{facts.get('host', '?')}, last seen {facts.get('renewed', '?')}. Wait until it ends, "
        "stop it, or give another run.name"
    )


def _is_silent(read: Callable[[], str], owner: str) -> bool:
    deadline = time.monotonic() + SILENT_S
    while time.monotonic() < deadline:
        time.sleep(min(1.0, SILENT_S / 10))
        now = read()
        if now != owner:
            return not now  # empty: released; changed: alive
    return True


def _beat(held: _LocalFile | _Object, token: str, what: str, stopped: threading.Event) -> None:
    """Renew the claim; stop this process, as Ctrl-C does, when another one has taken it."""
    beat = 0
    while not stopped.wait(BEAT_S):
        beat += 1
        try:
            if not _is_mine(held.read(), token):
                logger.error("%s was taken over by another process: this process stops", what)
                os.kill(os.getpid(), signal.SIGTERM)  # SIGINT may be ignored, as under nohup
                return
            held.write(about_me(token, beat))
        except OSError as error:  # storage may come back; if it does not, training fails by itself
            logger.warning("%s: the claim cannot be renewed now: %s", what, error)
