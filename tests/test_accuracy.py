import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from sklearn.metrics import f1_score, ndcg_score, roc_auc_score

from recdiv_core.items.labels import labels_of_padded
from recdiv_core.items.traits import describe_items
from recdiv_core.metrics import accuracy
from recdiv_core.metrics.slate_batch import Background, SlateBatch, match_slates
from tests.oracles import accuracy_of_slate
from tests.worlds import pad

NUM_ITEMS = 40
TRAITS = describe_items(
    torch.zeros(NUM_ITEMS, 2),
    labels_of_padded(torch.zeros(NUM_ITEMS, 1, dtype=torch.int64)),
    torch.ones(NUM_ITEMS, dtype=torch.int64),
    num_train_users=1,
    num_categories=1,
)
METRICS = {
    "precision": accuracy.precision,
    "recall": accuracy.recall,
    "recall_capped": accuracy.recall_capped,
    "f1": accuracy.f1,
    "hit": accuracy.hit,
    "mrr": accuracy.mrr,
    "map": accuracy.map_,
    "ndcg": accuracy.ndcg,
}


def judged(slates: list[list[int]], targets: list[list[int]], k: int) -> SlateBatch:
    return match_slates(pad(slates), pad(targets), TRAITS, k=k)


def random_slates(seed: int, *, k: int, num_users: int = 20):
    rng = np.random.default_rng(seed)
    slates = [rng.permutation(NUM_ITEMS)[:k].tolist() for _ in range(num_users)]
    targets = [
        rng.permutation(NUM_ITEMS)[:size].tolist() for size in rng.integers(1, 16, num_users)
    ]
    return slates, targets


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("precision", 2 / 5),
        ("recall", 2 / 3),
        ("recall_capped", 2 / 3),
        ("f1", 2 * 2 / (5 + 3)),
        ("hit", 1.0),
        ("mrr", 1 / 2),
        ("map", (1 / 2 + 2 / 4) / 3),
        ("ndcg", (1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3) + 1 / 2)),
    ],
)
def test_a_slate_with_hits_at_ranks_2_and_4_of_3_targets(name, expected):
    slates = judged([[10, 1, 11, 2, 12]], [[1, 2, 3]], k=5)
    assert METRICS[name](slates).item() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("name", METRICS)
def test_the_best_possible_slate_scores_1(name):
    slates = judged([[1, 2, 3, 4]], [[4, 3, 2, 1]], k=4)
    assert METRICS[name](slates).item() == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize("name", METRICS)
def test_a_slate_without_a_hit_scores_0(name):
    assert METRICS[name](judged([[1, 2, 3, 4]], [[5, 6]], k=4)).item() == 0.0


@pytest.mark.parametrize("name", ["map", "ndcg", "precision", "recall_capped"])
def test_more_targets_than_places_leave_1_within_reach(name):
    slates = judged([[1, 2]], [[1, 2, 3, 4, 5]], k=2)
    assert METRICS[name](slates).item() == pytest.approx(1.0, abs=1e-15)


def test_recall_is_not_capped_at_k():
    assert accuracy.recall(judged([[1, 2]], [[1, 2, 3, 4, 5]], k=2)).item() == 2 / 5


def test_a_short_slate_keeps_the_denominator_of_precision():
    assert accuracy.precision(judged([[1]], [[1]], k=10)).item() == 1 / 10


@pytest.mark.parametrize("rank", [1, 2, 5, 10])
def test_ndcg_of_one_target_is_the_discount_of_its_rank(rank):
    slate = [20 + place for place in range(10)]
    slate[rank - 1] = 7
    assert accuracy.ndcg(judged([slate], [[7]], k=10)).item() == 1 / math.log2(rank + 1)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_ndcg_agrees_with_scikit_learn(k):
    slates, targets = random_slates(1, k=k)
    is_target, scores = np.zeros((20, NUM_ITEMS)), np.zeros((20, NUM_ITEMS))
    for user in range(20):
        is_target[user, targets[user]] = 1
        scores[user, slates[user]] = np.arange(k, 0, -1)
        scores[user, scores[user] == 0] = -np.arange(1, NUM_ITEMS - k + 1)
    expected = ndcg_score(is_target, scores, k=k)
    assert accuracy.ndcg(judged(slates, targets, k)).mean().item() == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_f1_agrees_with_scikit_learn(k):
    slates, targets = random_slates(2, k=k)
    is_target, is_shown = np.zeros((20, NUM_ITEMS), int), np.zeros((20, NUM_ITEMS), int)
    for user in range(20):
        is_target[user, targets[user]] = 1
        is_shown[user, slates[user]] = 1
    expected = f1_score(is_target, is_shown, average="samples", zero_division=0)
    assert accuracy.f1(judged(slates, targets, k)).mean().item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("precision", "recall", "of_users", "of_means"),
    [
        ((0.2, 0.5, 0.3, 0.6, 0.2), (0.3, 0.6, 0.4, 0.3, 0.3), 0.354, 0.370),
        ((0.2, 0.5, 0.4, 0.2, 0.5), (0.4, 0.2, 0.4, 0.6, 0.4), 0.339, 0.379),
    ],
)
def test_f1_is_the_mean_of_users_not_of_means(precision, recall, of_users, of_means):
    # Anelli et al. 2022, supplement: the two ways rank these systems differently
    precision = torch.tensor(precision, dtype=torch.float64)
    recall = torch.tensor(recall, dtype=torch.float64)
    per_user = accuracy.harmonic_mean(precision, recall)
    assert per_user.mean().item() == pytest.approx(of_users, abs=5e-4)
    assert accuracy.harmonic_mean(precision.mean(), recall.mean()).item() == pytest.approx(
        of_means, abs=5e-4
    )


@given(seed=st.integers(0, 10_000), k=st.integers(1, 12))
def test_users_are_judged_like_the_slow_twin(seed, k):
    slates, targets = random_slates(seed, k=k, num_users=3)
    batch = judged(slates, targets, k)
    values = {name: metric(batch) for name, metric in METRICS.items()}
    for user in range(3):
        expected = accuracy_of_slate(slates[user], targets[user], k)
        expected["recall_capped"] = (
            expected["recall"] * len(targets[user]) / min(k, len(targets[user]))
        )
        assert {name: v[user].item() for name, v in values.items()} == pytest.approx(expected)


@given(seed=st.integers(0, 10_000))
def test_moving_a_hit_forward_never_lowers_a_metric(seed):
    slates, targets = random_slates(seed, k=10, num_users=3)
    forward = [
        sorted(slate, key=lambda item, wanted=set(wanted): item not in wanted)
        for slate, wanted in zip(slates, targets, strict=True)
    ]
    before, after = judged(slates, targets, 10), judged(forward, targets, 10)
    for metric in METRICS.values():
        assert bool((metric(after) >= metric(before) - 1e-12).all())


def test_auc_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 15, (20, NUM_ITEMS))  # with ties
    slates, targets = random_slates(3, k=5)
    num_above, expected = pad(targets).double(), []
    for user, wanted in enumerate(targets):
        own = scores[user, wanted, None]
        above = (scores[user] > own).sum(1) + ((scores[user] == own).sum(1) - 1) / 2
        num_above[user, : len(wanted)] = torch.from_numpy(above)
        expected.append(roc_auc_score(np.isin(np.arange(NUM_ITEMS), wanted), scores[user]))
    none = torch.zeros(0, dtype=torch.int64)
    background = Background(none, none, num_above, torch.full((20,), NUM_ITEMS))
    batch = match_slates(pad(slates), pad(targets), TRAITS, k=5, background=background)
    np.testing.assert_allclose(accuracy.auc(batch).numpy(), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("num_above", "num_rankable", "expected"),
    [
        ([0, 1], 5, 1.0),  # both targets in front
        ([3, 4], 5, 0.0),
        ([0, 4], 5, 0.5),
        ([2, 2], 5, 0.5),  # all items alike
        ([0, 1], 2, 0.5),  # no item that is no target
    ],
)
def test_auc_by_hand(num_above, num_rankable, expected):
    none = torch.zeros(0, dtype=torch.int64)
    places = torch.tensor([num_above]).double()
    background = Background(none, none, places, torch.tensor([num_rankable]))
    slates = match_slates(pad([[1]]), pad([[1, 2]]), TRAITS, k=1, background=background)
    assert accuracy.auc(slates).tolist() == [expected]
