# pyright: strict
"""Small files that are whole or not there: written under a temporary name, then renamed.

A process that is killed while it writes leaves the file as it was. The text is on disk before the
name is, so that a machine that loses power keeps one of the two contents too. Not for large files,
and not for URIs: an object store shows an object only when it is whole.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a text file in one step; its directory must be there.

    Args:
        path: file to make or to replace.
        text: its content, written as UTF-8.
    """
    # a name of its own: two processes may write the same file
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
        ValueError: a number that is not finite, which JSON does not have.
    """
    write_whole(path, json.dumps(tree, indent=indent, ensure_ascii=False, allow_nan=False))
