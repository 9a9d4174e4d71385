"""Counts of train events: which items the same users bought, and which were bought last.

What the baselines (models/baselines.py) are fitted from; the count of each item's events stands in
the catalogue already. Read from the train split alone, one shard after another: counts are whole
numbers and add, so they do not depend on how many shards there are. In memory at once is one shard,
and what has the size of the sum. Shapes: B users, N events, V catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import scipy.sparse

from recdiv_core.schema import USER_ID


def read_histories(prepared: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read the train events of whole users, shard by shard.

    A long user's further rows are joined to the first, without the item that each repeats of the
    row before it; a user's rows stand together, in one shard.

    Yields:
        user_N: int64, 0 .. B - 1, rising; item_N: int64 item_index, each user's oldest first.
    """
    for path in sorted((prepared / "train").glob("part-*.parquet")):
        table = pq.read_table(path, columns=[USER_ID, "items"])
        ids = table[USER_ID].combine_chunks().dictionary_encode().indices.to_numpy()
        lists = table["items"].combine_chunks()
        length_R = np.asarray(lists.value_lengths(), np.int64)
        item_N = lists.flatten().to_numpy().astype(np.int64)
        goes_on_R = np.diff(ids, prepend=-1) == 0
        user_N = np.repeat(np.cumsum(~goes_on_R) - 1, length_R)
        is_new_N = np.ones(len(item_N), bool)
        is_new_N[(np.cumsum(length_R) - length_R)[goes_on_R]] = False
        yield user_N[is_new_N], item_N[is_new_N]


def count_pairs(prepared: Path, num_items: int) -> Any:
    """Count the train users of each two items.

    Returns:
        scipy CSR array [V, V] int32, symmetric; on the diagonal the users of one item.
    """
    pairs_VV = scipy.sparse.csr_array((num_items, num_items), dtype=np.int32)
    for user_N, item_N in read_histories(prepared):
        shape = (int(user_N.max(initial=-1)) + 1, num_items)
        bought_BV = scipy.sparse.csr_array(
            (np.ones(len(item_N), np.int32), (user_N, item_N)), shape
        )
        bought_BV.sum_duplicates()
        bought_BV.data[:] = 1
        pairs_VV += bought_BV.T @ bought_BV
    return pairs_VV.tocsr()


def count_recent(prepared: Path, num_items: int, share: float) -> np.ndarray:
    """Count each item among the last events of users: of n events the last ceil(share * n).

    By order, which every prepared data set has: its train examples hold no times.

    Args:
        prepared: a prepared data set.
        num_items: V.
        share: in (0, 1]; 1 counts all train events.

    Returns:
        [V] int64.
    """
    counts_V = np.zeros(num_items, np.int64)
    for user_N, item_N in read_histories(prepared):
        length_B = np.bincount(user_N)
        from_end_N = np.cumsum(length_B)[user_N] - np.arange(len(user_N))  # 1 = the last
        is_recent_N = from_end_N <= np.ceil(share * length_B)[user_N]
        counts_V += np.bincount(item_N[is_recent_N], minlength=num_items)
    return counts_V
