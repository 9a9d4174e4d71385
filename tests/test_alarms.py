"""Alarms over days of a log and over slates (evaluation/alarms.py)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import binom

from recdiv_core.evaluation.alarms import (
    FEWEST_DAYS,
    LIMITS,
    divergence,
    judge_day,
    judge_slates,
    judge_texts,
    tail,
)
from recdiv_core.evaluation.days import LATER, Texts, count_days, count_new_texts, top_share
from recdiv_core.models.text_encoder import load_tokenizer, resolve_encoder
from recdiv_core.shop.generate import click_log, size
from recdiv_core.shop.goods import DAY_MS, catalogue_table, stock
from recdiv_core.shop.shoppers import draw_shoppers

SEED, NUM_EVENTS = 5, 150_000
WEIGHTS = st.lists(st.floats(0, 9), min_size=4, max_size=4).map(np.array)


def count_tokens(titles):
    """Return unknown and all tokens of titles by the default encoder, [2, V]."""
    tokenizer = load_tokenizer(resolve_encoder("all-MiniLM-L6-v2"))
    ids = tokenizer(titles, add_special_tokens=False)["input_ids"]
    unknown = tokenizer.unk_token_id
    return np.array([[own.count(unknown) for own in ids], [len(own) for own in ids]])


class Log:
    """The clicks of the built-in shop."""

    def __init__(self):
        num_users, num_items = size(NUM_EVENTS, seed=SEED)
        goods = stock(num_items, seed=SEED)
        log = click_log(draw_shoppers(np.arange(num_users), seed=SEED), goods).to_pandas()
        log = log[log.event != "impression"]
        items = catalogue_table(goods, seed=SEED).to_pandas()
        self.ids, self.titles = items.item_id.tolist(), items.title.tolist()
        self.day = (log.timestamp // DAY_MS).to_numpy(np.int64)
        self.user = log.user_id.astype("category").cat.codes.to_numpy(np.int64)
        self.item = items.reset_index().set_index("item_id")["index"][log.item_id].to_numpy()
        aisle = items.category.str.split(">").str[0].str.strip().astype("category")
        self.names, self.code = list(aisle.cat.categories), aisle.cat.codes.to_numpy()
        self.parts = np.eye(len(self.names))[self.code]
        self.price = np.log(items.price.astype(float).to_numpy())

    def signals(self, judged, *, keep=None, more=(), price=None, num_days=28):
        """Judge a day; `keep` marks the events that are left, `more` are users and items of it."""
        keep = np.ones(len(self.day), bool) if keep is None else keep
        users, items = (np.array([pair[at] for pair in more], np.int64) for at in range(2))
        days = count_days(
            np.concatenate([self.day[keep], np.full(len(users), judged)]),
            np.concatenate([self.user[keep], users]),
            np.concatenate([self.item[keep], items]),
            self.parts,
            self.price if price is None else price,
            judged,
            num_days,
        )
        return {each.name: each for each in judge_day(days, self.names, self.ids)}


@pytest.fixture(scope="module")
def log():
    return Log()


def fired(signals):
    return {name for name, signal in signals.items() if signal.fired}


def test_thirty_quiet_days_raise_no_alarm(log):
    last = int(log.day.max())
    for day in range(last - 30, last):
        assert not fired(log.signals(day)), day


@pytest.fixture(scope="module")
def tokens(log):
    return count_tokens(log.titles)


def new_texts(log, tokens, judged):
    dates = np.full(len(log.ids), LATER)
    return judge_texts(*count_new_texts(log.day, log.item, dates, tokens, judged, 28))


def test_titles_of_new_items_raise_no_alarm_on_thirty_quiet_days(log, tokens):
    last = int(log.day.max())
    judged = [signal for day in range(last - 30, last) for signal in new_texts(log, tokens, day)]
    assert judged
    assert not any(signal.fired for signal in judged)


def test_new_items_in_a_script_that_the_encoder_does_not_know_are_found(log, tokens):
    day = int(log.day.max()) - 3
    more = Log.__new__(Log)
    more.__dict__ = {**log.__dict__, "ids": [*log.ids, *range(5)]}
    more.day = np.concatenate([log.day, np.full(5, day)])
    more.item = np.concatenate([log.item, len(log.ids) + np.arange(5)])
    lao = count_tokens(
        ["\u0ec0\u0e81\u0eb5\u0e9a \u0e9c\u0ec9\u0eb2 \u0ec3\u0edd\u0ec8 shoes 42"] * 5
    )
    (signal,) = new_texts(more, np.concatenate([tokens, lao], axis=1), day)
    assert signal.fired
    assert "the encoder does not know" in signal.message


def test_the_first_day_on_sale_counts_before_the_first_event():
    day, item = np.array([3, 5, 9]), np.array([0, 1, 2])
    dates = np.array([LATER, 9, LATER])
    tokens = np.array([[0, 12, 3], [10, 12, 6]])
    new, before = count_new_texts(day, item, dates, tokens, 9, 7)
    assert new == Texts(num_items=2, num_unread=2, num_tokens=18, num_unknown=15)
    assert before == Texts(num_items=1, num_unread=0, num_tokens=10, num_unknown=0)


@pytest.mark.parametrize(("number", "is_alarm"), [(0, None), (1, False), (2, False), (3, True)])
def test_one_new_item_that_the_encoder_cannot_read_is_chance(number, is_alarm):
    new = Texts(number, number, 8 * number, 8 * number)
    signals = judge_texts(new, Texts(100, 1, 800, 8))
    assert [each.fired for each in signals] == ([] if is_alarm is None else [is_alarm])


@given(st.integers(0, 9), st.integers(0, 9), st.floats(0, 1))
def test_the_tail_is_that_of_scipy(least, number, rate):
    assert tail(least, number, rate) == pytest.approx(binom.sf(least - 1, number, rate), abs=1e-9)


def test_a_category_that_vanishes_is_named_on_the_same_day(log):
    day = int(log.day.max()) - 3
    is_today = log.day == day
    largest = np.bincount(log.code[log.item[is_today]]).argmax()
    signals = log.signals(day, keep=~(is_today & (log.code[log.item] == largest)))
    assert "gone_categories" in fired(signals)
    assert log.names[largest] in signals["gone_categories"].message


def test_a_flooding_user_is_found_on_the_same_day(log):
    day, rng = int(log.day.max()) - 3, np.random.default_rng(0)
    robot = log.user.max() + 1
    flood = [(robot, item) for item in rng.integers(0, len(log.ids), 150)]
    assert "busiest_user" in fired(log.signals(day, more=flood))


def test_a_day_with_few_events_is_found(log):
    day = int(log.day.max()) - 3
    is_lost = (log.day == day) & (np.arange(len(log.day)) % 8 > 0)
    assert "events" in fired(log.signals(day, keep=~is_lost))


def test_an_item_that_is_gone_is_named(log):
    day = int(log.day.max()) - 3
    usual = [(user, 0) for user in range(40)]
    days = np.concatenate([np.full(40, day - back) for back in range(1, 29)])
    log_with = Log.__new__(Log)
    log_with.__dict__ = dict(log.__dict__)
    log_with.day = np.concatenate([log.day, days])
    log_with.user = np.concatenate([log.user, np.tile([user for user, _ in usual], 28)])
    log_with.item = np.concatenate([log.item, np.zeros(40 * 28, np.int64)])
    keep = ~((log_with.day == day) & (log_with.item == 0))
    signals = log_with.signals(day, keep=keep)
    assert signals["gone_items"].fired
    assert log.ids[0] in signals["gone_items"].message


def test_a_day_of_dear_purchases_is_found(log):
    day = int(log.day.max()) - 3
    dearest = np.argsort(-log.price)[: len(log.ids) // 20]
    rich = [(user, item) for user, item in enumerate(np.repeat(dearest, 200))]
    assert "prices" in fired(log.signals(day, more=rich))


def test_too_few_days_before_are_not_judged(log):
    first = int(log.day.min())
    assert not log.signals(first + FEWEST_DAYS - 1)
    assert log.signals(first + FEWEST_DAYS)


def test_a_limit_is_what_counts_as_an_alarm(log):
    day = int(log.day.max()) - 3
    keep = ~((log.day == day) & (np.arange(len(log.day)) % 8 > 0))
    days = count_days(
        log.day[keep], log.user[keep], log.item[keep], log.parts, log.price, day, num_days=28
    )
    wide = {**LIMITS, "events": 100.0}
    signals = {each.name: each for each in judge_day(days, log.names, log.ids, wide)}
    assert not signals["events"].fired
    assert signals["events"].limit == pytest.approx(100.0)


@given(st.data())
def test_days_are_counted_as_by_hand(data):
    size = data.draw(st.integers(0, 30))
    day, user, item = (
        np.array(data.draw(st.lists(st.integers(0, 4), min_size=size, max_size=size)), np.int64)
        for _ in range(3)
    )
    parts, price = np.eye(2)[[0, 1, 0, 1, 1]], np.array([0.0, 1.0, np.nan, 2.0, 3.0])
    days = count_days(day, user, item, parts, price, 4, 3)
    before = sorted({int(d) for d in day if 1 <= d < 4})
    assert days.events_D.tolist() == [int((day == d).sum()) for d in before]
    for row, d in enumerate(before):
        own = day == d
        assert days.busiest_D[row] == max((user[own] == u).sum() for u in range(5))
        assert days.categories_DG[row].tolist() == parts[item[own]].sum(axis=0).tolist()
    assert days.events == (day == 4).sum()
    assert days.today_V.tolist() == [int(((day == 4) & (item == i)).sum()) for i in range(5)]


@given(WEIGHTS, WEIGHTS)
def test_the_divergence_is_that_of_scipy(p, q):
    if p.sum() and q.sum():
        assert divergence(p, q) == pytest.approx(jensenshannon(p, q, base=2) ** 2, abs=1e-9)
    else:
        assert divergence(p, q) == 0


def test_the_top_share_of_equal_counts_is_theirs():
    assert top_share(np.full(200, 3)) == pytest.approx(0.01)
    assert top_share(np.zeros(3, np.int64)) == 0


USUAL = {"narrowed": 0.3, "same_slates": 0.01, "coverage": 0.6, "top_shown": 0.1}


@pytest.mark.parametrize(
    ("name", "value"),
    [("narrowed", 0.36), ("same_slates", 0.07), ("coverage", 0.53), ("top_shown", 0.16)],
)
def test_slates_that_narrow_raise_the_alarm_that_is_meant(name, value):
    even = np.ones(3)
    signals = judge_slates({**USUAL, name: value}, USUAL, even, even, ["a", "b", "c"])
    assert [each.name for each in signals if each.fired] == [name]
    assert all(each.message for each in signals if each.fired)
    quiet = judge_slates(USUAL, {**USUAL, name: value}, even, even, ["a", "b", "c"])
    assert not any(each.fired for each in quiet)  # slates that broaden are no alarm


def test_slates_with_another_mix_name_the_categories():
    signals = judge_slates(
        USUAL, USUAL, np.array([1.0, 9.0]), np.array([5.0, 5.0]), ["hats", "ties"]
    )
    (moved,) = [each for each in signals if each.fired]
    assert moved.name == "shown_categories"
    assert "ties 90.0% (was 50.0%)" in moved.message
