"""The choice on all kinds of diversity together: sweeps small enough to check by eye."""

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from recdiv_core.fronts import wording as trials_text
from recdiv_core.fronts.choice import SLACK, check_keep, choose, goal, losses, slack
from recdiv_core.fronts.operating import changed, markdown_table, operating_rows, table_metrics
from recdiv_core.fronts.trials import Trial
from recdiv_core.search_space import Objective
from tests.test_trials import COVERAGE, GINI, NDCG
from tests.test_trials import trial as plain_trial

ILD = Objective("val/ild_at_10", "max", 0.0)
ALL = (NDCG, COVERAGE, ILD)


def trial(name: str, ndcg: float, coverage: float, ild: float, **changes) -> Trial:
    one = plain_trial(name, ndcg, coverage)
    val = {**one.val, "ild_at_10": ild}
    test = {name: 0.5 * value for name, value in val.items()}
    return replace(one, **{"val": val, "test": test, **changes})


PLAIN = trial("plain", 0.500, 0.40, 0.50)
BROAD = trial("broad", 0.490, 0.60, 0.46)  # coverage alone: slates pay
BOTH = trial("both", 0.488, 0.44, 0.55)
MORE = trial("more", 0.476, 0.52, 0.60)
SWEEP = (PLAIN, BROAD, BOTH, MORE)


def test_the_recommended_trial_has_the_most_progress_within_the_budget():
    choice = choose(SWEEP, ALL)
    assert choice.recommended is BOTH  # +10 % on both; broad has -8 % ILD, more keeps 95.2 %
    assert choice.nearest is None
    assert choice.reference is PLAIN
    assert {share: one.name for share, one in choice.operating.items()} == {
        0.97: "both",
        0.95: "more",
        0.90: "more",
    }


def test_a_gain_beyond_its_goal_does_not_make_up_for_another():
    even = trial("even", 0.49, 0.46, 0.55)  # 15 % and 10 %: 0.75 and 1 of the goals
    far = trial("far", 0.49, 0.43, 1.00)  # 7.5 % and 100 %: 0.375 and at most MARGIN
    assert choose([PLAIN, far, even], ALL).recommended is even


def test_a_small_gain_on_one_kind_does_not_outweigh_a_large_loss_on_another():
    wide = trial("wide", 0.49, 0.452, 0.55)
    little_more = trial("little_more", 0.49, 0.454, 0.532)  # by max-min it would be preferred
    assert choose([PLAIN, wide, little_more], ALL).recommended is wide


def test_of_trials_beyond_all_goals_the_most_accurate_one_is_recommended():
    good = trial("good", 0.495, 0.60, 0.70)
    better = trial("better", 0.490, 0.70, 0.90)
    assert choose([PLAIN, better, good], ALL).recommended is good


def test_a_trial_that_narrows_slates_is_recommended_only_if_all_do():
    def narrowing(one, share):
        return replace(one, val={**one.val, "narrowed_at_10": share})

    plain, both = narrowing(PLAIN, 0.40), narrowing(BOTH, 0.42)
    little = narrowing(trial("little", 0.49, 0.41, 0.51), 0.40)
    assert choose([plain, both, little], ALL).recommended is little
    assert choose([plain, both], ALL).recommended is both


def test_the_share_to_keep_is_the_users():
    assert choose(SWEEP, ALL, keep=0.95).recommended is MORE
    assert choose(SWEEP, ALL, keep=0.976).recommended is BOTH  # exactly
    assert choose(SWEEP, ALL, keep=0.99).recommended is None


@pytest.mark.parametrize("keep", [0.0, -1.0, 1.01, float("nan")])
def test_a_share_that_cannot_be_kept_is_refused(keep):
    with pytest.raises(ValueError, match="--keep"):
        check_keep(keep)


def test_a_loss_within_the_noise_is_admissible_and_a_larger_one_is_not():
    near = trial("near", 0.49, 0.60, 0.50 * (1 - 0.9 * SLACK))
    far = trial("far", 0.49, 0.60, 0.50 * (1 - 1.1 * SLACK))
    assert losses(near, PLAIN, ALL[1:]) == []
    assert losses(far, PLAIN, ALL[1:]) == [ILD]
    assert choose([PLAIN, far], ALL).recommended is None
    assert choose([PLAIN, far, near], ALL).recommended is near


def test_an_axis_where_lower_is_better_counts_its_falls():
    assert losses(BROAD, PLAIN, [GINI]) == []
    assert losses(trial("narrow", 0.49, 0.30, 0.5), PLAIN, [GINI]) == [GINI]
    assert choose(SWEEP, (NDCG, GINI, ILD)).recommended is BOTH


def test_with_three_seeds_the_noise_is_the_interval_of_the_difference():
    def point(name: str, ilds: list[float]) -> Trial:
        runs = [
            trial(f"{name}-{seed}", 0.5, 0.4, ild, params={"seed": seed})
            for seed, ild in enumerate(ilds)
        ]
        mean = sum(ilds) / len(ilds)
        return trial(name, 0.5, 0.4, mean, repeats=tuple(runs))

    before = point("plain", [0.50, 0.52, 0.48])
    after = point("after", [0.50, 0.50, 0.47])
    # differences 0, -0.02, -0.01: mean -0.01, half width 4.303 * 0.01 / sqrt(3)
    assert slack(after, before, ILD) == pytest.approx(4.3027 * 0.01 / 3**0.5 / 0.5, rel=1e-4)
    assert losses(after, before, [ILD]) == []
    two = [replace(one, repeats=one.repeats[:2]) for one in (after, before)]
    assert slack(*two, ILD) == SLACK
    assert losses(*two, [ILD]) == [ILD]


def test_coverage_is_asked_for_a_fifth_more_or_half_of_what_is_missing():
    def asked(coverage: float, **counts: float) -> float:
        plain = trial("plain", 0.5, coverage, 0.5)
        return goal(replace(plain, val={**plain.val, **counts}), COVERAGE, 1000 if counts else 0)

    assert asked(0.4) == 0.2
    assert asked(0.9) == pytest.approx(0.5 * 0.1 / 0.9)
    assert asked(0.45, num_judged=50.0) == pytest.approx(0.5 * 0.05 / 0.45)  # most: 50 x 10 / 1000
    assert asked(0.4, num_judged=900.0) == 0.2
    assert asked(1.0) == SLACK
    assert goal(PLAIN, ILD, 0) == 0.1


def test_equal_relative_gains_are_not_equal_progress():
    slates = trial("slates", 0.49, 0.44, 0.60)  # coverage half way, ILD twice the goal
    shop = trial("shop", 0.49, 0.47, 0.54)  # both beyond half way
    assert choose([PLAIN, slates, shop], ALL).recommended is shop


def test_constraints_and_test_metrics_choose_nothing():
    barred = trial("barred", 0.49, 0.60, 0.60, breaks=("val/ndcg_at_10",))
    assert choose([*SWEEP, barred], ALL).recommended is BOTH
    lucky = replace(BROAD, test=dict.fromkeys(BROAD.test, 9.0))
    assert choose([PLAIN, lucky, BOTH], ALL).recommended is BOTH


def test_the_front_and_its_volume_are_of_all_objectives():
    choice = choose([PLAIN, BROAD, BOTH, trial("worse", 0.48, 0.43, 0.5)], ALL)
    assert {one.name for one in choice.front.members} == {"plain", "broad", "both"}
    boxes = [
        [one.val[f"{name}_at_10"] for name in ("ndcg", "coverage", "ild")] for one in SWEEP[:3]
    ]
    assert choice.front.hypervolume == pytest.approx(_inclusion_exclusion(boxes))


def _inclusion_exclusion(boxes: list[list[float]]) -> float:
    total = 0.0
    for subset in range(1, 2 ** len(boxes)):
        some = [box for bit, box in enumerate(boxes) if subset >> bit & 1]
        volume = 1.0
        for axis in zip(*some, strict=True):
            volume *= min(axis)
        total += volume if len(some) % 2 else -volume
    return total


@settings(max_examples=50)
@given(st.lists(st.tuples(*[st.floats(0.3, 0.6)] * 3), min_size=1, max_size=8))
def test_no_other_trial_within_the_budget_has_a_larger_smallest_progress(values):
    some = [PLAIN, *(trial(str(place), *own) for place, own in enumerate(values))]
    choice = choose(some, ALL)

    def gains(one: Trial) -> list[float]:
        return [one.val[n] / PLAIN.val[n] - 1 for n in ("coverage_at_10", "ild_at_10")]

    def floor(one: Trial) -> float:
        coverage, ild = gains(one)
        return min(coverage / 0.2, ild / 0.1)

    able = [one for one in some[1:] if one.val["ndcg_at_10"] >= 0.97 * 0.5 - 1e-12]
    admissible = [one for one in able if min(gains(one)) >= -SLACK]
    if admissible:
        assert floor(choice.recommended) == pytest.approx(max(map(floor, admissible)))
    else:
        assert choice.recommended is None
        if able:
            assert floor(choice.nearest) == pytest.approx(max(map(floor, able)))


# ------------------------------------------------------------------------------------------- words


def test_the_headline_names_every_kind_of_diversity_of_the_same_trial():
    said = trials_text.headline(choose(SWEEP, ALL))
    assert said == (
        "Trial both: +10.0 % coverage@10 and +10.0 % ILD@10 for 2.4 % less NDCG@10 than the plain "
        "model (w = 0), on test."
    )


def test_without_an_admissible_trial_the_nearest_and_the_axis_that_fails_are_named():
    choice = choose([PLAIN, BROAD], ALL)
    assert (choice.recommended, choice.nearest, choice.failing) == (None, BROAD, [ILD])
    assert trials_text.headline(choice) == (
        "No trial that keeps 97 % of the NDCG@10 of the plain model (w = 0) keeps every kind of "
        "diversity. The nearest is broad; it fails on -8.0 % ILD@10, on validation."
    )


def test_without_a_trial_that_keeps_the_accuracy_the_most_accurate_is_named():
    choice = choose([PLAIN, MORE], ALL)
    assert (choice.recommended, choice.nearest) == (None, MORE)
    assert trials_text.headline(choice) == (
        "No trial keeps 97 % of the NDCG@10 of the plain model (w = 0). The nearest is more with "
        "95.2 %, on validation."
    )


def test_without_a_plain_model_the_most_accurate_trial_is_the_reference():
    choice = choose([BROAD, BOTH, MORE], ALL)
    assert (choice.front.baseline, choice.reference) == (None, BROAD)
    said = trials_text.headline(choose([BOTH, MORE], ALL, keep=0.95))
    assert "than the most accurate trial, both, on test" in said


def test_the_table_holds_all_metrics_of_one_trial_with_their_changes():
    choice = choose(SWEEP, ALL)
    paired = {"both": {"ild": {"percent_low": 8.0, "percent_high": 12.0}}}
    rows = operating_rows(choice, paired)
    assert [(row.keeps, row.trial.name) for row in rows] == [
        (None, "plain"),
        (0.97, "both"),
        (0.95, "more"),
        (0.9, "more"),
    ]
    assert rows[1].metrics["ild_at_10"].note == "+10.0 % [+8.0, +12.0]"
    assert rows[1].metrics["ndcg_at_10"].note == "-2.4 %"
    assert rows[0].metrics["ild_at_10"].note == ""
    assert table_metrics(choice)[:4] == [
        "ndcg_at_10",
        "coverage_at_10",
        "ild_at_10",
        "diversity_index_at_10",
    ]
    lines = markdown_table(choice, paired).splitlines()
    assert lines[0].startswith("| NDCG@10 kept | trial | NDCG@10 | coverage@10 | ILD@10 |")
    assert lines[3].startswith("| 97 % (recommended) | both | 0.244 (-2.4 %) | 0.22 (+10.0 %) |")
    assert len(lines) == 6


def test_a_name_cannot_break_the_table():
    barred = replace(BOTH, name="a|b")
    assert r"| a\|b |" in markdown_table(choose([PLAIN, barred], ALL))


def test_intervals_over_seeds_come_before_those_over_users():
    runs = [trial(f"a-{s}", 0.5, 0.4, ild, params={"seed": s}) for s, ild in ((0, 0.5), (1, 0.52))]
    after = replace(runs[0], run_id="x", repeats=tuple(runs))
    before = replace(
        PLAIN, repeats=(replace(runs[0], run_id="p"), replace(runs[0], params={"seed": 1}))
    )
    paired = {"x": {"ild": {"percent_low": 1.0, "percent_high": 2.0}}}
    found = changed(after, before, "ild_at_10", paired)
    assert found.low != 1.0
    assert changed(after, PLAIN, "ild_at_10", paired).low == 1.0


def test_a_sweep_without_trials_has_nothing_to_choose():
    choice = choose([], ALL)
    assert (choice.reference, choice.recommended, choice.nearest) == (None, None, None)
    assert operating_rows(choice) == []
    assert len(markdown_table(choice).splitlines()) == 2
    assert "No trial has finished" in trials_text.headline(choice)
    alone = choose([PLAIN], ALL)
    assert "Only the plain model" in trials_text.headline(alone)
    assert alone.nearest is None
