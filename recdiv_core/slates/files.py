"""Slates on disk: a directory of Parquet parts, each whole or not there.

Not their making (recommend.py). The one idea: a part is written under another name and moved into
place, so that what has a part's name is finished, and a killed job goes on behind it.

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
"""Parts that are being written, or whose writer was killed: no reader of Parquet sees them."""


def part_path(slates: Path, part: int) -> Path:
    """Return where a part of a directory of slates belongs."""
    return slates / f"part-{part:05d}.parquet"


def slate_table(
    user_ids: Sequence[str],
    slates_BK: np.ndarray,
    scores_BK: np.ndarray,
    item_ids: pa.Array,
    notes: Mapping[str, pa.Array | np.ndarray] | None = None,
) -> pa.Table:
    """Return slates as rows of SLATE, which are as long as there were items for.

    Args:
        user_ids: of the B users.
        slates_BK: item_index, -1 behind the end of a short slate.
        scores_BK: float32.
        item_ids: the shop's key of each item_index.
        notes: further columns: an array of B values, or [B, K] with a value of each place.
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
        """Make the directory; the file is opened with the first rows, which say what columns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.writer: pq.ParquetWriter | None = None
        return self

    def write(self, table: pa.Table) -> None:
        """Append rows of slates, under the file's other name."""
        if self.writer is None:
            self.writer = pq.ParquetWriter(self.fresh, table.schema, compression="zstd")
        self.writer.write_table(table)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Move the file into place if all went well; else take it away."""
        if self.writer is None:
            return
        self.writer.close()
        if kind is None:
            self.fresh.replace(self.path)
        else:
            self.fresh.unlink()


def remove_unfinished(slates: Path) -> None:
    """Remove what killed writers have left; nobody may be writing."""
    for path in slates.rglob(UNFINISHED):
        path.unlink()


def list_parts(slates: Path) -> list[Path]:
    """Return the parts of a directory of slates, in order.

    Raises:
        UserError: no such directory, or no part in it.
    """
    if not slates.is_dir():
        raise UserError(f"SLATES {slates} is not a directory; `recdiv recommend --out` makes one")
    parts = sorted(slates.glob("part-*.parquet"))
    if not parts:
        inside = sorted(path.name for path in slates.glob("diversity=*"))
        hint = f"; it is a grid, give one of {', '.join(inside)}" if inside else ""
        raise UserError(f"SLATES {slates} holds no part-*.parquet{hint}")
    return parts
