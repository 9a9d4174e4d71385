"""Searchers asked and told as Tune does it, without Ray running."""

import json
import math
import pickle
import time
from dataclasses import replace
from typing import Any, get_args

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from ray import tune
from ray.tune.experiment import Experiment
from ray.tune.search import Searcher
from ray.tune.search.search_generator import SearchGenerator

from recdiv_core.config import Config, override
from recdiv_core.errors import UserError
from recdiv_core.search_space import Objective, Search, SearchSpace
from recdiv_core.sweep.checks import check_search
from recdiv_core.sweep.search import Budget, FrontSearch
from recdiv_core.sweep.tracking import grid_trial_name

MIXES = [{"coverage": 1.0}, {"ild": 1.0, "coverage": 3.0}]
NDCG, COVERAGE = "val/ndcg_at_10", "val/coverage_at_10"
SPACE = SearchSpace(
    description="of a searcher",
    parameters={
        "loss.diversity_weight": tune.loguniform(0.01, 1.0),
        "loss.diversity": tune.choice(MIXES),
        "model.num_layers": tune.randint(1, 4),
    },
    objectives=(Objective(NDCG, "max", 0.0), Objective(COVERAGE, "max", 0.0)),
    search="tpe",
)
FEW = {"loss.diversity": tune.choice(MIXES), "rerank.diversity": tune.quniform(0.1, 0.3, 0.1)}

each_search = pytest.mark.parametrize("search", [s for s in get_args(Search) if s != "grid"])


def searcher(space: SearchSpace = SPACE, minimum: dict[str, float] | None = None, **more: object):
    changed = replace(space, **more)
    check_search(changed, "of_a_test")
    budget = Budget(changed.max_epochs, changed.max_hours)
    return FrontSearch(changed, Config(seed=3), minimum or {}, budget)


def report(epoch: int, ndcg: float, coverage: float, **more: float) -> dict[str, float]:
    return {"epoch": epoch, NDCG: ndcg, COVERAGE: coverage, "train/loss": 1.0, **more}


def end(ndcg: float, coverage: float, **more: float) -> dict[str, float]:
    """Return the last report of a trial, by what it reached in its selected epoch."""
    best = report(0, ndcg, coverage, **more)
    named = {f"best/{key}": value for key, value in best.items() if key.startswith("val/")}
    last = dict.fromkeys(best, 0.05)
    return {**last, **named, "epoch": 2, "best/epoch": 1}


def figures(sample: dict[str, Any]) -> tuple[float, float]:
    """Return figures that are best at a weight of 0.5, whatever the mix."""
    distance = abs(math.log(sample["loss.diversity_weight"] / 0.5))
    return 1.0 / (1.0 + distance), 0.5 / (1.0 + distance)


def drive(search: FrontSearch, count: int, first: int = 0) -> list[dict[str, Any]]:
    """Run trials one after another, of one epoch each."""
    samples = []
    for number in range(first, first + count):
        sample = search.suggest(str(number))
        if sample == Searcher.FINISHED:
            break
        samples.append(sample)
        ndcg, coverage = figures({"loss.diversity_weight": 0.5, **sample})
        search.on_trial_complete(str(number), end(ndcg, coverage))
    return samples


@each_search
def test_samples_are_settings_of_the_space(search: Search):
    for sample in drive(searcher(search=search), 12):
        assert override(Config(), sample)
        assert 0.01 <= sample["loss.diversity_weight"] <= 1.0
        assert sample["loss.diversity"] in MIXES
        assert sample["model.num_layers"] in {1, 2, 3}


@each_search
def test_the_seed_decides(search: Search):
    assert drive(searcher(search=search), 12) == drive(searcher(search=search), 12)


@each_search
def test_a_finite_space_is_tried_once_and_then_finished(search: Search):
    samples = drive(searcher(search=search, parameters=FEW), 20)
    tried = {(json.dumps(s["loss.diversity"]), round(s["rerank.diversity"], 6)) for s in samples}
    assert len(samples) == len(tried) == 6


def test_what_runs_or_failed_is_not_tried_again_either():
    search = searcher(parameters=FEW)
    running = [search.suggest(f"running {number}") for number in range(3)]
    search.on_trial_complete("running 0", error=True)
    assert not [sample for sample in drive(search, 20) if sample in running]


@each_search
def test_a_restored_search_goes_on_as_if_nothing_had_happened(search: Search, tmp_path):
    undisturbed, killed = searcher(search=search), searcher(search=search)
    drive(undisturbed, 12)
    drive(killed, 12)
    killed.save_to_dir(str(tmp_path))
    restored = searcher(search=search)
    restored.restore_from_dir(str(tmp_path))
    assert drive(restored, 5, first=12) == drive(undisturbed, 5, first=12)


def test_a_trial_that_runs_while_the_state_is_saved_is_told_afterwards(tmp_path):
    search = searcher()
    search.suggest("a")
    search.on_trial_result("a", report(1, 0.5, 0.1))
    search.save_to_dir(str(tmp_path))
    restored = searcher()
    restored.restore_from_dir(str(tmp_path))
    restored.on_trial_complete("a", report(2, 0.4, 0.9))
    assert [trial.values for trial in restored.points.study.trials] == [[0.5, 0.1]]


@pytest.mark.parametrize("search", ["tpe", "nsga2"])
def test_what_learns_ends_up_nearer_the_best_than_what_does_not(search: Search):
    def mean_reached(name: Search) -> float:
        samples = drive(searcher(search=name, num_samples=60), 60)
        return sum(figures(sample)[0] for sample in samples[-20:]) / 20

    assert mean_reached(search) > 1.2 * mean_reached("random")


def test_of_a_finished_trial_the_selected_epoch_counts():
    search = searcher()
    search.suggest("a")
    search.on_trial_result("a", report(1, 0.5, 0.1))
    search.on_trial_result("a", report(2, 0.4, 0.2))
    search.on_trial_complete("a", end(0.5, 0.1))
    assert search.points.study.trials[0].values == [0.5, 0.1]


@pytest.mark.parametrize(("select", "values"), [("best", [0.5, 0.1]), ("last", [0.4, 0.3])])
def test_of_a_stopped_trial_the_epoch_selected_so_far_counts(select, values):
    search = FrontSearch(SPACE, override(Config(), {"train.select": select}), {}, Budget())
    search.suggest("a")
    search.on_trial_result("a", report(1, 0.5, 0.1))
    search.on_trial_result("a", report(2, 0.4, 0.2))
    search.on_trial_complete("a", report(3, 0.4, 0.3))
    assert search.points.study.trials[0].values == values


@pytest.mark.parametrize(
    "result",
    [None, {}, {"config": 1}, report(1, math.nan, 0.1), end(1.0, math.inf)],
)
def test_a_trial_without_finite_figures_has_failed(result):
    search = searcher()
    search.suggest("a")
    search.on_trial_complete("a", result)
    assert search.points.study.trials[0].state == TrialState.FAIL


def test_directions_are_those_of_the_objectives():
    falling = (Objective(NDCG, "max", 0.0), Objective("val/gini_at_10", "min", 1.0))
    directions = searcher(objectives=falling).points.study.directions
    assert [direction.name for direction in directions] == ["MAXIMIZE", "MINIMIZE"]


def test_a_trial_that_breaks_a_constraint_is_not_among_the_best():
    search = searcher(minimum={NDCG: 0.5})
    for trial, ndcg, coverage in (("a", 0.6, 0.1), ("b", 0.4, 0.9), ("c", 0.5, 0.2)):
        search.suggest(trial)
        search.on_trial_complete(trial, end(ndcg, coverage))
    constraints = [trial.constraints[NDCG] for trial in search.points.study.trials]
    assert constraints == pytest.approx([-0.1, 0.1, 0.0])
    assert sorted(trial.values for trial in search.points.study.best_trials) == [
        [0.5, 0.2],
        [0.6, 0.1],
    ]


def test_a_constraint_may_be_on_what_is_no_objective():
    search = searcher(minimum={"val/ild_at_10": 0.5})
    search.suggest("a")
    search.on_trial_complete("a", end(1.0, 1.0, **{"val/ild_at_10": 0.4}))
    assert search.points.study.trials[0].constraints == pytest.approx({"val/ild_at_10": 0.1})


@pytest.mark.parametrize("search", ["tpe", "nsga2"])
def test_constraints_draw_the_search_to_where_they_hold(search: Search):
    def share_of_kept(minimum: dict[str, float]) -> float:
        own = searcher(minimum=minimum, search=search)
        kept = 0
        for number in range(60):
            sample = own.suggest(str(number))
            # more coverage the larger the weight; the constraint holds below 0.1
            weight = sample["loss.diversity_weight"]
            own.on_trial_complete(str(number), end(1 - weight, weight))
            kept += number >= 40 and weight <= 0.1
        return kept / 20

    assert share_of_kept({NDCG: 0.9}) > 0.1 + share_of_kept({})


def test_no_trial_begins_once_the_epochs_are_spent():
    search = searcher(max_epochs=5)
    for trial in ("a", "b"):
        search.suggest(trial)
    for epoch in (1, 2, 3):
        search.on_trial_result("a", report(epoch, 0.1, 0.1))
    assert search.suggest("c") != Searcher.FINISHED
    search.on_trial_complete("b", report(2, 0.1, 0.1))  # stopped: a report that Tune keeps back
    assert search.suggest("d") == Searcher.FINISHED


def test_no_trial_begins_once_the_hours_are_spent():
    search = searcher(max_hours=2)
    assert search.suggest("a") != Searcher.FINISHED
    search.budget.started -= 2 * 3600
    assert search.suggest("b") == Searcher.FINISHED


def test_a_restored_search_has_spent_the_hours_it_had_before(tmp_path):
    killed = searcher(max_hours=2)
    killed.budget.started -= 1.5 * 3600
    killed.save_to_dir(str(tmp_path))
    restored = searcher(max_hours=2)
    restored.restore_from_dir(str(tmp_path))
    assert restored.suggest("a") != Searcher.FINISHED
    restored.budget.started -= 0.5 * 3600
    assert restored.suggest("b") == Searcher.FINISHED


def test_the_time_between_two_processes_does_not_count():
    budget = Budget(max_hours=1)
    saved, used_s = pickle.dumps(budget), budget.used_s()
    time.sleep(0.05)
    assert pickle.loads(saved).used_s() < used_s + 0.05


GRID: dict[str, object] = {
    "search": "grid",
    "parameters": {
        "loss.diversity": tune.grid_search(MIXES),
        "rerank.diversity": tune.grid_search([0.0, 0.5]),
        "train.epochs": 3,
    },
}


def test_a_grid_is_walked_once_then_finished():
    samples = drive(searcher(**GRID), 20)
    assert all(sample["train.epochs"] == 3 for sample in samples)
    tried = {(json.dumps(s["loss.diversity"]), s["rerank.diversity"]) for s in samples}
    assert tried == {(json.dumps(mix), dial) for mix in MIXES for dial in (0.0, 0.5)}
    assert len(samples) == searcher(**GRID).num_trials == 4


def test_each_point_of_a_grid_takes_each_of_the_points_of_the_space():
    parameters = {"eval.filter_seen": tune.grid_search([True, False])}
    points = ({"model.kind": "popular"}, {"model.kind": "ease", "model.baseline.ridge": 9.0})
    space = replace(SPACE, search="grid", parameters=parameters, points=points)
    expected = [{"eval.filter_seen": seen, **point} for seen in (True, False) for point in points]
    assert drive(searcher(space), 9) == expected
    assert space.keys == ["eval.filter_seen", "model.kind", "model.baseline.ridge"]


def test_points_alone_make_a_grid():
    points = ({"model.kind": "popular"}, {"model.kind": "random"})
    space = replace(SPACE, search="grid", parameters={}, points=points)
    assert drive(searcher(space), 9) == list(points)


def test_points_are_refused_where_they_have_no_effect():
    points = ({"model.num_layers": 2},)
    with pytest.raises(UserError, match=r"points have no effect with search='tpe'"):
        check_search(replace(SPACE, points=points), "mine")
    with pytest.raises(UserError, match=r"model.num_layers in parameters and in points"):
        check_search(replace(SPACE, search="grid", points=points), "mine")


def test_a_grid_is_walked_num_samples_times():
    assert len(drive(searcher(**GRID, num_samples=3), 20)) == 12


def test_what_is_random_in_a_grid_is_drawn_for_each_point_from_the_seed():
    parameters = {"rerank.diversity": tune.grid_search([0.1, 0.2]), "seed": tune.randint(0, 10**9)}
    first, again = (drive(searcher(search="grid", parameters=parameters), 2) for _ in range(2))
    assert first == again
    assert first[0]["seed"] != first[1]["seed"]


def test_no_point_of_a_grid_starts_once_the_budget_is_used_up():
    for limit, used in (("max_hours", 3600), ("max_epochs", 0)):
        search = searcher(**GRID, **{limit: 1})
        search.suggest("a")
        search.budget.started -= used
        search.on_trial_result("a", report(1, 0.1, 0.1))
        assert search.suggest("b") == Searcher.FINISHED, limit


def test_a_grid_that_is_restored_goes_on(tmp_path):
    killed = searcher(**GRID)
    first = drive(killed, 2)
    killed.save_to_dir(str(tmp_path))
    restored = searcher(**GRID)
    restored.restore_from_dir(str(tmp_path))
    assert [*first, *drive(restored, 9, first=2)] == drive(searcher(**GRID), 9)


def test_a_trial_of_a_grid_that_a_killed_driver_lost_has_its_name_again(tmp_path):
    def tune_of(search: FrontSearch) -> SearchGenerator:
        own = SearchGenerator(search)
        grid = Experiment("of_a_test", lambda _: None, num_samples=4, storage_path=str(tmp_path))
        own.add_configurations(grid)
        return own

    killed, restored = tune_of(searcher(**GRID)), tune_of(searcher(**GRID))
    first = killed.next_trial()
    killed.save_to_dir(str(tmp_path), "session")
    lost = killed.next_trial()
    restored.restore_from_dir(str(tmp_path))
    again = restored.next_trial()
    assert [grid_trial_name(own) for own in (first, lost)] == ["trial-00000", "trial-00001"]
    assert grid_trial_name(again) == "trial-00001"
    assert again.config == lost.config != first.config


SAMPLERS = {
    "random": lambda: optuna.samplers.RandomSampler(seed=3),
    "quasi_random": lambda: optuna.samplers.QMCSampler(scramble=True, seed=3),
    "tpe": lambda: optuna.samplers.TPESampler(seed=3),
    "nsga2": lambda: optuna.samplers.NSGAIISampler(population_size=7, seed=3),
}


@each_search
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_points_are_those_of_a_plain_optuna_study(search: Search):
    distributions = {
        "loss.diversity_weight": FloatDistribution(0.01, 1.0, log=True),
        "loss.diversity": CategoricalDistribution([json.dumps(mix) for mix in MIXES]),
        "model.num_layers": IntDistribution(1, 3),
    }
    study = optuna.create_study(directions=["maximize"] * 2, sampler=SAMPLERS[search]())
    expected: list[dict[str, Any]] = []
    while len(expected) < 30:
        trial = study.ask(fixed_distributions=distributions)
        mix = json.loads(trial.params["loss.diversity"])
        sample = {**trial.params, "loss.diversity": mix}
        if sample in expected:  # NSGA-II may breed a point again; it is not run again
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, figures(sample))
            expected.append(sample)
    assert drive(searcher(search=search, num_samples=30), 30) == expected


@pytest.mark.parametrize("search", get_args(Search))
@pytest.mark.parametrize(
    "more", [{"max_hours": -1.0}, {"max_hours": math.nan}, {"max_hours": math.inf}]
)
def test_what_is_no_budget_is_refused(search: Search, more):
    (setting,) = more
    with pytest.raises(ValueError, match=f"--space mine: {setting}=.*allowed: a number above 0"):
        check_search(replace(SPACE, search=search, **more), "mine")


def test_epochs_below_0_are_no_budget():
    with pytest.raises(ValueError, match="--space mine: max_epochs=-3"):
        check_search(replace(SPACE, max_epochs=-3), "mine")


@each_search
def test_an_earlier_trial_is_learnt_and_not_tried_again(search: Search):
    own = searcher(search=search, parameters=FEW)
    mix = {"coverage": 3.0, "ild": 1.0}  # in another order
    known = {"loss.diversity": mix, "rerank.diversity": 0.2, "seed": 7}
    reached = {NDCG: 0.5, COVERAGE: 0.25, "val/ild_at_10": 0.1}
    assert own.learn(known, reached)
    assert not own.learn(known, reached), "twice"
    assert [trial.values for trial in own.points.study.trials] == [[0.5, 0.25]]
    samples = drive(own, 20)
    assert len(samples) == 5
    assert not [
        s for s in samples if s["rerank.diversity"] == 0.2 and s["loss.diversity"] == MIXES[1]
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"rerank.diversity": 0.4},
        {"rerank.diversity": 0.15},
        {"rerank.diversity": True},
        {"loss.diversity": {"ild": 1.0}},
        {"loss.diversity": None},
    ],
)
def test_an_earlier_trial_outside_the_space_teaches_nothing(other):
    search = searcher(parameters=FEW)
    sample = {"loss.diversity": MIXES[0], "rerank.diversity": 0.2, **other}
    assert not search.learn(sample, {NDCG: 0.5, COVERAGE: 0.25})
    assert not search.points.study.trials


def test_an_earlier_trial_without_an_objective_teaches_nothing():
    search = searcher(parameters=FEW)
    assert not search.learn({"loss.diversity": MIXES[0], "rerank.diversity": 0.2}, {NDCG: 0.5})


def test_nsga2_breeds_from_earlier_trials():
    search = searcher(search="nsga2", num_samples=8)
    for number in range(60):
        sample = {
            "loss.diversity_weight": 0.4 + 0.002 * number,
            "loss.diversity": MIXES[0],
            "model.num_layers": 1,
        }
        assert search.learn(sample, {NDCG: 0.1, COVERAGE: 0.1})
    bred = [search.suggest(str(number))["loss.diversity"] for number in range(8)]
    assert bred.count(MIXES[0]) >= 6


def test_a_grid_is_refused_by_a_search():
    grid = {"loss.diversity_weight": tune.grid_search([0.1, 0.2])}
    with pytest.raises(ValueError, match=r"--space mine: loss.diversity_weight=.*tpe.*randint"):
        check_search(replace(SPACE, parameters=grid), "mine")


def test_a_value_that_is_no_domain_is_refused_by_a_search():
    with pytest.raises(ValueError, match=r"train\.epochs=3"):
        check_search(replace(SPACE, parameters={"train.epochs": 3}), "mine")


def test_a_domain_that_optuna_lacks_is_refused():
    with pytest.raises(ValueError, match="Optuna"):
        check_search(replace(SPACE, parameters={"seed": tune.randn(0.0, 1.0)}), "mine")


def test_a_grid_that_should_learn_is_refused():
    with pytest.raises(ValueError, match="learn_from_earlier has no effect"):
        check_search(replace(SPACE, search="grid", learn_from_earlier=True), "mine")


def test_each_point_is_suggested_once_a_seed():
    samples = drive(searcher(search="random", seeds=(3, 5)), 6)
    assert [sample["seed"] for sample in samples] == [3, 5] * 3
    points = [{k: v for k, v in sample.items() if k != "seed"} for sample in samples]
    assert points[::2] == points[1::2]
    assert points[::2] == drive(searcher(search="random"), 3)


@each_search
def test_a_finite_space_is_tried_once_a_seed(search: Search):
    assert len(drive(searcher(search=search, parameters=FEW, seeds=(0, 1, 2)), 30)) == 18


def test_a_search_learns_the_means_of_the_seeds():
    search = searcher(seeds=(0, 1), minimum={NDCG: 0.5})
    search.suggest("a")
    search.suggest("b")
    search.on_trial_complete("b", end(0.7, 0.1))
    assert search.points.study.trials[0].values is None
    search.on_trial_complete("a", end(0.5, 0.3))
    assert search.points.study.trials[0].values == pytest.approx([0.6, 0.2])
    assert search.points.study.trials[0].constraints == pytest.approx({NDCG: -0.1})


def test_a_seed_that_failed_leaves_the_point_to_the_others():
    search = searcher(seeds=(0, 1))
    for trial in ("a", "b", "c", "d"):
        search.suggest(trial)
    search.on_trial_complete("a", error=True)
    search.on_trial_complete("b", end(0.5, 0.3))
    search.on_trial_complete("c", error=True)
    search.on_trial_complete("d", None)
    assert search.points.study.trials[0].values == [0.5, 0.3]
    assert search.points.study.trials[1].state == TrialState.FAIL


def test_a_trial_that_failed_and_runs_again_counts_while_its_point_is_open():
    search = searcher(seeds=(0, 1))
    search.suggest("a")
    search.suggest("b")
    search.on_trial_complete("a", error=True)
    search.on_trial_complete("a", end(0.7, 0.1))
    search.on_trial_complete("b", end(0.5, 0.3))
    assert search.points.study.trials[0].values == pytest.approx([0.6, 0.2])
    search.on_trial_complete("b", end(0.9, 0.9))
    assert search.points.study.trials[0].values == pytest.approx([0.6, 0.2])


def test_a_point_that_has_begun_gets_all_its_seeds():
    search = searcher(seeds=(0, 1, 2), max_hours=1, max_epochs=1)
    search.suggest("a")
    search.budget.started -= 3600
    search.on_trial_result("a", report(1, 0.1, 0.1))
    assert [search.suggest(name)["seed"] for name in "bc"] == [1, 2]
    assert search.suggest("d") == Searcher.FINISHED


@pytest.mark.parametrize("search", ["tpe", "nsga2", "quasi_random"])
def test_a_search_of_seeds_that_is_restored_goes_on(search: Search, tmp_path):
    changes: dict[str, object] = {"search": search, "seeds": (0, 1)}
    undisturbed, killed = searcher(**changes), searcher(**changes)
    drive(undisturbed, 7)  # the second seed of a point is to come
    drive(killed, 7)
    killed.save_to_dir(str(tmp_path))
    restored = searcher(**changes)
    restored.restore_from_dir(str(tmp_path))
    assert drive(restored, 4, first=7) == drive(undisturbed, 4, first=7)


SEEDED_GRID: dict[str, object] = {**GRID, "seeds": (5, 6, 7)}


def test_a_grid_of_seeds_is_walked_point_by_point():
    samples = drive(searcher(**SEEDED_GRID), 30)
    points = drive(searcher(**GRID), 30)
    assert samples == [{**point, "seed": seed} for point in points for seed in (5, 6, 7)]


def test_tune_is_asked_for_every_point_once_per_seed():
    assert searcher(**SEEDED_GRID).num_trials == 12
    assert searcher(num_samples=5, seeds=(0, 1)).num_trials == 10
    assert searcher(num_samples=5).num_trials == 5


def test_a_grid_of_seeds_that_is_restored_goes_on(tmp_path):
    killed = searcher(**SEEDED_GRID)
    first = drive(killed, 4)
    killed.save_to_dir(str(tmp_path))
    restored = searcher(**SEEDED_GRID)
    restored.restore_from_dir(str(tmp_path))
    assert [*first, *drive(restored, 30, first=4)] == drive(searcher(**SEEDED_GRID), 30)


def test_a_point_of_a_grid_that_has_started_gets_all_its_seeds():
    search = searcher(**SEEDED_GRID, max_hours=1)
    search.suggest("a")
    search.budget.started -= 3600
    assert [search.suggest(name)["seed"] for name in "bc"] == [6, 7]
    assert search.suggest("d") == Searcher.FINISHED


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"seeds": (1, 1)}, "different whole numbers"),
        ({"seeds": (0, -1)}, "different whole numbers"),
        ({"parameters": {"seed": tune.randint(0, 9)}}, "seed among its parameters"),
        ({"fixed": {"seed": 3}}, "seed among its parameters or fixed"),
        ({"learn_from_earlier": True}, "learn_from_earlier"),
    ],
)
def test_seeds_that_cannot_be_are_refused(more, said):
    with pytest.raises(ValueError, match=rf"--space mine: seeds=.*{said}"):
        check_search(replace(SPACE, **{"seeds": (0, 1), **more}), "mine")
