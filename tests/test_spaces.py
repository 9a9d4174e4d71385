"""Every search space is found, and names only settings and metrics that there are."""

import importlib
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from recdiv_core.config import Config, ModelKind, known_keys, override
from recdiv_core.errors import UserError
from recdiv_core.metrics.tally import EPOCH_METRICS, SEARCH_METRICS
from recdiv_core.search_space import Constraint, SearchSpace, at_k
from recdiv_core.sweep.checks import check_search
from recdiv_core.training.checks import MEASURED, OF_QUERIES
from recdiv_core.training.kinds import idle_keys

SPACES = sorted(
    path.stem
    for path in (Path(__file__).parents[1] / "tune_spaces").glob("*.py")
    if path.name != "__init__.py"
)

each_space = pytest.mark.parametrize("name", SPACES)


def space(name: str) -> SearchSpace:
    found = importlib.import_module(f"tune_spaces.{name}").SPACE
    assert isinstance(found, SearchSpace)
    return found


def test_the_spaces_that_the_documents_name_are_there():
    assert {"tradeoff", "smoke"} <= set(SPACES)


@each_space
def test_every_parameter_is_a_setting(name: str):
    assert set(space(name).keys) <= set(known_keys())


@each_space
def test_fixed_and_warm_start_settings_are_valid(name: str):
    common = override(Config(), space(name).fixed)
    assert override(common, space(name).warm_start or {})


@each_space
def test_no_space_trains_once_for_each_re_ranking_setting(name: str):
    assert not {"rerank.method", "rerank.diversity", "rerank.logit_adjustment"} & set(
        space(name).keys
    )


def test_a_space_that_sweeps_re_ranking_is_told_that_one_trial_would_do(caplog):
    swept = replace(space("tradeoff"), parameters={"rerank.diversity": [0.1, 0.2]})
    check_search(swept, "own")
    assert (
        "--space own sweeps rerank.diversity, and each value is a trial of its own" in caplog.text
    )


@each_space
def test_points_are_valid_settings_and_distinct(name: str):
    points = [override(Config(), point) for point in space(name).points]
    assert all(point not in points[:place] for place, point in enumerate(points))


def test_the_baselines_tune_each_kind_by_keys_that_it_uses():
    points = [override(Config(), point) for point in space("baselines").points]
    assert {config.model.kind for config in points} == set(get_args(ModelKind)) - {"neural"}
    assert [idle_keys(config) for config in points if idle_keys(config)] == []


@each_space
def test_no_setting_is_both_swept_and_fixed(name: str):
    assert not set(space(name).keys) & set(space(name).fixed)


@each_space
@pytest.mark.parametrize("k", [5, 10])
def test_every_objective_is_a_validation_metric_at_any_cut_off(name: str, k: int):
    metrics = [objective.metric for objective in at_k(space(name), k, name).objectives]
    assert len(metrics) >= 2
    assert set(metrics) <= {f"val/{metric}_at_{k}" for metric in (*EPOCH_METRICS, *SEARCH_METRICS)}


def test_a_cut_off_in_a_name_is_taken_where_k_agrees():
    named = replace(space("smoke"), constraints=(Constraint("val/ndcg_at_10", 0.9),))
    assert at_k(named, 10, "mine").constraints == named.constraints
    with pytest.raises(UserError, match=r"val/ndcg_at_10, which is not measured with eval.k=20"):
        at_k(named, 20, "mine")


@each_space
def test_a_space_says_what_it_is_for(name: str):
    assert space(name).description


@each_space
def test_a_space_can_be_searched_as_it_asks(name: str):
    check_search(space(name), name)


CONSTRAINTS = [(name, c) for name in SPACES for c in space(name).constraints]


def test_a_space_with_constraints_is_there_to_be_tested():
    assert CONSTRAINTS


@pytest.mark.parametrize(("name", "constraint"), CONSTRAINTS, ids=str)
def test_every_constraint_is_a_share_of_a_metric_that_trials_report(
    name: str, constraint: Constraint
):
    assert constraint.metric.removeprefix("val/") in (*MEASURED, *OF_QUERIES)
    assert 0 < constraint.at_least <= 1
    assert space(name).warm_start is not None
