"""The users whose slates are shown as examples, before and after.

Not the evaluation (systems.py) nor the page (slate_page.py). The one idea: a rule chooses the
users, so that nobody picks the best looking slates. Users are ordered by what they gain in accuracy
and diversity. The rule takes three users at the median and one of the worst.

Legend: U evaluated users, K slate length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from recdiv_core.data.catalogue import Catalogue
from recdiv_core.metrics.jackknife import Floats, Integers, UserResults
from recdiv_core.schema import NO_CATEGORY

GAINS: Final = ("ndcg", "ild", "diversity_index")
"""Metrics whose relative changes make up a user's gain."""
NUM_TYPICAL: Final = 3
"""Users at the median gain."""
WORST_SHARE: Final = 0.01
"""Share of the users who gain less than the user shown as one of the worst."""
TYPICAL: Final = "typical: at the median gain"
WORST: Final = "one of the worst"

SHOWN_HISTORY: Final = 8
SHOWN_TARGETS: Final = 5
SHOWN_METRICS: Final = ("ild", "diversity_index")


@dataclass(frozen=True)
class Changes:
    """How the slates of all users differ between two runs.

    Attributes:
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
        rule: Reason why the user is shown, TYPICAL or WORST.
        history: Latest SHOWN_HISTORY items of the history, the latest first.
        targets: Up to SHOWN_TARGETS items that the user took next.
        wanted: item_index of all targets.
        slates: Slates before and after, best item first.
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


def user_gains(before: UserResults, after: UserResults) -> Floats:
    """Return what each user gains, [U]: the mean change of GAINS, relative to their means before.

    A metric without a mean to relate to counts with its absolute change.
    """
    changes = [
        (after.users[name] - before.users[name]) / (abs(before.value(name)) or 1.0)
        for name in GAINS
    ]
    return np.nan_to_num(np.mean(changes, axis=0))


def choose_users(
    before: UserResults, after: UserResults, may_be_shown_U: npt.NDArray[np.bool_]
) -> list[tuple[int, str]]:
    """Choose typical users and one of the worst, by their gains.

    `before` and `after` have the same users in the same order. If `may_be_shown_U` marks none, all
    may.

    Returns:
        (row, rule): NUM_TYPICAL users around the median, then one whom WORST_SHARE of the users are
        below, each once. Equal gains keep the order of the data. No two typical users have the
        same slates, before or after: the second one would show nothing new.
    """
    rows = (
        np.flatnonzero(may_be_shown_U) if may_be_shown_U.any() else np.arange(len(may_be_shown_U))
    )
    rows = rows[np.argsort(user_gains(before, after)[rows], kind="stable")]
    nearest = np.argsort(np.abs(np.arange(len(rows)) - (len(rows) - 1) / 2), kind="stable")
    places: list[int] = []
    for place in nearest.tolist():
        own, shown = int(rows[place]), rows[places]
        if len(places) < NUM_TYPICAL and not _is_shown(own, shown, before, after):
            places.append(place)
    chosen = dict.fromkeys(rows[sorted(places)].tolist(), TYPICAL)
    for row in rows[int(WORST_SHARE * len(rows)) :][:1].tolist():
        chosen.setdefault(row, WORST)
    return list(chosen.items())


def _is_shown(row: int, shown: Integers, before: UserResults, after: UserResults) -> bool:
    """Return whether one of the rows in `shown` has the same slate as `row`, before or after."""
    return any(
        bool((each.slates_UK[shown] == each.slates_UK[row]).all(axis=1).any())
        for each in (before, after)
    )


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

    `row` is the place of the user among the evaluated ones; the first item of `history` is the
    oldest.
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
