"""The curve within epochs, in a real MLflow store."""

import dataclasses
import logging

import pytest
from mlflow import MlflowClient

from recdiv_core.config import Config, override
from recdiv_core.tracking import runs as tracking
from recdiv_core.tracking.step_curve import StepCurve


@pytest.fixture
def run(mlflow_uri, manifest):
    config = override(Config(), {"tracking.uri": mlflow_uri, "run.name": "curve"})
    return tracking.start_run(config, name="curve", kind="train", manifest=manifest)


def report(step):
    return {"step/loss": 1.0 / step, "step/learning_rate": 0.1, "step": step}


def steps_of(run, name="step/loss"):
    points = MlflowClient(tracking_uri=run.uri).get_metric_history(run.run_id, name)
    return [point.step for point in points]


def test_each_report_within_an_epoch_is_a_point_at_its_step(run):
    curve = StepCurve(run)
    for step in (20, 40):
        curve.log(report(step))
    assert steps_of(run) == steps_of(run, "step/learning_rate") == [20, 40]
    assert steps_of(run, "step") == []


def test_a_resumed_run_repeats_no_step_of_the_curve(run):
    before = StepCurve(run)
    for step in (20, 40):
        before.log(report(step))
    after = StepCurve(run)  # another driver, from a checkpoint at step 20
    for step in (33, 40, 55):
        after.log(report(step))
    assert steps_of(run) == [20, 40, 55]


def test_workers_that_restart_under_one_driver_repeat_no_step_either(run):
    curve = StepCurve(run)
    for step in (20, 40, 33, 45):
        curve.log(report(step))
    assert steps_of(run) == [20, 40, 45]


def test_other_reports_are_left_alone(run):
    StepCurve(run).log({"train/loss": 1.0, "epoch": 1, "step": 3})
    assert steps_of(run, "train/loss") == []


def test_a_log_that_fails_is_a_warning_and_the_next_one_is_tried(run, caplog):
    curve = StepCurve(dataclasses.replace(run, run_id="0" * 32))
    with caplog.at_level(logging.WARNING):
        curve.log(report(20))
    assert "the metrics of step 20 are missing in MLflow" in caplog.text
    curve.handle = run
    curve.log(report(40))
    assert steps_of(run) == [40]
