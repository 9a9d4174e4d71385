"""The scheduler as Tune calls it, without Ray running."""

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from recdiv_core.search_space import Objective
from recdiv_core.sweep.early_stopping import FrontScheduler, SchedulerState

OBJECTIVES = (Objective("val/ndcg_at_10", "max", 0.0), Objective("val/gini_at_10", "min", 1.0))


def scheduler(grace_epochs: int = 1, epochs: int = 10) -> FrontScheduler:
    return FrontScheduler(OBJECTIVES, grace_epochs=grace_epochs, epochs=epochs)


def decide(
    own: FrontScheduler, trial: str, epoch: int, ndcg: float, gini: float, **more: float
) -> str:
    named: Any = SimpleNamespace(trial_id=trial)
    report = {"epoch": epoch, "val/ndcg_at_10": ndcg, "val/gini_at_10": gini, **more}
    return own.on_trial_result(None, named, report)


def test_a_trial_that_is_behind_on_everything_is_stopped():
    own = scheduler()
    assert decide(own, "a", 1, 0.5, 0.5) == TrialScheduler.CONTINUE
    assert decide(own, "b", 1, 0.4, 0.6) == TrialScheduler.STOP
    assert decide(own, "c", 1, 0.496, 0.504) == TrialScheduler.CONTINUE, "within the margin"


def test_low_accuracy_alone_stops_no_trial():
    own = scheduler()
    decide(own, "a", 1, 0.5, 0.5)
    assert decide(own, "diverse", 1, 0.01, 0.4) == TrialScheduler.CONTINUE


def test_trials_are_compared_at_the_same_epoch():
    own = scheduler()
    decide(own, "a", 3, 0.5, 0.5)
    assert decide(own, "b", 1, 0.4, 0.6) == TrialScheduler.CONTINUE


@pytest.mark.parametrize(
    ("grace_epochs", "epochs", "compared"),
    [(1, 10, [1, 2, 3, 5, 8]), (2, 7, [2, 3, 5]), (2, 4, [2, 3]), (5, 5, []), (0, 2, [1])],
)
def test_trials_are_stopped_only_at_epochs_of_comparison(grace_epochs, epochs, compared):
    own = scheduler(grace_epochs, epochs)
    for epoch in range(1, epochs + 1):
        decide(own, "a", epoch, 0.5, 0.5)
    stopped = [e for e in range(1, epochs + 1) if decide(own, "b", e, 0.1, 0.9) == "STOP"]
    assert stopped == compared


def test_the_last_report_stops_no_trial():
    own = scheduler()
    decide(own, "a", 3, 0.5, 0.5)
    assert decide(own, "b", 3, 0.1, 0.9, **{"best/epoch": 2}) == TrialScheduler.CONTINUE
    assert decide(own, "b", 3, 0.1, 0.9) == TrialScheduler.STOP


def test_an_epoch_that_is_reported_again_replaces_itself():
    own = scheduler()
    decide(own, "a", 1, 0.5, 0.5)
    assert decide(own, "a", 1, 0.3, 0.7) == TrialScheduler.CONTINUE
    assert decide(own, "b", 1, 0.3, 0.7) == TrialScheduler.CONTINUE


def test_metrics_that_are_not_finite_stop_no_trial():
    own = scheduler()
    decide(own, "a", 1, 0.5, 0.5)
    assert decide(own, "b", 1, float("nan"), 0.9) == TrialScheduler.CONTINUE


def test_the_state_is_restored_with_the_sweep():
    own = scheduler()
    memory = SchedulerState(own)
    # Tune pickles both when the sweep is made, and the callback's state as it goes on
    unpickled, copy_of_memory = pickle.loads(pickle.dumps((own, memory)))
    decide(own, "a", 1, 0.5, 0.5)
    copy_of_memory.set_state(pickle.loads(pickle.dumps(memory.get_state())))
    assert decide(unpickled, "b", 1, 0.4, 0.6) == TrialScheduler.STOP
