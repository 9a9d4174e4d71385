"""The first screen of a report: four changes with intervals, and typical users in two slates."""

import dataclasses

import pytest

from recdiv_core.fronts.choice import choose
from recdiv_core.report import plots
from recdiv_core.report.first_screen import change_bars, first_screen
from recdiv_core.report.plots import finish
from recdiv_core.report.templates import render
from recdiv_core.search_space import Objective
from tests.test_trials import NDCG, trial

ILD = Objective("val/ild_at_10", "max", reference=0.0)
TEST = {"ndcg": 0.098, "coverage": 0.55, "ild": 0.44, "diversity_index": 0.33, "gini": 0.6}
PLAIN = {"ndcg": 0.100, "coverage": 0.50, "ild": 0.40, "diversity_index": 0.30, "gini": 0.7}


def point(name, values, *, is_plain):
    """Return a trial with the same metrics on both splits."""
    own = {f"{metric}_at_10": value for metric, value in values.items()}
    made = trial(name, values["ndcg"], values["coverage"], is_plain=is_plain)
    return dataclasses.replace(made, val=own, test=own)


@pytest.fixture
def choice():
    some = [point("plain", PLAIN, is_plain=True), point("broad", TEST, is_plain=False)]
    return choose(some, (NDCG, ILD))


def paired(choice, **changes):
    entries = {
        name: {"percent_low": low, "percent_high": high} for name, (low, high) in changes.items()
    }
    return {choice.recommended.run: entries}


def test_the_four_metrics_stand_with_their_change_and_interval(choice):
    bars = change_bars(choice, paired(choice, ild=(8.0, 12.0)))
    assert [bar.metric for bar in bars] == [
        "ndcg_at_10",
        "coverage_at_10",
        "ild_at_10",
        "diversity_index_at_10",
    ]
    assert [bar.change.percent for bar in bars] == pytest.approx([-2, 10, 10, 10])
    assert (bars[2].change.low, bars[2].change.high) == (8.0, 12.0)
    assert bars[0].change.low is None


def test_a_change_is_coloured_only_if_its_interval_leaves_out_0(choice, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "recdiv_core.report.first_screen.finish", lambda plot: drawn.append(plot) or finish(plot)
    )
    changes = {"ndcg": (-3, -1), "coverage": (-1, 20), "ild": (5, 15)}
    first_screen(choice, paired(choice, **changes), None)
    colours = list(drawn[0].data[0].marker.color)
    assert colours == [plots.KNEE, plots.GREY, plots.BETWEEN, plots.GREY]


def test_without_slates_there_are_bars_alone(choice):
    first = first_screen(choice, {}, None)
    assert first["examples"] == []
    page = render("first_screen.html", first=first)
    assert "No interval is known" in page
    assert "typical users" not in page


def test_what_the_shop_lacks_is_said_or_left_out(choice):
    example = {
        "user_id": "1",
        "history": [],
        "changes": "",
        "slates": [],
        "new": (),
        "wanted": (),
        "colours": {},
    }
    first = {**first_screen(choice, {}, None), "examples": [example], "are_derived": True}
    page = " ".join(render("first_screen.html", first=first).split())
    assert "categories (derived from texts)" in page
    assert "of all users with a history; nobody picked" in page
    asking = " ".join(render("first_screen.html", first={**first, "has_queries": True}).split())
    assert "of all users with a history and without a query; nobody picked" in asking


def test_without_another_trial_there_is_no_first_screen():
    assert (
        first_screen(choose([point("plain", PLAIN, is_plain=True)], (NDCG, ILD)), {}, None) is None
    )
    assert first_screen(choose([], (NDCG, ILD)), {}, None) is None


def test_a_nearest_trial_is_not_said_to_be_recommended():
    narrow = point("narrow", TEST | {"ild": 0.2}, is_plain=False)
    choice = choose([point("plain", PLAIN, is_plain=True), narrow], (NDCG, ILD))
    page = render("first_screen.html", first=first_screen(choice, {}, None))
    assert "No trial is recommended. This is the nearest one." in page
