import hypothesis.strategies as st
import numpy as np
import pytest
import pyversity
import torch
from hypothesis import given

from recdiv_core.rerank import RERANKERS, Options
from recdiv_core.rerank.relevance import zero_to_one
from tests.candidate_worlds import random_candidates, rerank, slate_of_one, vectors_of
from tests.oracles import ild_of_slate, mmr_slate

DIALS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


@given(seed=st.integers(0, 10_000), k=st.integers(1, 14), diversity=st.sampled_from(DIALS))
def test_mmr_equals_its_slow_twin(seed, k, diversity):
    candidates = random_candidates(seed, num_users=3)
    candidates.scores_BC[1, 7:] = -torch.inf
    chosen = rerank("mmr", candidates, k, diversity)
    for user in range(3):
        scores = candidates.scores_BC[user].tolist()
        expected = mmr_slate(scores, vectors_of(candidates, user), k, diversity)
        assert chosen[user].tolist() == expected


@pytest.mark.parametrize("dials", [(0.3,), DIALS])
def test_mmr_picks_what_pyversity_picks(dials):
    # pyversity takes relevance as given and cuts cosines off at 0: give it both as ours are
    candidates = random_candidates(3, num_users=40, num_candidates=100, dim=16, positive=True)
    relevance = zero_to_one(candidates).numpy()
    chosen = RERANKERS["mmr"](candidates, 10, dials, Options())
    for user in range(40):
        vectors = vectors_of(candidates, user)
        for index, dial in enumerate(dials):
            theirs = pyversity.mmr(vectors, relevance[user], k=10, diversity=dial)
            assert chosen[user, index].tolist() == theirs.indices.tolist()


def test_mmr_by_hand():
    vectors = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]
    scores = [1.0, 0.9, 0.5, 0.0]
    assert slate_of_one("mmr", scores, vectors, 3, 0.2) == [0, 1, 2]  # .72-.2, .4, .2; .4, .2
    assert slate_of_one("mmr", scores, vectors, 3, 0.4) == [0, 3, 2]  # .14, .3, .4; .14, .3
    assert slate_of_one("mmr", scores, vectors, 4, 1.0) == [0, 3, 2, 1]


def test_mmr_keeps_the_top_candidate_at_every_dial():
    chosen = RERANKERS["mmr"](random_candidates(4), 5, DIALS, Options())
    assert bool((chosen[:, :, 0] == 0).all())


def test_mmr_breaks_ties_towards_the_earlier_candidate():
    vectors = [[1.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, 9.0]]
    assert slate_of_one("mmr", [1.0] * 4, vectors, 3, 0.5) == [0, 2, 1]


def test_mmr_leaves_duplicates_of_the_top_candidate_to_the_end():
    vectors = [[1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    assert slate_of_one("mmr", [4.0, 3.9, 3.8, 0.0], vectors, 4, 0.6) == [0, 2, 3, 1]


def test_raising_the_dial_of_mmr_raises_ild():
    candidates = random_candidates(6, num_users=50, num_candidates=60, dim=8, zeros=0.0)
    chosen = RERANKERS["mmr"](candidates, 8, DIALS, Options())
    ilds = np.array(
        [
            [ild_of_slate(slate, vectors_of(candidates, user)) for slate in grid]
            for user, grid in enumerate(chosen.tolist())
        ]
    ).mean(0)
    assert min(np.diff(ilds)) > -0.01
    assert ilds[-1] > ilds[0] + 0.05
