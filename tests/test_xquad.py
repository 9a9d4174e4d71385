import hypothesis.strategies as st
import pytest
from hypothesis import given

from tests.candidate_worlds import candidates_of_one, random_candidates, rerank
from tests.oracles import greedy_regret, scaled_scores, wishes_left


def labels_of(candidates, user):
    rows = candidates.labels_BCL("category")[user].tolist()
    return [[label for label in row if label >= 0] for row in rows]


@given(
    seed=st.integers(0, 10_000),
    dial=st.sampled_from([0.2, 0.6, 1.0]),
    alpha=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_xquad_takes_what_the_user_still_wishes_for(seed, dial, alpha):
    candidates = random_candidates(seed, num_users=3)
    slates = rerank("xquad", candidates, 8, dial, alpha=alpha).tolist()
    for user in range(3):
        relevance = scaled_scores(candidates.scores_BC[user].tolist())
        history, labels = candidates.history_BG[user].tolist(), labels_of(candidates, user)

        def value(item, chosen, relevance=relevance, history=history, labels=labels):
            wished = wishes_left(item, chosen, labels, history, alpha)
            return (1 - dial) * relevance[item] + dial * wished

        assert greedy_regret(slates[user], relevance, value) < 1e-5


@pytest.mark.parametrize(
    ("alpha", "expected"), [(1.0, [0, 2, 1, 3]), (0.5, [0, 2, 1, 3]), (0.2, [0, 1, 2, 3])]
)
def test_xquad_by_hand(alpha, expected):
    # wishes .6 and .4, nothing for category 2; after one item of it, category 0 is worth 0, .3, .48
    candidates = candidates_of_one(
        [4.0, 3.0, 2.0, 1.0], categories=[[0], [0], [1], [2]], history=[0.6, 0.4, 0.0]
    )
    assert rerank("xquad", candidates, 4, 1.0, alpha=alpha).tolist() == [expected]


def test_xquad_without_a_history_keeps_the_models_order():
    candidates = random_candidates(3)
    assert rerank("xquad", candidates, 5, 1.0)[2].tolist() == [0, 1, 2, 3, 4]
