"""Means over seeds: against scipy, by law, and the degenerate cases."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy import stats

from recdiv_core.metrics.repeats import half_width, half_widths_of, means_of, most_typical

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8)


@given(VALUES)
def test_the_interval_is_that_of_scipy(values):
    mean, error = float(np.mean(values)), float(stats.sem(values))
    found = half_width(values)
    if error > 1e-9:
        low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=error)
        assert (mean - found, mean + found) == pytest.approx((low, high), rel=1e-6, abs=1e-6)
    else:
        assert found == pytest.approx(0.0, abs=1e-6)


@given(VALUES, st.floats(-10, 10), st.floats(0.1, 10))
def test_the_interval_moves_and_grows_with_the_values(values, shift, scale):
    moved = [scale * value + shift for value in values]
    assert half_width(moved) == pytest.approx(scale * half_width(values), rel=1e-6, abs=1e-6)


def test_the_interval_holds_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(size=(2000, 3)).tolist()
    held = np.mean([abs(np.mean(values)) <= half_width(values) for values in draws])
    assert held == pytest.approx(0.95, abs=0.015)


def test_one_value_says_nothing_of_its_spread():
    assert math.isnan(half_width([1.0]))
    assert half_widths_of([{"a": 1.0}]) == {}
    assert half_widths_of([]) == means_of([]) == {}


def test_equal_values_have_an_interval_of_no_width():
    assert half_widths_of([{"a": 1.0}] * 3) == {"a": 0.0}


def test_of_one_run_the_means_are_its_figures_bit_for_bit():
    assert means_of([{"a": 0.1, "b": 0.3}]) == {"a": 0.1, "b": 0.3}


def test_a_figure_that_one_lacks_has_no_mean():
    runs = [{"a": 1.0, "b": 2.0}, {"b": 4.0}]
    assert means_of(runs) == {"b": 3.0}
    assert list(half_widths_of(runs)) == ["b"]


def test_the_run_nearest_to_the_means_stands_for_all():
    runs = [{"a": 0.0, "b": 5.0}, {"a": 2.0, "b": 5.0}, {"a": 10.0, "b": 5.0}]
    assert most_typical(runs, ["a", "b"]) == 1


def test_each_figure_weighs_alike_whatever_its_scale():
    runs = [{"a": 0.0, "b": 1000.0}, {"a": 1.0, "b": 1500.0}, {"a": 2.0, "b": 3000.0}]
    assert most_typical(runs, ["a", "b"]) == 1
    smaller = [{"a": run["a"], "b": run["b"] / 1000} for run in runs]
    assert most_typical(smaller, ["a", "b"]) == 1


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_of_two_the_first_stands_for_both(one, other):
    assert most_typical([{"a": one}, {"a": other}], ["a"]) == 0


def test_figures_that_nobody_asked_for_choose_nothing():
    runs = [{"a": 1.0, "b": 9.0}, {"a": 3.0, "b": 5.0}, {"a": 2.5, "b": 0.0}]
    assert most_typical(runs, ["a"]) == 2
