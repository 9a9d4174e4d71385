"""The built-in shop: a seeded click log, its catalogue and the true tastes of users, of any size.

It serves first steps, tests and load tests; it is no data set for publications. The one idea: a
user's behaviour is a function of uniform random numbers seeded by (seed, user number). So NumPy
simulates a block of users at once, slate by slate, and the rows do not depend on the blocks.
`prepare` calls `generate`.

Behaviour. A user has one to four tastes (an aisle or a leaf, with a favourite colour and price
level). A visit serves one taste, or it is a stray visit. Within a visit the user stays in a leaf or
moves to a leaf that goes with it. The shop fills slates from several sources: the leaf of the visit
or query, neighbours of the last clicked item, popular items, random items, and the leaf clicked
last. The share of the last source, a feedback loop, grows over the days while the share of random
items falls. So the shown items narrow, but the tastes do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from numpy.typing import NDArray
from ray.data import SaveMode
from ray.data.datasource import FilenameProvider

from recdiv_core.schema import EVENTS
from recdiv_core.shop.appeal import STRAY, appeal
from recdiv_core.shop.goods import (
    DAY_MS,
    NUM_DAYS,
    NUM_PERIODS,
    PERIOD_DAYS,
    START_MS,
    Goods,
    catalogue_table,
    stock,
)
from recdiv_core.shop.shoppers import (
    MAX_SLATES,
    SLATE,
    SLATES_PER_USER,
    Draws,
    Shoppers,
    count_slates,
    draw_shoppers,
)
from recdiv_core.shop.wordings import NUM_WORDINGS, Words, choose_wording, query_texts
from recdiv_core.shop.words import (
    AISLE_PATHS,
    COLOURS,
    LEAF_AISLE,
    LEAF_PATHS,
    LEAVES,
    NEXT_LEAF,
    NUM_BRANDS,
    PARTNER_LEAF,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

USERS_PER_BLOCK: Final = 4_000
"""Users that a Ray task simulates at once; they give about 160,000 rows."""

NUM_RESERVES: Final = 6
"""Number of last candidates that are popular or random, in case a leaf has too few items."""
NEW_VISIT: Final = 0.6
"""Probability that a slate starts a new visit."""
QUERY: Final = 0.35
"""Probability that a visit starts with a query."""
QUERY_COLOUR: Final = 0.5
"""Probability that a query names a colour."""
MOVES: Final = (0.55, 0.80, 0.92)
"""Cumulative probabilities to stay in the leaf, move to the next leaf, move to its partner. The
rest returns to the taste."""
COMPANION: Final = 0.22
"""Share of candidates that are neighbours of the last clicked item."""
LOOP: Final = (0.05, 0.50)
"""Share of candidates from the leaf clicked last (feedback loop), on the first and last day."""
STEER: Final = 0.9
"""Probability on the last day that a visit without a query starts in the leaf clicked last instead
of a taste; it grows from 0."""
POPULAR: Final = 0.15
"""Share of candidates sampled by popularity."""
EXPLORE: Final = (0.32, 0.02)
"""Share of candidates sampled uniformly, on the first and last day."""
HOURS: Final = (3, 2, 1, 1, 1, 2, 4, 7, 9, 9, 9, 10, 12, 11, 9, 9, 10, 12, 15, 18, 20, 19, 13, 7)
"""Relative number of visits by hour of the day, UTC."""
CART: Final = 0.4
"""Probability that a click becomes a cart event; colour, price and quality scale it."""
PURCHASE: Final = 0.5
"""Probability that a cart event becomes a purchase."""


@dataclass
class _Minds:
    """State of U users while they browse; -1 = nothing yet."""

    time: Ints
    visit: Ints
    taste: Ints
    leaf: Ints
    """Leaf that the user wants in the next slate."""
    query: Ints
    """leaf * (colours + 1) + colour + 1; colour + 1 is 0 if the query names no colour."""
    wording: Ints
    """Wording of the query, see wordings.py; any number without a query."""
    clicked: Ints
    """Item clicked last in this visit."""
    habit: Ints
    """Leaf clicked last in any visit."""


class _PartNames(FilenameProvider):
    """Name shards by number, so equal shops have equal file names."""

    def get_filename_for_task(self, write_uuid: str, task_index: int) -> str:
        return f"part-{task_index:06d}.parquet"


def generate(
    out: Path, *, num_events: int, seed: int, words: Words = "titles"
) -> tuple[Path, Path]:
    """Write the shop with Ray Data: `out/clicks/`, `out/items/` and `out/truth/`, all Parquet.

    Memory holds only the catalogue. Ray must run. Existing files in `out` are replaced.

    Args:
        out: Absolute path that all nodes see.
        num_events: Approximate number of log rows, within 10 %; see `size`.
        seed: Random seed; equal seeds give equal rows on any cluster.
        words: Words of the queries, see `data.demo_queries`.

    Returns:
        The directories of the click log and of the catalogue.
    """
    ray.data.DataContext.get_current().enable_progress_bars = False
    num_users, num_items = size(num_events, seed=seed)
    goods = stock(num_items, seed=seed)
    (out / "items").mkdir(parents=True, exist_ok=True)
    pq.write_table(catalogue_table(goods, seed=seed), out / "items" / "part-000000.parquet")

    shelves = ray.put(goods)

    def clicks(users: pa.Table) -> pa.Table:
        shoppers = draw_shoppers(users["id"].to_numpy(), seed=seed)
        return click_log(shoppers, ray.get(shelves), words)

    def truth(users: pa.Table) -> pa.Table:
        return planted_truth(draw_shoppers(users["id"].to_numpy(), seed=seed))

    num_blocks = -(-num_users // USERS_PER_BLOCK)
    for name, make in (("clicks", clicks), ("truth", truth)):
        users = ray.data.range(num_users, override_num_blocks=num_blocks)
        users.map_batches(make, batch_size=None, batch_format="pyarrow").write_parquet(
            str(out / name), mode=SaveMode.OVERWRITE, filename_provider=_PartNames()
        )
    return out / "clicks", out / "items"


def size(num_events: int, *, seed: int) -> tuple[int, int]:
    """Return the numbers of users and items for a number of log rows.

    The number of users is proportional to the rows (about 40 rows per user). The number of items
    grows with the power 0.6 of the rows: about 100 at 1,000 rows, 1,200 at 60,000, 10^5 at 10^8.
    """
    num_items = round(1_200 * (num_events / 60_000) ** 0.6)
    # measured: 6 impressions and the events that follow; small catalogues get fewer clicks
    rows_per_slate = 8.7 - 13.5 / num_items**0.5
    target = num_events / rows_per_slate
    most = int(1.1 * target / SLATES_PER_USER) + MAX_SLATES
    total = np.cumsum(count_slates(np.arange(most), seed=seed))
    return int(np.argmin(np.abs(total - target))) + 1, num_items


def click_log(shoppers: Shoppers, goods: Goods, words: Words = "titles") -> pa.Table:
    """Simulate the users; return their events in order of time, one user after another.

    The words of the queries change their texts alone.

    Returns:
        Columns `user_id, item_id, timestamp` (int64, milliseconds since 1970-01-01 UTC), `event,
        query` (null, except in the first slate of a visit with a query), `session_id, slate_id,
        position` (int32, 1 = top).
    """
    num_users = len(shoppers.number)
    nothing = np.full(num_users, -1)
    minds = _Minds(*(nothing.copy() for _ in range(8)))
    first_row = np.cumsum(shoppers.num_slates) - shoppers.num_slates
    start = _visit_times(shoppers)
    parts: list[tuple[NDArray[np.generic], ...]] = []
    for step in range(int(shoppers.num_slates.max())):
        users = np.flatnonzero(shoppers.num_slates > step)
        draws = shoppers.draws.rows(first_row[users] + step)
        _make_up_minds(minds, users, shoppers, draws, start[first_row[users] + step])
        slate = _fill_slates(minds, users, draws, goods)
        happened = _respond(minds, users, shoppers, draws, slate, goods)
        row, place, event = np.nonzero(happened)
        wait = _waits(draws)[row, place, event]
        user = users[row]
        parts.append(
            (
                user,
                slate[row, place],
                minds.time[user] + wait,
                event,
                place + 1,
                first_row[user] + step,
                minds.visit[user],
                _query_number(minds, user),
            )
        )
        _remember(minds, users, happened[:, :, 1], slate, goods)
    columns = [np.concatenate(part) for part in zip(*parts, strict=True)]
    order = np.lexsort((columns[2], columns[0]))
    return _as_table(shoppers, goods, words, first_row, *(column[order] for column in columns))


def planted_truth(shoppers: Shoppers) -> pa.Table:
    """Return the true tastes of users, as opposed to the items that the shop showed.

    Returns:
        Columns `user_id`, `tastes` (category paths, largest weight first), `weights` (sum to 1),
        `colours` and `price_levels` (0 = cheapest, 1 = dearest) of each taste, and `breadth`,
        the effective number of tastes: exp of the entropy of the weights, in [1, MAX_TASTES].
    """
    first, last, weights = shoppers.taste_first, shoppers.taste_last, shoppers.weights
    exists = weights > 0
    offsets = pa.array(np.concatenate([[0], np.cumsum(exists.sum(axis=1))]), pa.int32())
    is_leaf = last - first == 1
    node = np.where(is_leaf, first, len(LEAVES) + LEAF_AISLE[first])[exists]
    entropy = -np.sum(weights * np.log(np.where(exists, weights, 1.0)), axis=1)
    flat = {
        "tastes": pa.array(LEAF_PATHS + AISLE_PATHS).take(pa.array(node)),
        "weights": pa.array(weights[exists]),
        "colours": pa.array(COLOURS).take(pa.array(shoppers.colour[exists])),
        "price_levels": pa.array(shoppers.price_level[exists] / (NUM_BRANDS - 1)),
    }
    lists = {name: pa.ListArray.from_arrays(offsets, values) for name, values in flat.items()}
    return pa.table({"user_id": _user_ids(shoppers.number), **lists, "breadth": np.exp(entropy)})


def _visit_times(shoppers: Shoppers) -> Ints:
    """Return the time at which each slate would start a visit, in ascending order per user."""
    rhythm = np.concatenate([[0], np.cumsum(HOURS)]) / sum(HOURS)
    day = np.floor(shoppers.draws.day * NUM_DAYS)
    hour = np.interp(shoppers.draws.hour, rhythm, np.arange(len(HOURS) + 1))
    time = START_MS + ((day + hour / 24) * DAY_MS).astype(np.int64)
    user = np.repeat(np.arange(len(shoppers.number)), shoppers.num_slates)
    return time[np.lexsort((time, user))]


def _make_up_minds(
    minds: _Minds, users: Ints, shoppers: Shoppers, draws: Draws, start: Ints
) -> None:
    """Start or continue a visit: set time, taste, wanted leaf and query."""
    is_new = (minds.visit[users] < 0) | (draws.visit < NEW_VISIT)
    later = minds.time[users] + np.where(is_new, 45 * 60_000, 0)
    gap = (100_000 + 300_000 * draws.gap).astype(np.int64)
    minds.time[users] = np.where(is_new, np.maximum(start, later), later + gap)
    minds.visit[users] += is_new
    minds.clicked[users[is_new]] = -1

    drawn = (draws.taste[:, None] >= np.cumsum(shoppers.weights[users], axis=1)).sum(axis=1)
    drawn = np.minimum(drawn, (shoppers.weights[users] > 0).sum(axis=1) - 1)
    taste = minds.taste[users] = np.where(is_new, drawn, minds.taste[users])
    first = shoppers.taste_first[users, taste]
    width = shoppers.taste_last[users, taste] - first
    wanted = first + (draws.leaf * width).astype(np.int64)
    stray = (draws.leaf * len(LEAVES)).astype(np.int64)

    current, habit = minds.leaf[users], minds.habit[users]
    move = np.searchsorted(MOVES, draws.move, side="right")
    moved = np.choose(move, [current, NEXT_LEAF[current], PARTNER_LEAF[current], wanted])
    is_search = is_new & (draws.query < QUERY)
    is_steered = ~is_search & (habit >= 0) & (draws.steer < STEER * _ramp(minds.time[users]))
    fresh = np.select([is_steered, draws.stray < STRAY], [habit, stray], wanted)
    leaf = minds.leaf[users] = np.where(is_new, fresh, moved)

    colour = np.where(draws.query_colour < QUERY_COLOUR, shoppers.colour[users, taste] + 1, 0)
    minds.query[users] = np.where(is_search, leaf * (len(COLOURS) + 1) + colour, -1)
    # a search has draws.query < QUERY: over QUERY it is uniform again
    minds.wording[users] = choose_wording(draws.query / QUERY, draws.query_colour / QUERY_COLOUR)


def _query_number(minds: _Minds, users: Ints) -> Ints:
    """Return the place of each user's query in `query_texts`; -1 = no query."""
    query = minds.query[users]
    return np.where(query >= 0, query * NUM_WORDINGS + minds.wording[users], -1)


def _fill_slates(minds: _Minds, users: Ints, draws: Draws, goods: Goods) -> Ints:
    """Return the shown items: [users, SLATE] distinct item numbers, -1 = none left.

    Each candidate has one source, in this order: neighbours of the last clicked item, the leaf
    clicked last (feedback loop), popular items, uniformly sampled items, the visit's leaf or query.
    """
    leaf, query = minds.leaf[users], minds.query[users]
    clicked, habit = minds.clicked[users], minds.habit[users]
    period = _period(minds.time[users])
    ramp = _ramp(minds.time[users])
    guess = np.where(query >= 0, 0.2, 1.0)  # with a query, other sources get smaller shares
    shares = (
        COMPANION * (clicked >= 0),
        (LOOP[0] + (LOOP[1] - LOOP[0]) * ramp) * (habit >= 0) * guess,
        POPULAR * guess,
        (EXPLORE[0] + (EXPLORE[1] - EXPLORE[0]) * ramp) * guess,
    )
    limits = np.cumsum(shares, axis=0).T
    source = (draws.source[:, :, None] >= limits[:, None, :]).sum(axis=2)
    source[:, -NUM_RESERVES:] = 2 + np.arange(NUM_RESERVES) % 2

    first, last = _wanted_range(leaf, query, period, goods)
    from_habit, from_wish = source == 1, source == 4
    low = np.where(from_habit, goods.leaf_start[habit][:, None], 0)
    low = np.where(from_wish, first[:, None], low)
    high = np.where(from_habit, goods.leaf_start[habit + 1][:, None], goods.num_items)
    high = np.where(from_wish, last[:, None], high)
    share_low, share_high = (goods.cumulative[period[:, None], end] for end in (low, high))
    level = share_low + draws.pick * (share_high - share_low)
    found = np.searchsorted(goods.cumulative.ravel(), level, "right") - 1
    item = np.clip(found - period[:, None] * (goods.num_items + 1), 0, goods.num_items - 1)
    item = np.where(source == 0, _beside(clicked, leaf, draws.pick, goods), item)
    item = np.where(source == 3, (draws.pick * goods.num_items).astype(np.int64), item)

    is_sold = goods.arrival[item] <= period[:, None]
    same = np.tril(item[:, :, None] == item[:, None, :], -1).any(axis=2)
    usable = is_sold & ~same & (item != clicked[:, None])
    place = np.cumsum(usable, axis=1) - 1
    row, column = np.nonzero(usable & (place < SLATE))
    slate = np.full((len(users), SLATE), -1)
    slate[row, place[row, column]] = item[row, column]
    order = np.argsort(np.where(slate >= 0, draws.shuffle, 1.0), axis=1)
    return np.take_along_axis(slate, order, axis=1)


def _wanted_range(leaf: Ints, query: Ints, period: Ints, goods: Goods) -> tuple[Ints, Ints]:
    """Return the item range of the leaf, or of its colour if the query names one in stock."""
    colour = query % (len(COLOURS) + 1) - 1
    cell = leaf * len(COLOURS) + np.maximum(colour, 0)
    first, last = goods.cell_start[cell], goods.cell_start[cell + 1]
    in_stock = goods.cumulative[period, last] > goods.cumulative[period, first]
    narrow = (query >= 0) & (colour >= 0) & in_stock
    return (
        np.where(narrow, first, goods.leaf_start[leaf]),
        np.where(narrow, last, goods.leaf_start[leaf + 1]),
    )


def _beside(clicked: Ints, leaf: Ints, pick: Floats, goods: Goods) -> Ints:
    """Return one of the next three items in the leaf after the position of the clicked item."""
    home = goods.leaf[clicked]
    length = np.diff(goods.leaf_start)
    place = (clicked - goods.leaf_start[home]) * length[leaf] // length[home]
    step = 1 + (3 * pick).astype(np.int64)
    return goods.leaf_start[leaf][:, None] + (place[:, None] + step) % length[leaf][:, None]


def _respond(
    minds: _Minds, users: Ints, shoppers: Shoppers, draws: Draws, slate: Ints, goods: Goods
) -> Bools:
    """Return [users, SLATE, EVENTS] bool: whether each event happened to each shown item.

    An item at position p is examined with probability 1 / log2(1 + p).
    """
    base, lean = appeal(shoppers, users, minds.taste[users], minds.leaf[users], slate, goods)
    shown = slate >= 0
    examined = draws.examine < 1 / np.log2(np.arange(SLATE) + 2)
    click = shown & examined & (draws.click < base * lean)
    cart = click & (draws.cart < CART * lean)
    purchase = cart & (draws.purchase < PURCHASE)
    return np.stack([shown, click, cart, purchase], axis=2)


def _waits(draws: Draws) -> Ints:
    """Return [users, SLATE, EVENTS] milliseconds from the slate to each event, below 100 s."""
    click = 4_000 + 8_000 * np.arange(SLATE) + 4_000 * draws.delay
    think = 12_000 + 12_000 * draws.delay
    waits = np.stack([0 * click, click, click + think, click + 2 * think], axis=2)
    return waits.astype(np.int64)


def _remember(minds: _Minds, users: Ints, click: Bools, slate: Ints, goods: Goods) -> None:
    """Store the last click of each user; it sets the leaf of the visit and the feedback loop."""
    row = np.flatnonzero(click.any(axis=1))
    last = SLATE - 1 - np.argmax(click[row, ::-1], axis=1)
    item = slate[row, last]
    minds.clicked[users[row]] = item
    minds.leaf[users[row]] = minds.habit[users[row]] = goods.leaf[item]


def _period(time: Ints) -> Ints:
    return np.minimum((time - START_MS) // (PERIOD_DAYS * DAY_MS), NUM_PERIODS - 1)


def _ramp(time: Ints) -> Floats:
    """Return the elapsed share of the log: 0 on the first day, 1 after the last day."""
    return np.clip((time - START_MS) / (NUM_DAYS * DAY_MS), 0, 1)


def _user_ids(number: Ints) -> pa.Array:
    return pa.array([f"u{user:07d}" for user in number])


def _as_table(
    shoppers: Shoppers,
    goods: Goods,
    words: Words,
    first_row: Ints,
    user: Ints,
    item: Ints,
    time: Ints,
    event: Ints,
    position: Ints,
    slate: Ints,
    visit: Ints,
    query: Ints,
) -> pa.Table:
    """Make the canonical click log from numbers."""
    user_ids = _user_ids(shoppers.number)
    names = user_ids.to_pylist()
    owner = np.repeat(np.arange(len(names)), shoppers.num_slates)
    order = np.arange(len(owner)) - first_row[owner]
    sessions = [f"{name}-{visit}" for name in names for visit in range(MAX_SLATES)]
    slates = [f"{names[user]}-s{number}" for user, number in zip(owner, order, strict=True)]
    return pa.table(
        {
            "user_id": user_ids.take(pa.array(user)),
            "item_id": pa.array(goods.item_ids).take(pa.array(item)),
            "timestamp": time,
            "event": pa.array(EVENTS).take(pa.array(event)),
            "query": pa.array(query_texts(words)).take(pa.array(query, mask=query < 0)),
            "session_id": pa.array(sessions).take(pa.array(user * MAX_SLATES + visit)),
            "slate_id": pa.array(slates).take(pa.array(slate)),
            "position": position.astype(np.int32),
        }
    )
