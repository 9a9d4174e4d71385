"""The built-in shop day by day, with slates from outside (shop/closed_loop.py, shop/appeal.py)."""

import numpy as np
import pytest

from recdiv_core.shop.appeal import appeal, mean_appeal
from recdiv_core.shop.closed_loop import (
    PAGE,
    browsed,
    clicks,
    draw_day,
    new_items,
    open_shop,
    random_slates,
)
from recdiv_core.shop.goods import DAY_MS, START_MS

K = 5


@pytest.fixture(scope="module")
def shop():
    return open_shop(60, 120, seed=1, visits=0.5)


@pytest.fixture(scope="module")
def day(shop):
    return draw_day(shop, 20)


def pairs(log):
    return set(zip(log["user_id"].to_pylist(), log["item_id"].to_pylist(), strict=True))


def test_equal_slates_get_equal_clicks(shop, day):
    slates = random_slates(shop, day, K)
    assert clicks(shop, day, slates).equals(clicks(shop, draw_day(shop, 20), slates))
    assert not clicks(shop, draw_day(shop, 21), random_slates(shop, draw_day(shop, 21), K)).equals(
        clicks(shop, day, slates)
    )


def test_what_is_shown_decides_what_is_clicked(shop, day):
    slates = random_slates(shop, day, K)
    log = pairs(clicks(shop, day, slates))
    shown = {
        (shop.user_ids[user], shop.goods.item_ids[item])
        for user, slate, shelf in zip(day.users, slates, browsed(shop, day), strict=True)
        for item in [*slate, *shelf]
        if item >= 0
    }
    assert log
    assert log <= shown


def test_an_item_at_the_same_place_is_clicked_in_both_loops_or_in_neither(shop, day):
    first = random_slates(shop, day, K)
    other = np.where(np.arange(K) == 0, first, (first + 40) % shop.goods.num_items)
    is_same = {
        (shop.user_ids[user], shop.goods.item_ids[item])
        for user, item in zip(day.users, first[:, 0], strict=True)
    }
    one, two = (pairs(clicks(shop, day, slates)) & is_same for slates in (first, other))
    elsewhere = {
        (shop.user_ids[user], shop.goods.item_ids[item])
        for user, slate in zip(day.users, other[:, 1:], strict=True)
        for item in slate
    }
    assert one - elsewhere == two - elsewhere


def test_a_shelf_holds_distinct_items_of_the_visits_leaf_that_are_on_sale(shop, day):
    shelf = browsed(shop, day)
    assert shelf.shape == (len(day.users), PAGE)
    for row, leaf, browses in zip(shelf, day.leaf, day.browses, strict=True):
        items = row[row >= 0]
        assert len(set(items)) == len(items)
        assert set(shop.goods.leaf[items]) <= {leaf}
        assert (shop.arrival_day[items] <= day.number).all()
        assert browses or not len(items)


def test_random_slates_hold_distinct_items_on_sale(shop, day):
    slates = random_slates(shop, day, K)
    assert all(len(set(slate)) == K for slate in slates.tolist())
    assert (shop.arrival_day[slates] <= day.number).all()


def test_items_are_listed_on_their_first_day(shop):
    early, late = new_items(shop, 0, 20), new_items(shop, 21, 99)
    assert len(early) + len(late) == shop.goods.num_items
    assert (early["available_from"].to_numpy() <= START_MS + 20 * DAY_MS).all()
    assert (late["available_from"].to_numpy() > START_MS + 20 * DAY_MS).all()
    assert len(late) > 0


def test_the_mean_appeal_is_that_of_many_visits(shop):
    often = open_shop(60, 120, seed=1, visits=9.0)
    total, num_visits = np.zeros((60, 120)), np.zeros(60)
    for number in range(400):
        day = draw_day(often, number)
        every = np.broadcast_to(np.arange(120), (len(day.users), 120))
        base, lean = appeal(shop.shoppers, day.users, day.taste, day.leaf, every, shop.goods)
        total[day.users] += np.minimum(base * lean, 1)
        num_visits[day.users] += 1
    found = total / num_visits[:, None]
    assert np.abs(found - mean_appeal(shop.shoppers, shop.goods)).mean() < 0.006
