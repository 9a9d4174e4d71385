"""Read the train events of a prepared data set as plain arrays, for the baselines.

models/baselines/ is fitted from them. Events of a user follow each other and users are numbered as
they stand in the shards, so counts do not depend on the number of shards. E is the number of train
events.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from recdiv_core.data.reading import flatten_times
from recdiv_core.models.baselines import TrainEvents
from recdiv_core.schema import USER_ID


def read_train_events(prepared: Path) -> TrainEvents:
    """Read the train events of all users; memory holds 24 bytes per event and one shard."""
    users, items, times = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    num_users, has_times = 0, True
    for user_E, item_E, time_E in _read_shards(prepared):
        users.append(user_E + num_users)
        items.append(item_E)
        num_users += int(user_E.max(initial=-1)) + 1
        has_times &= time_E is not None
        if time_E is not None:
            times.append(time_E)
    time_E = np.concatenate(times) if has_times else None
    return TrainEvents(np.concatenate(users), np.concatenate(items), time_E)


def _read_shards(prepared: Path) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Yield user_E, 0 .. U - 1, rising, item_E and time_E of each shard; it has whole users.

    The rows of a user are consecutive in one shard and are joined. The first item of a further row
    repeats the last item of the previous row and is removed.
    """
    for path in sorted((prepared / "train").glob("part-*.parquet")):
        table = pq.read_table(path, columns=[USER_ID, "items", "times"])
        ids = table[USER_ID].combine_chunks().dictionary_encode().indices.to_numpy()
        lists = table["items"].combine_chunks()
        length_R = np.asarray(lists.value_lengths(), np.int64)
        time_E = flatten_times(table["times"])
        item_E = lists.flatten().to_numpy().astype(np.int64)
        goes_on_R = np.diff(ids, prepend=-1) == 0
        user_E = np.repeat(np.cumsum(~goes_on_R) - 1, length_R)
        is_new_E = np.ones(len(item_E), bool)
        is_new_E[(np.cumsum(length_R) - length_R)[goes_on_R]] = False
        yield user_E[is_new_E], item_E[is_new_E], None if time_E is None else time_E[is_new_E]
