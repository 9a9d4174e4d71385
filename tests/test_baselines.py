"""The maths of the baselines, against slow twins and closed forms, and laws of all of them."""

from collections import Counter

import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings

from recdiv_core.models import baselines
from recdiv_core.models.baselines import SCORES, Baseline
from tests.oracles import ease_scores, item_knn_scores

NUM_ITEMS, NUM_USERS = 12, 40
TOLERANCE = 5e-6
"""Float32, and the fallback's 1e-6."""

each_kind = pytest.mark.parametrize("kind", SCORES)
users = st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=6), min_size=1, max_size=5)


def log(seed=0):
    """Return histories in which item 11 never stands and popularity falls with item_index."""
    rng = np.random.default_rng(seed)
    shares = np.arange(NUM_ITEMS - 1, -1, -1.0)
    shares /= shares.sum()
    return [rng.choice(NUM_ITEMS, rng.integers(1, 6), p=shares).tolist() for _ in range(NUM_USERS)]


def pairs_of(histories):
    bought = np.zeros((len(histories), NUM_ITEMS), np.int32)
    for row, own in enumerate(histories):
        bought[row, own] = 1
    return scipy.sparse.csr_array(bought.T @ bought)


def counts_of(histories):
    counter = Counter(item for own in histories for item in own)
    return np.array([counter[item] for item in range(NUM_ITEMS)])


def fitted(kind, histories, *, num_neighbours=4, shrinkage=2.0, ridge=3.0, seed=0):
    counts, pairs = counts_of(histories), pairs_of(histories)
    knn = {"num_neighbours": num_neighbours, "shrinkage": shrinkage}
    fits = {
        "popular": lambda: baselines.fit_popular(counts),
        "recent_popular": lambda: baselines.fit_popular(counts),
        "random": lambda: baselines.fit_random(NUM_ITEMS, seed),
        "item_knn": lambda: baselines.fit_item_knn(pairs, counts, **knn),
        "ease": lambda: baselines.fit_ease(pairs, counts, ridge=ridge),
    }
    return Baseline(kind, fits[kind]())


def scores(baseline, histories, ids=None):
    return baseline.scores(
        torch.tensor([row for row, own in enumerate(histories) for _ in own], dtype=torch.int64),
        torch.tensor([item for own in histories for item in own], dtype=torch.int64),
        ids or [f"user {row}" for row in range(len(histories))],
    )


@settings(max_examples=12)
@given(users, st.integers(0, 50), st.sampled_from([0.5, 3.0, 500.0]))
def test_ease_is_the_closed_form(some, seed, ridge):
    made = scores(fitted("ease", log(seed), ridge=ridge), some)
    expected = [ease_scores(log(seed), own, NUM_ITEMS, ridge) for own in some]
    np.testing.assert_allclose(made.numpy(), expected, atol=TOLERANCE)


def test_the_weights_of_ease_are_the_best_ones_with_a_diagonal_of_0():
    histories = log(1)
    weights = fitted("ease", histories, ridge=3.0).weights["weight_VV"].double().numpy()
    bought = np.zeros((NUM_USERS, NUM_ITEMS))
    for row, own in enumerate(histories):
        bought[row, own] = 1.0
    assert not weights.diagonal().any()
    slope = bought.T @ (bought @ weights - bought) + 3.0 * weights
    np.fill_diagonal(slope, 0.0)
    np.testing.assert_allclose(slope, 0.0, atol=1e-5)


def test_a_large_matrix_is_mirrored_block_by_block(monkeypatch):
    monkeypatch.setattr(baselines, "BLOCK", 5)
    test_the_weights_of_ease_are_the_best_ones_with_a_diagonal_of_0()


@settings(max_examples=12)
@given(users, st.integers(0, 50), st.sampled_from([1, 3, 100]), st.sampled_from([0.0, 2.0]))
def test_item_knn_is_its_slow_twin(some, seed, num_neighbours, shrinkage):
    knn = {"num_neighbours": num_neighbours, "shrinkage": shrinkage}
    made = scores(fitted("item_knn", log(seed), **knn), some)
    expected = [item_knn_scores(log(seed), own, NUM_ITEMS, *knn.values()) for own in some]
    np.testing.assert_allclose(made.numpy(), expected, atol=TOLERANCE)


def test_of_equally_alike_items_those_of_lower_index_are_kept():
    weights = fitted("item_knn", [[5, 3, 8, 1]], num_neighbours=2, shrinkage=0.0).weights
    assert weights["neighbours_VN"][5].tolist() == [1, 3]


@pytest.mark.parametrize("kind", ["popular", "recent_popular"])
def test_popular_ranks_by_counts_and_equal_ones_by_index(kind):
    histories = log()
    counter = Counter(item for own in histories for item in own)
    expected = sorted(range(NUM_ITEMS), key=lambda item: (-counter[item], item))
    made = scores(fitted(kind, histories), [[], [3]])
    assert made.argsort(dim=1, descending=True).tolist() == [expected, expected]
    assert made.min() > 0
    assert made.max() == 1


@each_kind
@settings(max_examples=15)
@given(users)
def test_a_user_is_scored_alike_alone_and_in_any_batch(kind, some):
    baseline, ids = fitted(kind, log()), [f"user {row}" for row in range(len(some))]
    together = scores(baseline, some, ids)
    alone = [scores(baseline, [own], [name]) for own, name in zip(some, ids, strict=True)]
    assert torch.equal(together, torch.cat(alone))
    assert together.dtype == torch.float32
    assert together.isfinite().all()


@each_kind
def test_order_and_repeats_of_a_history_change_nothing(kind):
    baseline = fitted(kind, log())
    once = scores(baseline, [[1, 4, 7]], ["a"])
    assert torch.equal(scores(baseline, [[7, 1, 4, 4, 1]], ["a"]), once)


@pytest.mark.parametrize("kind", ["item_knn", "ease"])
def test_without_a_history_the_popular_items_stand_first(kind):
    order = scores(fitted(kind, log()), [[]]).argsort(descending=True)
    assert torch.equal(order, scores(fitted("popular", log()), [[]]).argsort(descending=True))


@each_kind
def test_no_users_get_no_scores(kind):
    assert scores(fitted(kind, log()), []).shape == (0, NUM_ITEMS)


@each_kind
def test_weights_are_tensors_that_a_checkpoint_can_hold(kind, tmp_path):
    baseline = fitted(kind, log())
    torch.save(dict(baseline.weights), tmp_path / "model.pt")
    read = Baseline(kind, torch.load(tmp_path / "model.pt", weights_only=True))
    assert torch.equal(scores(read, [[2, 3], []]), scores(baseline, [[2, 3], []]))


def test_random_scores_are_of_the_user_and_the_seed():
    first = scores(fitted("random", log()), [[1], [1]], ["a", "b"])
    assert not torch.equal(first[0], first[1])
    assert torch.equal(scores(fitted("random", log()), [[5, 2]], ["b"])[0], first[1])
    assert not torch.equal(scores(fitted("random", log(), seed=1), [[1]], ["a"])[0], first[0])


def test_random_scores_are_uniform():
    drawn = scores(fitted("random", log()), [[]] * 2000).flatten()
    counts = torch.histc(drawn, bins=10, min=0, max=1)
    expected = len(drawn) / 10
    assert ((counts - expected) ** 2 / expected).sum() < 27.9  # chi-square, 9 degrees, 0.1 %
