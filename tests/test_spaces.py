"""Every search space is found, and names only settings and metrics that there are."""

import importlib
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdiv_core.config import Config, ModelKind, known_keys, override
from recdiv_core.errors import UserError
from recdiv_core.metrics.tally import EPOCH_METRICS, SEARCH_METRICS
from recdiv_core.models.baselines import READ_QUERIES
from recdiv_core.schema import EVAL_EXAMPLE, NO_QUERY
from recdiv_core.search_space import Constraint, SearchSpace, at_k
from recdiv_core.sweep.checks import check_search, with_useful_points
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


def prepared_with(place: Path, query: int) -> dict[str, object]:
    """Write a validation split of one request, and return the settings that name it."""
    (place / "val").mkdir()
    row = {"user_id": "u", "history": [0], "targets": [1], "query": query, "is_cold_user": False}
    own = row | {"history_times": None, "target_times": None}
    pq.write_table(pa.Table.from_pylist([own], EVAL_EXAMPLE), place / "val" / "part-00000.parquet")
    return {"data.prepared": str(place)}


def kinds_of(space: SearchSpace) -> set[object]:
    return {point.get("model.kind", "neural") for point in space.points}


def test_baselines_that_can_only_rank_by_popularity_are_left_out(tmp_path: Path, caplog):
    caplog.set_level("INFO")
    whole, prepared = space("baselines"), prepared_with(tmp_path, NO_QUERY)
    config = override(Config(), prepared)
    kept = with_useful_points(whole, config, "baselines")
    without = {*READ_QUERIES, "buy_again"}
    assert kinds_of(kept) == kinds_of(whole) - without
    assert caplog.messages == [
        "--space baselines: left out: buy_again (eval.filter_seen=true leaves out the items of the "
        "history); bm25, text_cosine, hybrid, query_words (no validation request has a query)"
    ]
    again = override(config, {"eval.filter_seen": False})
    assert kinds_of(with_useful_points(whole, again, "baselines")) == kinds_of(whole) - {
        *READ_QUERIES
    }


def test_baselines_of_queries_stay_where_a_request_has_one(tmp_path: Path, caplog):
    config = override(Config(), {**prepared_with(tmp_path, 3), "eval.filter_seen": False})
    whole = space("baselines")
    assert with_useful_points(whole, config, "baselines") == whole
    own = replace(whole, points=({"model.dropout": 0.1},))
    assert with_useful_points(own, override(config, {"model.kind": "buy_again"}), "own") == own
    assert not caplog.messages


def test_a_space_of_which_no_point_is_left_is_refused(tmp_path: Path):
    own = replace(space("baselines"), points=({"model.kind": "bm25"},))
    config = override(Config(), prepared_with(tmp_path, NO_QUERY))
    with pytest.raises(UserError, match=r"--space own: no point is left without bm25 \(no valid"):
        with_useful_points(own, config, "own")


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
