"""Sweeps whose trials fail, and two of them on one cluster at once."""

import dataclasses

import pytest
import ray
import ray.tune

from recdiv_core.config import Config, override
from recdiv_core.settings import parse_overrides
from recdiv_core.sweep import run as sweep
from tests.cluster.conftest import PATIENCE_S
from tune_spaces.smoke import SPACE

pytestmark = [
    pytest.mark.ray,
    pytest.mark.faults,
    pytest.mark.slow,
    # Tune leaves the logs of a failed trial open
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TOO_MANY = 1 << 40
"""Negatives of a step that no machine can hold."""


def trials_of(shop, name):
    (parent,) = shop.runs(f"tags.`recdiv.run_name` = '{name}'")
    return parent, shop.runs(f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")


def test_a_sweep_goes_on_without_trials_that_diverge_or_run_out_of_memory(shop):
    space = dataclasses.replace(
        SPACE,
        parameters={
            "train.learning_rate": ray.tune.grid_search([1e-3, 1e30]),
            "loss.num_negatives": ray.tune.grid_search([64, TOO_MANY]),
        },
    )
    sampled = ("loss.relevance=sampled_softmax", "train.max_failures=0")
    arguments = shop.arguments("run.name=failing", *sampled)
    config = override(Config(), SPACE.fixed, parse_overrides(arguments))
    result = sweep.run(config, space, "smoke")
    assert result["num_trials"] == 4
    assert len({entry["run_id"] for entry in result["front"]}) == 1
    parent, trials = trials_of(shop, "failing")
    assert parent.info.status == "FINISHED"
    assert {
        tuple(float(trial.data.params[key]) for key in space.parameters): trial.info.status
        for trial in trials
    } == {
        (1e-3, 64): "FINISHED",
        (1e30, 64): "FAILED",
        (1e-3, TOO_MANY): "FAILED",
        (1e30, TOO_MANY): "FAILED",
    }
    assert not shop.runs("attributes.status = 'RUNNING'")


def test_two_sweeps_at_once_do_not_meet(shop, start):
    names = ("one", "other")
    address = f"scaling.address={ray.get_runtime_context().gcs_address}"
    here = (address, "scaling.cpus_per_worker=0.4")  # of the cluster's 2, so that neither waits
    drivers = [
        start("tune", "--space", "smoke", *shop.arguments(f"run.name={name}", *here))
        for name in names
    ]
    assert [driver.wait(timeout=2 * PATIENCE_S) for driver in drivers] == [0, 0]
    figures = []
    for name in names:
        parent, trials = trials_of(shop, name)
        assert parent.info.status == "FINISHED"
        assert [trial.info.status for trial in trials] == ["FINISHED", "FINISHED"]
        figures.append(sorted(trial.data.metrics["test/ndcg_at_10"] for trial in trials))
    assert figures[0] == pytest.approx(figures[1], abs=1e-6)
