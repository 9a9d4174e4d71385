"""The users of the built-in shop: their true tastes, and the random numbers of their behaviour.

A user is a function of uniform random numbers seeded by (seed, user number), so the tastes of a
user do not depend on who else is drawn. generate.py and closed_loop.py simulate the users.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recdiv_core.shop.words import (
    AISLE_START,
    AISLES,
    COLOURS,
    NUM_BRANDS,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SLATES_PER_USER: Final = 4.7
"""Mean number of slates per user."""
MAX_SLATES: Final = 40
"""Most slates of a user."""
SLATE: Final = 6
"""Items in a slate."""
NUM_CANDIDATES: Final = 18
"""Candidates per slate; the first SLATE distinct ones on sale are shown."""
MAX_TASTES: Final = 4
"""Most tastes of a user."""
NUM_TASTES: Final = (0.25, 0.35, 0.25, 0.15)
"""Shares of users with 1, 2, 3 and 4 tastes."""
_GOLDEN: Final = (5**0.5 - 1) / 2


class Draws(NamedTuple):
    """Uniform random numbers, one row per slate: [rows], or [rows, width] for several items."""

    visit: Floats
    day: Floats
    hour: Floats
    gap: Floats
    taste: Floats
    leaf: Floats
    stray: Floats
    query: Floats
    query_colour: Floats
    move: Floats
    steer: Floats
    source: Floats
    pick: Floats
    shuffle: Floats
    examine: Floats
    click: Floats
    cart: Floats
    purchase: Floats
    delay: Floats

    def rows(self, index: Ints) -> Draws:
        """Return the random numbers of some slates."""
        return Draws(*(draw[index] for draw in self))


_WIDTHS: Final = (*(1,) * 11, *(NUM_CANDIDATES,) * 2, *(SLATE,) * 6)


@dataclass(frozen=True)
class Shoppers:
    """A block of U users: their true tastes, and the random numbers of their behaviour."""

    number: Ints
    num_slates: Ints
    taste_first: Ints
    """[U, MAX_TASTES] first leaf of each taste."""
    taste_last: Ints
    """[U, MAX_TASTES] leaf after the last leaf of each taste; equal to the first = no taste."""
    weights: Floats
    """[U, MAX_TASTES] weights of tastes, largest first; rows sum to 1; 0 = no taste."""
    colour: Ints
    price_level: Ints
    """[U, MAX_TASTES] favourite brand: 0 = cheapest, NUM_BRANDS - 1 = most expensive."""
    draws: Draws
    """One row per slate, one user after another."""


def count_slates(users: Ints, *, seed: int) -> Ints:
    """Return the number of slates of each user: at least 2, with a heavy tail.

    The golden-ratio sequence replaces independent random numbers: any range of users has nearly the
    mean, so the number of rows is close to the target in small shops too.
    """
    offset = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,))).random()
    quantile = (users * _GOLDEN + offset) % 1.0
    return np.minimum(2.7 / np.sqrt(1 - quantile), MAX_SLATES).astype(np.int64)


def draw_shoppers(users: Ints, *, seed: int) -> Shoppers:
    """Draw the tastes of users given by number, and the random numbers of their behaviour."""
    num_slates = count_slates(users, seed=seed)
    head = np.empty((len(users), len(AISLES) + 1 + 5 * MAX_TASTES))
    body = np.empty((num_slates.sum(), sum(_WIDTHS)))
    starts = np.cumsum(num_slates) - num_slates
    for row, (user, start, count) in enumerate(zip(users, starts, num_slates, strict=True)):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3, int(user))))
        rng.random(out=head[row])
        rng.random(out=body[start : start + count])
    columns = np.split(body, np.cumsum(_WIDTHS)[:-1], axis=1)
    draws = Draws(*(draw[:, 0] if draw.shape[1] == 1 else draw for draw in columns))

    chance, count, *grids = np.split(head, len(AISLES) + np.array([0, 1, 5, 9, 13, 17]), axis=1)
    narrow, within, colour, level, weight = grids
    fame = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(4,)))
    share = fame.permutation(1 / np.arange(1, len(AISLES) + 1) ** 0.7)
    # Gumbel's trick: the largest values of log share + noise are a sample without replacement
    aisle = np.argsort(-(np.log(share) - np.log(-np.log(chance))), axis=1)[:, :MAX_TASTES]
    first, last = AISLE_START[aisle], AISLE_START[aisle + 1]
    leaf = first + (within * (last - first)).astype(np.int64)
    is_leaf = narrow < 0.5
    first, last = np.where(is_leaf, leaf, first), np.where(is_leaf, leaf + 1, last)
    num_tastes = np.searchsorted(np.cumsum(NUM_TASTES)[:-1], count) + 1
    exists = np.arange(MAX_TASTES) < num_tastes
    weights = np.where(exists, 0.3 - np.log(weight), 0.0)
    weights = -np.sort(-weights, axis=1)
    return Shoppers(
        number=users,
        num_slates=num_slates,
        taste_first=first,
        taste_last=np.where(exists, last, first),
        weights=weights / weights.sum(axis=1, keepdims=True),
        colour=(colour * len(COLOURS)).astype(np.int64),
        price_level=(level * NUM_BRANDS).astype(np.int64),
        draws=draws,
    )
