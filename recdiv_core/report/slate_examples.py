"""The users whose slates are shown as examples, before and after.

Not the evaluation (systems.py) nor the page (slate_page.py). The one idea: a rule chooses the
users, so that nobody picks the best looking slates. Users are ordered by the number of items that
their two slates have in common; the rule takes good, ordinary and bad changes.

Legend: U evaluated users, K slate length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from recdiv_core.data.catalogue import Catalogue
from recdiv_core.metrics.jackknife import Integers, UserResults
from recdiv_core.schema import NO_CATEGORY

RULES: Final = (
    ("changed most, a hit kept", 2),
    ("in the middle of all users", 2),
    ("changed most with fewer hits", 1),
    ("changed most with more hits", 1),
)
"""Rule -> how many users it takes."""

SHOWN_HISTORY: Final = 8
SHOWN_TARGETS: Final = 5
SHOWN_METRICS: Final = ("ild", "diversity_index")


@dataclass(frozen=True)
class Changes:
    """How the slates of all users differ between two runs.

    Attributes:
        num_users: Evaluated users.
        mean_common: Items that a user's two slates have in common, on average.
        num_fewer: Users with fewer hits after.
        num_more: Users with more hits after.
    """

    num_users: int
    mean_common: float
    num_fewer: int
    num_more: int


@dataclass(frozen=True)
class Item:
    """An item of a list on the page; `category` and `brand` may be empty."""

    index: int
    title: str
    category: str
    brand: str


@dataclass(frozen=True)
class Example:
    """A user's slates before and after.

    Attributes:
        rule: Rule that chose the user.
        history: Latest SHOWN_HISTORY items of the history, the latest first.
        num_history: Items in the history.
        targets: Up to SHOWN_TARGETS items that the user took next.
        num_targets: Items that the user took next.
        wanted: item_index of all targets.
        slates: Slates before and after, best item first.
        metrics: Metric -> value before and after.
    """

    user_id: str
    rule: str
    history: tuple[Item, ...]
    num_history: int
    targets: tuple[Item, ...]
    num_targets: int
    wanted: frozenset[int]
    slates: tuple[tuple[Item, ...], ...]
    metrics: Mapping[str, tuple[float, float]]


def count_common(before_UK: Integers, after_UK: Integers) -> npt.NDArray[np.int64]:
    """Return how many items the two slates of each user have in common, [U].

    >>> count_common(np.array([[1, 2, -1]]), np.array([[2, 3, -1]])).tolist()
    [1]
    """
    both = np.sort(np.concatenate([before_UK, after_UK], axis=1), axis=1)
    return ((both[:, 1:] == both[:, :-1]) & (both[:, 1:] >= 0)).sum(axis=1)


def count_changes(before: UserResults, after: UserResults) -> Changes:
    """Count how the slates of all users differ; both runs have the same users in the same order."""
    gain_U = after.users["recall"] - before.users["recall"]  # of the same targets
    return Changes(
        num_users=len(gain_U),
        mean_common=float(count_common(before.slates_UK, after.slates_UK).mean()),
        num_fewer=int((gain_U < 0).sum()),
        num_more=int((gain_U > 0).sum()),
    )


def choose_users(before: UserResults, after: UserResults) -> list[tuple[int, str]]:
    """Choose users by RULES.

    Args:
        before: Evaluated slates of one run.
        after: Evaluated slates of the other run, for the same users in the same order.

    Returns:
        (row, rule) in the order of the rules, each user once. A rule may find no user.
    """
    common_U = count_common(before.slates_UK, after.slates_UK)
    order_U = np.argsort(common_U, kind="stable")  # the most changed first
    gain_U = (after.users["recall"] - before.users["recall"])[order_U]
    keeps_U = (gain_U >= 0) & (before.users["hit"][order_U] > 0)
    middle = max(0, (len(order_U) - RULES[1][1]) // 2)
    found: tuple[Sequence[int], ...] = (
        order_U[keeps_U].tolist(),
        order_U[middle:].tolist(),
        order_U[gain_U < 0].tolist(),
        order_U[gain_U > 0].tolist(),
    )
    chosen: dict[int, str] = {}
    for (rule, count), rows in zip(RULES, found, strict=True):
        fresh = [row for row in rows if row not in chosen]
        chosen |= dict.fromkeys(fresh[:count], rule)
    return list(chosen.items())


def show(
    row: int,
    pair: Sequence[UserResults],
    catalogue: Catalogue,
    *,
    rule: str,
    user_id: str,
    history: Sequence[int],
    targets: Sequence[int],
) -> Example:
    """Return a user's history, targets and slates with titles.

    Args:
        row: Position of the user among the evaluated users.
        pair: Evaluated slates before and after.
        catalogue: Titles, categories and brands of the items.
        rule: Rule that chose the user.
        user_id: Name of the user on the page.
        history: item_index, the oldest first.
        targets: item_index of what the user took next.
    """
    return Example(
        user_id=user_id,
        rule=rule,
        history=_items(history[: -SHOWN_HISTORY - 1 : -1], catalogue),
        num_history=len(history),
        targets=_items(targets[:SHOWN_TARGETS], catalogue),
        num_targets=len(targets),
        wanted=frozenset(targets),
        slates=tuple(
            _items([item for item in each.slates_UK[row].tolist() if item >= 0], catalogue)
            for each in pair
        ),
        metrics={
            name: (float(pair[0].users[name][row]), float(pair[1].users[name][row]))
            for name in SHOWN_METRICS
        },
    )


def _items(indices: Sequence[int], catalogue: Catalogue) -> tuple[Item, ...]:
    """Return items with their titles; the id stands for a missing title."""
    has_brand = "brand" in catalogue.table.column_names
    found: list[Item] = []
    for index in indices:
        labels = [catalogue.categories[label] for label in catalogue.category_lists[index].as_py()]
        brand = catalogue.table["brand"][index].as_py() if has_brand else None
        found.append(
            Item(
                index=index,
                title=catalogue.titles[index].as_py() or str(catalogue.item_ids[index].as_py()),
                category=" | ".join(label for label in labels if label != NO_CATEGORY),
                brand=str(brand or ""),
            )
        )
    return tuple(found)
