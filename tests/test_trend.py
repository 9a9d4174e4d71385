"""Slopes of daily metrics and their intervals (metrics/trend.py)."""

import numpy as np
import pytest

from recdiv_core.metrics.trend import slope


def days_of(rng, slope_a_day, memory, num_days=30):
    """Return days with a slope and noise of which a share of yesterday's stays."""
    noise = np.zeros(num_days)
    for day in range(1, num_days):
        noise[day] = memory * noise[day - 1] + rng.normal()
    return slope_a_day * np.arange(num_days) + noise


def test_the_slope_is_that_of_least_squares():
    values = np.random.default_rng(0).random(20)
    found = slope(values)
    assert found.per_day == pytest.approx(np.polyfit(np.arange(20), values, 1)[0])
    assert found.per_day - found.low == pytest.approx(found.high - found.per_day)


def test_a_day_without_a_value_is_left_out_but_keeps_its_place():
    assert slope([0.0, 1.0, np.nan, 3.0, 4.0, 5.0]).per_day == pytest.approx(1.0)


def test_few_days_have_no_slope():
    assert slope([1.0, 2.0, 3.0, np.nan, 4.0]) is None


def test_the_direction_is_named_if_the_interval_excludes_zero():
    rng = np.random.default_rng(1)
    assert slope(days_of(rng, 1.0, 0.3)).direction == "rises"
    assert slope(days_of(rng, -1.0, 0.3)).direction == "falls"
    assert slope(np.tile([0.0, 1.0], 10)).direction == "steady"


def test_the_interval_holds_the_slope_of_most_months_though_days_resemble_each_other():
    rng = np.random.default_rng(2)
    found = [slope(days_of(rng, 0.1, 0.5)) for _ in range(1000)]
    held = np.mean([each.low <= 0.1 <= each.high for each in found])
    assert 0.9 <= held <= 0.97


def test_days_that_resemble_each_other_widen_the_interval():
    noise = np.random.default_rng(3).normal(size=30)
    alike = np.convolve(noise, np.ones(5), "same")
    alone, together = (slope(each / each.std()) for each in (noise, alike))
    assert together.high - together.low > 1.3 * (alone.high - alone.low)
