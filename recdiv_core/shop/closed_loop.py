"""Days of the built-in shop with slates from outside: what is shown decides what is clicked.

generate.py fills slates by itself; here a recommender fills them, day by day. The one idea: all
random numbers of a day depend on the seed, the day, the user and the item alone. So two
recommenders meet the same visits, and an item that both show at one place is clicked in both or in
neither. Their months differ only by what they show.

Assumptions. A user visits at most once a day, at a rate of their own. A visit has a taste and a
leaf as in generate.py. The user examines the slate from the top, an item at place p with
probability 1 / log2(1 + p), and clicks examined items by their appeal (appeal.py), which no model
changes. Some visits also browse the shelf of the visit's leaf, whose items are sampled by the
shop's own popularity: discovery that no recommender steers. Before the first day of the loop slates
are random, as in Chaney et al. (2018, How algorithmic confounding in recommendation systems
increases homogeneity and decreases utility). New items arrive with their texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recdiv_core.shop.appeal import STRAY, appeal
from recdiv_core.shop.goods import (
    DAY_MS,
    NUM_PERIODS,
    PERIOD_DAYS,
    START_MS,
    Goods,
    catalogue_table,
    stock,
)
from recdiv_core.shop.shoppers import Floats, Ints, Shoppers, draw_shoppers
from recdiv_core.shop.words import LEAVES

PAGE: Final = 6
"""Most items that a user sees when browsing a shelf."""
_COLUMNS: Final = 6


@dataclass(frozen=True)
class OpenShop:
    """A built-in shop that runs day by day.

    `goods` includes items that arrive later. `visits` is the mean number of a user per day;
    `discovery` the share of visits that also browse a shelf, in [0, 1].
    """

    shoppers: Shoppers
    goods: Goods
    seed: int
    visits: float = 0.25
    discovery: float = 0.3

    @property
    def user_ids(self) -> list[str]:
        """Ids of all users."""
        return [f"u{number:07d}" for number in self.shoppers.number]

    @property
    def arrival_day(self) -> Ints:
        """First day on sale of each item, [V]."""
        return self.goods.arrival * PERIOD_DAYS


def open_shop(
    num_users: int, num_items: int, *, seed: int, visits: float = 0.25, discovery: float = 0.3
) -> OpenShop:
    """Return a shop; users and items depend on the seed alone."""
    shoppers = draw_shoppers(np.arange(num_users), seed=seed)
    return OpenShop(shoppers, stock(num_items, seed=seed), seed, visits, discovery)


class Day(NamedTuple):
    """The visits of a day: N users, each with what the visit is for and its random numbers.

    Attributes:
        number: days since the first one.
        users: [N] row of each user.
        taste: [N] taste of each visit.
        leaf: [N] leaf of each visit.
        second: [N] second of the day at which each visit starts.
        browses: [N] whether the user also browses the shelf of the leaf.
        examine: [N, V] uniform random numbers, by place of the slate.
        click: [N, V] uniform random numbers, by item.
        pick: [N, 3 * PAGE] uniform random numbers that choose the items of the shelf.
    """

    number: int
    users: Ints
    taste: Ints
    leaf: Ints
    second: Ints
    browses: NDArray[np.bool_]
    examine: Floats
    click: Floats
    pick: Floats


def draw_day(shop: OpenShop, number: int) -> Day:
    """Draw who visits on a day, and what for."""
    shoppers, num_items = shop.shoppers, shop.goods.num_items
    rng = np.random.default_rng(np.random.SeedSequence(shop.seed, spawn_key=(5, number)))
    num_users = len(shoppers.number)
    chance, which, where, stray, when, browse = rng.random((_COLUMNS, num_users))
    examine, click = rng.random((2, num_users, num_items))
    pick = rng.random((num_users, 3 * PAGE))
    share = shoppers.num_slates / shoppers.num_slates.mean()
    users = np.flatnonzero(chance < shop.visits * share)
    weights = shoppers.weights[users]
    drawn = (which[users, None] >= np.cumsum(weights, axis=1)).sum(axis=1)
    taste = np.minimum(drawn, (weights > 0).sum(axis=1) - 1)
    first = shoppers.taste_first[users, taste]
    wanted = first + where[users] * (shoppers.taste_last[users, taste] - first)
    leaf = np.where(stray[users] < STRAY, where[users] * len(LEAVES), wanted).astype(np.int64)
    return Day(
        number,
        users,
        taste,
        leaf,
        second=(when[users] * (DAY_MS // 1000 - 600)).astype(np.int64),
        browses=browse[users] < shop.discovery,
        examine=examine[users],
        click=click[users],
        pick=pick[users],
    )


def random_slates(shop: OpenShop, day: Day, k: int) -> Ints:
    """Return a slate of items on sale for each visit, all items equally likely, [N, k]."""
    rng = np.random.default_rng(np.random.SeedSequence(shop.seed, spawn_key=(6, day.number)))
    noise = rng.random((len(day.users), shop.goods.num_items)) + (shop.arrival_day > day.number)
    return np.argsort(noise, axis=1)[:, :k]


def browsed(shop: OpenShop, day: Day) -> Ints:
    """Return the shelf that each visit browses, [N, PAGE]; -1 = no item."""
    goods, cumulative = shop.goods, shop.goods.cumulative[_period(day.number)]
    low, high = (cumulative[goods.leaf_start[day.leaf + end]][:, None] for end in (0, 1))
    level = low + day.pick * (high - low)
    item = np.clip(np.searchsorted(cumulative, level, "right") - 1, 0, goods.num_items - 1)
    same = np.tril(item[:, :, None] == item[:, None, :], -1).any(axis=2)
    usable = ~same & (high > low) & day.browses[:, None]
    place = np.cumsum(usable, axis=1) - 1
    row, column = np.nonzero(usable & (place < PAGE))
    shelf = np.full((len(item), PAGE), -1)
    shelf[row, place[row, column]] = item[row, column]
    return shelf


def clicks(shop: OpenShop, day: Day, slates: Ints) -> pa.Table:
    """Return the click log of a day.

    `slates` are [N, K] shown items, best first; -1 = no item.

    Returns:
        Columns `user_id, item_id, timestamp` (milliseconds since 1970-01-01 UTC) and `event`, in
        order of time.
    """
    parts: list[tuple[Ints, Ints, Ints]] = []
    for start_s, items in ((0, slates), (300, browsed(shop, day))):
        base, lean = appeal(shop.shoppers, day.users, day.taste, day.leaf, items, shop.goods)
        width = items.shape[1]
        examined = day.examine[:, :width] < 1 / np.log2(np.arange(width) + 2)
        chance = np.take_along_axis(day.click, np.maximum(items, 0), axis=1)
        row, place = np.nonzero((items >= 0) & examined & (chance < base * lean))
        parts.append((row, items[row, place], day.second[row] + start_s + 10 * place))
    row, item, second = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.lexsort((second, day.users[row]))
    row, item, second = row[order], item[order], second[order]
    return pa.table(
        {
            "user_id": pa.array(shop.user_ids).take(pa.array(day.users[row])),
            "item_id": pa.array(shop.goods.item_ids).take(pa.array(item)),
            "timestamp": START_MS + day.number * DAY_MS + 1000 * second,
            "event": pa.array(["click"] * len(row), pa.string()),
        }
    )


def new_items(shop: OpenShop, first: int, last: int) -> pa.Table:
    """Return the catalogue rows of items whose first day on sale is in [first, last]."""
    table = catalogue_table(shop.goods, seed=shop.seed)
    day = (table["available_from"].to_numpy() - START_MS) // DAY_MS
    return table.filter(pa.array((day >= first) & (day <= last)))


def _period(day: int) -> int:
    return min(day // PERIOD_DAYS, NUM_PERIODS - 1)
