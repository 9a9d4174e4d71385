import hypothesis.strategies as st
import pytest
from hypothesis import given

from tests.candidate_worlds import candidates_of_one, random_candidates, rerank
from tests.oracles import greedy_regret, scaled_scores, values_left

EVERY = {"category": 1.0, "brand": 1.0, "colour": 1.0, "price": 1.0}


@pytest.mark.parametrize("weights", [{}, {"category": 1.0}, {"price": 3.0, "category": 0.5}])
@given(
    seed=st.integers(0, 10_000),
    dial=st.sampled_from([0.2, 0.6, 1.0]),
    alpha=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_alpha_takes_the_values_that_were_shown_least(weights, seed, dial, alpha):
    candidates = random_candidates(seed, num_users=1)
    slate = rerank("alpha", candidates, 8, dial, alpha=alpha, attributes=weights)[0].tolist()
    relevance = scaled_scores(candidates.scores_BC[0].tolist())
    values = {
        name: [[v for v in row if v >= 0] for row in candidates.labels_BCL(name)[0].tolist()]
        for name in EVERY
    }

    def value(item, chosen):
        new = values_left(item, chosen, values, weights or EVERY, alpha)
        return (1 - dial) * relevance[item] + dial * new

    assert greedy_regret(slate, relevance, value) < 1e-5


def test_alpha_by_hand():
    candidates = candidates_of_one(
        [5.0, 4.0, 3.0, 2.0, 1.0],
        categories=[[0], [0], [0], [1], [1]],
        attributes={"brand": [0, 0, 1, 0, -1]},
    )
    # after 0, of category 0 and brand 0: .5, .75, .75; the brand of the last is unknown: .5
    assert rerank("alpha", candidates, 2, 1.0).tolist() == [[0, 2]]
    assert rerank("alpha", candidates, 3, 1.0).tolist() == [[0, 2, 3]]  # then .375, .75, .5
    chosen = rerank("alpha", candidates, 2, 1.0, attributes={"category": 1.0})
    assert chosen.tolist() == [[0, 3]]


def test_values_of_two_attributes_are_never_taken_for_one_another():
    candidates = candidates_of_one(
        [3.0, 2.0, 1.0], categories=[[0], [1], [2]], attributes={"brand": [1, 2, 3]}
    )
    assert rerank("alpha", candidates, 3, 1.0, alpha=1.0).tolist() == [[0, 1, 2]]


def test_weights_that_sum_to_nothing_are_refused():
    with pytest.raises(ValueError, match=r"rerank\.attributes: the weights"):
        rerank("alpha", random_candidates(0), 3, 0.5, attributes={"brand": 0.0})
