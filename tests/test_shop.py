"""The built-in shop behaves like a shop, and its rows depend on the seed alone."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from recdiv_core.data.events import READ
from recdiv_core.models.query_text import words_of
from recdiv_core.schema import CATALOGUE_OPTIONAL, EVENTS
from recdiv_core.shop.generate import click_log, planted_truth, size
from recdiv_core.shop.goods import DAY_MS, NUM_DAYS, START_MS, catalogue_table, stock
from recdiv_core.shop.shoppers import draw_shoppers
from recdiv_core.shop.wordings import leaves_of_queries, query_texts
from recdiv_core.shop.words import AISLES, COLOURS, LANGUAGES, LEAF_PATHS, LEAVES


@dataclass(frozen=True)
class Shop:
    """`log` has its item's columns beside it, and `third`: 0, 1 or 2 of the time."""

    items: pd.DataFrame
    log: pd.DataFrame
    truth: pd.DataFrame

    def of(self, event: str) -> pd.DataFrame:
        return self.log[self.log.event == event]


def make_log(num_events: int, *, seed: int) -> pa.Table:
    num_users, num_items = size(num_events, seed=seed)
    return click_log(draw_shoppers(np.arange(num_users), seed=seed), stock(num_items, seed=seed))


def two_slates_a_third(shop: Shop) -> pd.DataFrame:
    """Return equally many impressions of each user in each third, of users who have them."""
    shown = shop.of("impression")
    is_regular = shown.groupby(["user_id", "third"]).slate_id.transform("nunique") >= 2
    return shown[is_regular].groupby(["third", "user_id"]).head(12)


def first_slates(shop: Shop) -> pd.DataFrame:
    """Return the impressions with which each visit opens."""
    shown = shop.of("impression")
    return shown[shown.slate_id == shown.groupby("session_id").slate_id.transform("first")]


@pytest.fixture(scope="module")
def shop() -> Shop:
    seed, num_events = 3, 40_000
    num_users, num_items = size(num_events, seed=seed)
    goods, shoppers = stock(num_items, seed=seed), draw_shoppers(np.arange(num_users), seed=seed)
    items = catalogue_table(goods, seed=seed).to_pandas().set_index("item_id")
    log = click_log(shoppers, goods).to_pandas().join(items, on="item_id")
    log["third"] = ((log.timestamp - START_MS) * 3 // (NUM_DAYS * DAY_MS)).clip(0, 2)
    return Shop(items, log, planted_truth(shoppers).to_pandas().set_index("user_id"))


def test_rows_do_not_depend_on_how_users_are_cut_into_blocks():
    goods, users = stock(150, seed=1), np.arange(60)

    whole = click_log(draw_shoppers(users, seed=1), goods)
    single = [click_log(draw_shoppers(users[i : i + 1], seed=1), goods) for i in users]
    uneven = [click_log(draw_shoppers(part, seed=1), goods) for part in np.split(users, [1, 8, 41])]

    assert pa.concat_tables(single).equals(whole)
    assert pa.concat_tables(uneven).equals(whole)


def test_seed_decides_the_rows():
    assert make_log(2_000, seed=5).equals(make_log(2_000, seed=5))
    assert not make_log(2_000, seed=5).equals(make_log(2_000, seed=6))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("num_events", [1_000, 10_000])
def test_number_of_rows_is_within_a_tenth_of_the_dial(num_events: int, seed: int):
    assert make_log(num_events, seed=seed).num_rows == pytest.approx(num_events, rel=0.1)


def test_users_and_items_grow_with_the_dial():
    assert size(60_000, seed=0) == (pytest.approx(1_500, rel=0.05), 1_200)
    assert size(10**8, seed=0) == (pytest.approx(2_500_000, rel=0.05), pytest.approx(1e5, rel=0.05))


def test_columns_are_those_of_the_canonical_log_and_catalogue(shop: Shop):
    log, items = make_log(1_000, seed=0), shop.items

    assert set(log.column_names) == {*READ, "slate_id"} - {"rating"}
    assert log.schema.field("timestamp").type == pa.int64()
    assert set(CATALOGUE_OPTIONAL) - set(items.columns) == {"available_until"}
    assert 0.1 < items.image.isna().mean() < 0.3
    assert items.rating.between(1, 5).all()
    assert (items.price > 0).all()


def test_log_names_only_known_items_users_and_events(shop: Shop):
    assert shop.items.index.is_unique
    assert set(shop.log.item_id) <= set(shop.items.index)
    assert set(shop.log.user_id) == set(shop.truth.index)
    assert set(shop.log.event) == set(EVENTS)


def test_positives_are_a_quarter_of_the_rows(shop: Shop):
    assert (shop.log.event != "impression").mean() > 0.25


@pytest.mark.parametrize(("before", "after"), list(pairwise(EVENTS)))
def test_funnel_has_no_event_without_the_one_before(shop: Shop, before: str, after: str):
    key = ["user_id", "session_id", "slate_id", "position", "item_id"]

    joined = shop.of(after).merge(shop.of(before), on=key, how="left", validate="one_to_one")

    assert (joined.timestamp_x > joined.timestamp_y).all()
    assert 0 < len(joined) < 0.6 * len(shop.of(before))


def test_slate_shows_distinct_items_at_consecutive_positions(shop: Shop):
    slates = shop.of("impression").groupby("slate_id")

    assert (slates.item_id.nunique() == slates.size()).all()
    assert (slates.position.min() == 1).all()
    assert (slates.position.max() == slates.size()).all()
    assert (slates.size() == 6).mean() > 0.99


def test_user_lives_in_time_order_one_session_after_another(shop: Shop):
    users = shop.log.groupby("user_id")
    changes = shop.log.session_id != users.session_id.shift()

    assert users.timestamp.is_monotonic_increasing.all()
    assert changes.sum() == shop.log.session_id.nunique()
    assert users.session_id.nunique().mean() > 2


def test_evenings_are_busier_than_nights(shop: Shop):
    hour = (shop.log.timestamp - START_MS) % DAY_MS // (DAY_MS // 24)

    assert hour.between(18, 21).sum() > 5 * hour.between(1, 4).sum()


def test_click_rate_falls_with_the_position_by_the_examination_law(shop: Shop):
    shown = shop.of("impression").position.value_counts().sort_index()
    rate = shop.of("click").position.value_counts().sort_index() / shown

    examined = rate / rate[1] * np.log2(1 + rate.index.to_numpy())

    assert rate.is_monotonic_decreasing
    assert examined.to_numpy() == pytest.approx(1, abs=0.1)
    assert rate[6] < 0.5 * rate[1]


def test_popular_tenth_of_the_items_takes_over_two_fifths_of_the_clicks(shop: Shop):
    clicks = shop.of("click").item_id.value_counts()

    assert clicks.head(len(shop.items) // 10).sum() > 0.4 * clicks.sum()


def test_popularity_drifts(shop: Shop):
    shown = shop.of("impression")
    shown = shown[shown.available_from == START_MS]
    is_even = shown.user_id.str[-1].isin(list("02468"))
    groups = [(shown.third == 0) & is_even, (shown.third == 0) & ~is_even, shown.third == 2]
    one, other, late = (set(shown.item_id[g].value_counts().head(60).index) for g in groups)

    assert len(one & late) < 0.9 * len(one & other)


def test_shop_narrows_what_a_user_is_shown(shop: Shop):
    user = two_slates_a_third(shop).groupby(["third", "user_id"]).category.nunique()

    mean = user.groupby("third").mean()

    assert mean[0] > mean[1] > mean[2]
    assert mean[2] < 0.9 * mean[0]


def test_entropy_of_shown_categories_falls(shop: Shop):
    shown = two_slates_a_third(shop)
    counts = shown.groupby(["third", "user_id", "category"]).size()
    share = counts / counts.groupby(["third", "user_id"]).transform("sum")
    entropy = (-share * np.log(share)).groupby(["third", "user_id"]).sum()

    mean = entropy.groupby("third").mean()

    assert mean[0] > mean[1] > mean[2]
    assert mean[0] - mean[2] > 0.1


def test_visits_open_more_and_more_with_the_leaf_clicked_last(shop: Shop):
    clicks = shop.of("click").drop_duplicates("session_id", keep="last")
    visits = shop.log.drop_duplicates("session_id").set_index("session_id")
    visits["clicked"] = clicks.set_index("session_id").category
    habit = visits.groupby("user_id").clicked.shift().rename("habit")
    shown = first_slates(shop).join(habit, on="session_id").dropna(subset=["habit"])

    mean = (shown.category == shown.habit).groupby(shown.third).mean()

    assert mean[0] < mean[1] < mean[2]
    assert mean[2] > 1.3 * mean[0]


def test_late_slates_leave_out_tastes_that_early_slates_served(shop: Shop):
    broad = shop.truth.tastes[shop.truth.breadth > 1.8]
    shown = first_slates(shop)
    is_regular = shown.groupby(["user_id", "third"]).slate_id.transform("nunique") >= 2
    shown = shown[is_regular].groupby(["third", "user_id"]).head(12)
    shown = shown[shown.user_id.isin(broad.index)].groupby(["third", "user_id"]).category
    served = [
        (third, np.mean([paths.str.startswith(taste).sum() > 1 for taste in broad[user]]))
        for (third, user), paths in shown
    ]

    mean = pd.DataFrame(served).groupby(0)[1].mean()

    assert 0.2 < mean[2] < mean[0]


def test_users_click_their_planted_tastes(shop: Shop):
    tastes, users = shop.truth.tastes, shop.truth.index
    strangers = pd.Series(np.roll(users, 1), index=users)
    clicks = shop.of("click")

    own = [
        path.startswith(tuple(tastes[user]))
        for user, path in zip(clicks.user_id, clicks.category, strict=True)
    ]
    others = [
        path.startswith(tuple(tastes[user]))
        for user, path in zip(strangers[clicks.user_id], clicks.category, strict=True)
    ]

    assert np.mean(own) > 0.5
    assert np.mean(own) > 2 * np.mean(others)


def test_clicks_prefer_the_favourite_colour(shop: Shop):
    favourite = shop.truth.colours[shop.truth.tastes.str.len() == 1].str[0]

    def share(events: pd.DataFrame) -> float:
        events = events[events.user_id.isin(favourite.index)]
        return (events.colour.to_numpy() == favourite[events.user_id].to_numpy()).mean()

    assert share(shop.of("click")) > 1.3 * share(shop.of("impression"))


def test_broad_users_click_more_aisles_than_narrow_users(shop: Shop):
    clicks = shop.of("click").groupby("user_id").head(8)
    aisles = clicks.category.str.rsplit(" > ", n=1).str[0]
    aisles = aisles.groupby(clicks.user_id).nunique()[clicks.groupby("user_id").size() >= 8]
    breadth = shop.truth.breadth[aisles.index]

    assert aisles[breadth > 2.2].mean() > aisles[breadth < 1.5].mean() + 0.4


def test_truth_is_a_distribution_over_tastes(shop: Shop):
    truth = shop.truth
    known = set(LEAF_PATHS) | {f"{aisle.department} > {aisle.name}" for aisle in AISLES}

    assert set(truth.tastes.explode()) <= known
    assert truth.weights.map(sum).to_numpy() == pytest.approx(1)
    assert truth.weights.map(lambda weights: (np.diff(weights) <= 0).all()).all()
    assert truth.breadth.between(1 - 1e-9, 4 + 1e-9).all()
    assert set(truth.tastes.str.len()) == {1, 2, 3, 4}
    assert (truth.tastes.str.len() == truth.colours.str.len()).all()


def test_item_to_item_transitions_beat_popularity_on_a_temporal_cut(shop: Shop):
    clicks = shop.of("click")
    cut = clicks.timestamp.quantile(0.8)
    rows = list(zip(clicks.user_id, clicks.item_id, clicks.category, clicks.timestamp, strict=True))
    steps = [(a, b) for a, b in pairwise(rows) if a[0] == b[0]]
    popular = [i for i, _ in Counter(b[1] for _, b in steps if b[3] < cut).most_common(10)]
    follow: dict[str, Counter[str]] = {}
    for a, b in steps:
        if b[3] < cut:
            follow.setdefault(a[2], Counter())[b[1]] += 1
    likely = {leaf: {i for i, _ in counts.most_common(10)} for leaf, counts in follow.items()}
    late = [(a, b) for a, b in steps if b[3] >= cut]

    hit_sequence = np.mean([b[1] in likely[a[2]] for a, b in late])
    hit_popular = np.mean([b[1] in popular for _, b in late])

    assert hit_sequence > 2.5 * hit_popular
    assert hit_popular > 0.03


def test_query_opens_a_session_and_its_clicks_fit_it(shop: Shop):
    nouns = dict(zip(LEAF_PATHS, (leaf.noun for leaf in LEAVES), strict=True))
    searched = shop.log[shop.log["query"].notna()]
    clicked = searched[searched.event == "click"]
    words = clicked["query"].str.split(" ", n=1)
    coloured = clicked[words.str[0].isin(COLOURS)]

    fits = [
        query.endswith(nouns[leaf])
        for query, leaf in zip(clicked["query"], clicked.category, strict=True)
    ]
    fits_colour = coloured["query"].str.split(" ").str[0] == coloured.colour

    assert 0.1 < searched.session_id.nunique() / shop.log.session_id.nunique() < 0.6
    assert (searched.groupby("session_id").slate_id.nunique() == 1).all()
    assert np.mean(fits) > 0.8
    assert fits_colour.mean() > 0.4


def test_no_event_before_the_item_is_on_sale(shop: Shop):
    is_new = shop.items.available_from > START_MS

    assert (shop.log.timestamp >= shop.log.available_from).all()
    assert 0.07 < is_new.mean() < 0.15
    assert shop.of("click").item_id.isin(shop.items.index[is_new]).mean() > 0.02


def test_temporal_cut_has_cold_items(shop: Shop):
    cut = shop.log.timestamp.quantile(0.8)

    early, late = (
        set(shop.log.item_id[when])
        for when in (shop.log.timestamp < cut, shop.log.timestamp >= cut)
    )

    assert len(late - early) >= 5


def test_categories_have_three_levels(shop: Shop):
    levels = shop.items.category.str.split(" > ", expand=True)

    assert levels.shape[1] == 3
    assert levels[0].nunique() == 6
    assert set(shop.items.category) == set(LEAF_PATHS)


def test_brands_have_their_own_price_level(shop: Shop):
    typical = shop.items.groupby("category").price.transform("median")
    relative = np.log(shop.items.price / typical).groupby(shop.items.brand.str[:3]).mean()

    assert relative["Fae"] - relative["Nor"] > 0.5


def test_some_titles_are_in_other_scripts(shop: Shop):
    titles = shop.items.title
    scripts = {
        "katakana": "[\u30a0-\u30ff]",
        "han": "[\u4e00-\u9fff]",
        "cyrillic": "[\u0400-\u04ff]",
        "arabic": "[\u0600-\u06ff]",
    }

    share = {name: titles.str.contains(letters).mean() for name, letters in scripts.items()}

    assert min(share.values()) > 0.005
    assert 0.06 < (~titles.map(str.isascii)).mean() < 0.2


def test_title_names_the_noun_the_brand_and_the_colour(shop: Shop):
    english = shop.items[shop.items.title.map(str.isascii)].iloc[:50]
    nouns = dict(zip(LEAF_PATHS, (leaf.noun for leaf in LEAVES), strict=True))

    for title, path, brand, colour in zip(
        english.title, english.category, english.brand, english.colour, strict=True
    ):
        assert title.startswith(f"{brand} ")
        assert title.endswith(f" {nouns[path]}, {colour}")


def test_each_language_has_a_word_for_every_colour():
    for language in LANGUAGES.values():
        assert len(language.colours) == len(COLOURS)


def test_colloquial_queries_share_no_word_with_the_catalogue():
    items = catalogue_table(stock(1_200, seed=0), seed=0)
    columns = ("title", "category", "brand", "colour")
    of_items = {
        word for name in columns for text in items[name].to_pylist() for word in words_of(text)
    }
    of_queries = {word for text in query_texts("colloquial") for word in words_of(text)}
    assert not of_items & of_queries


def test_the_words_of_queries_change_their_texts_alone():
    goods, shoppers = stock(150, seed=1), draw_shoppers(np.arange(200), seed=1)
    plain, other = click_log(shoppers, goods), click_log(shoppers, goods, "colloquial")
    assert plain.drop_columns("query").equals(other.drop_columns("query"))
    meant, other_meant = leaves_of_queries("titles"), leaves_of_queries("colloquial")
    pairs = zip(plain["query"].to_pylist(), other["query"].to_pylist(), strict=True)
    asked = {(one, two) for one, two in pairs if one or two}
    assert all(meant[one] <= other_meant[two] for one, two in asked)
    assert len({two for _, two in asked}) > len({one for one, _ in asked})


def test_a_phrase_for_an_aisle_may_mean_each_of_its_leaves():
    aisle = [at for at, path in enumerate(LEAF_PATHS) if path.startswith("Fashion > Shoes")]
    assert leaves_of_queries("colloquial")["navy footwear"] == {*aisle}


def test_the_default_words_give_the_rows_of_earlier_versions():
    log = make_log(5_000, seed=0)
    digest = hashlib.sha256()
    for name in log.column_names:
        digest.update(str(log[name].to_pylist()).encode())
    assert digest.hexdigest()[:16] == "be69d2dbb23abacc"
