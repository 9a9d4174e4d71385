"""Groups of users and items that evaluation reports separately.

A kind of grouping, such as `brand`, gives groups such as `brand=Acme`. A column with many values
gives one group to each of the MAX_VALUES values with most train events; all others form
`brand=(other)`. The metrics of groups are in metrics/groups.py and metrics/fairness.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import torch

from recdiv_core.data.arrays import Examples
from recdiv_core.data.catalogue import Catalogue, shown_values
from recdiv_core.data.queries import read_query_clicks
from recdiv_core.data.rule_labels import one_label
from recdiv_core.errors import UserError
from recdiv_core.items.popularity import POPULARITY_GROUPS, popularity_groups
from recdiv_core.models.query_text import SCRIPTS, script_of
from recdiv_core.schema import NO_QUERY
from recdiv_core.slates.dataset import Dataset

QUERY_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "query_seen": ("yes", "no"),
    "query_popularity": ("head", "tail"),
    "query_script": SCRIPTS,
}
"""Kind -> its groups of requests with a query, by the query: whether a train event has it; whether
it is one of the most frequent queries of half of these events; and its script."""
USER_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    kind: tuple(f"{kind}={name}" for name in names)
    for kind, names in {
        "user": ("cold", "warm"),
        "query": ("with", "without"),
        "query_history": ("with", "without"),
        **QUERY_KINDS,
    }.items()
}
"""Kind -> its groups. `query_history` divides the requests with a query by whether the request has
a history."""
HEAD: Final = 0.5
"""Share of the train events with a query that head queries make up, at least."""
OUR_KINDS: Final = (*USER_KINDS, "item", "popularity", "category")
MAX_VALUES: Final = 8
OTHER: Final = "(other)"

Groups = dict[str, torch.Tensor]


def check_kinds(kinds: Sequence[str], columns: Sequence[str]) -> None:
    """Refuse a kind that is neither built in nor a column of the catalogue.

    Raises:
        UserError: the kind is unknown, or is given twice.
    """
    for kind in kinds:
        if kind not in OUR_KINDS and kind not in columns:
            raise UserError(
                f"eval.slices: {kind!r} is neither {', '.join(OUR_KINDS)} nor a column of the "
                f"catalogue; columns there: {', '.join(columns)}"
            )
    if len({*kinds}) < len(kinds):
        raise UserError(f"eval.slices={list(kinds)}: each kind once")


def user_group_names(kinds: Sequence[str]) -> list[str]:
    """Return the names of the groups of users, in the order of `user_groups`."""
    return [name for kind in kinds for name in USER_KINDS.get(kind, ())]


def user_groups(
    kinds: Sequence[str], examples: Examples, groups_Q: Mapping[str, np.ndarray]
) -> dict[str, Groups]:
    """Return kind -> group -> bool [B], the users of a batch in the group.

    `kinds` of items are left out.
    """
    has_query_B = examples.queries != NO_QUERY
    groups: dict[str, Groups] = {}
    for kind in kinds:
        if kind not in USER_KINDS:
            continue
        if kind in QUERY_KINDS:
            group_B = np.full(len(has_query_B), -1)
            group_B[has_query_B] = groups_Q[kind][examples.queries[has_query_B]]
        elif kind == "user":
            group_B = ~np.array(examples.is_cold, dtype=np.bool_)
        elif kind == "query":
            group_B = ~has_query_B
        else:
            group_B = np.where(has_query_B, examples.lengths == 0, -1)
        groups[kind] = {
            name: torch.from_numpy(group_B == place) for place, name in enumerate(USER_KINDS[kind])
        }
    return groups


def query_groups(kinds: Sequence[str], dataset: Dataset) -> dict[str, np.ndarray]:
    """Return kind -> [Q] int64, the group of each query of the log, for the QUERY_KINDS asked."""
    asked = [kind for kind in kinds if kind in QUERY_KINDS]
    if not asked:
        return {}
    num_queries = 0 if dataset.queries_QH is None else len(dataset.queries_QH)
    count_Q = np.bincount(read_query_clicks(dataset.prepared)[0], minlength=num_queries)
    texts = dataset.query_texts.to_pylist() if num_queries and "query_script" in asked else []
    groups = {
        "query_seen": count_Q == 0,
        "query_popularity": ~most_frequent(count_Q),
        "query_script": np.array([SCRIPTS.index(script_of(text)) for text in texts], np.int64),
    }
    return {kind: groups[kind].astype(np.int64) for kind in asked}


def most_frequent(count_Q: np.ndarray) -> np.ndarray:
    """Return [Q] bool: the most frequent queries that make up HEAD of all counts.

    >>> most_frequent(np.array([1, 6, 3, 0])).tolist()
    [False, True, False, False]
    """
    order_Q = np.argsort(-count_Q, kind="stable")
    before_Q = np.cumsum(count_Q[order_Q]) - count_Q[order_Q]
    is_head_Q = np.zeros(len(count_Q), bool)
    is_head_Q[order_Q] = before_Q < HEAD * count_Q.sum()
    return is_head_Q & (count_Q > 0)


def item_groups(kinds: Sequence[str], catalogue: Catalogue) -> dict[str, Groups]:
    """Return kind -> group -> bool [V], the items in the group; groups may overlap."""
    popularity = torch.tensor(catalogue.popularity_V)
    groups: dict[str, Groups] = {}
    for kind in kinds:
        if kind == "item":
            groups[kind] = {"item=cold": popularity == 0, "item=warm": popularity > 0}
        elif kind == "popularity":
            of_item = popularity_groups(popularity)
            groups[kind] = {
                f"popularity={name}": of_item == index
                for index, name in enumerate(POPULARITY_GROUPS)
            }
        elif kind == "category":
            lists = catalogue.category_lists
            groups[kind] = _most_met(kind, lists, catalogue.categories, popularity)
        elif kind not in USER_KINDS:
            values, names = _column(catalogue, kind)
            groups[kind] = _most_met(kind, one_label(values.numpy()), names, popularity)
    return groups


def column_values(kinds: Sequence[str], catalogue: Catalogue) -> Groups:
    """Return column -> [V] int64 values, for the kinds that are columns of the catalogue."""
    return {kind: _column(catalogue, kind)[0] for kind in kinds if kind not in OUR_KINDS}


def merge(groups: Mapping[str, Groups], device: torch.device) -> Groups:
    """Return the groups of all kinds as one mapping, on a device."""
    return {name: mask.to(device) for of in groups.values() for name, mask in of.items()}


def _column(catalogue: Catalogue, name: str) -> tuple[torch.Tensor, list[str]]:
    values, names = shown_values(catalogue, name)
    return torch.from_numpy(values), names


def _most_met(
    kind: str, lists: pa.ListArray, names: Sequence[str], popularity_V: torch.Tensor
) -> Groups:
    """Return the groups of the values with most train events, and the group of all others."""
    lengths_V = torch.tensor(np.diff(lists.offsets.to_numpy()), dtype=torch.int64)
    item_N, label_N = torch.repeat_interleave(lengths_V), torch.tensor(lists.flatten().to_numpy())
    events = torch.zeros(max(1, len(names)), dtype=torch.float64)
    events.index_add_(0, label_N, popularity_V.double()[item_N])
    kept = events[: len(names)].argsort(descending=True, stable=True)[:MAX_VALUES].tolist()

    def owners(is_wanted_N: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(lists), dtype=torch.bool).index_fill_(0, item_N[is_wanted_N], True)

    groups = {f"{kind}={names[value]}": owners(label_N == value) for value in kept}
    if len(kept) < len(names):
        groups[f"{kind}={OTHER}"] = owners(~torch.isin(label_N, torch.tensor(kept)))
    return groups
