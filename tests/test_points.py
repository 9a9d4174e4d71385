"""Trials that differ by seed alone, judged as one point."""

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given

from recdiv_core.fronts import trials
from recdiv_core.fronts import wording as trials_text
from recdiv_core.fronts.choice import choose
from recdiv_core.fronts.points import ended_points, points
from recdiv_core.fronts.trials import Sweep, Trial
from tests.test_trials import COVERAGE, NDCG, sweep, trial

BY_HAND = {0: (0.50, 0.40), 1: (0.44, 0.46), 2: (0.47, 0.52)}
"""Seed -> accuracy and coverage."""


def seeded(point: str, seed: int, ndcg: float, coverage: float, **changes) -> Trial:
    more = {"point": point, "params": {"loss.diversity_weight": 0.3, "seed": seed}, **changes}
    return trial(f"{point}-{seed}", ndcg, coverage, **more)


def of_seeds(*some: Trial, **changes) -> Sweep:
    return replace(sweep(*some), **{"seeds": (0, 1, 2), **changes})


def whole(point: str = "a", by: float = 0.0) -> list[Trial]:
    return [seeded(point, s, ndcg - by, coverage + by) for s, (ndcg, coverage) in BY_HAND.items()]


def test_a_point_has_the_means_of_its_seeds():
    (point,) = points(of_seeds(*whole()))
    assert point.val["ndcg_at_10"] == pytest.approx(0.47)
    assert point.val["coverage_at_10"] == pytest.approx(0.46)
    assert point.test["ndcg_at_10"] == pytest.approx(0.235)
    # t of 2 degrees of freedom 4.3027, standard deviations 0.03 and 0.06
    assert point.val_half["ndcg_at_10"] == pytest.approx(4.3027 * 0.03 / 3**0.5, rel=1e-4)
    assert point.test_half["coverage_at_10"] == pytest.approx(4.3027 * 0.03 / 3**0.5, rel=1e-4)
    assert [one.name for one in point.repeats] == ["a-0", "a-1", "a-2"]


def test_the_trial_nearest_to_the_means_is_named():
    near = [seeded("a", 0, 0.5, 0.4), seeded("a", 1, 0.4, 0.5), seeded("a", 2, 0.44, 0.46)]
    (point,) = points(of_seeds(*near))
    assert (point.run_id, point.name, point.seed) == ("a-2", "a-2", 2)


def test_a_trial_that_differs_from_no_other_by_seed_alone_stays_as_it_is():
    alone = [trial("plain", 0.5, 0.4), trial("other", 0.5, 0.4)]
    assert points(sweep(*alone)) == tuple(alone)
    single = seeded("a", 0, 0.5, 0.4)
    assert points(of_seeds(single, seeds=(0,))) == (single,)


def test_a_single_seed_is_not_judged_among_means():
    lone, base = seeded("b", 0, 0.9, 0.9), trial("base", 0.9, 0.9)
    assert [point.point for point in points(of_seeds(base, lone, *whole()))] == ["a"]


def test_the_front_is_of_the_means():
    # the best of one seed is luck: its point is dominated
    lucky = [seeded("b", seed, ndcg, 0.3) for seed, ndcg in enumerate((0.6, 0.1, 0.1))]
    front = trials.front_of(points(of_seeds(*whole(), *lucky)), NDCG, COVERAGE)
    assert [point.point for point in front.members] == ["a"]
    assert front.hypervolume == pytest.approx(0.47 * 0.46)


def test_what_failed_is_left_out_of_the_means():
    first, second, third = whole()
    some = of_seeds(first, replace(second, status="FAILED", val={}), third)
    (point,) = points(some)
    assert point.val["ndcg_at_10"] == pytest.approx((0.50 + 0.47) / 2)
    assert points(of_seeds(replace(first, status="FAILED"))) == ()


def test_a_seed_counts_once():
    again = seeded("a", 0, 0.9, 0.9, run_id="again")
    assert points(of_seeds(*whole(), again)) == points(of_seeds(*whole()))


def test_a_constraint_is_on_the_mean():
    least = {"val/ndcg_at_10": 0.46}
    broken = [replace(one, breaks=("val/ndcg_at_10",)) for one in whole()[1:2]]
    own = [whole()[0], *broken, whole()[2]]
    assert points(of_seeds(*own, least=least))[0].breaks == ()
    assert points(of_seeds(*own, least={"val/ndcg_at_10": 0.48}))[0].breaks == ("val/ndcg_at_10",)


def test_a_label_does_not_say_the_seed():
    (point,) = points(of_seeds(*whole()))
    assert point.label == "w=0.3"


def test_a_point_of_a_running_sweep_counts_once_all_its_seeds_have_ended():
    first, second, third = whole()
    running = of_seeds(first, second, status="RUNNING")
    assert ended_points(running) == ()
    lost = replace(third, status="FAILED", val={})
    (point,) = ended_points(replace(running, trials=(first, second, lost)))
    assert len(point.repeats) == 2
    (whole_one,) = ended_points(replace(running, trials=(first, second, third)))
    assert len(whole_one.repeats) == 3
    assert ended_points(replace(running, status="FINISHED")) == points(running)


FIGURES = st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0))


@given(st.lists(st.lists(FIGURES, min_size=3, max_size=3), max_size=4))
def test_the_course_of_a_running_sweep_never_falls_nor_repeats(figures):
    ended, curve = [], []
    for place, seeds in enumerate(figures):
        for seed, (ndcg, coverage) in enumerate(seeds):
            ended.append(seeded(str(place), seed, ndcg, coverage, ended_ms=len(ended)))
            now = of_seeds(*ended, status="RUNNING")
            steps = [
                volume for _, volume in trials.hypervolumes(ended_points(now), (NDCG, COVERAGE))
            ]
            assert steps[: len(curve)] == curve
            curve = steps
    assert curve == sorted(curve)
    assert len(curve) == len(figures)


def plain_point(more: float = 0.1) -> list[Trial]:
    return [
        seeded("plain", seed, ndcg + more, coverage - 0.2, is_plain=True)
        for seed, (ndcg, coverage) in BY_HAND.items()
    ]


def test_a_change_is_compared_seed_by_seed():
    plain, point = points(of_seeds(*plain_point(), *whole()))
    # each seed lost 0.05 on test: the spread of the seeds cancels
    assert trials.change(point, plain, "ndcg_at_10") == pytest.approx(-0.05 / 0.285)
    assert trials.change_half(point, plain, "ndcg_at_10") == pytest.approx(0.0, abs=1e-9)
    assert point.test_half["ndcg_at_10"] > 0.03


def test_a_change_of_single_trials_has_no_interval():
    plain, other = trial("plain", 0.5, 0.4), trial("other", 0.4, 0.6)
    assert trials.change_half(other, plain, "ndcg_at_10") is None
    (point,) = points(of_seeds(*whole()))
    assert trials.change_half(point, plain, "ndcg_at_10") is None


def test_headline_and_notes_say_that_figures_are_means():
    own = of_seeds(trial("base", 0.3, 0.1), *plain_point(0.02), *whole())
    front = trials.front_of(points(own), NDCG, COVERAGE)
    said = trials_text.headline(choose(points(own), (NDCG, COVERAGE), keep=0.95))
    assert "+76.9 % (\u00b1 0.0) coverage@10 for 4.1 % (\u00b1 0.0) less NDCG@10" in said
    assert "; means over 3 seeds; this trial is the nearest to them." in said
    said = " ".join(trials_text.notes(front, own))
    assert "means over 3 training seeds per point" in said
    assert "Intervals do not cover the training of the shared base model" in said
    assert "One training seed" not in said
