"""What the slates of a sweep are like: views of real runs, and their small pure parts."""

import dataclasses
import itertools
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.evaluation.groupings import item_groups
from recdiv_core.evaluation.scorecards import finish_split, scorecard_of
from recdiv_core.fronts.choice import choose
from recdiv_core.fronts.reading import read_sweep
from recdiv_core.metrics.exposure import gini
from recdiv_core.metrics.jackknife import UserResults
from recdiv_core.report.slate_examples import (
    TYPICAL,
    WORST,
    choose_users,
    count_changes,
    count_common,
    user_gains,
)
from recdiv_core.report.slate_metrics import Histories, exposure_curve, popularity_bands, segments
from recdiv_core.report.slate_views import choose_runs, view_slates
from recdiv_core.slates.checkpoint import read_config
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.slates.loading import load_model
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import held_out_of_split
from tests.sweep_worlds import NUM_USERS, K
from tests.test_trials import COVERAGE, NDCG, trial

KINDS = ("user", "query", "popularity", "category", "brand")

exposures = st.lists(st.integers(0, 9), min_size=1, max_size=150).map(np.array)


@pytest.fixture(scope="module")
def shop(swept_shop):
    return swept_shop


@pytest.fixture(scope="module")
def front(shop):
    sweep = read_sweep(shop.sweep)
    return choose(sweep.trials, sweep.objectives)


@pytest.fixture(scope="module", autouse=True)
def _few_groups():
    """Estimate from few groups of users: of 132 users the usual number leaves out each alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recdiv_core.metrics.jackknife.NUM_GROUPS", 20)
        yield


def view(shop, front, settings=None, max_scores=None, show_ids=False):
    return view_slates(
        front,
        lambda: shop.sweep.uri,
        settings or {},
        kinds=KINDS,
        max_scores=max_scores,
        show_ids=show_ids,
    )


@pytest.fixture(scope="module")
def views(shop, front):
    return view(shop, front)


def evaluated(shop, name):
    """Return what evaluate reports of a run, in this process."""
    checkpoint = shop.storage / name / "checkpoint_1"
    config = read_config(checkpoint)
    dataset = load_dataset(shop.prepared)
    policy = slate_policy(config, dataset)
    share = held_out_of_split(load_model(config, dataset, checkpoint), dataset, "test", config)
    shown = (held_out.shown(dataset, policy) for held_out in share)
    scorecard = scorecard_of(shown, dataset, k=policy.k, cutoffs=(), kinds=KINDS)
    return finish_split(scorecard, item_groups(KINDS, dataset.catalogue))


# ------------------------------------------------------------------------------- runs of a sweep


def test_the_baseline_the_chosen_and_the_most_diverse_point_are_judged(views):
    assert dict(zip(views.roles, (t.name for t in views.trials), strict=True)) == {
        "w = 0": "plain",
        "chosen point": "bent",
        "most diverse": "wide",
    }


@pytest.mark.parametrize(("place", "name"), [*enumerate(["plain", "bent", "wide"])])
def test_figures_are_those_of_evaluate(shop, views, place, name):
    wanted = evaluated(shop, name)
    for metric, estimate in views.estimates[place].items():
        assert estimate.value == pytest.approx(wanted["metrics"][f"{metric}_at_{K}"])
        assert estimate.low <= estimate.value <= estimate.high


@pytest.mark.parametrize(("place", "name"), [(0, "plain"), (1, "bent")])
def test_slices_are_those_of_evaluate(shop, views, place, name):
    wanted = evaluated(shop, name)
    assert views.slices[place].keys() == wanted["slices"].keys()
    for group, figures in views.slices[place].items():
        assert figures == pytest.approx(wanted["slices"][group])


def test_changes_of_every_run_but_the_first_are_kept_for_the_operating_points(views):
    assert list(views.paired) == [trial.run_id for trial in views.trials[1:]]
    assert list(views.paired.values()) == list(views.differences)


def test_differences_are_against_the_baseline(views):
    for place, against in enumerate(views.differences, start=1):
        ild = against["ild"]
        assert ild["difference"] == pytest.approx(
            views.estimates[place]["ild"].value - views.estimates[0]["ild"].value
        )
        assert ild["low"] <= ild["difference"] <= ild["high"]


def test_bands_hold_every_item_once_and_their_coverage_is_that_of_the_run(views):
    sizes = [band.num_items for band in views.bands]
    for place, shares in enumerate(views.band_coverage):
        shown = sum(share * size for share, size in zip(shares, sizes, strict=True))
        assert shown / sum(sizes) == pytest.approx(views.estimates[place]["coverage"].value)


def test_users_of_examples_are_numbered_unless_their_ids_are_asked_for(views):
    assert [example.user_id for example in views.examples] == [
        str(number) for number in range(1, len(views.examples) + 1)
    ]


def test_examples_are_the_users_of_the_split_with_their_targets(shop, front):
    views = view(shop, front, show_ids=True)
    written = {user["user_id"]: user for user in shop.users}
    assert [example.rule for example in views.examples] == [TYPICAL] * 3 + [WORST]
    for example in views.examples:
        user = written[example.user_id]
        wanted = set(user["targets"]) - set(user["history"])  # eval.filter_seen
        assert example.wanted == wanted
        assert example.num_targets == len(wanted)
        assert [item.index for item in example.history] == user["history"][::-1][:8]
        for slate in example.slates:
            assert len({item.index for item in slate}) == len(slate) == K


def test_examples_have_a_history(views):
    assert all(example.num_history > 0 for example in views.examples)


def test_an_item_without_a_title_is_named_by_its_id(views):
    shown = {
        item.index: item
        for example in views.examples
        for items in (*example.slates, example.history, example.targets)
        for item in items
    }
    assert all(item.title == "i7" for index, item in shown.items() if index == 7)
    assert all(item.brand == "" for index, item in shown.items() if index % 5 == 0)
    assert {item.category for item in shown.values()} >= {"A", "B"}


def test_the_same_slates_give_the_same_views(shop, front, views):
    again = view(shop, front)
    assert again.examples == views.examples
    assert again.segments == views.segments
    assert again.estimates == views.estimates


def test_all_users_of_a_segment_are_those_judged(views):
    by_name = {segment.name: segment.num_users for segment in views.segments}
    assert by_name["all"] == views.num_users <= NUM_USERS
    assert by_name["cold"] + by_name["warm"] == views.num_users
    for metric, estimates in views.segments[0].estimates.items():
        for place, estimate in enumerate(estimates):
            assert estimate.value == pytest.approx(views.estimates[place][metric].value)


@pytest.fixture
def moved(shop):
    """Return the shop with a run moved away, and put it back."""
    aside = shop.storage / "aside"
    aside.mkdir(exist_ok=True)

    def move(name):
        shutil.move(shop.storage / name, aside / name)

    yield move
    for run in aside.glob("*"):
        shutil.move(run, shop.storage / run.name)


def test_a_run_that_is_gone_is_left_out_and_named(shop, front, moved):
    moved("bent")
    views = view(shop, front)
    assert views.roles == ("w = 0", "most diverse")
    assert len(views.examples) > 0
    assert views.notes[0].startswith("chosen point (bent) is left out: ")


def test_a_single_run_is_shown_alone(shop, front, moved):
    moved("bent")
    moved("wide")
    views = view(shop, front)
    assert (views.roles, views.examples, views.changes, views.differences) == (
        ("w = 0",),
        (),
        None,
        (),
    )


def test_without_any_run_it_says_why(shop, front, moved):
    for name in ("plain", "bent", "wide"):
        moved(name)
    with pytest.raises(ValueError, match="there is no directory"):
        view(shop, front)


def test_data_that_are_gone_are_named(shop, front, tmp_path):
    with pytest.raises(ValueError, match=r"data\.prepared=.*none"):
        view(shop, front, {"data.prepared": f"{tmp_path}/none"})


def test_too_many_users_and_items_are_not_judged_unasked(shop, front):
    with pytest.raises(ValueError, match=r"132 users x 60 items.*--slates"):
        view(shop, front, max_scores=132 * 60 - 1)
    assert view(shop, front, max_scores=132 * 60).num_users


def test_an_unknown_slice_is_named(shop, front):
    with pytest.raises(ValueError, match=r"eval\.slices: 'shape'"):
        view_slates(front, lambda: shop.sweep.uri, {}, kinds=("shape",), max_scores=None)


# ------------------------------------------------------------------------------- the choice of runs


def test_without_a_baseline_the_most_accurate_member_stands_for_it():
    some = [trial("a", 0.5, 0.4, is_plain=False), trial("b", 0.3, 0.6)]
    runs = choose_runs(choose(some, (NDCG, COVERAGE)))
    assert list(runs) == ["most accurate", "nearest"]


def test_a_front_of_one_point_has_one_run():
    runs = choose_runs(choose([trial("plain", 0.5, 0.4)], (NDCG, COVERAGE)))
    assert {role: run.name for role, run in runs.items()} == {"w = 0": "plain"}


def test_an_empty_front_has_no_run(shop):
    front = choose([], (NDCG, COVERAGE))
    assert choose_runs(front) == {}
    with pytest.raises(ValueError, match="no front yet"):
        view(shop, front)


# ------------------------------------------------------------------------------- the pure parts


@given(exposures)
def test_twice_the_area_above_the_exposure_curve_is_gini(exposure_V):
    items, shares = exposure_curve(exposure_V)
    expected = gini(torch.from_numpy(exposure_V))
    if exposure_V.sum():
        assert 1 - 2 * np.trapezoid(shares, items) == pytest.approx(expected, abs=1e-9)
        assert shares[-1] == pytest.approx(1.0)
    assert (items[0], items[-1], shares[0]) == (0.0, 1.0, 0.0)


@given(exposures)
def test_an_exposure_curve_bends_upwards(exposure_V):
    items, shares = exposure_curve(exposure_V)
    slopes = np.diff(shares) / np.diff(items)
    assert (np.diff(slopes) >= -1e-9).all()


def test_an_exposure_curve_of_a_large_catalogue_is_thinned():
    exposure_V = np.random.default_rng(0).poisson(3, 5000)
    items, shares = exposure_curve(exposure_V)
    assert len(items) == 201
    area = 1 - 2 * np.trapezoid(shares, items)
    assert area == pytest.approx(gini(torch.from_numpy(exposure_V)), abs=1e-3)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60).map(np.array))
def test_bands_cut_the_warm_items_into_tenths(popularity_V):
    bands, band_V = popularity_bands(popularity_V)
    warm = [band for band in bands if band.name != "cold"]
    assert sum(band.num_items for band in bands) == len(popularity_V)
    assert len(warm) == min(10, int((popularity_V > 0).sum()))
    sizes = [band.num_items for band in warm] or [0]
    assert max(sizes) - min(sizes) <= 1
    for place, band in enumerate(bands):
        events = popularity_V[band_V == place]
        assert len(events) == band.num_items
        assert band.events == (events.min(), events.max())
    for lower, upper in itertools.pairwise(warm):
        assert lower.events[1] <= upper.events[0]


def judged(slates, recall, hit=None, **users):
    values = {"recall": np.array(recall), "hit": np.array(hit or [r > 0 for r in recall])}
    values |= {name: np.array(own, dtype=np.float64) for name, own in users.items()}
    return UserResults(values, np.array(slates), 100)


def test_thirds_by_history_keep_equal_lengths_together():
    count = 120
    rng = np.random.default_rng(1)
    values = {name: rng.random(count) for name in ("ndcg", "ild", "diversity_index")}
    each = UserResults(values, np.zeros((count, 1), np.int64), 3)
    length_U = np.repeat([2, 5, 9], 40)
    is_cold_U = np.arange(count) < 10
    found = {
        s.name: s
        for s in segments([each], Histories(np.zeros((count, 1), np.int64), length_U, is_cold_U))
    }
    assert {name: s.num_users for name, s in found.items()} == {
        "all": 120,
        "warm": 110,
        "to 2": 40,
        "3 to 5": 40,
        "over 5": 40,
    }
    none_U = Histories(np.zeros((count, 1), np.int64), np.repeat([0, 9], 60), is_cold_U)
    assert [s.name for s in segments([each], none_U)] == ["all", "warm", "0", "1 to 9"]
    estimate = found["to 2"].estimates["ild"][0]
    assert estimate.value == pytest.approx(values["ild"][:40].mean())
    assert estimate.low < estimate.value < estimate.high


# ------------------------------------------------------------------------------- examples


@given(st.integers(0, 2**32 - 1))
def test_items_in_common_are_those_of_both_sets(seed):
    rng = np.random.default_rng(seed)

    def slates():
        rows = np.stack([rng.permutation(9)[:5] for _ in range(6)])
        for row, length in zip(rows, rng.integers(0, 6, 6), strict=True):
            row[length:] = -1
        return rows

    before, after = slates(), slates()
    expected = [len(set(a) & set(b) - {-1}) for a, b in zip(before, after, strict=True)]
    assert count_common(before, after).tolist() == expected


BEFORE = judged(
    [[1, 2], [1, 2], [1, 2], [1, 2], [1, 2], [1, 2], [1, 2]], [0.5, 0.5, 0, 0, 0.5, 0, 1]
)
AFTER = judged([[1, 3], [3, 4], [1, 2], [1, 2], [3, 4], [3, 4], [1, 2]], [0.5, 0.5, 0, 0, 0, 1, 1])


def gaining(gains, slates=()):
    """Return two runs whose users gain these values: each metric has the mean 1 before."""
    slates = slates or [list(divmod(user, 50)) for user in range(len(gains))]
    ones = np.ones(len(gains))
    runs = [ones, ones + np.array(gains)]
    return [judged(slates, ones, ndcg=run, ild=run, diversity_index=run) for run in runs]


GAINING = st.lists(st.integers(-50, 50), min_size=1, max_size=230)


@given(GAINING)
def test_as_many_users_gain_less_than_typical_ones_as_more(gains):
    chosen = choose_users(*gaining(gains), np.ones(len(gains), dtype=bool))
    typical = [gains[row] for row, rule in chosen if rule == TYPICAL]
    assert len(typical) == min(3, len(gains))
    assert sum(gain < min(typical) for gain in gains) <= len(gains) / 2
    assert sum(gain > max(typical) for gain in gains) <= len(gains) / 2
    assert len({row for row, _ in chosen}) == len(chosen)


def test_one_of_the_worst_is_the_user_whom_one_in_a_hundred_is_below():
    gains = np.random.default_rng(0).permutation(300)
    chosen = choose_users(*gaining(gains), np.ones(300, dtype=bool))
    assert [(gains[row], rule) for row, rule in chosen] == [
        (148, TYPICAL),
        (149, TYPICAL),
        (150, TYPICAL),
        (3, WORST),
    ]


def test_typical_users_have_slates_of_their_own():
    slates = [[1, 2], [3, 4], [3, 4], [3, 4], [5, 6], [6, 5], [3, 4]]
    chosen = choose_users(*gaining([0, 1, 2, 3, 4, 5, 6], slates), np.ones(7, dtype=bool))
    assert chosen == [(3, TYPICAL), (4, TYPICAL), (5, TYPICAL), (0, WORST)]


def test_equal_slates_are_shown_once():
    chosen = choose_users(*gaining([0, 1, 2], [[1, 2]] * 3), np.ones(3, dtype=bool))
    assert chosen == [(1, TYPICAL), (0, WORST)]


def test_users_without_a_history_are_shown_only_among_themselves():
    before, after = gaining([-9, 5, 0, 1, 2, 3])
    has_history = np.array([False, False, True, True, True, True])
    rows = {row for row, _ in choose_users(before, after, has_history)}
    assert rows == {2, 3, 4}
    assert len(choose_users(before, after, np.zeros(6, dtype=bool))) == 4


def test_a_gain_is_the_mean_of_relative_changes():
    slates = [[1, 2], [1, 2]]
    before = judged(slates, [0, 0], ndcg=[0.1, 0.3], ild=[0.5, 0.5], diversity_index=[0.0, 0.0])
    after = judged(slates, [0, 0], ndcg=[0.1, 0.1], ild=[0.75, 0.5], diversity_index=[0.5, 0.0])
    assert user_gains(before, after) == pytest.approx([(0 + 0.5 + 0.5) / 3, (-1 + 0 + 0) / 3])


def test_changes_are_counted_over_all_users():
    changes = count_changes(BEFORE, AFTER)
    assert dataclasses.asdict(changes) == {
        "num_users": 7,
        "mean_common": pytest.approx((1 + 0 + 2 + 2 + 0 + 0 + 2) / 7),
        "num_fewer": 1,
        "num_more": 1,
    }
