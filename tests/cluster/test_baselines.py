"""Baselines through the real command line: runs and trials like any other."""

import dataclasses
from pathlib import Path

import pytest
from ray import tune

from recdiv_core.settings import load
from recdiv_core.sweep import run as sweep
from tests.cluster.conftest import figures_of, run
from tune_spaces.baselines import SPACE

pytestmark = pytest.mark.ray


def test_a_fit_is_tracked_like_a_training(shop, fitted, trained):
    assert fitted.keys() == trained.keys()
    (logged,) = shop.runs("tags.`recdiv.run_name` = 'fitted'")
    (other,) = shop.runs("tags.`recdiv.run_name` = 'undisturbed'")
    assert (logged.info.run_id, logged.info.status) == (fitted["mlflow_run_id"], "FINISHED")
    assert logged.data.tags.keys() == other.data.tags.keys()
    assert logged.data.params.keys() == other.data.params.keys()
    judged = ("val/", "best/", "test/")
    of_training, of_fit = (
        {name for name in one.data.metrics if name.startswith(judged)} for one in (other, logged)
    )
    assert of_fit == of_training
    assert [epoch for epoch, _ in shop.curve(logged.info.run_id, "val/ndcg_at_10")] == [0]


def test_the_same_command_answers_at_once(shop, fitted):
    before = sorted(Path(fitted["checkpoint"]).parent.iterdir())
    assert run("train", *shop.arguments("run.name=fitted", "model.kind=ease")) == fitted
    assert sorted(Path(fitted["checkpoint"]).parent.iterdir()) == before


def test_a_checkpoint_is_evaluated_alike_on_other_workers(fitted):
    place = ["--checkpoint", fitted["checkpoint"], "scaling.num_workers=2"]
    judged = run("evaluate", *place, "eval.batch_size=8")
    of_fit = figures_of(fitted["metrics"], "test/")
    assert {n: judged["metrics"][n] for n in of_fit} == pytest.approx(of_fit, abs=1e-12)


@pytest.mark.slow
def test_baselines_are_swept_and_stand_beside_later_fronts(shop, swept, fitted):
    one = {"model.kind": tune.grid_search(["popular"])}
    space = dataclasses.replace(SPACE, parameters=one, points=())
    config = load(overrides=shop.arguments("run.name=references"))
    references = sweep.run(config, space, "baselines")
    children = shop.runs(f"tags.`mlflow.parentRunId` = '{references['parent_run_id']}'")
    of_children = [(child.data.params["model.kind"], child.info.status) for child in children]
    assert of_children == [("popular", "FINISHED")]
    assert references["num_trials"] == 1
    uri = f"tracking.uri={shop.uri}"
    drawn = run("report", "--run", swept["parent_run_id"], uri, f"run.storage={shop.storage}")
    assert drawn["references"].keys() == {"popular", "ease"}  # swept, and fitted by itself
