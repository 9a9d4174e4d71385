"""A sweep through the real command line: tracked, interrupted, gone on with."""

import signal

import pytest
from mlflow import MlflowClient

from tests.cluster.conftest import PATIENCE_S, SWEPT, run, wait_until

pytestmark = pytest.mark.ray


def assert_whole(shop, parent):
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["recdiv.kind"] == "sweep"
    children = shop.runs(f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert [child.info.status for child in children] == ["FINISHED", "FINISHED"]
    assert {child.data.params["loss.diversity_weight"] for child in children} == {"0.0", "0.5"}
    for child in children:
        assert {"test/ndcg_at_10", "best/val/ndcg_at_10", "best/epoch"} <= child.data.metrics.keys()
        assert [epoch for epoch, _ in shop.curve(child.info.run_id, "val/ndcg_at_10")] == [1]
    assert not shop.runs("attributes.status = 'RUNNING'")


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


@pytest.mark.faults
@pytest.mark.parametrize(
    "blow", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_an_interrupted_sweep_is_closed_and_completed_by_the_same_command(shop, start, blow):
    # with one worker a trial is done before Tune has let go of it
    two, name = "scaling.num_workers=2", f"halted-{blow.name}"
    arguments = ["--space", "smoke", *shop.arguments(f"run.name={name}", two)]
    driver = start("tune", *arguments)
    running = "attributes.status = 'RUNNING' and tags.`recdiv.kind` = 'trial'"
    wait_until(lambda: shop.runs(running))
    driver.send_signal(blow)
    assert driver.wait(timeout=PATIENCE_S) == 130
    (parent,) = shop.runs(f"tags.`recdiv.run_name` = '{name}'")
    assert parent.info.status == "KILLED"
    children = shop.runs(f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert {child.info.status for child in children} == {"KILLED"}

    result = run("tune", *arguments)

    (parent,) = shop.runs(f"tags.`recdiv.run_name` = '{name}'")
    assert_whole(shop, parent)
    assert result["num_trials"] == 2
