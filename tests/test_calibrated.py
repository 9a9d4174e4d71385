import hypothesis.strategies as st
from hypothesis import given

from tests.candidate_worlds import candidates_of_one, random_candidates, rerank
from tests.oracles import divergence_from_history, greedy_regret, scaled_scores


@given(seed=st.integers(0, 10_000), dial=st.sampled_from([0.2, 0.6, 1.0]))
def test_calibrated_takes_what_brings_the_slate_nearest_to_the_history(seed, dial):
    candidates = random_candidates(seed, num_users=3)
    slates = rerank("calibrated", candidates, 8, dial).tolist()
    for user in range(3):
        relevance = scaled_scores(candidates.scores_BC[user].tolist())
        history = candidates.history_BG[user].double().tolist()
        rows = candidates.labels_BCL("category")[user].tolist()
        labels = [[label for label in row if label >= 0] for row in rows]

        def value(item, chosen, relevance=relevance, history=history, labels=labels):
            divergence = divergence_from_history([*chosen, item], labels, history)
            return (1 - dial) * relevance[item] - dial * divergence

        assert greedy_regret(slates[user], relevance, value) < 1e-5


def test_a_calibrated_slate_has_the_proportions_of_the_history():
    candidates = candidates_of_one(
        [float(-i) for i in range(30)],
        categories=[[i // 10] for i in range(30)],
        history=[0.2, 0.5, 0.3],
    )
    slate = rerank("calibrated", candidates, 10, 1.0)[0].tolist()
    assert [sum(i // 10 == category for i in slate) for category in range(3)] == [2, 5, 3]


def test_a_narrow_user_stays_narrow():
    candidates = candidates_of_one(
        [4.0, 3.0, 2.0, 1.0], categories=[[0], [1], [1], [0]], history=[0.0, 1.0]
    )
    assert rerank("calibrated", candidates, 2, 0.9).tolist() == [[1, 2]]


def test_calibrated_without_a_history_keeps_the_models_order():
    candidates = random_candidates(3)
    assert rerank("calibrated", candidates, 5, 1.0)[2].tolist() == [0, 1, 2, 3, 4]
