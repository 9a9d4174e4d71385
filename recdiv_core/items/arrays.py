# pyright: strict
"""Convert item tables (arrays and lists) to tensors.

metrics/arrays.py and rerank/arrays.py use it. Row i of each table describes item i. A table that
does not fit is refused by name.

Legend: V items, D dims.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recdiv_core.items.labels import Labels, labels_of_lists
from recdiv_core.items.traits import ItemTraits, describe_items

LabelLists = list[list[Hashable]]
"""Labels of each item; an item may have none."""


def item_vectors(embeddings: npt.ArrayLike) -> Tensor:
    """Return unit item vectors, [V, D] float32; zero vectors stay zero.

    Raises:
        ValueError: the shape is not [V, D], or a number is not finite.
    """
    vectors_VD = np.asarray(embeddings, dtype=np.float32)
    if vectors_VD.ndim != 2:
        raise ValueError(f"embeddings: expected [V, D], got {list(vectors_VD.shape)}")
    if not np.isfinite(vectors_VD).all():
        row = int(np.flatnonzero(~np.isfinite(vectors_VD).all(axis=1))[0])
        raise ValueError(f"embeddings: row {row} holds a number that is not finite")
    return torch.nn.functional.normalize(torch.tensor(vectors_VD), dim=1)


def label_lists(values: Iterable[Any]) -> LabelLists:
    """Return a list of labels for each item; an entry is a label, a list of labels, or None.

    >>> label_lists(["soap", ["soap", "gift"], None, float("nan")])
    [['soap'], ['soap', 'gift'], [], []]
    """
    return [_labels_of(value) for value in values]


def _labels_of(value: Any) -> list[Hashable]:
    if isinstance(value, (list, tuple, set, frozenset, np.ndarray)):
        labels = cast("Iterable[Any]", value)
        return list(dict.fromkeys(label for label in labels if not _is_missing(label)))
    return [] if _is_missing(value) else [value]


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))


def number_labels(lists: Sequence[Sequence[Hashable]]) -> dict[Hashable, int]:
    """Number all labels from 0, in the order of their first use.

    >>> number_labels([["soap"], ["gift", "soap"]])
    {'soap': 0, 'gift': 1}
    """
    distinct = dict.fromkeys(label for own in lists for label in own)
    return {label: number for number, label in enumerate(distinct)}


def labels_of(lists: Sequence[Sequence[Hashable]], numbers: Mapping[Hashable, int]) -> Labels:
    """Return the labels of each item as numbers."""
    flat = [numbers[label] for own in lists for label in own]
    lengths = [len(own) for own in lists]
    return labels_of_lists(
        torch.tensor(flat, dtype=torch.int64), torch.tensor(lengths, dtype=torch.int64)
    )


def traits_of_arrays(
    num_items: int,
    *,
    embeddings_VD: Tensor | None = None,
    categories: LabelLists | None = None,
    category_numbers: Mapping[Hashable, int] | None = None,
    num_events_V: Tensor | None = None,
    num_train_users: int = 1,
    attributes: Mapping[str, LabelLists] | None = None,
) -> ItemTraits:
    """Describe items by the available tables; a missing table counts as zeros or no labels.

    Args:
        num_items: number of items V, >= 1.
        embeddings_VD: see `item_vectors`; None = zeros.
        categories: labels of each item; None = no labels.
        category_numbers: label -> number; None = numbered in order of first use.
        num_events_V: [V] train events; None = zeros.
        num_train_users: number of users behind these events, >= 1.
        attributes: name -> values of each item, at most one value.
    """
    lists = [list[Hashable]()] * num_items if categories is None else categories
    numbers = number_labels(lists) if category_numbers is None else category_numbers
    nothing_V = torch.zeros(num_items, dtype=torch.int64)
    return describe_items(
        torch.zeros(num_items, 1) if embeddings_VD is None else embeddings_VD,
        labels_of(lists, numbers),
        nothing_V if num_events_V is None else num_events_V,
        num_train_users=num_train_users,
        num_categories=max(1, len(numbers)),
        attributes={name: one_number(name, own) for name, own in (attributes or {}).items()},
    )


def one_number(name: str, lists: Sequence[Sequence[Hashable]]) -> Tensor:
    """Return the number of the only label of each item, [V] int64; -1 = no label.

    Raises:
        ValueError: an item has several labels.
    """
    for item, own in enumerate(lists):
        if len(own) > 1:
            raise ValueError(f"{name}: item {item} has {len(own)} values, at most one is allowed")
    numbers = number_labels(lists)
    return torch.tensor([numbers[own[0]] if own else -1 for own in lists], dtype=torch.int64)


def check_num_items(sizes: Mapping[str, int]) -> None:
    """Check that all tables have the same number of items.

    Raises:
        ValueError: the numbers differ; the message names each table.
    """
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise ValueError(f"all tables describe the same items, but {said}")


def padded_rows(name: str, rows: npt.ArrayLike | Sequence[Sequence[int]]) -> npt.NDArray[np.int64]:
    """Return rows of item numbers as an array; short rows are padded with -1.

    >>> padded_rows("slates", [[4, 5], [6], []]).tolist()
    [[4, 5], [6, -1], [-1, -1]]

    Raises:
        ValueError: `rows` is no list of lists, or holds other values than whole numbers.
    """
    padded: npt.NDArray[Any]
    if isinstance(rows, np.ndarray):
        padded = cast("npt.NDArray[Any]", rows)
        if padded.ndim != 2:
            raise ValueError(f"{name}: expected a row for each user, got {list(padded.shape)}")
    else:
        lists = [list(cast("Sequence[Any]", row)) for row in cast("Sequence[Any]", rows)]
        width = max(map(len, lists), default=0)
        padded = np.array([row + [-1] * (width - len(row)) for row in lists])
        padded = padded.reshape(len(lists), width)
    if padded.size and padded.dtype.kind not in "iu":
        raise ValueError(f"{name} must be whole numbers, got {padded.dtype}")
    return padded.astype(np.int64)
