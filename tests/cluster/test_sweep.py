"""A sweep through the real command line: tracked, interrupted, gone on with."""

import dataclasses
import gc
import json
import os
import signal
import threading

import pytest
from mlflow import MlflowClient
from ray import tune

from recdiv_core.config import DIALS_FILE, Config, override
from recdiv_core.search_space import Objective, SearchSpace
from recdiv_core.settings import load, parse_overrides
from recdiv_core.sweep import run as sweep
from recdiv_core.sweep.search import Budget, FrontSearch
from recdiv_core.tracking.runs import RunHandle, read_text
from tests.cluster.conftest import (
    SWEPT,
    Halted,
    halt,
    kill_driver,
    reserved,
    run,
    wait_until,
)
from tune_spaces.smoke import SPACE

pytestmark = pytest.mark.ray


def assert_whole(shop, parent):
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["recdiv.kind"] == "sweep"
    children = shop.runs(f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert [child.info.status for child in children] == ["FINISHED", "FINISHED"]
    assert {child.data.params["loss.diversity_weight"] for child in children} == {"0.0", "0.5"}
    names = {child.info.run_name.partition(" ")[2] for child in children}
    assert names == {"w=0", "w=0.5"}, "after their dials"
    for child in children:
        assert {"test/ndcg_at_10", "best/val/ndcg_at_10", "best/epoch"} <= child.data.metrics.keys()
        assert [epoch for epoch, _ in shop.curve(child.info.run_id, "val/ndcg_at_10")] == [1]
    assert not shop.runs("attributes.status = 'RUNNING'")
    course = shop.curve(parent.info.run_id, "front/hypervolume")
    assert [step for step, _ in course] == [1, 2]
    assert course[0][1] <= course[1][1] == parent.data.metrics["front/hypervolume"]


def test_a_sweep_is_one_parent_with_a_finished_run_a_trial(shop, swept):
    (parent,) = shop.runs("tags.`recdiv.run_name` = 'swept'")
    assert swept["parent_run_id"] == parent.info.run_id
    assert swept["num_trials"] == 2
    assert all(entry["test"] for entry in swept["front"])
    assert_whole(shop, parent)
    assert "hypervolume" in parent.data.metrics
    drawn = {
        artifact.path
        for artifact in MlflowClient(shop.uri).list_artifacts(parent.info.run_id, "report")
    }
    assert drawn >= {"report/report.html", "report/front.png"}
    vectors = list((shop.prepared / "vectors").iterdir())
    assert vectors
    assert all(1e3 * path.stat().st_mtime < parent.info.start_time for path in vectors)

    num_runs = len(shop.runs(""))
    again = run("tune", "--space", "smoke", *shop.arguments(*SWEPT))
    assert again["front"] == swept["front"]
    assert len(shop.runs("")) == num_runs


@pytest.mark.slow  # in make nightly
def test_each_point_is_trained_once_a_seed_and_judged_by_its_means(shop):
    arguments = shop.arguments("run.name=seeds", "scaling.max_concurrent_trials=1")
    config = override(Config(), SPACE.fixed, parse_overrides(arguments))
    result = sweep.run(config, dataclasses.replace(SPACE, seeds=(0, 1)), "smoke")

    trials = shop.runs(f"tags.`mlflow.parentRunId` = '{result['parent_run_id']}'")
    points = {}
    for trial in trials:
        weight, seed = (trial.data.params[key] for key in ("loss.diversity_weight", "seed"))
        points.setdefault(weight, {})[seed] = trial
    assert {weight: sorted(own) for weight, own in points.items()} == {
        "0.0": ["0", "1"],
        "0.5": ["0", "1"],
    }
    assert result["front"]
    for entry in result["front"]:
        own = points[str(entry["params"]["loss.diversity_weight"])]
        assert entry["seeds"] == {seed: trial.info.run_id for seed, trial in own.items()}
        seeds = [validated(shop, trial, entry["run"]) for trial in own.values()]
        for name, value in entry["val"].items():
            assert value == pytest.approx(sum(seed[name] for seed in seeds) / 2), name


def validated(shop, trial, run):
    """Return the validation metrics of a trial, under the re-ranking of a RUN if it has any."""
    _, *settings = run.split("+")
    if not settings:
        metrics = trial.data.metrics.items()
        return {name.removeprefix("best/val/"): value for name, value in metrics}
    entries = json.loads(read_text(RunHandle(shop.uri, "", trial.info.run_id), DIALS_FILE))
    wanted = parse_overrides(settings)
    return next(entry["val"] for entry in entries if entry["settings"] == wanted)


def test_a_trial_that_is_left_behind_is_stopped_and_its_workers_end(shop):
    space = SearchSpace(
        description="a trial that learns, then one that learns nothing",
        parameters={"train.learning_rate": tune.grid_search([0.02, 1e-9])},
        objectives=(
            Objective("val/ndcg_at_10", "max", reference=0.0),
            Objective("val/recall_at_10", "max", reference=0.0),
        ),
        grace_epochs=1,
    )
    # without a blend, whose terms are good before the model has learnt anything
    alone = ("model.blend=[]", "model.num_layers=1")
    fast = (*alone, "train.epochs=3", "train.batch_size=16", "train.warmup_steps=2")
    arguments = shop.arguments("run.name=stopped", *fast, "scaling.max_concurrent_trials=1")
    result = sweep.run(load(overrides=arguments), space, "stopped")

    (parent,) = shop.runs("tags.`recdiv.run_name` = 'stopped'")
    assert (parent.info.run_id, parent.info.status) == (result["parent_run_id"], "FINISHED")
    assert result["num_trials"] == 2
    trials = shop.runs(f"tags.`mlflow.parentRunId` = '{result['parent_run_id']}'")
    first, behind = sorted(trials, key=lambda trial: trial.info.start_time)
    assert behind.data.tags["recdiv.stopped_early"] == "true"
    assert len(shop.curve(behind.info.run_id, "val/ndcg_at_10")) < 3
    assert not [name for name in behind.data.metrics if name.startswith("test/")]
    assert len(shop.curve(first.info.run_id, "val/ndcg_at_10")) == 3
    assert [name for name in first.data.metrics if name.startswith("test/")]
    wait_until(lambda: not reserved())


@pytest.mark.faults
@pytest.mark.parametrize(
    ("blow", "at_once"),
    [(signal.SIGINT, 1), pytest.param(signal.SIGTERM, 2, marks=pytest.mark.slow)],
)
def test_an_interrupted_sweep_is_closed_and_completed_by_the_same_command(
    shop, start, blow, at_once
):
    # two workers: with one, a trial is done before Tune has let go of it
    trials = ("scaling.num_workers=2", f"scaling.max_concurrent_trials={at_once}")
    arguments = shop.arguments(f"run.name={blow.name}", *trials, "model.blend=[]")
    closed = Halted(130, sweep="KILLED", trials={"KILLED"})
    assert halt(shop, start, blow.name, arguments, blow) == closed
    result = run("tune", "--space", "smoke", *arguments)
    (parent,) = shop.runs(f"tags.`recdiv.run_name` = '{blow.name}'")
    assert_whole(shop, parent)
    assert result["num_trials"] == 2


@pytest.mark.faults
@pytest.mark.slow
def test_a_sweep_whose_driver_is_killed_is_completed_by_the_same_command(shop, start):
    arguments = ["--space", "smoke", *shop.arguments("run.name=killed", "scaling.num_workers=2")]
    driver = start("tune", *arguments)
    trials = "tags.`recdiv.kind` = 'trial' and params.`run.storage` LIKE '%/killed/trials'"
    ended = f"{trials} and attributes.status = 'FINISHED'"
    wait_until(lambda: shop.runs(ended) and len(shop.runs(trials)) == 2)
    kill_driver(driver)
    left = {trial.info.status for trial in shop.runs(trials)}
    assert left == {"FINISHED", "RUNNING"}

    result = run("tune", *arguments)

    (parent,) = shop.runs("tags.`recdiv.run_name` = 'killed'")
    assert_whole(shop, parent)
    assert result["num_trials"] == 2


SEARCHED = SearchSpace(
    description="two dials, by a search that learns",
    parameters={
        "loss.diversity_weight": tune.loguniform(0.01, 0.5),
        "loss.diversity": tune.choice([{"coverage": 1.0}, {"ild": 1.0, "coverage": 1.0}]),
    },
    objectives=(
        Objective("val/ndcg_at_10", "max", reference=0.0),
        Objective("val/coverage_at_10", "max", reference=0.0),
    ),
    search="nsga2",
    num_samples=5,  # the last one bred from the first four
)


@pytest.mark.faults
@pytest.mark.slow
# Tune leaves the logs of an interrupted trial open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupted_search_goes_on_as_if_nothing_had_happened(shop):
    fast = ("train.epochs=1", "train.batch_size=16", "train.warmup_steps=2", "model.num_layers=1")
    one_at_a_time = "scaling.max_concurrent_trials=1"

    def settings(name: str) -> Config:
        return load(overrides=shop.arguments(f"run.name={name}", *fast, one_at_a_time))

    def trials(name: str, status: str) -> list:
        parents = shop.runs(f"tags.`recdiv.run_name` = '{name}'")
        found = [
            trial
            for parent in parents
            for trial in shop.runs(f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
            if trial.info.status == status
        ]
        return sorted(found, key=lambda trial: trial.info.start_time)

    def interrupt() -> None:
        wait_until(
            lambda: len(trials("searched", "FINISHED")) >= 2 and trials("searched", "RUNNING")
        )
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        sweep.run(settings("searched"), SEARCHED, "searched")
    thread.join()
    gc.collect()
    before = {trial.info.run_id for trial in trials("searched", "FINISHED")}
    assert 2 <= len(before) < 5

    result = sweep.run(settings("searched"), SEARCHED, "searched")

    assert result["num_trials"] == 5
    done = trials("searched", "FINISHED")
    assert before < {trial.info.run_id for trial in done}
    undisturbed = FrontSearch(SEARCHED, settings("searched"), {}, Budget())
    for trial in done:
        sample = undisturbed.suggest(trial.info.run_id)
        assert sample == swept_settings(trial)
        undisturbed.on_trial_complete(trial.info.run_id, {"epoch": 1, **trial.data.metrics})
        assert [epoch for epoch, _ in shop.curve(trial.info.run_id, "val/ndcg_at_10")] == [1]

    # a later sweep knows all of them
    later = dataclasses.replace(SEARCHED, num_samples=1, learn_from_earlier=True)
    sweep.run(settings("later"), later, "searched")
    (trial,) = trials("later", "FINISHED")
    taught = FrontSearch(later, settings("later"), {}, Budget())
    for earlier in done:
        figures = {key.removeprefix("best/"): v for key, v in earlier.data.metrics.items()}
        assert taught.learn(swept_settings(earlier), figures)
    assert taught.suggest("later") == swept_settings(trial)


def swept_settings(trial) -> dict:
    return {key: json.loads(trial.data.params[key]) for key in SEARCHED.parameters}
