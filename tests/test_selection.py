"""Which epoch is selected."""

import math
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.training.selection import Selected, improves, next_selected


def epoch(ndcg, coverage=0.0):
    return {"ndcg_at_10": ndcg, "coverage_at_10": coverage}


def selected(epochs, select="best", tie=0.0):
    """Return the number of the selected epoch."""

    def after(before, metrics):
        return next_selected(select, "ndcg_at_10", metrics, before, tie)

    chosen = reduce(after, epochs, None).metrics
    return next(number for number, metrics in enumerate(epochs) if metrics is chosen)


@pytest.mark.parametrize("select", ["best", "last"])
def test_the_first_epoch_is_selected(select):
    assert selected([epoch(0.0)], select) == 0


@pytest.mark.parametrize(("value", "number"), [(0.3, 1), (0.2, 0), (0.1, 0)])
def test_best_selects_only_an_epoch_with_a_higher_objective(value, number):
    assert selected([epoch(0.2), epoch(value, 0.9)]) == number


def test_last_selects_every_epoch():
    assert selected([epoch(0.2), epoch(0.1)], "last", tie=0.5) == 1


def test_an_objective_that_is_not_a_number_is_not_selected():
    assert selected([epoch(0.2), epoch(math.nan, 0.9), epoch(0.1)], tie=0.1) == 0


def test_of_tied_epochs_the_one_with_more_coverage_is_selected():
    assert selected([epoch(0.200, 0.5), epoch(0.199, 0.6), epoch(0.1995, 0.55)], tie=0.01) == 1


def test_an_epoch_that_the_most_accurate_one_leaves_behind_is_replaced():
    assert selected([epoch(0.200, 0.6), epoch(0.201, 0.5), epoch(0.210, 0.1)], tie=0.01) == 2


def test_patience_starts_anew_with_a_higher_objective_alone():
    before = Selected(epoch(0.2), 0.2)
    assert improves("best", None, before)
    assert improves("best", before, Selected(epoch(0.3), 0.3))
    assert not improves("best", before, Selected(epoch(0.199, 0.9), 0.2))
    assert improves("last", before, before)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=9),
    st.sampled_from([0.0, 0.01, 0.2]),
)
def test_the_selected_epoch_is_within_the_tie_of_the_most_accurate(values, tie):
    epochs = [epoch(*each) for each in values]
    highest = max(each["ndcg_at_10"] for each in epochs)
    assert epochs[selected(epochs, tie=tie)]["ndcg_at_10"] >= highest * (1 - tie) - 1e-12
