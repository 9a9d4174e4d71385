"""Requests of a window of the past, as a further split `window-DATE/`: did a model forget it?

The histories end before the window, and its events are the targets. For newer models these are
train events, so their metrics there are higher than on unseen events. Requests have no query; all
items of the window are targets. The one idea: the split is made of the data set of today, so users
who were forgotten and days that expired are gone from it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdiv_core.data.reading import flatten_lists, flatten_times
from recdiv_core.data.requests import join_shard, shard_names
from recdiv_core.formats.timestamps import show_time
from recdiv_core.schema import EVAL_EXAMPLE, NO_QUERY, USER_ID, Manifest
from recdiv_core.storage.claims import scratch


def ensure_window(prepared: Path, manifest: Manifest, first: int, last: int) -> str | None:
    """Write the split of a window if it is missing, in this process, shard by shard.

    `first` and `last`, exclusive, are in microseconds since 1970.

    Returns:
        name of the split; None = no user of the data set has an event in the window.
    """
    name = f"window-{show_time(first)[:10]}-{first}-{last}"
    target = prepared / name
    if not target.is_dir():
        with scratch(prepared) as place:
            work = place / name
            work.mkdir()
            for shard in shard_names(prepared):
                table = cut_window(join_shard(prepared, shard, has_times=True), first, last)
                if table.num_rows:
                    pq.write_table(table, work / shard, manifest.fragment_rows)
            if not target.is_dir():  # another driver may have written it meanwhile
                work.rename(target)
    return name if any(target.iterdir()) else None


def cut_window(requests: pa.Table, first: int, last: int) -> pa.Table:
    """Return EVAL_EXAMPLE rows of the users with an event in a window.

    `requests` have complete histories and times, and no targets; for the window see
    `ensure_window`.
    """
    items_N, lengths_B = flatten_lists(requests["history"])
    times_N = flatten_times(requests["history_times"])
    assert times_N is not None, "a window has times"
    user_N = np.repeat(np.arange(len(lengths_B)), lengths_B)
    is_before_N = times_N < first
    within_M = np.flatnonzero(~is_before_N & (times_N < last))
    pairs_M = np.stack([user_N[within_M], items_N[within_M]], axis=1)
    once_M = np.sort(np.unique(pairs_M, axis=0, return_index=True)[1])  # an item is a target once
    within_M = within_M[once_M]
    num_targets_B = np.bincount(user_N[within_M], minlength=len(lengths_B))
    is_kept_B = num_targets_B > 0
    before_M = np.flatnonzero(is_before_N & is_kept_B[user_N])
    num_before_B = np.bincount(user_N[before_M], minlength=len(lengths_B))[is_kept_B]
    targets = _ends(num_targets_B[is_kept_B])
    history = _ends(num_before_B)

    def lists(offsets: pa.Array, values: np.ndarray) -> pa.ListArray:
        return pa.ListArray.from_arrays(offsets, pa.array(values))

    columns = [
        requests[USER_ID].filter(pa.array(is_kept_B)),
        lists(history, items_N[before_M].astype(np.int32)),
        lists(targets, items_N[within_M].astype(np.int32)),
        pa.array(np.full(len(num_before_B), NO_QUERY, np.int32)),
        pa.array(num_before_B == 0),
        lists(history, times_N[before_M]),
        lists(targets, times_N[within_M]),
    ]
    return pa.table(dict(zip(EVAL_EXAMPLE.names, columns, strict=True))).cast(EVAL_EXAMPLE)


def _ends(lengths_B: np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], lengths_B.cumsum()]).astype(np.int32))
