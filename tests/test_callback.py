"""What a report of training leaves in a real MLflow store."""

import pytest
from mlflow import MlflowClient

from recdiv_core.config import Config, override
from recdiv_core.tracking import runs as tracking
from recdiv_core.training.callback import log_report

EPOCH = {"train/loss": 0.7, "val/ndcg_at_10": 0.05, "val/ild_at_10": 0.5}
LAST = {**EPOCH, "epoch": 2, "best/epoch": 2, "best/val/ndcg_at_10": 0.05, "test/ndcg_at_10": 0.04}


@pytest.fixture
def run(mlflow_uri, manifest):
    config = override(Config(), {"tracking.uri": mlflow_uri, "run.name": "reported"})
    return tracking.start_run(config, name="reported", kind="train", manifest=manifest)


@pytest.fixture
def steps(run):
    client = MlflowClient(tracking_uri=run.uri)
    return lambda name: [point.step for point in client.get_metric_history(run.run_id, name)]


def test_bookkeeping_is_not_logged(run, steps):
    log_report(run, {**EPOCH, "epoch": 1, "selection": 0.05, "step": 88})
    assert steps("val/ndcg_at_10") == [1]
    assert steps("selection") == steps("step") == steps("epoch") == []


def test_the_last_report_does_not_repeat_its_epoch(run, steps):
    for epoch in (1, 2):
        log_report(run, {**EPOCH, "epoch": epoch})
    log_report(run, LAST)
    assert {name: steps(name) for name in EPOCH} == {name: [1, 2] for name in EPOCH}


def test_metrics_of_the_whole_run_are_at_step_0(run, steps):
    # MLflow draws one bar per run of a metric that has step 0 alone
    log_report(run, LAST)
    assert steps("test/ndcg_at_10") == steps("best/val/ndcg_at_10") == [0]


def test_the_last_report_brings_an_epoch_that_was_never_logged(run, steps):
    log_report(run, {**EPOCH, "epoch": 1})
    log_report(run, LAST)
    assert {name: steps(name) for name in EPOCH} == {name: [1, 2] for name in EPOCH}


def test_a_repeated_epoch_is_logged_where_it_never_was(run, steps):
    log_report(run, {**EPOCH, "epoch": 1})
    for epoch in (1, 2):
        log_report(run, {**EPOCH, "epoch": epoch, "is_repeated": 1.0})
    assert {name: steps(name) for name in EPOCH} == {name: [1, 2] for name in EPOCH}


def test_a_report_inside_an_epoch_logs_nothing(run, steps):
    log_report(run, {"selection": 0.05, "step": 40})
    assert steps("train/loss") == []
