# pyright: strict
"""Metrics of slates that are given as NumPy arrays.

    >>> found = evaluate_slates([[3, 1], [3, 2]], [[1], [0, 2]], num_items=4)
    >>> found["hit_at_2"], found["coverage_at_2"]
    (1.0, 0.75)

The values equal those of `recdiv evaluate` (docs/metrics.md). Row i of each item table describes
item i, and row u of `slates` and `targets` belongs to user u. A metric whose table is missing is
left out.

Legend: U users, K slate length, V items, D dims.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recdiv_core.items.arrays import (
    check_num_items,
    item_vectors,
    label_lists,
    padded_rows,
    traits_of_arrays,
)
from recdiv_core.items.traits import ItemTraits
from recdiv_core.metrics.scorecard import Input, finish_scorecard, user_metrics
from recdiv_core.metrics.slate_batch import Background
from recdiv_core.metrics.tally import Tally, count_users, tally_slates

USERS_AT_ONCE: Final = 4096
"""Users per batch; it bounds the memory."""

Rows = npt.ArrayLike | Sequence[Sequence[int]]
"""A row of item numbers for each user: ragged lists, or an array padded with -1."""


def evaluate_slates(
    slates: Rows,
    targets: Rows,
    *,
    k: int | None = None,
    num_items: int | None = None,
    embeddings: npt.ArrayLike | None = None,
    categories: Sequence[Any] | None = None,
    attributes: Mapping[str, Sequence[Any]] | None = None,
    popularity: npt.ArrayLike | None = None,
    num_train_users: int | None = None,
    histories: Rows | None = None,
) -> dict[str, float]:
    """Return all metrics that the given tables allow.

    Args:
        slates: shown items of each user, best first; a short slate ends in -1.
        targets: held-out items of each user. A user without targets counts in `num_held_out` only.
        k: cut-off, >= 1; None = length of the longest slate.
        num_items: size of the catalogue V; None = number of rows of the tables.
        embeddings: [V, D] item vectors of any length, for ILD and other vector metrics.
        categories: a label, a list of labels, or None for each item.
        attributes: name -> a value or None for each item; adds `NAME_coverage`.
        popularity: [V] train events of each item, for novelty and other popularity metrics.
        num_train_users: number of users behind `popularity`, >= 1; required with it.
        histories: earlier items of each user, the oldest first, for calibration and `narrowed`
            (with `categories`).

    Returns:
        Metric with cut-off (such as `ndcg_at_10`) -> value; also `num_judged` and `num_held_out`.

    Raises:
        ValueError: an argument does not fit; the message names the value and the allowed values.
    """
    slates_UK, targets_UT = padded_rows("slates", slates), padded_rows("targets", targets)
    histories_UT = np.full((len(slates_UK), 1), -1, dtype=np.int64)
    if histories is not None:
        histories_UT = padded_rows("histories", histories)
    rows = {"slates": slates_UK, "targets": targets_UT, "histories": histories_UT}
    if len({len(each) for each in rows.values()}) > 1 or not len(slates_UK):
        said = ", ".join(f"{len(each)} {name}" for name, each in rows.items())
        raise ValueError(f"expected one row for each user in all, at least one user; got {said}")
    traits = _describe(num_items, embeddings, categories, attributes, popularity, num_train_users)
    for name, each in rows.items():
        _check_rows(name, each, traits.num_items, is_distinct=name != "histories")
    given = {
        "embeddings": embeddings,
        "categories": categories,
        "popularity": popularity,
        "histories": histories,
        "scores": None,
    }
    unknown: list[Any] = [name for name, value in given.items() if value is None]
    cutoff = slates_UK.shape[1] if k is None else k
    tally = _tally(slates_UK, targets_UT, histories_UT, traits, cutoff, unknown)
    return finish_scorecard(tally) | count_users(tally)


def _tally(
    slates_UK: npt.NDArray[np.int64],
    targets_UT: npt.NDArray[np.int64],
    histories_UT: npt.NDArray[np.int64],
    traits: ItemTraits,
    k: int,
    unknown: Sequence[Input],
) -> Tally:
    metrics = user_metrics(traits.attributes, without=unknown)
    tally = Tally.zeros(traits, k=k, names=metrics)
    for start in range(0, len(slates_UK), USERS_AT_ONCE):
        users = slice(start, start + USERS_AT_ONCE)
        row_S, column_S = np.nonzero(histories_UT[users] >= 0)
        background = Background(
            torch.tensor(row_S), torch.tensor(histories_UT[users][row_S, column_S])
        )
        tally += tally_slates(
            torch.tensor(slates_UK[users]),
            torch.tensor(targets_UT[users]),
            traits,
            k=k,
            metrics=metrics,
            background=background,
        )
    return tally


def _describe(
    num_items: int | None,
    embeddings: npt.ArrayLike | None,
    categories: Sequence[Any] | None,
    attributes: Mapping[str, Sequence[Any]] | None,
    popularity: npt.ArrayLike | None,
    num_train_users: int | None,
) -> ItemTraits:
    if popularity is not None and num_train_users is None:
        raise ValueError("popularity needs num_train_users, the users that its events are of")
    vectors_VD = None if embeddings is None else item_vectors(embeddings)
    lists = None if categories is None else label_lists(categories)
    values = {name: label_lists(own) for name, own in (attributes or {}).items()}
    events_V = None if popularity is None else _as_events(popularity)
    sizes = {name: len(own) for name, own in values.items()}
    tables = {"embeddings": vectors_VD, "categories": lists, "popularity": events_V}
    sizes |= {name: len(own) for name, own in tables.items() if own is not None}
    sizes |= {} if num_items is None else {"num_items": num_items}
    check_num_items(sizes)
    if not sizes:
        raise ValueError("num_items: give the size of the catalogue; coverage is a share of it")
    return traits_of_arrays(
        next(iter(sizes.values())),
        embeddings_VD=vectors_VD,
        categories=lists,
        num_events_V=events_V,
        num_train_users=num_train_users or 1,
        attributes=values,
    )


def _as_events(popularity: npt.ArrayLike) -> Tensor:
    """Return train events of each item, [V] int64."""
    events_V: npt.NDArray[Any] = np.asarray(popularity)
    if events_V.ndim != 1 or events_V.dtype.kind not in "iu" or events_V.min(initial=0) < 0:
        raise ValueError(
            "popularity: expected [V] whole numbers of train events, >= 0; got "
            f"{list(events_V.shape)} of {events_V.dtype}"
        )
    return torch.tensor(events_V.astype(np.int64))


def _check_rows(
    name: str, rows_UN: npt.NDArray[np.int64], num_items: int, *, is_distinct: bool
) -> None:
    """Refuse item numbers out of the catalogue, and an item twice in a row."""
    is_wrong_U = ((rows_UN < -1) | (rows_UN >= num_items)).any(axis=1)
    if is_wrong_U.any():
        user = int(is_wrong_U.argmax())
        raise ValueError(f"{name}: row {user} holds a number outside of 0..{num_items - 1}")
    in_order_UN = np.sort(rows_UN, axis=1)
    is_twice_UN = (in_order_UN[:, 1:] == in_order_UN[:, :-1]) & (in_order_UN[:, 1:] >= 0)
    if is_distinct and is_twice_UN.any():
        user = int(is_twice_UN.any(axis=1).argmax())
        item = int(in_order_UN[user, 1:][is_twice_UN[user]][0])
        raise ValueError(f"{name}: row {user} holds item {item} twice")
