"""Judging trials: fronts small enough to check by eye."""

import re
from dataclasses import replace

import pytest

from recdiv_core.fronts import trials
from recdiv_core.fronts import wording as trials_text
from recdiv_core.fronts.trials import Sweep, Trial
from recdiv_core.search_space import Objective

NDCG = Objective("val/ndcg_at_10", "max", 0.0)
COVERAGE = Objective("val/coverage_at_10", "max", 0.0)
GINI = Objective("val/gini_at_10", "min", 1.0)


def trial(name: str, ndcg: float, coverage: float, **changes) -> Trial:
    figures = {"ndcg_at_10": ndcg, "coverage_at_10": coverage, "gini_at_10": 1 - coverage}
    values = {
        "run_id": name,
        "name": name,
        "status": "FINISHED",
        "params": {},
        "val": figures,
        "test": {key: 0.5 * value for key, value in figures.items()},
        "curves": {},
        "best_epoch": 3,
        "duration_s": 60.0,
        "is_plain": name == "plain",
    }
    return Trial(**(values | changes))


def sweep(*some: Trial, objectives=(NDCG, COVERAGE)) -> Sweep:
    return Sweep("id", "sweep", "shop", "FINISHED", "space", 0, objectives, (), some, {}, {})


def names(some) -> list[str]:
    return [one.name for one in some]


PLAIN, BENT, WIDE, WORSE = (
    trial("plain", 0.50, 0.40),
    trial("bent", 0.48, 0.60),
    trial("wide", 0.30, 0.65),
    trial("worse", 0.45, 0.50),
)


def test_the_front_holds_what_nothing_dominates():
    front = trials.front_of([WORSE, WIDE, PLAIN, BENT], NDCG, COVERAGE)
    assert names(front.members) == ["plain", "bent", "wide"]
    assert front.knee is BENT
    assert front.baseline is PLAIN


def test_hypervolume_is_the_area_below_the_front():
    front = trials.front_of([PLAIN, BENT, WIDE, WORSE], NDCG, COVERAGE)
    area = 0.50 * 0.40 + 0.48 * 0.20 + 0.30 * 0.05
    assert front.hypervolume == pytest.approx(area)
    assert front.test_hypervolume == pytest.approx(area / 4)


def test_an_axis_where_lower_is_better_gives_the_same_front():
    front = trials.front_of([PLAIN, BENT, WIDE, WORSE], NDCG, GINI)
    assert names(front.members) == ["plain", "bent", "wide"]
    assert front.hypervolume == pytest.approx(0.50 * 0.40 + 0.48 * 0.20 + 0.30 * 0.05)
    assert front.attained[0.95] is BENT


def test_a_budget_gives_the_most_diverse_trial_within_it():
    front = trials.front_of([PLAIN, BENT, WIDE, WORSE], NDCG, COVERAGE)
    assert {b: t.name for b, t in front.attained.items()} == {
        0.99: "plain",
        0.95: "bent",
        0.90: "bent",
    }


def test_test_figures_choose_nothing():
    lucky = trial("lucky", 0.40, 0.45, test={"ndcg_at_10": 9.0, "coverage_at_10": 9.0})
    front = trials.front_of([PLAIN, BENT, WIDE, lucky], NDCG, COVERAGE)
    assert lucky in front.points
    assert lucky not in front.members


@pytest.mark.parametrize("status", ["FAILED", "KILLED", "RUNNING"])
def test_a_trial_that_did_not_finish_is_not_on_the_front(status):
    front = trials.front_of([PLAIN, trial("best", 0.9, 0.9, status=status)], NDCG, COVERAGE)
    assert names(front.points) == ["plain"]


def test_without_a_finished_trial_the_front_is_empty():
    front = trials.front_of([trial("early", 0.1, 0.1, val={})], NDCG, COVERAGE)
    assert (front.members, front.knee, front.hypervolume) == ((), None, 0.0)


def test_a_note_says_that_categories_are_derived_from_texts():
    own = replace(sweep(PLAIN), facts={"categories from": "texts"})
    front = trials.front_of([PLAIN], NDCG, COVERAGE)
    assert any("derived from texts" in note for note in trials_text.notes(front, own))
    assert not any("derived" in note for note in trials_text.notes(front, sweep(PLAIN)))


@pytest.mark.parametrize(
    ("num_judged", "said"),
    [
        (60, "Users: val: 55 of 60 users judged, test: 60 of 60 users judged."),
        (30, "Users: val: 55 of 60 users judged, test: 30 of 60 users judged."),
        (29, "Test: only 29 of 60 users judged. .* set eval.filter_seen=false."),
    ],
)
def test_notes_say_of_how_many_users_the_figures_are(num_judged, said):
    val = {**PLAIN.val, "num_judged": 55.0, "num_held_out": 60.0}
    test = {**PLAIN.test, "num_judged": float(num_judged), "num_held_out": 60.0}
    some = (replace(PLAIN, val=val, test=test), BENT, WIDE)
    notes = trials_text.notes(trials.front_of(some, NDCG, COVERAGE), sweep(*some))
    assert any(re.fullmatch(said, note) for note in notes)


def test_of_a_run_that_counted_no_users_nothing_is_said_of_them():
    said = trials_text.notes(trials.front_of([PLAIN, BENT, WIDE], NDCG, COVERAGE), sweep(PLAIN))
    assert not any("users" in note for note in said)


@pytest.mark.parametrize(
    ("some", "said"),
    [
        ((PLAIN, BENT), "Only 2 finished"),
        ((BENT, WIDE, WORSE), "No baseline"),
        ((PLAIN, trial("worse", 0.3, 0.3)), "dominates every other"),
        ((PLAIN, trial("lost", 0.3, 0.3, status="FAILED")), "1 of 2 trials failed"),
        ((PLAIN, trial("blind", 0.4, 0.6, test={})), "no test metrics"),
    ],
)
def test_notes_say_what_weakens_the_front(some, said):
    front = trials.front_of(some, NDCG, COVERAGE)
    assert any(said in note for note in trials_text.notes(front, sweep(*some)))


def test_other_diversity_axes_follow_the_declared_one():
    figures = {"ndcg_at_5": 1.0, "gini_at_5": 1.0, "ild_at_5": 1.0, "coverage_at_5": 1.0}
    ndcg, gini = Objective("val/ndcg_at_5", "max", 0.0), Objective("val/gini_at_5", "min", 1.0)
    pairs = trials.axes(sweep(trial("a", 0, 0, val=figures), objectives=(ndcg, gini)))
    assert [diversity.metric for _, diversity in pairs] == [
        "val/gini_at_5",
        "val/coverage_at_5",
        "val/ild_at_5",
    ]


def test_a_label_says_the_dials():
    params = {"loss.diversity_weight": 0.30000001, "rerank.diversity": 0, "rerank.method": "mmr"}
    assert trial("a", 0, 0, params=params).label == "w=0.3 r=0 method=mmr"
    assert trial("a" * 40, 0, 0).label == "a" * 22 + ".."


@pytest.mark.parametrize(
    ("weight", "mix", "label"),
    [
        (0.1, {"exposure": 1.0}, "exposure w=0.1"),
        (0.1, {"ild": 1.0, "exposure": 3.0}, "ild 1 + exposure 3 w=0.1"),
        (0.0, {"ild": 1.0}, "w=0"),
    ],
)
def test_a_label_names_the_mix_where_it_matters(weight, mix, label):
    params = {"loss.diversity": mix, "loss.diversity_weight": weight}
    assert trial("a", 0, 0, params=params).label == label


def test_a_note_says_when_a_baseline_dominates_the_front():
    strong, weak = trial("a run", 0.49, 0.65), trial("another", 0.01, 0.01)
    front = trials.front_of([PLAIN, BENT, WIDE], NDCG, COVERAGE)
    said = trials_text.notes(front, replace(sweep(), references={"ease": strong, "popular": weak}))
    assert any("baseline ease dominates 2 of the 3 members" in note for note in said)
    assert not any("popular" in note for note in said)


def test_what_breaks_a_constraint_is_listed_but_never_recommended():
    broken = trial("broken", 0.3, 0.9, breaks=("val/ndcg_at_10",))
    kept = [trial("plain", 0.5, 0.1), trial("kept", 0.48, 0.4)]
    front = trials.front_of([*kept, broken], NDCG, COVERAGE)
    assert names(front.points) == ["plain", "kept", "broken"]
    assert names(front.members) == ["plain", "kept"]
    assert front.hypervolume == trials.front_of(kept, NDCG, COVERAGE).hypervolume
    assert "broken" not in names(front.attained.values())


def test_a_front_of_nothing_but_broken_constraints_is_empty():
    front = trials.front_of([trial("broken", 0.3, 0.9, breaks=("val/ndcg_at_10",))], NDCG, COVERAGE)
    assert front.members == ()
    assert front.hypervolume == 0.0


def test_a_note_counts_what_breaks_a_constraint():
    broken = trial("broken", 0.3, 0.9, breaks=("val/ndcg_at_10",))
    some = replace(sweep(trial("kept", 0.5, 0.1), broken), least={"val/ndcg_at_10": 0.49})
    said = " ".join(trials_text.notes(trials.front_of(some.trials, NDCG, COVERAGE), some))
    assert "1 of 2 finished trials break a constraint (val/ndcg_at_10 >= 0.49)" in said


def test_hypervolume_grows_in_the_order_in_which_trials_ended():
    some = [
        trial("third", 0.5, 0.4, ended_ms=30),
        trial("first", 0.5, 0.1, ended_ms=10),
        trial("second", 0.4, 0.2, ended_ms=20),
    ]
    course = trials.hypervolumes(some, (NDCG, COVERAGE))
    assert names(one for one, _ in course) == ["first", "second", "third"]
    assert [volume for _, volume in course] == pytest.approx([0.05, 0.09, 0.2])


def test_the_course_is_of_all_objectives():
    course = trials.hypervolumes([PLAIN], (NDCG, COVERAGE, GINI))
    assert course[0][1] == pytest.approx(0.50 * 0.40 * 0.40)


def test_what_breaks_a_constraint_or_has_no_figures_adds_nothing_to_the_course():
    some = [
        trial("kept", 0.5, 0.1, ended_ms=1),
        trial("broken", 0.3, 0.9, breaks=("val/ndcg_at_10",), ended_ms=2),
        trial("failed", 0.9, 0.9, status="FAILED", ended_ms=3),
        trial("early", 0.9, 0.9, val={}, ended_ms=4),
    ]
    course = trials.hypervolumes(some, (NDCG, COVERAGE))
    assert [(one.name, volume) for one, volume in course] == [("kept", 0.05), ("broken", 0.05)]


def test_the_course_ends_at_the_hypervolume_of_the_front():
    some = [PLAIN, BENT, WIDE, WORSE]
    front = trials.front_of(some, NDCG, COVERAGE)
    assert trials.hypervolumes(some, (NDCG, COVERAGE))[-1][1] == pytest.approx(front.hypervolume)
    assert trials.hypervolumes([], (NDCG, COVERAGE)) == ()
