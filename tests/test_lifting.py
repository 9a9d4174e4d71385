# ruff: noqa: F401, F811
"""What an item lacks to be shown: against loops, and in the slates of real models."""

import math
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from recdiv_core.config import override
from recdiv_core.errors import UserError
from recdiv_core.items.lifts import lifts_needed, unit_of
from recdiv_core.models.baselines import SCORES, Baseline
from recdiv_core.models.lifts import Lifts
from recdiv_core.rerank import lifts
from recdiv_core.slates.fitting import fit_baseline
from recdiv_core.slates.lifting import fit_lifts, latest_histories
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import score_users, scoring_of
from tests.test_fit import NUM_ITEMS, dataset, histories, metrics, settings

INF = math.inf
ALIKE = ("random", "popular", "recent_popular")
"""Kinds with about the same slate for all users: an item that comes in puts another one out."""


def needed_by_loops(scores_BV, k, least):
    """Return the lift of every item: for each user alone, then the `least`-th smallest."""
    found = []
    for item in range(scores_BV.shape[1]):
        lacks = []
        for row in scores_BV.tolist():
            real = sorted((score for score in row if score > -INF), reverse=True)
            if row[item] > -INF:
                last = real[min(k, len(real)) - 1]
                lacks.append(max(0.0, last - row[item]) if len(real) >= k else 0.0)
        found.append(sorted(lacks)[least - 1] if len(lacks) >= least else INF)
    return found


numbers = st.sampled_from([-INF, 0.0, 0.5, 1.0, 1.5, 2.0, 7.0])
tables = st.integers(1, 6).flatmap(
    lambda width: st.lists(st.lists(numbers, min_size=width, max_size=width), min_size=1)
)


@given(tables, st.integers(1, 4), st.integers(1, 3))
def test_lifts_are_those_of_loops(rows, k, least):
    scores_BV = torch.tensor(rows)
    best = scores_BV.topk(scores_BV.shape[1], dim=1)
    found_V = lifts_needed(best.values, best.indices, scores_BV.shape[1], k=k, least=least)
    assert found_V.tolist() == needed_by_loops(scores_BV, k, least)


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 4))
def test_the_lift_of_an_item_shows_it_to_so_many_users_and_less_does_not(seed, k, least):
    rng = np.random.default_rng(seed)
    scores_BV = torch.from_numpy(rng.normal(size=(12, 20)))
    best = scores_BV.topk(20, dim=1)
    found_V = lifts_needed(best.values, best.indices, 20, k=k, least=least)
    for item in range(20):
        others_BV = scores_BV.clone()
        others_BV[:, item] = -INF
        bar_B = others_BV.topk(k, dim=1).values[:, -1]
        for change, is_enough in ((1e-9, True), (-1e-9, found_V[item] == 0)):
            shown_B = scores_BV[:, item] + found_V[item] + change > bar_B
            assert (shown_B.sum() >= least) == is_enough


def test_an_item_further_down_than_the_candidates_has_no_lift():
    scores, items = torch.tensor([[3.0, 2.0]]), torch.tensor([[4, 0]])
    assert lifts_needed(scores, items, 5, k=1, least=1).tolist() == [1.0, INF, INF, INF, 0.0]


def test_the_unit_is_that_of_a_typical_user():
    scores_BM = torch.arange(300.0, 0.0, -1.0).repeat(3, 1) * torch.tensor([[1.0], [2.0], [9.0]])
    assert unit_of(scores_BM) == 2 * 99
    assert unit_of(torch.full((2, 3), -INF)) == 0
    assert unit_of(torch.ones(2, 3)) == 0


def test_users_are_spread_over_the_split_and_have_all_train_events(dataset, histories):
    whole = list(latest_histories(dataset, 100))
    lengths = [length for examples in whole for length in examples.lengths.tolist()]
    assert sorted(lengths) == sorted(len(own) - 1 for own in histories if len(own) > 1)
    half = list(latest_histories(dataset, 3, most_users=len(lengths) // 2))
    assert max(len(examples.lengths) for examples in half) <= 3
    count = sum(len(examples.lengths) for examples in half)
    assert len(lengths) // 4 <= count < len(lengths)


def fitted(config, dataset) -> Any:
    """Return a baseline of the config with its lifts."""
    baseline = fit_baseline(config, dataset)
    fit_lifts(baseline, dataset, config)
    return baseline


@pytest.mark.parametrize("kind", [kind for kind in SCORES if kind not in ALIKE])
def test_a_lift_shows_more_of_the_catalogue(dataset, kind):
    config = settings(kind)
    baseline = fitted(config, dataset)
    plain = metrics(dataset, kind, baseline=baseline)
    lifted = metrics(dataset, kind, baseline=baseline, **{"rerank.lift": 1.0})
    assert baseline.lifts.unit > 0
    assert lifted[f"coverage_at_{config.eval.k}"] > plain[f"coverage_at_{config.eval.k}"]


def test_the_lifts_of_a_model_are_those_of_its_scores(dataset):
    config = settings("item_knn", **{"eval.filter_seen": True})
    baseline = fitted(config, dataset)
    rows = []
    score = scoring_of(baseline, 0.0)
    for each in score_users(latest_histories(dataset, 100), dataset, score, max_history=50):
        own_BV = each.scores_BV.clone()
        own_BV[each.packed.seen_user_S, each.packed.seen_item_S] = -INF
        rows.append(own_BV)
    scores_BV = torch.cat(rows)
    least = max(1, round(0.5 * len(scores_BV) * config.eval.k / NUM_ITEMS))
    expected = needed_by_loops(scores_BV, config.eval.k, least)
    known = [-1.0 if each == INF else each for each in expected]
    assert baseline.lifts.needed_V.tolist() == pytest.approx(known)


def test_lifts_do_not_depend_on_how_they_are_used(dataset):
    config = settings("item_knn")
    baseline = fitted(config, dataset)
    before = baseline.lifts.needed_V.clone()
    used = {"rerank.lift": 0.5, "rerank.logit_adjustment": 2.0, "rerank.method": "msd"}
    fit_lifts(baseline, dataset, override(config, used))
    assert torch.equal(baseline.lifts.needed_V, before)


def test_items_that_no_slate_may_hold_take_no_place(dataset):
    config = settings("item_knn", **{"rerank.rules": ["exclude i3"]})
    baseline = fitted(config, dataset)
    assert baseline.lifts.needed_V[3] == -1


def test_a_model_without_lifts_is_refused_where_they_are_asked_for(dataset):
    config = settings("item_knn", **{"rerank.lift": 0.4})
    for none in (None, Lifts(NUM_ITEMS)):
        with pytest.raises(UserError, match=r"rerank\.lift=0\.4: the model has no lifts"):
            slate_policy(config, dataset, none)
    assert slate_policy(settings("item_knn"), dataset, None).lowered_V(dataset.log_prior_V) is None


def test_a_checkpoint_of_a_baseline_keeps_its_lifts():
    lifts = Lifts(3)
    lifts.set(torch.tensor([0.0, 2.0, INF]), torch.tensor(4.0))
    state = Baseline("ease", {"weights": torch.ones(1)}, lifts).state()
    back = Baseline.from_state("ease", state, 3)
    assert back.weights == {"weights": torch.ones(1)}
    assert back.lifts is not None
    assert back.lifts.bonus(1.0).tolist() == pytest.approx([0.0, 2.06, 0.0])
    of_an_earlier_version = Baseline.from_state("ease", {"weights": torch.ones(1)}, 3)
    assert of_an_earlier_version.lifts is not None
    assert of_an_earlier_version.lifts.unit == -1


@given(st.integers(0, 10_000), st.integers(1, 5))
def test_no_lifted_item_ties_and_lifted_items_keep_their_order(seed, k):
    rng = np.random.default_rng(seed)
    scores_BV = torch.from_numpy(rng.normal(size=(5, 30)).astype(np.float32))
    best = scores_BV.topk(30, dim=1)
    lifts = Lifts(30)
    lifts.set(lifts_needed(best.values, best.indices, 30, k=k, least=1), unit_of(best.values))
    bonus_V = lifts.bonus(1.0)
    lifted = bonus_V.nonzero()[:, 0]
    assert len(lifted)
    for row in scores_BV:
        reached = row[lifted] + lifts.needed_V[lifted]
        at_the_bar = lifted[(reached - row.topk(k).values[-1]).abs() < 1e-5]
        order = (row + bonus_V)[at_the_bar].argsort()
        assert torch.equal(order, row[at_the_bar].argsort())
        assert ((row + bonus_V)[at_the_bar] > row.topk(k).values[-1] + 1e-3).all()


@given(st.integers(0, 10_000), st.integers(1, 5), st.sampled_from([0.0, 0.3, 1.0]))
def test_lifts_of_arrays_are_those_of_a_model(seed, k, most):
    rng = np.random.default_rng(seed)
    scores_BV = rng.normal(size=(9, 12))
    scores_BV[rng.random(scores_BV.shape) < 0.1] = -INF
    needed = needed_by_loops(torch.from_numpy(scores_BV), k, max(1, round(0.5 * 9 * k / 12)))
    model = Lifts(12).double()
    best = torch.from_numpy(scores_BV).sort(dim=1, descending=True).values
    model.set(torch.tensor(needed, dtype=torch.float64), unit_of(best))
    assert lifts(scores_BV, k, most=most) == pytest.approx(model.bonus(most).numpy())


@pytest.mark.parametrize(
    ("scores", "given", "said"),
    [
        ([1.0, 2.0], {}, r"shape \[2\]; allowed is \[users, items\]"),
        ([[1.0, math.nan]], {}, "NaN or"),
        ([[1.0, INF]], {}, "NaN or"),
        ([[1.0, 2.0]], {"k": 0}, "k is 0"),
        ([[1.0, 2.0]], {"most": 1.5}, "most is 1.5"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(scores, given, said):
    with pytest.raises(ValueError, match=said):
        lifts(scores, **given)
