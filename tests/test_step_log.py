"""At which steps metrics are fetched and logged, and what they are."""

import itertools
import math

import pytest
import torch

from recdiv_core.training.step import StepSums
from recdiv_core.training.step_log import StepLog, step_metrics


class Clock:
    """Seconds that a test moves."""

    now = 0.0

    def __call__(self):
        return self.now


def logged_steps(seconds_of_step, *, every_s, num_steps):
    """Return the steps at which metrics were logged, and the number of fetches."""
    clock = Clock()
    log = StepLog(every_s, torch.device("cpu"), clock)
    log.start(0)
    logged, num_fetches = [], 0
    for step in range(num_steps):
        clock.now += seconds_of_step(step)
        if step + 1 >= log.due:
            num_fetches += 1
            seconds, _ = log.fetched(step + 1)
            if seconds is not None:
                logged.append(step + 1)
    return logged, num_fetches


def test_even_steps_are_logged_at_the_interval_after_one_fetch_that_sets_the_pace():
    logged, num_fetches = logged_steps(lambda step: 0.5, every_s=10, num_steps=100)
    assert logged == [20, 40, 60, 80, 100]
    assert num_fetches == 6


def test_a_slow_first_step_does_not_make_later_logs_frequent():
    logged, _ = logged_steps(lambda step: 60.0 if step == 0 else 0.1, every_s=10, num_steps=500)
    assert logged[0] == 1
    assert all(later - before >= 50 for before, later in itertools.pairwise(logged[2:]))


def test_steps_longer_than_the_interval_are_logged_one_by_one():
    logged, _ = logged_steps(lambda step: 30.0, every_s=10, num_steps=4)
    assert logged == [1, 2, 3, 4]


def test_an_epoch_shorter_than_the_interval_logs_nothing():
    assert logged_steps(lambda step: 0.1, every_s=10, num_steps=20)[0] == []


def test_time_between_epochs_is_no_part_of_an_interval():
    clock = Clock()
    log = StepLog(10, torch.device("cpu"), clock)
    log.start(0)
    clock.now = 5.0
    assert log.fetched(5) == (5.0, 5)
    clock.now = 100.0
    log.start(6)
    clock.now = 110.0
    assert log.due == 16
    assert log.fetched(16) == (10.0, 10)


def sums(loss, grad_norm=2.0):
    return StepSums(loss, 6.0, 2.0, 1.0, 4.0, 4.0, grad_norm)


def test_metrics_of_steps_are_means_rate_and_speed():
    assert step_metrics([sums(8.0), sums(4.0, 4.0)], 2.0, 0.001) == {
        "step/loss": 1.5,
        "step/relevance": 3.0,
        "step/penalty": 0.25,
        "step/grad_norm": 3.0,
        "step/learning_rate": 0.001,
        "step/users_per_s": 4.0,
    }


def test_a_skipped_step_counts_for_the_speed_alone():
    metrics = step_metrics([sums(8.0), sums(math.nan, math.inf)], 2.0, 0.001)
    assert metrics["step/loss"] == pytest.approx(2.0)
    assert metrics["step/users_per_s"] == 4.0
