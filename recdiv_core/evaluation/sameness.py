"""Is it always the same? Near-identical items in a slate, users with one slate, narrowing, neglect.

Not the reading of slates (report/inspection.py). The one idea: each finding is a plain count over
slates, with a threshold that is written here. Anyone can check a verdict by hand.

Legend: U users, K slate length, V catalogue, G categories, I items looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from sklearn.cluster import DBSCAN

from recdiv_core.items.labels import Labels
from recdiv_core.items.traits import ItemTraits
from recdiv_core.metrics.diversity import ild
from recdiv_core.metrics.slate_batch import match_slates
from recdiv_core.slates.given import padded

NEAR: Final = 0.95
"""Cosine of text vectors from which two items are the same to a customer: colours, sizes, typos."""
MAX_CLUSTERED: Final = 20_000
"""Most items searched for clusters, the most shown first; the cost grows with their square."""
SHORTEST_HISTORY: Final = 3
"""Fewest distinct items of a history that is compared with a slate."""
STARVED: Final = 0.5
"""Largest exposure over demand of a starved category ..."""
WORTH_NAMING: Final = 0.005
"""... and its smallest share of the demand."""
MANY: Final = 0.2
"""Smallest share of a segment's users that makes a finding."""
USERS_AT_ONCE: Final = 4096

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def near_clusters(vectors_VD: npt.NDArray[np.float32], exposure_V: Integers) -> Integers:
    """Cluster the items that are shown by their text: two of NEAR or more are in one cluster.

    Single linkage (DBSCAN of neighbourhoods of two: Ester et al., 1996, A density-based algorithm
    for discovering clusters): a chain of near-identical items is one cluster. Items without a
    vector are like nothing.

    Args:
        vectors_VD: unit vectors or zeros.
        exposure_V: how often each item is shown.

    Returns:
        [V] number of each item's cluster; -1 = by itself, not shown, or beyond MAX_CLUSTERED.
    """
    cluster_V = np.full(len(exposure_V), -1, dtype=np.int64)
    order = np.argsort(-exposure_V, kind="stable")[:MAX_CLUSTERED]
    has_vector = np.abs(vectors_VD[order]).sum(axis=1) > 0
    shown = order[(exposure_V[order] > 0) & has_vector]
    if len(shown) > 1:
        # unit vectors: 1 - cosine = distance^2 / 2, and a tree needs a metric
        radius = float(np.sqrt(2 * (1 - NEAR)))
        cluster_V[shown] = DBSCAN(eps=radius, min_samples=2, algorithm="brute").fit_predict(
            vectors_VD[shown]
        )
    return cluster_V


def places_lost(slates_UK: Integers, cluster_V: Integers) -> Integers:
    """Return how many places of each slate repeat a cluster that stood before them, [U]."""
    clusters_UK = np.where(slates_UK >= 0, cluster_V[slates_UK], -1)
    clusters_UK = np.sort(clusters_UK, axis=1)
    is_repeat = (clusters_UK[:, 1:] == clusters_UK[:, :-1]) & (clusters_UK[:, 1:] >= 0)
    return is_repeat.sum(axis=1)


def same_slates(slates_UK: Integers) -> tuple[Flags, Integers]:
    """Find users who are shown the same items, in whatever order; empty slates are no slates.

    Returns:
        [U] whether another user has the same slate; the sizes of the groups, falling.
    """
    is_shown_U = (slates_UK >= 0).any(axis=1)
    _, group, counts = np.unique(
        np.sort(slates_UK[is_shown_U], axis=1), axis=0, return_inverse=True, return_counts=True
    )
    is_same_U = np.zeros(len(slates_UK), dtype=np.bool_)
    is_same_U[is_shown_U] = counts[group.reshape(-1)] > 1
    return is_same_U, -np.sort(-counts[counts > 1])


def spread(slates_UK: Integers, traits: ItemTraits) -> tuple[Integers, Floats]:
    """Return distinct categories and ILD of each slate, [U] each."""
    num_users, k = slates_UK.shape
    categories, distances = np.zeros(num_users, np.int64), np.zeros(num_users)
    for start in range(0, num_users, USERS_AT_ONCE):
        users = slice(start, start + USERS_AT_ONCE)
        slates = torch.from_numpy(slates_UK[users])
        # nothing here looks at targets, but a user without one is not judged
        judged = match_slates(slates, slates.new_zeros(len(slates), 1), traits, k=k)
        categories[users] = judged.num_slate_categories_B.numpy()
        distances[users] = ild(judged).numpy()
    return categories, distances


def against_history(
    slates_UK: Integers, histories_UK: Integers, traits: ItemTraits
) -> tuple[Flags, Flags]:
    """Compare each slate with as many of the last distinct items of its user's history.

    Args:
        slates_UK: item_index, best first, -1 behind the end.
        histories_UK: distinct items, the latest first, -1 behind the end.
        traits: the items of the catalogue.

    Returns:
        [U] whether the slate has fewer categories than the history; whether it has more. Neither
        where the history is shorter than SHORTEST_HISTORY.
    """
    length_U1 = np.minimum((slates_UK >= 0).sum(axis=1), (histories_UK >= 0).sum(axis=1))[:, None]
    is_far_UK = np.arange(slates_UK.shape[1]) >= length_U1
    of_slate, _ = spread(np.where(is_far_UK, -1, slates_UK), traits)
    of_history, _ = spread(np.where(is_far_UK, -1, histories_UK), traits)
    is_known_U = length_U1[:, 0] >= SHORTEST_HISTORY
    return is_known_U & (of_slate < of_history), is_known_U & (of_slate > of_history)


def latest_distinct(items: Integers, lengths: Integers, k: int) -> Integers:
    """Return the k latest distinct items of each history, the latest first, -1 behind the end.

    >>> latest_distinct(np.array([4, 5, 4, 6]), np.array([3, 0, 1]), 2).tolist()
    [[4, 5], [-1, -1], [6, -1]]
    """
    user = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((-np.arange(len(items)), user))  # users in turn, their latest event first
    user, items = user[order], items[order]
    by_item = np.lexsort((np.arange(len(items)), items, user))
    is_first = np.ones(len(items), dtype=np.bool_)
    same = (np.diff(user[by_item]) == 0) & (np.diff(items[by_item]) == 0)
    is_first[by_item[1:][same]] = False
    user, items = user[is_first], items[is_first]
    counts = np.bincount(user, minlength=len(lengths))
    return padded(items, counts, k)


@dataclass(frozen=True)
class Shelf:
    """A category's share of what is wanted and of what is shown."""

    category: int
    demand: float
    exposure: float


def shelves(exposure_V: Integers, demand_V: Integers, categories: Labels) -> list[Shelf]:
    """Return every category with demand or exposure, the most demanded first.

    An item of several categories counts an equal part in each.

    Args:
        exposure_V: how often each item is shown.
        demand_V: how often each item is clicked or bought.
        categories: of each item.
    """
    items = torch.arange(len(categories))
    item_N, label_N, part_N = (each.numpy() for each in categories.spread(items, torch.float64))

    def share(counts_V: Integers) -> Floats:
        events = np.bincount(label_N, counts_V[item_N] * part_N)
        return events / max(1.0, events.sum())

    demand, exposure = share(demand_V), share(exposure_V)
    order = np.argsort(-demand, kind="stable")
    return [
        Shelf(int(g), float(demand[g]), float(exposure[g]))
        for g in order
        if demand[g] or exposure[g]
    ]


def starved(found: Sequence[Shelf]) -> list[Shelf]:
    """Return the categories that get less than STARVED of their share, and are WORTH_NAMING."""
    return [
        shelf
        for shelf in found
        if shelf.demand >= WORTH_NAMING and shelf.exposure < STARVED * shelf.demand
    ]


@dataclass(frozen=True, eq=False)
class Sameness:
    """What is found of each user, [U] each; figures of a segment are means of these.

    Attributes:
        lost_U: places that repeat a near-identical item.
        is_same_U: another user has the same slate.
        is_narrower_U: fewer categories than the user's own history ...
        is_broader_U: ... or more.
        categories_U: distinct categories of the slate.
        ild_U: of the slate.
        group_sizes: users of each group with one slate, falling.
        cluster_V: see `near_clusters`.
    """

    lost_U: Integers
    is_same_U: Flags
    is_narrower_U: Flags
    is_broader_U: Flags
    categories_U: Integers
    ild_U: Floats
    group_sizes: Integers
    cluster_V: Integers


def look(
    slates_UK: Integers,
    histories_UK: Integers,
    traits: ItemTraits,
    vectors_VD: npt.NDArray[np.float32],
    exposure_V: Integers,
) -> Sameness:
    """Look at all slates; arguments as in `near_clusters` and `against_history`."""
    cluster_V = near_clusters(vectors_VD, exposure_V)
    is_same_U, sizes = same_slates(slates_UK)
    is_narrower_U, is_broader_U = against_history(slates_UK, histories_UK, traits)
    categories_U, ild_U = spread(slates_UK, traits)
    return Sameness(
        lost_U=places_lost(slates_UK, cluster_V),
        is_same_U=is_same_U,
        is_narrower_U=is_narrower_U,
        is_broader_U=is_broader_U,
        categories_U=categories_U,
        ild_U=ild_U,
        group_sizes=sizes,
        cluster_V=cluster_V,
    )


def describe(found: Sameness, users: Flags) -> dict[str, Any]:
    """Return the figures of a segment and its verdict.

    Args:
        found: of all users.
        users: [U] who is of the segment; at least one.
    """
    figures = {
        "num_users": int(users.sum()),
        "categories": float(found.categories_U[users].mean()),
        "ild": float(found.ild_U[users].mean()),
        "with_doubles": float((found.lost_U[users] > 0).mean()),
        "same_slate": float(found.is_same_U[users].mean()),
        "narrower": float(found.is_narrower_U[users].mean()),
        "broader": float(found.is_broader_U[users].mean()),
    }
    return figures | {"verdict": verdict(figures)}


def verdict(figures: dict[str, Any]) -> str:
    """Say in words what a segment's figures amount to.

    >>> verdict({"with_doubles": 0.4, "same_slate": 0.0, "narrower": 0.5, "broader": 0.1})
    'near-identical items in 40 % of slates; 50 % see fewer categories than they chose themselves'
    """
    said: list[str] = []
    if figures["same_slate"] >= MANY:
        said.append(f"{100 * figures['same_slate']:.0f} % share their slate with somebody")
    if figures["with_doubles"] >= MANY:
        said.append(f"near-identical items in {100 * figures['with_doubles']:.0f} % of slates")
    if figures["narrower"] >= figures["broader"] + MANY:
        share = 100 * figures["narrower"]
        said.append(f"{share:.0f} % see fewer categories than they chose themselves")
    return "; ".join(said) or "varied"
