import hypothesis.strategies as st
import numpy as np
import pytest
import pyversity
from hypothesis import given

from tests.candidate_worlds import random_candidates, rerank, slate_of_one, vectors_of
from tests.oracles import distance_to_span, greedy_regret, standard_scores


@given(seed=st.integers(0, 10_000), k=st.integers(1, 8), dial=st.sampled_from([0.2, 0.6, 1.0]))
def test_ssd_adds_the_distance_to_the_span_of_what_was_chosen(seed, k, dial):
    candidates = random_candidates(seed, num_users=1, dim=10, zeros=0.0)
    vectors = np.pad(vectors_of(candidates, 0).astype(float), ((0, 0), (0, 1)), constant_values=1)
    relevance = standard_scores(candidates.scores_BC[0].tolist())

    def value(item, chosen):
        if not chosen:
            return relevance[item]
        left = distance_to_span(vectors[item], vectors[chosen])
        return (1 - dial) * relevance[item] + dial * left

    slate = rerank("ssd", candidates, k, dial)[0].tolist()
    assert len(slate) == k
    assert greedy_regret(slate, relevance, value) < 1e-4


@pytest.mark.parametrize("window", [1, 2, 3, 5])
def test_ssd_slides_as_pyversity_slides(window):
    candidates = random_candidates(4, num_users=30, num_candidates=40, dim=12, zeros=0.0)
    slates = rerank("ssd", candidates, 12, 0.7, window=window)
    for user in range(30):
        theirs = pyversity.ssd(
            vectors_of(candidates, user),
            candidates.scores_BC[user].numpy(),
            k=12,
            diversity=0.7,
            window=window,
        )
        assert slates[user].tolist() == theirs.indices.tolist()


def test_ssd_with_a_window_of_one_turns_back_at_once():
    vectors = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    scores = [4.0, 3.0, 2.0, 1.0]
    assert slate_of_one("ssd", scores, vectors, 4, 0.9) == [0, 2, 1, 3]
    assert slate_of_one("ssd", scores, vectors, 4, 1.0, window=1) == [0, 2, 1, 3]
