# pyright: strict
"""Write small files atomically: under a temporary name, then renamed.

A process that is killed while it writes leaves the old file. The text reaches the disk before the
name does, so a power loss leaves the old or the new content. Object stores need none of this: they
show an object only when it is complete.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a text file in one step; its directory must exist."""
    # a random name, because two processes may write the same file
    fresh = path.with_name(f".{secrets.token_hex(8)}.new")
    try:
        with fresh.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(path)
    except BaseException:  # Ctrl-C too
        fresh.unlink(missing_ok=True)
        raise


def write_json(path: Path, tree: object, *, indent: int | None = None) -> None:
    """Write a JSON file in one step; see `write_whole`.

    Raises:
        ValueError: a number is not finite; JSON has only finite numbers.
    """
    write_whole(path, json.dumps(tree, indent=indent, ensure_ascii=False, allow_nan=False))


def link_or_copy(source: Path, target: Path) -> None:
    """Make a second name of a file that is never written again, or a copy where links fail."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
