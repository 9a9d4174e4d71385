"""How much an item of the built-in shop appeals to a user: the truth behind every click.

The one idea: the chance that a user clicks an examined item depends on the user's tastes, on what
the visit is for and on the item, and on nothing that the shop shows. So `mean_appeal` judges slates
without any held-out click. generate.py and closed_loop.py simulate clicks with it.

Shapes: N slates, K items of a slate, U users, V items, L leaves, T tastes.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from recdiv_core.shop.goods import Goods
from recdiv_core.shop.shoppers import Floats, Ints, Shoppers
from recdiv_core.shop.words import LEAVES, NEXT_LEAF, NUM_BRANDS, PARTNER_LEAF

LIKES: Final = (0.88, 0.62, 0.45, 0.05)
"""Click probability of an examined item from the visit's leaf, from a leaf that goes with it, from
any taste of the user, and from elsewhere; colour, price and quality scale it."""
STRAY: Final = 0.08
"""Probability that a visit is outside the user's tastes."""


def appeal(
    shoppers: Shoppers, users: Ints, taste: Ints, wanted: Ints, items: Ints, goods: Goods
) -> tuple[Floats, Floats]:
    """Return the click probability of examined items by their leaf, and what scales it.

    `taste`, `wanted` (a leaf) and the row in `users` are [N], one for each visit; `items` are [N,
    K], -1 = none, with any result.

    Returns:
        [N, K] probability by leaf, one of LIKES; [N, K] factor for colour, price and quality.
    """
    leaf, wanted = goods.leaf[items], wanted[:, None]
    goes_with = (leaf == NEXT_LEAF[wanted]) | (leaf == PARTNER_LEAF[wanted])
    first, last = shoppers.taste_first[users], shoppers.taste_last[users]
    liked = ((leaf[:, :, None] >= first[:, None, :]) & (leaf[:, :, None] < last[:, None, :])).any(2)
    base = np.select([leaf == wanted, goes_with, liked], LIKES[:3], LIKES[3])
    return base, _lean(shoppers, users, taste, items, goods)


def _lean(shoppers: Shoppers, users: Ints, taste: Ints, items: Ints, goods: Goods) -> Floats:
    same_colour = goods.colour[items] == shoppers.colour[users, taste][:, None]
    distance = np.abs(goods.brand[items] - shoppers.price_level[users, taste][:, None])
    lean = 0.65 + 0.35 * (1 - distance / (NUM_BRANDS - 1)) + 0.35 * same_colour
    return lean * (0.7 + 0.4 * goods.quality[items])


def mean_appeal(shoppers: Shoppers, goods: Goods) -> Floats:
    """Return the chance of a click on each examined item, the mean over a user's visits.

    A visit has a taste by its weight and one of the taste's leaves; a share STRAY has any leaf.

    Returns:
        [U, V] probabilities.
    """
    num_users, num_leaves = len(shoppers.number), len(LEAVES)
    users, leaves = np.arange(num_users), np.arange(num_leaves)
    same = np.eye(num_leaves)
    along = np.zeros((num_leaves, num_leaves))
    along[leaves, NEXT_LEAF] = along[leaves, PARTNER_LEAF] = 1
    along[leaves, leaves] = 0
    first, last = shoppers.taste_first, shoppers.taste_last
    is_in = (leaves >= first[:, :, None]) & (leaves < last[:, :, None])
    elsewhere = np.where(is_in.any(axis=1), LIKES[2], LIKES[3])
    every = np.broadcast_to(np.arange(goods.num_items), (num_users, goods.num_items))
    found = np.zeros((num_users, goods.num_items))
    for taste in range(first.shape[1]):
        width = np.maximum(1, last[:, taste] - first[:, taste])[:, None]
        chance = STRAY / num_leaves + (1 - STRAY) * is_in[:, taste] / width
        at_home, beside = chance @ same, chance @ along
        base = LIKES[0] * at_home + LIKES[1] * beside + elsewhere * (1 - at_home - beside)
        lean = _lean(shoppers, users, np.full(num_users, taste), every, goods)
        found += shoppers.weights[:, taste, None] * base[:, goods.leaf] * lean
    return np.minimum(found, 1.0)
