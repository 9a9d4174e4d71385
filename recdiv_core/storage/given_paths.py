# pyright: strict
"""Names and paths as a user gives them: taken, or refused with one line, before anything is spent.

A run's name becomes a directory below `run.storage`, a tag in MLflow and part of messages; a path
may point below a file, hold a NUL, or start with a `~` that stands for no home. Not the check of
what is inside a file (schema.py, data/).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from recdiv_core.errors import UserError

MAX_RUN_NAME: Final = 200
"""Bytes of a run's name; file systems allow 255, and Ray adds endings of its own."""
MAX_PART: Final = 255
"""Bytes of a file's name, on all usual file systems."""
MAX_PATH: Final = 4000
"""Bytes of a path; Linux allows 4096."""
REFUSED: Final = re.compile(r"[\x00-\x1f\x7f/\\]")


def check_run_name(name: str, key: str = "run.name") -> str:
    """Return a run's name that is the name of one directory; the empty one stays.

    >>> check_run_name("it's fine")
    "it's fine"

    Raises:
        UserError: a path, `.` or `..`, blanks at an end, control characters, both quotation marks
            (MLflow's filters know no escape), or too long.
    """
    shown = repr(name if len(name) <= 60 else f"{name[:40]}...")
    if name in (".", "..") or REFUSED.search(name):
        raise UserError(
            f"{key}={shown} must be one name: no slash, backslash or control character, and not "
            "'.' or '..'"
        )
    if "'" in name and '"' in name:
        raise UserError(f"{key}={shown} holds both kinds of quotation mark; allowed is one of them")
    if name != name.strip():
        raise UserError(f"{key}={shown} must not begin or end with a blank")
    try:
        num_bytes = len(name.encode())
    except UnicodeEncodeError:
        raise UserError(f"{key}={shown} is not valid Unicode") from None
    if num_bytes > MAX_RUN_NAME:
        raise UserError(f"{key}={shown} has {num_bytes} bytes; allowed are at most {MAX_RUN_NAME}")
    return name


def absolute(path: Path) -> Path:
    """Return an absolute path without `..` in it; links stay what they are."""
    return Path(os.path.normpath(path.absolute()))


def local_path(given: str | Path, key: str) -> Path:
    """Return a path with its `~` replaced, after a check that it can be a path at all.

    Args:
        given: as the user wrote it; relative ones stay relative.
        key: names it in messages: a dotted key, or an option such as `--out`.

    Raises:
        UserError: NUL, a `~` without a home, a part or a path that is too long, or a place below a
            file.
    """
    text = str(given)
    shown = text if len(text) <= 200 else f"{text[:80]}...{text[-40:]}"
    if "\0" in text:
        raise UserError(f"{key}={text!r} holds a NUL character, which no path may")
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
            f"{key}={shown}: a name has {longest} bytes; allowed are at most {MAX_PART}"
        )
    if num_bytes > MAX_PATH:
        raise UserError(f"{key}={shown} has {num_bytes} bytes; allowed are at most {MAX_PATH}")
    for parent in absolute(path).parents:
        try:
            if os.path.lexists(parent):
                if not parent.is_dir():  # a file, or a link that leads nowhere
                    raise UserError(f"{key}={shown} lies below {parent}, which is no directory")
                break
        except OSError as error:  # a loop of links, or no right to look
            raise UserError(f"{key}={shown}: {error.strerror}") from None
    return path


def output_path(given: str | Path, key: str) -> Path:
    """Return a path to write to; see `local_path`.

    Raises:
        UserError: also where the nearest directory that exists cannot be written.
    """
    path = local_path(given, key)
    above = next(place for place in absolute(path).parents if place.exists())
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"{key}={given}: {above} cannot be written")
    return path
