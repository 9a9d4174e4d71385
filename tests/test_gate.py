import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.evaluation.differences import difference
from recdiv_core.metrics.bootstrap import resampled_means
from recdiv_core.release.gate import FLOORS, failed_floors, parse_floors, verdict

SHARES = st.floats(0.5, 1.5)


def entry_of(champion_U, candidate_U):
    draws = resampled_means(np.stack([champion_U, candidate_U]), 500, seed=0)
    return difference(champion_U.mean(), candidate_U.mean(), draws[:, 0], draws[:, 1])


def test_floors_given_stand_beside_the_others_or_in_their_place():
    assert parse_floors([]) == FLOORS
    assert FLOORS["narrowed"] == 0.95
    assert parse_floors(["narrowed=1"]) == {**FLOORS, "narrowed": 1.0}
    assert parse_floors(["ndcg=1.0", "ild.tail=0.9"]) == {**FLOORS, "ndcg": 1.0, "ild.tail": 0.9}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("speed=1", "allowed NAME=SHARE with one of"),
        ("gini=1", "allowed NAME=SHARE"),  # lower is better: no floor
        ("homogeneity.tail=1", "allowed NAME=SHARE"),
        ("narrowed.tail=1", "allowed NAME=SHARE"),
        ("ndcg.rich=1", "allowed NAME=SHARE"),
        ("ndcg", "'' is not a share"),
        ("ndcg=all", "'all' is not a share"),
        ("ndcg=nan", r"lies in \[0, 2\]"),
        ("ndcg=98", r"lies in \[0, 2\]"),
    ],
)
def test_a_wrong_floor_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        parse_floors([text])


@given(SHARES, SHARES)
def test_what_is_a_constant_share_of_the_champion_passes_up_to_that_share(share, floor):
    champion_U = np.linspace(0.1, 1.0, 40)
    found = verdict(entry_of(champion_U, share * champion_U), floor)
    assert found["share"] == pytest.approx(share)
    assert found["share_low"] == pytest.approx(share)
    if abs(share - floor) > 1e-9:
        assert found["passes"] == (share > floor)


def test_what_is_not_known_well_enough_does_not_pass():
    rng = np.random.default_rng(0)
    champion_U = rng.random(40)
    candidate_U = rng.permutation(champion_U)  # equal in the mean, not user by user
    found = verdict(entry_of(champion_U, candidate_U), 0.98)
    assert found["share"] == pytest.approx(1.0)
    assert found["share_low"] < 0.98
    assert not found["passes"]


def test_floors_that_fail_are_told_with_the_reason():
    sure = {"name": "ndcg.mid", "floor": 0.95, "share": 0.914, "share_low": 0.749, "passes": False}
    unsure = {**sure, "name": "ndcg", "share": 1.016, "share_low": 0.947}
    passed = {"name": "coverage", "floor": 0.98, "share": None, "share_low": None, "passes": None}
    assert failed_floors([passed]) == ""
    said = "ndcg.mid 0.914 of the champion's, interval from 0.749, floor 0.95"
    assert failed_floors([passed, sure]) == said
    assert "users are too few" not in failed_floors([sure, unsure])
    assert "the users are too few to be sure" in failed_floors([unsure, passed])


def test_a_champion_without_a_hit_decides_nothing():
    found = verdict(entry_of(np.zeros(40), np.ones(40)), 0.98)
    assert found == {
        "champion": 0.0,
        "candidate": 1.0,
        "share": None,
        "share_low": None,
        "passes": None,
    }
