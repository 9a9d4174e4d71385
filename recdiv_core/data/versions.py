"""Versions of a prepared data set behind the one path that users give.

`data.out` is a symbolic link to the current version, and is replaced in one step:

    shop -> shop.versions/0f3a...     what data.out and data.prepared name
    shop.versions/0f3a.../            a version, named after its fingerprint; never written again
    shop.versions/*.partial/          a version that a running `prepare` builds

A reader follows the link once, at its start, and keeps its version. `prepare` keeps the current
version and KEPT earlier ones. It removes older ones that no process reads: a reader holds a shared
lock (flock) on the version's manifest. A copy of a version, without a link, is readable too.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from recdiv_core.config import Config, override
from recdiv_core.errors import UserError
from recdiv_core.schema import ENDING
from recdiv_core.storage.claims import OWNER, PARTIAL, lock, scratch
from recdiv_core.storage.given_paths import absolute, local_path

logger = logging.getLogger(__name__)

KEPT: Final = 2
"""Number of earlier versions that stay on disk beside the current one."""
MAX_NAME: Final = 200
"""Most bytes of a data set's name; file systems allow 255, including suffixes like `.versions`."""
MAX_LINKS: Final = 40  # as Linux

_read_here: dict[Path, int] = {}
"""Version that this process reads -> descriptor of the open, locked file."""


def open_version(given: str | Path) -> Path:
    """Return the current version of a data set, and protect it from removal.

    Call it once at the start of a process and use the returned path afterwards. Only the last part
    of the path is followed, because directories above it may be linked differently elsewhere.
    """
    version = find_version(given)
    if version not in _read_here:
        try:
            descriptor = os.open(version / "manifest.json", os.O_RDONLY)
        except OSError:  # read_manifest reports the error
            return version
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:  # the file system has no locks; the version is readable without one
            os.close(descriptor)
        else:
            _read_here[version] = descriptor
    return version


def find_version(given: str | Path) -> Path:
    """Return the current version of a data set, without a protection from removal."""
    return _followed(absolute(local_path(given, "data.prepared")))


def with_version(config: Config, fingerprint: str = "") -> Config:
    """Return the config with the path of a version in `data.prepared`.

    Without a fingerprint, or if that version was removed, it is the current one; an empty path
    stays empty.
    """
    if not config.data.prepared:
        return config
    version = open_version(config.data.prepared)
    wanted = other_version(version, fingerprint) if fingerprint else None
    return override(config, {"data.prepared": str(open_version(wanted or version))})


def _followed(path: Path, *, to_view: bool = False) -> Path:
    """Follow the symbolic links of a path to their end, or to the link of a data set."""
    for _ in range(MAX_LINKS):
        if not path.is_symlink() or (to_view and _is_view(path)):
            return path
        path = absolute(path.parent / path.readlink())
    raise UserError(f"{path}: too many symbolic links")


def find_view(out: Path) -> Path:
    """Return the path of the link that `prepare` makes or replaces; links of the user are followed.

    Raises:
        UserError: No link is possible at the path.
    """
    view = _followed(absolute(out), to_view=True)
    if len(os.fsencode(view.name)) > MAX_NAME:
        raise UserError(
            f"data.out: the name {view.name[:40]}... has {len(os.fsencode(view.name))} bytes; "
            f"allowed are at most {MAX_NAME}"
        )
    if not view.name or view.parent.name.endswith(ENDING):
        raise UserError(f"data.out={out} cannot hold a data set; give the path of its link")
    if view.exists() and os.path.ismount(view):
        raise UserError(f"data.out={out} is a mount point; give a directory below it")
    return view


def _is_view(path: Path) -> bool:
    return path.is_symlink() and path.readlink().parts[:-1] == (f"{path.name}{ENDING}",)


def other_version(version: Path, fingerprint: str) -> Path | None:
    """Return the version of the same data set with another fingerprint, if it exists."""
    found = version.parent / _name(fingerprint)
    is_there = version.parent.name.endswith(ENDING) and (found / "manifest.json").is_file()
    return found if is_there else None


def is_same_set(one: Path, other: Path) -> bool:
    """Return whether two paths are versions of one data set."""
    return one.parent == other.parent and one.parent.name.endswith(ENDING)


def version_place(view: Path, fingerprint: str) -> Path:
    """Return the path of the version with a fingerprint."""
    return view.with_name(view.name + ENDING) / _name(fingerprint)


def _name(fingerprint: str) -> str:
    return fingerprint[:16]


def view_of(given: str | Path) -> Path:
    """Return the path of the link that names a data set; for a change of the data set itself.

    Raises:
        UserError: the path is no data set, or one without a link.
    """
    path = _followed(absolute(local_path(given, "data.prepared")), to_view=True)
    if _is_view(path):
        return path
    raise UserError(
        f"data.prepared={given} is not the link that `recdiv prepare` made; a version or a copy of "
        "a data set is not changed: remove it, or give the link"
    )


def list_versions(view: Path) -> list[Path]:
    """Return the versions of a data set beside the current one, half-removed ones too."""
    current = _followed(view)
    paths = sorted(current.parent.iterdir())
    return [path for path in paths if path.is_dir() and path.suffix != PARTIAL and path != current]


@contextmanager
def building(view: Path) -> Iterator[Path]:
    """Yield an empty directory to build a version in; remove it unless it was published."""
    home = view.with_name(view.name + ENDING)
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"data.out={view} cannot be written: {error.strerror}") from None
    if not os.access(home, os.W_OK):
        raise UserError(f"data.out={view}: {home} cannot be written")
    try:
        with scratch(home) as work:
            yield work
    finally:
        if not any(home.iterdir()):
            home.rmdir()


def publish(view: Path, work: Path, fingerprint: str) -> Path:
    """Make a complete directory the current version; remove old versions that no process reads."""
    (work / OWNER).unlink(missing_ok=True)
    version = version_place(view, fingerprint)
    if version.is_dir():  # a damaged version; complete ones are reused
        shutil.rmtree(version)
    work.rename(version)
    point(view, version)
    return version


def point(view: Path, version: Path) -> None:
    """Make a version the current one, in one step, and remove old versions."""
    if view.is_symlink() and _followed(view) == version:
        return
    os.utime(version / "manifest.json")  # versions are ordered by the time of their manifests
    if view.is_dir() and not view.is_symlink():
        view.rmdir()  # an empty directory; `prepare` refuses others
    fresh = version.parent / f"{secrets.token_hex(8)}.link"
    try:
        fresh.symlink_to(Path(version.parent.name, version.name))
        fresh.replace(view)
    except OSError as error:
        raise UserError(
            f"data.out={view} needs a file system with symbolic links: {error.strerror}; the "
            f"data set is in {version}"
        ) from None
    finally:
        fresh.unlink(missing_ok=True)
    _remove_old(version)


def _remove_old(current: Path) -> None:
    versions = [
        path.parent for path in current.parent.glob("*/manifest.json") if path.parent != current
    ]
    versions = [path for path in versions if path.suffix != PARTIAL]
    versions.sort(key=lambda path: (path / "manifest.json").stat().st_mtime_ns, reverse=True)
    for version in versions[KEPT:]:
        if remove_version(version):
            logger.info("removed %s: no process of this machine reads it", version)
        else:
            logger.info("keeping %s: a process reads it", version)


def remove_version(version: Path) -> bool:
    """Remove a version unless a process reads it; return whether it is gone."""
    try:
        descriptor = os.open(version / "manifest.json", os.O_RDWR)
    except FileNotFoundError:  # half removed by a process that was killed
        shutil.rmtree(version, ignore_errors=True)
        return not version.exists()
    except OSError:  # not ours to remove
        return False
    try:
        if not lock(descriptor):
            return False
        shutil.rmtree(version, ignore_errors=True)
        return not version.exists()
    finally:
        os.close(descriptor)
