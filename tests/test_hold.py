"""The re-ranking that holds the diversity of slates from day to day."""

import json
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given

from recdiv_core.config import Config, override
from recdiv_core.slates.checkpoint import Progress, save_checkpoint
from recdiv_core.updating.alarms import alarms
from recdiv_core.updating.day import serving_of
from recdiv_core.updating.hold import Serving, choose_serving, levels_of, reached, ways_of
from recdiv_core.updating.plan import Plan

LEVELS = {"coverage_at_10": 0.5, "ild_at_10": 0.4}


def way(name, ndcg, coverage, ild=0.4):
    return Serving(
        {"rerank.method": name},
        {"ndcg_at_10": ndcg, "coverage_at_10": coverage, "ild_at_10": ild},
        {},
    )


def chosen(*ways, keep=0.9):
    return choose_serving(ways, LEVELS, "ndcg_at_10", keep).settings["rerank.method"]


def test_the_most_accurate_way_that_holds_all_levels_is_chosen():
    ways = way("none", 0.20, 0.45), way("mmr", 0.19, 0.50), way("msd", 0.195, 0.51)
    assert chosen(*ways) == "msd"
    assert chosen(*ways, way("dpp", 0.199, 0.60, ild=0.39)) == "msd"


def test_where_no_way_holds_them_the_nearest_that_is_accurate_enough_is_chosen():
    ways = way("none", 0.20, 0.40), way("mmr", 0.19, 0.45), way("msd", 0.10, 0.49)
    assert chosen(*ways) == "mmr"


def test_without_levels_the_most_accurate_way_is_chosen():
    ways = way("none", 0.20, 0.40), way("mmr", 0.21, 0.30)
    assert choose_serving(ways, {}, "ndcg_at_10").settings == {"rerank.method": "mmr"}


def test_a_candidate_sets_levels_that_it_reaches():
    val = {f"{name}_at_5": 0.3 for name in ("ndcg", "coverage", "ild", "diversity_index")}
    levels = levels_of(val, 5)
    assert set(levels) == {"coverage_at_5", "ild_at_5", "diversity_index_at_5"}
    assert reached(val, levels) == 1.0


def test_a_level_of_zero_is_always_reached():
    assert reached({"ild_at_10": 0.0}, {"ild_at_10": 0.0}) == 1.0


shares = st.floats(0.01, 1)


@given(st.lists(st.tuples(shares, shares, shares), min_size=1, max_size=8), shares)
def test_the_chosen_way_holds_the_levels_or_none_that_is_accurate_enough_does(values, keep):
    ways = [way(str(number), *each) for number, each in enumerate(values)]
    best = choose_serving(ways, LEVELS, "ndcg_at_10", keep)
    least = keep * max(each.val["ndcg_at_10"] for each in ways)
    able = [each for each in ways if each.val["ndcg_at_10"] >= least]
    assert best in able
    holds = any(reached(each.val, LEVELS) >= 1 for each in able)
    assert (reached(best.val, LEVELS) >= 1) is holds


def test_the_ways_of_a_run_are_its_own_and_those_of_its_dials(tmp_path, manifest):
    entry = {"settings": {"rerank.method": "mmr"}, "val": {"ild_at_10": 0.5}, "test": {"f1": 0.1}}
    metrics = {"epoch": 2, "best/val/ild_at_10": 0.4, "test/ild_at_10": 0.3}
    save_checkpoint(
        tmp_path,
        config=Config(),
        manifest=manifest,
        progress=Progress(is_finished=True, metrics=metrics, dials=json.dumps([entry])),
        weights={},
        training={},
    )
    assert ways_of(tmp_path) == [
        Serving({}, {"ild_at_10": 0.4}, {"ild_at_10": 0.3}),
        Serving(entry["settings"], entry["val"], entry["test"]),
    ]


def finished_run(place, manifest, k):
    """Write a run with two entries; the second one is more diverse and a little less accurate."""

    def metrics(ndcg, diverse):
        names = {"coverage": diverse, "ild": diverse, "diversity_index": diverse, "ndcg": ndcg}
        return {f"{name}_at_{k}": value for name, value in names.items()}

    place.mkdir()
    entry = {"settings": {"rerank.method": "mmr"}, "val": metrics(0.198, 0.6), "test": {}}
    own = {f"best/val/{name}": value for name, value in metrics(0.2, 0.5).items()}
    save_checkpoint(
        place,
        config=override(Config(), {"eval.k": k}),
        manifest=manifest,
        progress=Progress(is_finished=True, metrics=own, dials=json.dumps([entry])),
        weights={},
        training={},
    )
    return place


def test_a_candidate_is_served_so_that_it_holds_the_levels_of_its_slate_length(tmp_path, manifest):
    plan = Plan("shop", retrains=False, epochs=1, rate_share=1.0, floors={}, largest_drop=1.0)
    run, updates = finished_run(tmp_path / "run", manifest, 10), tmp_path / "updates"
    updates.mkdir()
    first, held = serving_of(plan, run, updates)
    assert (first.settings, held) == ({}, 1.0)
    levels = dict.fromkeys(("coverage_at_10", "ild_at_10", "diversity_index_at_10"), 0.55)
    (updates / "levels_at_10.json").write_text(json.dumps(levels))
    then, held = serving_of(plan, run, updates)
    assert then.settings == {"rerank.method": "mmr"}
    assert held == pytest.approx(0.6 / 0.55)
    assert serving_of(replace(plan, holds=False), run, updates)[0].settings == {}
    other, held = serving_of(plan, finished_run(tmp_path / "other", manifest, 5), updates)
    assert (other.settings, held) == ({}, 1.0)


@pytest.mark.parametrize(("held", "is_alarm"), [(1.02, False), (0.96, False), (0.9, True)])
def test_a_candidate_far_below_a_level_is_an_alarm(held, is_alarm):
    found = alarms({"before": {}, "gate": [], "held": held}, [], 0.3)
    assert bool(found) is is_alarm
