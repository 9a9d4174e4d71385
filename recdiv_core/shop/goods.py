"""The goods of the built-in shop: categories, brands, colours, prices and readable titles.

generate.py simulates the users and writes the log. The one idea: items are numbered in shelf order,
leaf by leaf and colour by colour. So each department, aisle, leaf and (leaf, colour) is one
contiguous range, and one cumulative sum per period suffices to sample from any range. The public
`item_id` is a shuffled number, independent of the shelf order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recdiv_core.shop.words import (
    AISLES,
    BRANDS,
    COLOURS,
    FEATURES,
    LANGUAGES,
    LEAF_AISLE,
    LEAF_PATHS,
    LEAVES,
    NUM_BRANDS,
)

NUM_DAYS: Final = 75
PERIOD_DAYS: Final = 3
NUM_PERIODS: Final = NUM_DAYS // PERIOD_DAYS
"""Number of periods; popularity and availability are constant within a period."""
START_MS: Final = 1_767_225_600_000
"""First moment of the log: 2026-01-01 00:00 UTC, in milliseconds."""
DAY_MS: Final = 86_400_000

ZIPF_EXPONENT: Final = 1.4
DRIFT: Final = 1.3
"""Amplitude of an item's slow wave of popularity, in nats."""
NEW_ITEM_SHARE: Final = 0.12
"""Share of items that arrive after the first day."""
NOVELTY_BOOST: Final = 3.0
"""Factor on a new item's popularity in its first NOVELTY_PERIODS periods."""
NOVELTY_PERIODS: Final = 2
FOREIGN_SHARE: Final = 0.12
"""Share of items with a foreign title."""
NO_IMAGE_SHARE: Final = 0.2
"""Share of items without an image."""


@dataclass(frozen=True)
class Goods:
    """The catalogue as arrays of V items in shelf order; shoppers sample from `cumulative`."""

    item_ids: NDArray[np.str_]
    leaf: NDArray[np.int64]
    colour: NDArray[np.int64]
    brand: NDArray[np.int64]
    """Brand within the department: 0 = cheapest, NUM_BRANDS - 1 = most expensive."""
    price: NDArray[np.float64]
    quality: NDArray[np.float64]
    """Quality in [0, 1]; the rating is 1 + 4 * quality."""
    arrival: NDArray[np.int64]
    """Period in which the item arrives; 0 = on sale from the start."""
    leaf_start: NDArray[np.int64]
    """[leaves + 1] first item of each leaf."""
    cell_start: NDArray[np.int64]
    """[leaves * colours + 1] first item of each (leaf, colour)."""
    cumulative: NDArray[np.float64]
    """[periods, V + 1] cumulative popularity. Row p rises from p to p + 1, so the flat array is
    sorted, and sampling from any range of any period is one search."""

    @property
    def num_items(self) -> int:
        """Number of items on the shelves."""
        return len(self.leaf)


def stock(num_items: int, *, seed: int) -> Goods:
    """Make the items: each leaf gets one item on sale from the start, the rest by Zipf shares.

    `num_items` is at least len(LEAVES); equal seeds give equal goods.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    num_leaves, num_colours = len(LEAVES), len(COLOURS)
    share = rng.permutation(1 / np.arange(1, num_leaves + 1) ** 0.5)
    drawn = rng.choice(num_leaves, num_items - num_leaves, p=share / share.sum())
    leaf = np.concatenate([np.arange(num_leaves), drawn])
    is_first = np.arange(num_items) < num_leaves
    colour = rng.integers(num_colours, size=num_items)
    order = np.lexsort((colour, leaf))
    leaf, colour, is_first = leaf[order], colour[order], is_first[order]

    brand = rng.integers(NUM_BRANDS, size=num_items)
    level = 0.9 * (brand / (NUM_BRANDS - 1) - 0.5)
    median = np.array([leaf.price for leaf in LEAVES], dtype=np.float64)[leaf]
    price = median * np.exp(level + 0.3 * rng.standard_normal(num_items))
    is_new = ~is_first & (rng.random(num_items) < NEW_ITEM_SHARE)
    arrival = np.where(is_new, rng.integers(1, NUM_PERIODS, size=num_items), 0)
    return Goods(
        item_ids=np.char.mod("i%06d", rng.permutation(num_items)),
        leaf=leaf,
        colour=colour,
        brand=brand,
        price=price,
        quality=rng.beta(6, 2, size=num_items),
        arrival=arrival,
        leaf_start=np.searchsorted(leaf, np.arange(num_leaves + 1)),
        cell_start=np.searchsorted(
            leaf * num_colours + colour, np.arange(num_leaves * num_colours + 1)
        ),
        cumulative=_cumulative_popularity(arrival, rng),
    )


def _cumulative_popularity(
    arrival: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return `Goods.cumulative`: Zipf shares times a slow wave, 0 before arrival, boosted after."""
    rank = rng.permutation(len(arrival)) + 1
    phase, speed = rng.random(len(arrival)), rng.uniform(0.3, 0.8, len(arrival))
    age = np.arange(NUM_PERIODS)[:, None] - arrival
    wave = np.sin(2 * np.pi * (phase + speed * np.arange(NUM_PERIODS)[:, None] / NUM_PERIODS))
    popularity = rank**-ZIPF_EXPONENT * np.exp(DRIFT * wave) * (age >= 0)
    popularity[(age < NOVELTY_PERIODS) & (arrival > 0)] *= NOVELTY_BOOST
    total = np.cumsum(popularity, axis=1)
    share = np.concatenate([np.zeros((NUM_PERIODS, 1)), total / total[:, -1:]], axis=1)
    return share + np.arange(NUM_PERIODS)[:, None]


def catalogue_table(goods: Goods, *, seed: int) -> pa.Table:
    """Return the catalogue as a shop would export it, sorted by `item_id`.

    `available_from` is in milliseconds since 1970-01-01 UTC; `image` is null for some items.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    num_items = goods.num_items
    is_foreign = rng.random(num_items) < FOREIGN_SHARE
    material, feature = rng.integers(4, size=num_items), rng.integers(6, size=num_items)
    has_image = rng.random(num_items) >= NO_IMAGE_SHARE
    department = [AISLES[aisle].department for aisle in LEAF_AISLE[goods.leaf]]
    brand = [BRANDS[name][index] for name, index in zip(department, goods.brand, strict=True)]
    titles = [
        (_foreign_title if foreign else _title)(leaf, colour, name, chosen, extra)
        for foreign, leaf, colour, name, chosen, extra in zip(
            is_foreign, goods.leaf, goods.colour, brand, material, feature, strict=True
        )
    ]
    table = pa.table(
        {
            "item_id": pa.array(goods.item_ids),
            "title": titles,
            "category": pa.array(LEAF_PATHS).take(pa.array(goods.leaf)),
            "brand": brand,
            "colour": pa.array(COLOURS).take(pa.array(goods.colour)),
            "price": np.round(goods.price, 2),
            "rating": np.round(1 + 4 * goods.quality, 1),
            "image": [
                f"images/{item_id}.jpg" if present else None
                for item_id, present in zip(goods.item_ids, has_image, strict=True)
            ],
            "available_from": START_MS + goods.arrival * PERIOD_DAYS * DAY_MS,
        }
    )
    return table.sort_by("item_id")


def _title(leaf: int, colour: int, brand: str, material: int, feature: int) -> str:
    materials = AISLES[LEAF_AISLE[leaf]].materials
    return (
        f"{brand} {FEATURES[feature]} {materials[material]} {LEAVES[leaf].noun}, {COLOURS[colour]}"
    )


def _foreign_title(leaf: int, colour: int, brand: str, material: int, feature: int) -> str:
    del material  # English only
    language = LANGUAGES[AISLES[LEAF_AISLE[leaf]].department]
    return language.pattern.format(
        noun=LEAVES[leaf].foreign,
        colour=language.colours[colour],
        brand=brand,
        feature=language.features[feature % len(language.features)],
    )
