import hypothesis.strategies as st
import pytest
from hypothesis import given

from tests.candidate_worlds import random_candidates, rerank, slate_of_one, vectors_of
from tests.oracles import cosine, greedy_regret, ild_of_slate, scaled_scores


@given(seed=st.integers(0, 10_000), k=st.integers(1, 12), dial=st.sampled_from([0.2, 0.6, 1.0]))
def test_msd_takes_what_adds_most_to_relevance_and_ild_of_the_slate(seed, k, dial):
    candidates = random_candidates(seed, num_users=1)
    vectors, relevance = vectors_of(candidates, 0), scaled_scores(candidates.scores_BC[0].tolist())

    def value(item, chosen):
        if not chosen:
            return relevance[item]
        far = sum(1 - cosine(vectors[item], vectors[other]) for other in chosen)
        return (1 - dial) * relevance[item] + dial * 2 / (k - 1) * far

    slate = rerank("msd", candidates, k, dial)[0].tolist()
    assert len(slate) == k
    assert greedy_regret(slate, relevance, value) < 1e-5


def test_the_gains_of_msd_sum_to_the_ild_of_the_slate():
    candidates, k = random_candidates(1), 6
    vectors = vectors_of(candidates, 0)
    slate = rerank("msd", candidates, k, 1.0)[0].tolist()
    gains = [
        2 / (k - 1) * (1 - cosine(vectors[item], vectors[other]))
        for place, item in enumerate(slate)
        for other in slate[:place]
    ]
    assert sum(gains) / k == pytest.approx(ild_of_slate(slate, vectors), abs=1e-6)


def test_msd_by_hand():
    vectors = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]
    scores = [1.0, 0.9, 0.5, 0.0]
    assert slate_of_one("msd", scores, vectors, 3, 0.2) == [0, 1, 2]  # .72, .6, .4; then .8, .8
    assert slate_of_one("msd", scores, vectors, 3, 0.6) == [0, 3, 1]  # .36, .8, 1.2; 1.56, 1.4
    assert slate_of_one("msd", scores, vectors, 1, 1.0) == [0]
