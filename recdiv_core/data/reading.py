"""From Parquet row groups to arrays: the users of a window, or of a range of rows.

Which users make a batch is decided by plan.py, how batches become tensors by batches.py. There is
no torch here, because the process that reads ahead (streaming.py) would spend its first seconds on
the import. Examples are ragged: flat arrays and lengths, without padding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdiv_core.data.arrays import Examples
from recdiv_core.data.plan import Fragment, Window
from recdiv_core.schema import TRAIN_EXAMPLE, USER_ID

TRAIN_COLUMNS: Final = ["items", "queries", "weights", "times"]

SAMPLE_RANGES: Final = 64
"""Ranges of consecutive rows that a sample of a split is made of."""


def list_fragments(prepared: Path, split: str) -> list[Fragment]:
    """List the row groups of a split, in the order of the files; reads footers only."""
    fragments: list[Fragment] = []
    for path in sorted((prepared / split).glob("part-*.parquet")):
        metadata = pq.read_metadata(path)
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        fragments += [
            Fragment(str(path), number, group.num_rows, group.total_byte_size)
            for number, group in enumerate(groups)
        ]
    return fragments


def read_window(window: Window) -> pa.Table:
    """Read one rank's users of a window, in the order of training."""
    files: dict[str, pq.ParquetFile] = {}
    tables: list[pa.Table] = []
    for fragment in window.fragments:
        if fragment.path not in files:
            files[fragment.path] = pq.ParquetFile(fragment.path)
        file = files[fragment.path]
        tables.append(file.read_row_group(fragment.row_group, columns=TRAIN_COLUMNS))
    if not tables:  # a rank may have no user in a short last step
        return TRAIN_EXAMPLE.empty_table()
    return pa.concat_tables(tables).combine_chunks().take(pa.array(window.rows))


def cut_window(table: pa.Table, window: Window) -> Iterator[list[Examples]]:
    """Yield the parts of each step of a window that was read; a part may hold no user."""
    start = 0
    for sizes in window.sizes.tolist():
        parts: list[Examples] = []
        for size in sizes:
            parts.append(train_examples(table.slice(start, size)))
            start += size
        yield parts


def read_windows(windows: Iterable[Window]) -> Iterator[list[Examples]]:
    """Read in this process what `streaming.stream_windows` reads ahead; yields as there."""
    for window in windows:
        yield from cut_window(read_window(window), window)


class SplitRows:
    """Rows of a split by number, in the order of the files. Keeps the row group it read last.

    Args:
        prepared: the prepared data set.
        split: name of the split.
        most: largest number of rows; 0 = no limit. A larger split is sampled: the same rows in each
            run, in SAMPLE_RANGES ranges that are spread evenly over the files.

    Attributes:
        num_rows: number of rows, those of the sample if there is one.
    """

    def __init__(self, prepared: Path, split: str, most: int = 0) -> None:
        self._fragments = list_fragments(prepared, split)
        self._ends = np.cumsum([0, *(fragment.num_rows for fragment in self._fragments)])
        total = int(self._ends[-1])
        is_sampled = 0 < most < total
        num_ranges = min(SAMPLE_RANGES, most) if is_sampled else 1
        edges = total * np.arange(num_ranges + 1) // num_ranges
        size = most // num_ranges if is_sampled else total
        self._starts = edges[:-1]
        lengths = np.minimum(size, np.diff(edges))
        self._ranges = np.cumsum([0, *lengths])  # where each range begins among the rows
        self.num_rows = int(self._ranges[-1])
        self._kept = -1, pa.table({})

    def read(self, start: int, stop: int) -> pa.Table:
        """Read rows [start, stop), 0 <= start < stop <= num_rows."""
        first, last = np.searchsorted(self._ranges, [start, stop - 1], side="right") - 1
        tables: list[pa.Table] = []
        for number in range(first, last + 1):
            begin, end = self._ranges[number : number + 2]
            shift = int(self._starts[number] - begin)
            tables += self._read(max(start, int(begin)) + shift, min(stop, int(end)) + shift)
        return pa.concat_tables(tables)

    def _read(self, start: int, stop: int) -> list[pa.Table]:
        """Read rows of the whole split, by their place in the files."""
        first, last = np.searchsorted(self._ends, [start, stop - 1], side="right") - 1
        tables: list[pa.Table] = []
        for number in range(first, last + 1):
            if self._kept[0] != number:
                fragment = self._fragments[number]
                file = pq.ParquetFile(fragment.path)
                self._kept = number, file.read_row_group(fragment.row_group)
            begin = int(self._ends[number])
            table = self._kept[1].slice(max(0, start - begin))
            tables.append(table.slice(0, stop - max(start, begin)))
        return tables

    def batches(self, batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[pa.Table]:
        """Yield every `world_size`-th batch of consecutive rows; the last batch may be short."""
        for start in range(rank * batch_size, self.num_rows, world_size * batch_size):
            yield self.read(start, min(start + batch_size, self.num_rows))


def read_eval(
    prepared: Path, split: str, *, batch_size: int, rank: int, world_size: int, most: int = 0
) -> Iterator[Examples]:
    """Read one rank's evaluation batches: every `world_size`-th of the fixed global batches.

    For `most` see `SplitRows`.
    """
    for table in SplitRows(prepared, split, most).batches(batch_size, rank, world_size):
        yield eval_examples(table)


def train_examples(table: pa.Table) -> Examples:
    """Flatten rows of TRAIN_EXAMPLE."""
    items, lengths = flatten_lists(table["items"])
    return Examples(
        items=items,
        lengths=lengths,
        queries=flatten_lists(table["queries"])[0],
        weights=flatten_lists(table["weights"])[0].astype(np.float32),
        targets=np.zeros(0, np.int64),
        target_lengths=np.zeros(0, np.int64),
        times=flatten_times(table["times"]),
    )


def eval_examples(table: pa.Table) -> Examples:
    """Flatten rows of EVAL_EXAMPLE."""
    items, lengths = flatten_lists(table["history"])
    targets, target_lengths = flatten_lists(table["targets"])
    return Examples(
        items=items,
        lengths=lengths,
        queries=table["query"].to_numpy().astype(np.int64),
        weights=np.zeros(0, np.float32),
        targets=targets,
        target_lengths=target_lengths,
        user_ids=table[USER_ID].to_pylist(),
        is_cold=table["is_cold_user"].to_numpy(),
        times=flatten_times(table["history_times"]),
        requested=first_times(table["target_times"]),
    )


def first_times(column: pa.ChunkedArray) -> np.ndarray | None:
    """Return the first time of each list, [B]; None if a list has none."""
    times = flatten_times(column)
    lengths = np.asarray(column.combine_chunks().value_lengths().fill_null(0), dtype=np.int64)
    if times is None or not lengths.all():
        return None
    return times[np.cumsum(lengths) - lengths]


def flatten_times(column: pa.ChunkedArray) -> np.ndarray | None:
    """Return the times of a column of lists, one after another; None for a log without times."""
    return None if column.null_count else flatten_lists(column)[0]


def flatten_lists(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of a column of lists, one after another, and the length of each list."""
    array = column.combine_chunks()
    lengths = np.asarray(array.value_lengths(), dtype=np.int64)
    values = array.flatten().to_numpy(zero_copy_only=False)
    return values if values.dtype == np.float32 else values.astype(np.int64), lengths
