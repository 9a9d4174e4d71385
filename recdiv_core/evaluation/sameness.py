"""Find sameness in slates: near-identical items, shared slates, narrow slates, starved categories.

report/inspection.py reads the slates. Each finding is a plain count over slates with a threshold
from this module, so a verdict can be checked by hand.

Legend: U users, K slate length, V catalogue, G categories, D dims.
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
from recdiv_core.metrics.bootstrap import mean_of_existing
from recdiv_core.metrics.diversity import ild
from recdiv_core.metrics.narrowing import breadths
from recdiv_core.metrics.slate_batch import Background, match_slates
from recdiv_core.slates.given import padded

NEAR: Final = 0.95
"""Smallest cosine of the text vectors of near-identical items (other colour, size or spelling)."""
MAX_CLUSTERED: Final = 20_000
"""Largest number of items searched for clusters, most shown first; the cost grows quadratically."""
STARVED: Final = 0.5
"""Upper bound of exposure / demand for a starved category (exclusive)."""
WORTH_NAMING: Final = 0.005
"""Smallest share of the demand for a starved category, in [0, 1]."""
VARIED: Final = "varied"
"""Verdict without a finding."""
MANY: Final = 0.2
"""Smallest share of a segment's users for a finding, in [0, 1]."""
USERS_AT_ONCE: Final = 4096

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def near_clusters(vectors_VD: npt.NDArray[np.float32], exposure_V: Integers) -> Integers:
    """Cluster the shown items by their text: a cosine of NEAR or more joins two items.

    Single linkage (DBSCAN with a minimum of two: Ester et al., 1996, A density-based algorithm for
    discovering clusters): a chain of near-identical items is one cluster. Items without a vector
    are in no cluster. `vectors_VD` are unit text vectors, or zeros; `exposure_V` counts how
    often each item is shown.

    Returns:
        [V] number of each item's cluster; -1 = no cluster, not shown, or beyond MAX_CLUSTERED.
    """
    cluster_V = np.full(len(exposure_V), -1, dtype=np.int64)
    order = np.argsort(-exposure_V, kind="stable")[:MAX_CLUSTERED]
    has_vector = np.abs(vectors_VD[order]).sum(axis=1) > 0
    shown = order[(exposure_V[order] > 0) & has_vector]
    if len(shown) > 1:
        # unit vectors: 1 - cosine = distance^2 / 2
        radius = float(np.sqrt(2 * (1 - NEAR)))
        cluster_V[shown] = DBSCAN(eps=radius, min_samples=2, algorithm="brute").fit_predict(
            vectors_VD[shown]
        )
    return cluster_V


def places_lost(slates_UK: Integers, cluster_V: Integers) -> Integers:
    """Return the number of positions in each slate that repeat a cluster, [U]."""
    clusters_UK = np.where(slates_UK >= 0, cluster_V[slates_UK], -1)
    clusters_UK = np.sort(clusters_UK, axis=1)
    is_repeat = (clusters_UK[:, 1:] == clusters_UK[:, :-1]) & (clusters_UK[:, 1:] >= 0)
    return is_repeat.sum(axis=1)


def same_slates(slates_UK: Integers) -> tuple[Flags, Integers]:
    """Find slates with the same items, in any order; empty slates are ignored.

    Returns:
        [U] whether another slate is equal; the sizes of the groups of equal slates, largest first.
    """
    is_shown_U = (slates_UK >= 0).any(axis=1)
    _, group, counts = np.unique(
        np.sort(slates_UK[is_shown_U], axis=1), axis=0, return_inverse=True, return_counts=True
    )
    is_same_U = np.zeros(len(slates_UK), dtype=np.bool_)
    is_same_U[is_shown_U] = counts[group.reshape(-1)] > 1
    return is_same_U, -np.sort(-counts[counts > 1])


def spread(slates_UK: Integers, traits: ItemTraits) -> tuple[Integers, Floats]:
    """Return the number of distinct categories and the ILD of each slate, [U] each."""
    num_users, k = slates_UK.shape
    categories, distances = np.zeros(num_users, np.int64), np.zeros(num_users)
    for start in range(0, num_users, USERS_AT_ONCE):
        users = slice(start, start + USERS_AT_ONCE)
        slates = torch.from_numpy(slates_UK[users])
        # no metric here uses targets, but a user without one would be left out
        judged = match_slates(slates, slates.new_zeros(len(slates), 1), traits, k=k)
        categories[users] = judged.num_slate_categories_B.numpy()
        distances[users] = ild(judged).numpy()
    return categories, distances


def against_history(
    slates_UK: Integers, histories_UK: Integers, traits: ItemTraits
) -> tuple[Floats, Floats]:
    """Compare each slate with the same number of latest distinct items of the user's history.

    This is the metric `narrowed` (metrics/narrowing.py) and its opposite. Both are padded with -1;
    the distinct items of a history have the latest first.

    Returns:
        [U] 1 where the slate has fewer categories than the history, else 0; [U] 1 where it has
        more, else 0. Both are NaN for users who are not compared.
    """
    num_users, k = slates_UK.shape
    narrowed, broadened = np.full(num_users, np.nan), np.full(num_users, np.nan)
    for start in range(0, num_users, USERS_AT_ONCE):
        users = slice(start, start + USERS_AT_ONCE)
        slates = torch.from_numpy(slates_UK[users])
        latest_first = histories_UK[users, ::-1]
        row, column = np.nonzero(latest_first >= 0)
        history = torch.from_numpy(row), torch.from_numpy(latest_first[row, column])
        judged = match_slates(
            slates, slates.new_zeros(len(slates), 1), traits, k=k, background=Background(*history)
        )
        of_slate, of_history = (each.numpy() for each in breadths(judged))
        is_compared = of_history > 0
        narrowed[users][is_compared] = (of_slate < of_history)[is_compared]
        broadened[users][is_compared] = (of_slate > of_history)[is_compared]
    return narrowed, broadened


def latest_distinct(items: Integers, lengths: Integers, k: int) -> Integers:
    """Return the k latest distinct items of each history, the latest first, padded with -1.

    >>> latest_distinct(np.array([4, 5, 4, 6]), np.array([3, 0, 1]), 2).tolist()
    [[4, 5], [-1, -1], [6, -1]]
    """
    user = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((-np.arange(len(items)), user))  # by user, the latest event first
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
    """A category's share of demand and of exposure, each in [0, 1]."""

    category: int
    demand: float
    exposure: float


def shelves(exposure_V: Integers, demand_V: Integers, categories: Labels) -> list[Shelf]:
    """Return every category with demand or exposure, the most demanded first.

    An item with several categories counts an equal part in each.
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
    """Return categories with exposure below STARVED * demand and demand of WORTH_NAMING or more."""
    return [
        shelf
        for shelf in found
        if shelf.demand >= WORTH_NAMING and shelf.exposure < STARVED * shelf.demand
    ]


@dataclass(frozen=True, eq=False)
class Sameness:
    """Findings about each user, [U] each; the metrics of a segment are means of them.

    Attributes:
        lost_U: slate positions that repeat a near-identical item.
        is_same_U: whether another slate is equal.
        narrowed_U: 1 where the slate has fewer categories than the user's history; NaN = not
            compared.
        broadened_U: 1 where the slate has more categories than the user's history; NaN = not
            compared.
        categories_U: distinct categories of the slate.
        ild_U: ILD of the slate.
        group_sizes: number of slates in each group of equal ones, largest first.
        cluster_V: cluster of each item; see `near_clusters`.
    """

    lost_U: Integers
    is_same_U: Flags
    narrowed_U: Floats
    broadened_U: Floats
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
    """Compute all findings; arguments as in `near_clusters` and `against_history`."""
    cluster_V = near_clusters(vectors_VD, exposure_V)
    is_same_U, sizes = same_slates(slates_UK)
    narrowed_U, broadened_U = against_history(slates_UK, histories_UK, traits)
    categories_U, ild_U = spread(slates_UK, traits)
    return Sameness(
        lost_U=places_lost(slates_UK, cluster_V),
        is_same_U=is_same_U,
        narrowed_U=narrowed_U,
        broadened_U=broadened_U,
        categories_U=categories_U,
        ild_U=ild_U,
        group_sizes=sizes,
        cluster_V=cluster_V,
    )


def describe(found: Sameness, users: Flags) -> dict[str, Any]:
    """Return the metrics of a segment and its verdict.

    `narrowed` and `broadened` are shares of the `num_compared` users who have categories in their
    history; 0 if there are none. `users` marks those of the segment, at least one.
    """
    num_compared = int((~np.isnan(found.narrowed_U[users])).sum())

    def share(values_U: Floats) -> float:
        return float(mean_of_existing(values_U[users])) if num_compared else 0.0

    figures = {
        "num_users": int(users.sum()),
        "num_compared": num_compared,
        "categories": float(found.categories_U[users].mean()),
        "ild": float(found.ild_U[users].mean()),
        "with_doubles": float((found.lost_U[users] > 0).mean()),
        "same_slate": float(found.is_same_U[users].mean()),
        "narrowed": share(found.narrowed_U),
        "broadened": share(found.broadened_U),
    }
    return figures | {"verdict": verdict(figures)}


def verdict(figures: dict[str, Any]) -> str:
    """Return a segment's findings as text; "varied" if there is none.

    >>> verdict({"with_doubles": 0.4, "same_slate": 0.0, "narrowed": 0.5, "broadened": 0.1})
    'near-identical items in 40 % of slates; 50 % see fewer categories than in their own history'
    """
    said: list[str] = []
    if figures["same_slate"] >= MANY:
        said.append(f"{100 * figures['same_slate']:.0f} % of slates are equal to another slate")
    if figures["with_doubles"] >= MANY:
        said.append(f"near-identical items in {100 * figures['with_doubles']:.0f} % of slates")
    if figures["narrowed"] >= figures["broadened"] + MANY:
        share = 100 * figures["narrowed"]
        said.append(f"{share:.0f} % see fewer categories than in their own history")
    return "; ".join(said) or VARIED
