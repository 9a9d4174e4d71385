# pyright: strict
"""Check names and paths that a user gives, before any work starts.

The name of a run becomes a directory below `run.storage` and a tag in MLflow. A path may point
below a file, hold a NUL character, or start with a `~` that has no home directory. The content of
files is checked elsewhere (schema.py, formats/).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from recdiv_core.errors import UserError

MAX_RUN_NAME: Final = 200
"""Most bytes in the name of a run. File systems allow 255, and Ray adds suffixes."""
MAX_PART: Final = 255
"""Most bytes in the name of a file, on all usual file systems."""
MAX_PATH: Final = 4000
"""Most bytes in a path; Linux allows 4096."""
REFUSED: Final = re.compile(r"[\x00-\x1f\x7f/\\]")


def check_run_name(name: str, key: str = "run.name") -> str:
    """Return the name of a run after checking that it can name a directory; it may be empty.

    >>> check_run_name("it's fine")
    "it's fine"

    Raises:
        UserError: a path, `.` or `..`, leading or trailing blanks, control characters, both kinds
            of quotation mark (MLflow's filters have no escape), or too long.
    """
    shown = repr(name if len(name) <= 60 else f"{name[:40]}...")
    if name in (".", "..") or REFUSED.search(name):
        raise UserError(
            f"{key}={shown} must be one name: no slash, backslash or control character, and not "
            "'.' or '..'"
        )
    if "'" in name and '"' in name:
        raise UserError(f"{key}={shown} holds both kinds of quotation mark; use one kind")
    if name != name.strip():
        raise UserError(f"{key}={shown} must not begin or end with a blank")
    try:
        num_bytes = len(name.encode())
    except UnicodeEncodeError:
        raise UserError(f"{key}={shown} is not valid Unicode") from None
    if num_bytes > MAX_RUN_NAME:
        raise UserError(f"{key}={shown} has {num_bytes} bytes; at most {MAX_RUN_NAME} are allowed")
    return name


def absolute(path: Path) -> Path:
    """Return an absolute path without `..`; symbolic links are not resolved."""
    return Path(os.path.normpath(path.absolute()))


def local_path(given: str | Path, key: str) -> Path:
    """Return a path with `~` expanded, after checking that the file system can hold it.

    A relative path stays relative; `key`, a setting or an option such as `--out`, is for messages.

    Raises:
        UserError: a NUL character, a `~` without a home directory, a name or path that is too long,
            or a path below a file.
    """
    text = str(given)
    shown = text if len(text) <= 200 else f"{text[:80]}...{text[-40:]}"
    if "\0" in text:
        raise UserError(f"{key}={text!r} holds a NUL character; a path cannot")
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{key}={shown}: there is no home directory for its ~") from None
    try:
        longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
        num_bytes = len(os.fsencode(absolute(path)))
    except UnicodeEncodeError:
        raise UserError(f"{key}={text!r} cannot be a path here") from None
    if longest > MAX_PART:
        raise UserError(
            f"{key}={shown}: a name has {longest} bytes; at most {MAX_PART} are allowed"
        )
    if num_bytes > MAX_PATH:
        raise UserError(f"{key}={shown} has {num_bytes} bytes; at most {MAX_PATH} are allowed")
    for parent in absolute(path).parents:
        try:
            if os.path.lexists(parent):
                if not parent.is_dir():  # a file, or a broken link
                    raise UserError(f"{key}={shown} lies below {parent}, which is no directory")
                break
        except OSError as error:  # a loop of links, or no permission
            raise UserError(f"{key}={shown}: {error.strerror}") from None
    return path


def output_path(given: str | Path, key: str) -> Path:
    """Return a path to write to; see `local_path`.

    Raises:
        UserError: also if the nearest existing directory is not writable.
    """
    path = local_path(given, key)
    above = next(place for place in absolute(path).parents if place.exists())
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"{key}={given}: {above} is not writable")
    return path


def new_directory(given: Path, key: str) -> Path:
    """Return the absolute path of a directory to write; it must not exist, or be empty.

    `key` is the setting or option that the error names.

    Raises:
        UserError: the path cannot be written, or something is there already.
    """
    path = output_path(given, key).absolute()
    is_empty = path.is_dir() and not path.is_symlink() and not any(path.iterdir())
    if os.path.lexists(path) and not is_empty:
        raise UserError(f"{key} {given} exists already; give a new directory")
    return path
