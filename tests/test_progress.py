"""The curve of a running sweep, on a real MLflow store."""

import json

import pytest
from mlflow import MlflowClient

from recdiv_core.config import Config, override
from recdiv_core.fronts.progress import Progress
from recdiv_core.fronts.reading import HYPERVOLUME
from recdiv_core.schema import Manifest
from recdiv_core.tracking import runs as tracking
from recdiv_core.tracking.runs import RunHandle

NDCG, COVERAGE = "val/ndcg_at_10", "val/coverage_at_10"
OBJECTIVES = [{"metric": name, "direction": "max", "reference": 0.0} for name in (NDCG, COVERAGE)]


@pytest.fixture
def config(mlflow_uri: str) -> Config:
    return override(Config(), {"tracking.uri": mlflow_uri})


@pytest.fixture
def parent(config: Config, manifest: Manifest) -> RunHandle:
    tags = {
        "recdiv.objectives": json.dumps(OBJECTIVES),
        "recdiv.parameters": json.dumps(["loss.diversity_weight"]),
        "recdiv.least": json.dumps({NDCG: 0.2}),
    }
    return tracking.start_run(config, name="sweep", kind="sweep", manifest=manifest, tags=tags)


class Trials:
    """Trials of a sweep, opened and ended as its driver does it."""

    def __init__(self, config: Config, manifest: Manifest, parent: RunHandle) -> None:
        self.config, self.manifest, self.parent = config, manifest, parent

    def begin(self) -> RunHandle:
        return tracking.start_run(
            self.config,
            name="trial",
            kind="trial",
            manifest=self.manifest,
            parent_run_id=self.parent.run_id,
        )

    def end(self, trial: RunHandle, ndcg: float, coverage: float) -> RunHandle:
        figures = {f"best/{NDCG}": ndcg, f"best/{COVERAGE}": coverage}
        tracking.log_metrics(trial, figures, step=1)
        tracking.finish_run(trial, "FINISHED")
        return trial


@pytest.fixture
def trials(config: Config, manifest: Manifest, parent: RunHandle) -> Trials:
    return Trials(config, manifest, parent)


def curve(parent: RunHandle) -> list[tuple[int, float]]:
    history = MlflowClient(parent.uri).get_metric_history(parent.run_id, HYPERVOLUME)
    return [(point.step, pytest.approx(point.value)) for point in history]


def progress_of(parent: RunHandle) -> Progress:
    progress = Progress(parent)
    progress.read()
    return progress


def test_every_trial_that_ends_is_a_step(trials, parent):
    progress = progress_of(parent)
    running = trials.begin()
    for ndcg, coverage in ((0.5, 0.1), (0.3, 0.1), (0.4, 0.2)):
        progress.update(trials.end(trials.begin(), ndcg, coverage))
    progress.update(trials.end(running, 0.1, 0.9))  # breaks the constraint
    assert curve(parent) == [(1, 0.05), (2, 0.05), (3, 0.09), (4, 0.09)]


def test_the_baseline_is_part_of_the_curve(trials, parent):
    trials.end(trials.begin(), 0.5, 0.1)
    progress_of(parent).update(trials.end(trials.begin(), 0.4, 0.2))
    assert curve(parent) == [(1, 0.05), (2, 0.09)]


def test_the_curve_of_an_interrupted_sweep_goes_on(trials, parent, manifest):
    killed = progress_of(parent)
    first, second = trials.begin(), trials.begin()
    killed.update(trials.end(first, 0.5, 0.1))
    killed.update(trials.end(second, 0.4, 0.2))
    trials.end(trials.begin(), 0.3, 0.3)  # the driver was killed before it logged this step
    restored = progress_of(parent)
    tracking.reopen_run(second, Config(), manifest)  # Tune had not noted its end
    restored.update(trials.end(trials.begin(), 0.2, 0.4))
    restored.update(trials.end(second, 0.4, 0.2))
    assert curve(parent) == [(1, 0.05), (2, 0.09), (3, 0.12), (4, 0.14)]
