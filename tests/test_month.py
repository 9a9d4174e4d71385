"""What a month of the closed loop shows (benchmarks/month_metrics.py), without a training."""

from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.month_arm import date_of, read_histories
from benchmarks.month_metrics import (
    Judge,
    first_day_share,
    slopes,
    slopes_between,
    yardstick_shares,
)
from recdiv_core.data.cuts import parse_cut
from recdiv_core.shop.closed_loop import clicks, draw_day, new_items, open_shop, random_slates

DAY, K = 40, 4


@pytest.fixture(scope="module")
def shop():
    return open_shop(30, 150, seed=2)


@pytest.fixture(scope="module")
def judge(shop):
    return Judge(shop, K)


@pytest.fixture(scope="module")
def dataset(shop):
    table = new_items(shop, 0, DAY)
    vectors = torch.nn.functional.one_hot(torch.arange(len(table)) % 7, 7).float()
    catalogue = SimpleNamespace(item_ids=table["item_id"].combine_chunks(), table=table)
    return SimpleNamespace(catalogue=catalogue, text_VH=vectors)


def best_slates(shop, judge, dataset, seen):
    number = np.array([judge.number[each] for each in dataset.catalogue.item_ids.to_pylist()])
    appeal = judge.appeal_UV[:, number].copy()
    ids = shop.goods.item_ids[number]
    for user, items in enumerate(seen):
        appeal[user, np.isin(ids, items)] = -1
    return ids[np.argsort(-appeal, axis=1, kind="stable")[:, :K]].tolist()


def test_the_best_unseen_items_by_the_planted_tastes_have_a_true_ndcg_of_one(shop, judge, dataset):
    empty = [[] for _ in range(30)]
    best = best_slates(shop, judge, dataset, empty)
    found = judge.metrics(DAY, best, empty, dataset, unseen=True)
    assert found["true_ndcg"] == pytest.approx(1)
    worst = [slate[::-1] for slate in best]
    assert judge.metrics(DAY, worst, empty, dataset, unseen=True)["true_ndcg"] < 1
    second = best_slates(shop, judge, dataset, best)
    assert judge.metrics(DAY, second, best, dataset, unseen=True)["true_ndcg"] == pytest.approx(1)
    assert judge.metrics(DAY, second, best, dataset, unseen=False)["true_ndcg"] < 1


def test_new_items_are_those_of_the_last_week(shop, judge, dataset):
    arrival = dict(zip(shop.goods.item_ids.tolist(), shop.arrival_day.tolist(), strict=True))
    on_sale = dataset.catalogue.item_ids.to_pylist()
    young = [each for each in on_sale if arrival[each] > 0 and DAY - arrival[each] < 7]
    old = [each for each in on_sale if each not in young]
    slates = [[young[0], *old[:3]], *([old[:4]] * 29)]
    found = judge.metrics(DAY, slates, [[]] * 30, dataset, unseen=True)
    assert found["new_items"] == pytest.approx(1 / 120)
    assert found["coverage"] == pytest.approx(5 / len(on_sale))


def test_first_places_are_counted_on_the_first_day_alone(shop, judge):
    day = int(shop.arrival_day.max())
    new = shop.goods.item_ids[shop.arrival_day == day].tolist()
    found = judge.first_places(day, [[new[0]], [new[0], "x"]])
    assert found == dict.fromkeys(new, 0) | {new[0]: 2}
    rows = [{"first_places": {"a": 2, "b": 0}}, {"first_places": {}}, {"first_places": {"c": 5}}]
    expected = {"new_items": 3, "on_their_first_day": 2, "median_places": 2}
    assert first_day_share(rows) == expected


def test_requests_of_a_day_have_its_date_so_its_new_items_are_on_sale(shop):
    day = int(shop.arrival_day.max())
    (first,) = new_items(shop, day, day)["available_from"].unique().to_pylist()
    assert parse_cut(date_of(day), "eligible.at") == 1000 * first


def test_an_update_is_compared_with_the_yardstick_on_days_that_have_one():
    def row(ndcg, cpu_s, yardstick=None):
        return {"ndcg_after": ndcg, "true_ndcg_after": ndcg, "cpu_s": cpu_s, "yardstick": yardstick}

    scratch = {"ndcg": 0.5, "true_ndcg": 0.4, "cpu_s": 20.0}
    found = yardstick_shares([row(0.1, 9.0), row(0.4, 2.0, scratch), row(0.5, 3.0, scratch)])
    assert found["update_ndcg_share"] == pytest.approx(0.9)
    assert found["update_true_ndcg_share"] == pytest.approx(0.9 / 0.8)
    assert found["update_cost_share"] == pytest.approx(5 / 40)
    assert yardstick_shares([row(0.1, 9.0)]) == {}


def test_a_shock_that_both_arms_share_is_no_difference():
    shock = np.random.default_rng(0).normal(size=12)
    one = [{"coverage": 0.5 + shock[day]} for day in range(12)]
    two = [{"coverage": 0.5 + shock[day] - 0.01 * day} for day in range(12)]
    assert slopes(two)["coverage"]["direction"] == "steady"
    between = slopes_between(one, two)["coverage"]
    assert between["per_day"] == pytest.approx(0.01)
    assert between["direction"] == "rises"


def test_slates_of_a_day_know_the_days_before_alone(shop, tmp_path):
    for number in (0, 1):
        day = draw_day(shop, number)
        log = clicks(shop, day, random_slates(shop, day, K))
        pq.write_table(log, tmp_path / f"day-{number:03d}.parquet")
    first, both = (read_histories(tmp_path, shop, before) for before in (1, 2))
    assert 0 < sum(map(len, first[0])) < sum(map(len, both[0]))
    assert all(times == sorted(times) for times in both[1])
    assert [own[: len(old)] for own, old in zip(both[0], first[0], strict=True)] == first[0]
