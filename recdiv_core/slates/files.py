"""Slates on disk: a directory of Parquet parts, each written atomically.

A part is written under a temporary name and then renamed. A file with the name of a part is
therefore complete, and a restarted job skips it.

Legend: B users, K slate length.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdiv_core.errors import UserError
from recdiv_core.schema import SLATE

UNFINISHED: Final = ".part-*"
"""Name of an unfinished part; readers of Parquet directories skip such names."""


FREED: Final = "freed"
"""Column of slates: places by score that ineligible items would hold without the mask."""


def part_path(slates: Path, part: int) -> Path:
    """Return the path of a part in a directory of slates."""
    return slates / f"part-{part:05d}.parquet"


def slate_table(
    user_ids: Sequence[str],
    slates_BK: np.ndarray,
    scores_BK: np.ndarray,
    item_ids: pa.Array,
    notes: Mapping[str, pa.Array | np.ndarray] | None = None,
) -> pa.Table:
    """Return slates as rows of SLATE; a row is as long as its slate.

    Args:
        user_ids: ids of the B users.
        slates_BK: item_index, best first; -1 after the end of a short slate.
        scores_BK: float32 scores of the items.
        item_ids: item id of each item_index.
        notes: further columns: [B] values a user, or [B, K] values an item.
    """
    is_item_BK = slates_BK >= 0
    offsets = pa.array(np.concatenate([[0], is_item_BK.sum(axis=1).cumsum()]).astype(np.int32))
    items = item_ids.take(pa.array(slates_BK[is_item_BK]))
    columns = [
        pa.array(user_ids, pa.string()),
        pa.ListArray.from_arrays(offsets, items),
        pa.ListArray.from_arrays(offsets, pa.array(scores_BK[is_item_BK], pa.float32())),
    ]
    table = pa.table(dict(zip(SLATE.names, columns, strict=True))).cast(SLATE)
    for name, note in (notes or {}).items():
        is_of_places = isinstance(note, np.ndarray)
        column = pa.ListArray.from_arrays(offsets, note[is_item_BK]) if is_of_places else note
        table = table.append_column(name, column)
    return table


class PartWriter:
    """Writes one part: `with PartWriter(path) as part: part.write(table)`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fresh = path.with_name(f".{path.name}.{os.getpid()}")

    def __enter__(self) -> PartWriter:
        """Make the directory; the first rows open the file, because they fix the columns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.writer: pq.ParquetWriter | None = None
        return self

    def write(self, table: pa.Table) -> None:
        """Append rows of slates to the unfinished part."""
        if self.writer is None:
            self.writer = pq.ParquetWriter(self.fresh, table.schema, compression="zstd")
        self.writer.write_table(table)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Rename the file after success; remove it after an error."""
        if self.writer is None:
            return
        self.writer.close()
        if kind is None:
            self.fresh.replace(self.path)
        else:
            self.fresh.unlink()


def remove_unfinished(slates: Path) -> None:
    """Remove unfinished parts of killed writers; no other writer may run."""
    for path in slates.rglob(UNFINISHED):
        path.unlink()


def list_parts(slates: Path) -> list[Path]:
    """Return the parts of a directory of slates, in order.

    Raises:
        UserError: the directory is missing or holds no part.
    """
    if not slates.is_dir():
        raise UserError(f"SLATES {slates} is not a directory; `recdiv recommend --out` makes one")
    parts = sorted(slates.glob("part-*.parquet"))
    if not parts:
        inside = sorted(path.name for path in slates.glob("diversity=*"))
        hint = f"; it is a grid, give one of {', '.join(inside)}" if inside else ""
        raise UserError(f"SLATES {slates} holds no part-*.parquet{hint}")
    return parts


def freed_share(slates: Path, k: int) -> float | None:
    """Return the share of all places that the mask freed; None = no slate."""
    columns = [pq.read_table(path, columns=[FREED])[FREED] for path in slates.glob("part-*")]
    num_slates = sum(len(column) for column in columns)
    num_freed = sum(int(column.to_numpy().sum()) for column in columns)
    return num_freed / (k * num_slates) if num_slates else None


def short_slates(places: Sequence[Path], k: int) -> tuple[int, int]:
    """Return how many slates have fewer than k items, and how many of these have none.

    Args:
        places: directories of slates, one for each dial.
        k: slate length.
    """
    num_short = num_empty = 0
    for path in (path for place in places for path in place.glob("part-*")):
        slates = pq.read_table(path, columns=["item_ids"])["item_ids"].combine_chunks()
        lengths = slates.value_lengths().to_numpy()
        num_short += int((lengths < k).sum())
        num_empty += int((lengths == 0).sum())
    return num_short, num_empty


def describe_short(num_short: int, num_empty: int, num_slates: int, k: int) -> str:
    """Return a warning about short slates, and which settings leave too few items.

    >>> describe_short(3, 1, 50, 10)[:62]
    'slates with fewer than eval.k=10 items: 3 of 50, of these 1 em'
    """
    return (
        f"slates with fewer than eval.k={k} items: {num_short} of {num_slates}, of these "
        f"{num_empty} empty. Too few items may be shown: the catalogue is small, or eligible.* "
        "leaves few items, or users have seen the others and eval.filter_seen=true removes these"
    )
