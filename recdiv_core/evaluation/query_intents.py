"""The intents of queries: the share of their clicks in each category.

Train events and the held-out items of the evaluated split count. So a query that train never saw
has intents too, and a query of many requests has those of all its users. They are part of the
truth, like held-out items: no model reads them. metrics/query_intent.py has the metrics. Shapes: Q
queries of the log, P clicks, N (query, category) pairs, B requests, I intents of a query.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from recdiv_core.data.queries import read_query_clicks
from recdiv_core.data.reading import flatten_lists
from recdiv_core.metrics.slate_batch import Intents
from recdiv_core.schema import NO_QUERY
from recdiv_core.slates.dataset import Dataset


@dataclass(frozen=True)
class QueryIntents:
    """Intents of all queries of a data set.

    Attributes:
        start_Q: [Q + 1] int64, first pair of each query.
        category_N: category of each pair.
        share_N: share of the query's clicks in this category; those of a query sum to 1.
    """

    start_Q: np.ndarray
    category_N: np.ndarray
    share_N: np.ndarray

    def of(self, queries_B: np.ndarray) -> Intents:
        """Return the intents of requests; a request without a query has none."""
        has_query_B = queries_B != NO_QUERY
        first_B = np.where(has_query_B, self.start_Q[queries_B], 0)
        length_B = np.where(has_query_B, self.start_Q[queries_B + 1], 0) - first_B
        place_BI = np.arange(max(1, int(length_B.max(initial=0))))
        is_pair_BI = place_BI < length_B[:, None]
        pair_BI = np.where(is_pair_BI, first_B[:, None] + place_BI, 0)
        if not len(self.category_N):
            return Intents(*(torch.full(pair_BI.shape, -1), torch.zeros(pair_BI.shape).double()))
        return Intents(
            torch.from_numpy(np.where(is_pair_BI, self.category_N[pair_BI], -1)),
            torch.from_numpy(np.where(is_pair_BI, self.share_N[pair_BI], 0.0)),
        )


def count_intents(dataset: Dataset, split: str) -> QueryIntents:
    """Count the clicks after each query, in train and in the held-out items of a split.

    An item of several categories adds an equal part of its click to each.
    """
    clicks = [read_query_clicks(dataset.prepared), _held_out(dataset.prepared, split)]
    query_P, item_P = (np.concatenate(parts) for parts in zip(*clicks, strict=True))
    lists = dataset.catalogue.category_lists
    starts_V = lists.offsets.to_numpy().astype(np.int64)
    count_P = np.diff(starts_V)[item_P]
    click_M = np.repeat(np.arange(len(item_P)), count_P)
    within_M = np.arange(len(click_M)) - np.repeat(np.cumsum(count_P) - count_P, count_P)
    category_M = lists.values.to_numpy().astype(np.int64)[starts_V[item_P][click_M] + within_M]
    num_categories = max(1, dataset.catalogue.num_categories)
    pair_N, place_M = np.unique(query_P[click_M] * num_categories + category_M, return_inverse=True)
    weight_N = np.bincount(place_M, 1 / count_P[click_M], minlength=len(pair_N))
    query_N = pair_N // num_categories
    num_queries = 0 if dataset.queries_QH is None else len(dataset.queries_QH)
    total_Q = np.bincount(query_N, weight_N, minlength=num_queries)
    start_Q = np.searchsorted(query_N, np.arange(num_queries + 1))
    return QueryIntents(start_Q, pair_N % num_categories, weight_N / total_Q[query_N])


def _held_out(prepared: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return query_index and item_index of the held-out items of requests with a query."""
    queries, items = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for path in sorted((prepared / split).glob("part-*.parquet")):
        table = pq.read_table(path, columns=["query", "targets"])
        item_P, length_R = flatten_lists(table["targets"])
        query_P = np.repeat(table["query"].to_numpy().astype(np.int64), length_R)
        queries.append(query_P[query_P != NO_QUERY])
        items.append(item_P.astype(np.int64)[query_P != NO_QUERY])
    return np.concatenate(queries), np.concatenate(items)
