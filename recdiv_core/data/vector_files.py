"""Files of text vectors that are filled block by block, and that an interrupted run leaves.

A new file is all zeros, so the file itself tells which texts it lacks. text_vectors.py encodes
them. V rows, H text width.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from recdiv_core.wording import counted

logger = logging.getLogger(__name__)

ROWS_A_TASK: Final = 256
"""Texts of one block of Ray Data."""
ROWS_A_CHECK: Final = 1 << 16
"""Vectors whose lengths are computed at once."""
UNIT_TOLERANCE: Final = 1e-5
"""Largest error of the length of a whole vector; float32 rounding stays far below."""


def first_equal(texts: Sequence[list[int]]) -> np.ndarray:
    """Return the row of the first text that equals each text, [N] int64.

    >>> first_equal([[5, 7], [3], [5, 7]]).tolist()
    [0, 1, 0]
    """
    first: dict[bytes, int] = {}
    keys = (np.asarray(ids, np.int32).tobytes() for ids in texts)
    return np.array([first.setdefault(key, row) for row, key in enumerate(keys)], np.int64)


def text_blocks(path: Path, tokens: Sequence[list[int]], rows: np.ndarray) -> list[pa.Table]:
    """Return the blocks of Ray Data that hold the texts of some rows.

    Sorted by length, blocks need little padding. The longest texts come first, so the last tasks
    are short.
    """
    order = rows[np.argsort([-len(tokens[int(row)]) for row in rows], kind="stable")]
    parts = np.array_split(order, -(-len(order) // ROWS_A_TASK)) if len(order) else []
    return [
        pa.table(
            {
                "row": part,
                "ids": [tokens[int(row)] for row in part],
                "path": [str(path.absolute())] * len(part),
            }
        )
        for part in parts
    ]


def missing_blocks(
    path: Path, tokens: Sequence[list[int]], first: np.ndarray, width: int
) -> list[pa.Table]:
    """Open a file of vectors, or make one; return the blocks of the distinct texts that it lacks.

    A new file is all zeros, and vectors have length 1. So a vector of another length was not
    written, or only in part. A text without tokens has the zero vector, so it always counts as
    missing.

    Args:
        path: a file of vectors that an interrupted run left, or no file.
        tokens: V texts.
        first: see `first_equal`.
        width: H.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (len(tokens), width)
    rows = np.unique(first)
    lengths = _lengths(path, shape)
    if lengths is None:
        np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape).flush()
        return text_blocks(path, tokens, rows)
    missing = rows[~(np.abs(lengths[rows] - 1) < UNIT_TOLERANCE)]
    found = len(rows) - len(missing)
    if found:
        logger.info("an interrupted run encoded %d of %s", found, counted(len(rows), "text"))
    return text_blocks(path, tokens, missing)


def _lengths(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """Return the lengths of the vectors of a file, [V]; None = no such file, or a broken one."""
    try:
        vectors = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError):  # a process may be killed while it makes the file
        return None
    if vectors.shape != shape or vectors.dtype != np.float32:
        return None
    starts = range(0, len(vectors), ROWS_A_CHECK)
    parts = [np.linalg.norm(vectors[at : at + ROWS_A_CHECK], axis=1) for at in starts]
    return np.concatenate([np.empty(0, np.float32), *parts])


def fill_repeats(path: Path, first: np.ndarray) -> None:
    """Copy the vectors of texts to the rows of equal texts; `first` see `first_equal`."""
    vectors = np.lib.format.open_memmap(path, mode="r+")
    is_repeat = first != np.arange(len(first))
    vectors[is_repeat] = vectors[first[is_repeat]]
    vectors.flush()
