"""Which epoch is selected."""

import math

import pytest

from recdiv_core.training.selection import is_selected


@pytest.mark.parametrize("select", ["best", "last"])
@pytest.mark.parametrize("before", [None, {}])
def test_the_first_epoch_is_selected(select, before):
    assert is_selected(select, "ndcg", {"ndcg": 0.0}, before)


@pytest.mark.parametrize(("value", "replaces"), [(0.3, True), (0.2, False), (0.1, False)])
def test_best_selects_only_an_epoch_with_a_higher_objective(value, replaces):
    assert is_selected("best", "ndcg", {"ndcg": value, "ild": 9.0}, {"ndcg": 0.2}) is replaces


def test_last_selects_every_epoch():
    assert is_selected("last", "ndcg", {"ndcg": 0.1}, {"ndcg": 0.2})


def test_an_objective_that_is_not_a_number_is_not_selected():
    assert not is_selected("best", "ndcg", {"ndcg": math.nan}, {"ndcg": 0.2})
