"""Counts of train events: users that two items share, and recent events of each item.

The baselines (models/baselines.py) are fitted from these counts; the catalogue holds the number of
events of each item. Only the train split is read, one shard after another. Counts are whole numbers
and add, so they do not depend on the number of shards. Memory holds one shard and the sums.
Shapes: B users, N events, V catalogue.
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

    The rows of a user are consecutive in one shard and are joined. The first item of a further row
    repeats the last item of the previous row and is removed.

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
    """Count the train users that each pair of items shares.

    Returns:
        scipy CSR array [V, V] int32, symmetric; the diagonal holds the users of each item.
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
    """Count each item in the last ceil(share * n) of the n train events of each user.

    Recency is by order, because train examples hold no times.

    Args:
        prepared: Directory of a prepared data set.
        num_items: V.
        share: Share of a user's events that count as recent, in (0, 1].

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
