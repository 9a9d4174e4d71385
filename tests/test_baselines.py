"""The maths of the baselines, against slow twins and closed forms, and laws of all of them."""

from collections import Counter
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from sklearn.feature_extraction.text import TfidfVectorizer

from recdiv_core.models.baselines import SCORES, Baseline, Histories, TrainEvents, ease, neighbours
from recdiv_core.models.baselines.buy_again import fit_buy_again
from recdiv_core.models.baselines.ease import fit_ease
from recdiv_core.models.baselines.graph import fit_graph
from recdiv_core.models.baselines.neighbours import fit_item_knn, keep_best
from recdiv_core.models.baselines.popularity import fit_popular, fit_random
from recdiv_core.models.baselines.query_match import fit_bm25
from recdiv_core.models.baselines.query_words import SKETCH, sketch_values
from recdiv_core.models.baselines.rp3beta import fit_rp3beta
from recdiv_core.models.baselines.text_profile import fit_text
from tests.oracles import (
    ease_scores,
    falling_weights,
    graph_scores,
    item_knn_scores,
    rp3beta_scores,
)

NUM_ITEMS, NUM_USERS = 12, 40
TOLERANCE = 5e-6
ROUNDED = 1e-4  # of a sum of entries in int16
"""Float32, and the fallback's 1e-6."""
TEXTS = ["", *(f"Word{item % 4} word{item % 3} only{item} a" for item in range(1, NUM_ITEMS))]

each_kind = pytest.mark.parametrize("kind", SCORES)
users = st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=6), min_size=1, max_size=5)


def log(seed=0):
    """Return histories in which item 11 never stands and popularity falls with item_index."""
    rng = np.random.default_rng(seed)
    shares = np.arange(NUM_ITEMS - 1, -1, -1.0)
    shares /= shares.sum()
    return [rng.choice(NUM_ITEMS, rng.integers(1, 6), p=shares).tolist() for _ in range(NUM_USERS)]


def events_of(histories):
    return TrainEvents(
        np.array([user for user, own in enumerate(histories) for _ in own], np.int64),
        np.array([item for own in histories for item in own], np.int64),
    )


def counts_of(histories):
    counter = Counter(item for own in histories for item in own)
    return np.array([counter[item] for item in range(NUM_ITEMS)])


def fitted(kind, histories, *, seed=0, **changes: Any):
    """Return a baseline with few neighbours; `changes` go to the fit function of the kind."""
    counts, events = counts_of(histories), events_of(histories)
    knn: dict[str, Any] = {"num_neighbours": 4, "shrinkage": 2.0, "half_life": 0.0}
    walks: dict[str, Any] = {"num_neighbours": 4, "alpha": 0.8, "beta": 0.3, "half_life": 0.0}
    ridge: dict[str, Any] = {"ridge": 3.0, "half_life": 0.0}
    graph: dict[str, Any] = {"num_neighbours": 4, "lags": 2, "lag_decay": 0.5, "second_hop": 0.5}
    graph |= {"text_weight": 0.3, "recency": 1.0}
    fits = {
        "popular": lambda: fit_popular(counts),
        "recent_popular": lambda: fit_popular(counts),
        "random": lambda: fit_random(NUM_ITEMS, seed),
        "item_knn": lambda: fit_item_knn(events, counts, **knn | changes),
        "ease": lambda: fit_ease(events, counts, **ridge | changes),
        "graph": lambda: fit_graph(events, counts, TEXTS, **graph | changes),
        "rp3beta": lambda: fit_rp3beta(events, counts, **walks | changes),
        "buy_again": lambda: fit_buy_again(
            counts, **{"half_life": 0.0, "has_times": False} | changes
        ),
        "text": lambda: fit_text(counts, **{"texts": TEXTS, "recency": 1.0} | changes),
        "bm25": lambda: fit_bm25(counts, TEXTS, **{"k1": 1.2, "b": 0.75} | changes),
        "text_cosine": lambda: fit_popular(counts),
        "hybrid": lambda: {
            **fit_bm25(counts, TEXTS, k1=1.2, b=0.75),
            "lexical_weight": torch.tensor(0.5),
        },
        "query_words": lambda: {
            **fit_popular(counts),
            "key_W": torch.zeros(0, dtype=torch.int64),
            "move_WD": torch.zeros(0, 4 + SKETCH),
            "values_VL": sketch_values([text.split() for text in TEXTS]),
            "scale": torch.tensor(20.0),
            "category_V": torch.zeros(NUM_ITEMS, dtype=torch.int64),
            "start_W": torch.zeros(1, dtype=torch.int64),
            "category_N": torch.zeros(0, dtype=torch.int64),
            "evidence_N": torch.zeros(0),
        },
    }
    return Baseline(kind, fits[kind]())


def scores(baseline, histories, ids=None):
    return baseline.scores(
        Histories(
            torch.tensor([row for row, own in enumerate(histories) for _ in own]).long(),
            torch.tensor([item for own in histories for item in own]).long(),
            ids or [f"user {row}" for row in range(len(histories))],
        )
    )


@given(users, st.integers(0, 50), st.sampled_from([0.5, 3.0, 500.0]), st.sampled_from([0.0, 1.5]))
def test_ease_is_the_closed_form(some, seed, ridge, half_life):
    made = scores(fitted("ease", log(seed), ridge=ridge, half_life=half_life), some)
    expected = [ease_scores(log(seed), own, NUM_ITEMS, ridge, half_life) for own in some]
    np.testing.assert_allclose(made.numpy(), expected, atol=ROUNDED)


def test_the_weights_of_ease_are_the_best_ones_with_a_diagonal_of_0():
    histories = log(1)
    weights = entries(fitted("ease", histories, ridge=3.0))
    bought = np.zeros((NUM_USERS, NUM_ITEMS))
    for row, own in enumerate(histories):
        bought[row, own] = 1.0
    assert not weights.diagonal().any()
    slope = bought.T @ (bought @ weights - bought) + 3.0 * weights
    np.fill_diagonal(slope, 0.0)
    np.testing.assert_allclose(slope, 0.0, atol=5e-4)  # entries are rounded


def entries(baseline):
    """Return the matrix of EASE."""
    own = baseline.weights
    return (own["weight_MM"].double() * own["scale_M"][:, None].double()).numpy()


def test_a_rounded_matrix_of_ease_is_near_the_exact_one_row_by_row():
    exact = np.random.default_rng(0).normal(size=(7, 7)).astype(np.float32)
    exact[1] *= 1e-6
    exact[2] = 0.0
    own = ease._rounded(exact)
    made = own["weight_MM"].numpy() * own["scale_M"].numpy()[:, None]
    largest = np.abs(exact).max(axis=1, keepdims=True)
    assert own["weight_MM"].dtype == torch.int16
    assert (np.abs(made - exact) <= largest / 65_000).all()


def test_ease_scores_alike_on_every_device_and_from_older_checkpoints():
    own = fitted("ease", log(3)).weights
    some = [[0, 3, 3], [], [7, 1]]
    made = scores(Baseline("ease", own), some)
    floats = {n: t for n, t in own.items() if n != "scale_M"}
    floats["weight_MM"] = own["weight_MM"].float() * own["scale_M"][:, None]
    np.testing.assert_allclose(scores(Baseline("ease", floats), some), made, atol=1e-6)
    user_P, place_P = torch.tensor([0, 0, 2]), torch.tensor([5, 1, 5])
    weight_P = torch.tensor([0.5, 1.0, 2.0])
    found = []
    for add in (ease.add_rows_compiled, ease.add_rows_by_gather):
        scores_BM = torch.zeros(3, len(own["scale_M"]))
        add(own["weight_MM"], user_P, place_P, weight_P * own["scale_M"][place_P], scores_BM)
        found.append(scores_BM)
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    assert not found[0][1].any()


def test_a_large_matrix_is_mirrored_block_by_block(monkeypatch):
    monkeypatch.setattr(ease, "BLOCK", 5)
    test_the_weights_of_ease_are_the_best_ones_with_a_diagonal_of_0()


def test_ease_of_the_most_popular_items_is_ease_of_a_log_with_these_items_alone():
    histories = log(2)
    popular = set(np.argsort(-counts_of(histories), kind="stable")[:5].tolist())
    restricted = [[item for item in own if item in popular] for own in histories]
    made = scores(fitted("ease", histories, max_items=5), [[0, 1, 9], [2]])
    expected = scores(fitted("ease", restricted), [[0, 1], [2]])
    np.testing.assert_allclose(made, expected, atol=ROUNDED)


@pytest.mark.parametrize("kept", [1, 3, 8])
def test_ease_keeps_the_weights_of_the_largest_size(kept):
    histories = log()
    full = fitted("ease", histories, max_items=8).weights
    weight_VV = np.zeros((NUM_ITEMS, NUM_ITEMS))
    items = np.flatnonzero(full["place_V"].numpy() >= 0)
    weight_VV[np.ix_(items, items)] = entries(fitted("ease", histories, max_items=8))
    for row in weight_VV:
        row[np.argsort(-abs(row), kind="stable")[kept:]] = 0
    some = [[0, 3], [7, 1, 1], []]
    want = np.array([weight_VV[sorted(set(own))].sum(axis=0) for own in some])
    few = fitted("ease", histories, max_items=8, kept_weights=kept)
    assert few.weights["weight_VN"].shape == (NUM_ITEMS, kept)
    np.testing.assert_allclose(scores(few, some), want, atol=ROUNDED)


@given(
    users,
    st.integers(0, 50),
    st.sampled_from([(1, 0.0), (3, 0.0), (100, 0.0), (100, 1.5)]),
    st.sampled_from([0.0, 2.0]),
)
def test_item_knn_is_its_slow_twin(some, seed, table, shrinkage):
    # float32 breaks some ties of decayed weights, so there all neighbours are kept
    num_neighbours, half_life = table
    knn = {"num_neighbours": num_neighbours, "shrinkage": shrinkage, "half_life": half_life}
    made = scores(fitted("item_knn", log(seed), **knn), some)
    expected = [item_knn_scores(log(seed), own, NUM_ITEMS, *knn.values()) for own in some]
    np.testing.assert_allclose(made.numpy(), expected, atol=TOLERANCE)


@given(st.integers(0, 2**31), st.integers(0, 40))
def test_the_compiled_sum_of_neighbours_is_that_of_tensors(seed, num_pairs):
    draws = torch.Generator().manual_seed(seed)
    item_P = torch.randint(0, NUM_ITEMS, (num_pairs,), generator=draws)
    user_P = torch.randint(0, 3, (num_pairs,), generator=draws).sort().values
    table = {
        "neighbours_VN": torch.randint(0, NUM_ITEMS, (NUM_ITEMS, 4), generator=draws).int(),
        "weight_VN": torch.randn(NUM_ITEMS, 4, generator=draws),
    }
    weight_P, wanted = torch.rand(num_pairs, generator=draws), torch.zeros(3, NUM_ITEMS)
    neighbours.add_rows_by_index(*table.values(), user_P, item_P, weight_P, wanted)
    assert torch.equal(neighbours.add_neighbours(table, user_P, item_P, weight_P, 3), wanted)


def test_of_equally_alike_items_those_of_lower_index_are_kept():
    weights = fitted("item_knn", [[5, 3, 8, 1]], num_neighbours=2, shrinkage=0.0).weights
    assert weights["neighbours_VN"][5].tolist() == [1, 3]


def test_neighbours_are_the_same_in_blocks_of_any_size(monkeypatch):
    whole = fitted("item_knn", log(3)).weights
    monkeypatch.setattr(neighbours, "ROWS", 5)
    monkeypatch.setattr(neighbours, "PAIRS", 2)
    parts, some = fitted("item_knn", log(3)), [[1, 2, 3, 4, 5], [6]]
    assert torch.equal(parts.weights["neighbours_VN"], whole["neighbours_VN"])
    assert torch.equal(scores(parts, some), scores(Baseline("item_knn", whole), some))


weights_of_a_row = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]), min_size=6, max_size=6)


@given(st.lists(weights_of_a_row, min_size=6, max_size=6), st.integers(1, 7))
def test_the_best_of_a_row_are_its_first_ones_in_falling_order(rows, num_neighbours):
    dense = np.array(rows)
    best = keep_best(lambda a, b: scipy.sparse.csr_array(dense[a:b]), 6, num_neighbours)
    for row, own in enumerate(rows):
        order = sorted((c for c in range(6) if own[c] > 0), key=lambda c: (-own[c], c))
        kept = best.indices[best.indptr[row] : best.indptr[row + 1]]
        assert kept.tolist() == order[:num_neighbours]


@given(
    users,
    st.integers(0, 50),
    st.sampled_from([1, 3]),
    st.sampled_from([0.5, 1.0]),
    st.sampled_from([0.0, 0.7]),
    st.sampled_from([0.0, 2.0]),
)
def test_the_graph_is_its_slow_twin(some, seed, lags, lag_decay, second_hop, recency):
    walk = {"lags": lags, "lag_decay": lag_decay, "second_hop": second_hop, "recency": recency}
    made = scores(fitted("graph", log(seed), num_neighbours=99, text_weight=0.0, **walk), some)
    expected = [graph_scores(log(seed), own, NUM_ITEMS, **walk) for own in some]
    np.testing.assert_allclose(made.numpy(), expected, atol=TOLERANCE)


@given(
    users,
    st.integers(0, 50),
    st.sampled_from([0.5, 1.0]),
    st.sampled_from([0.0, 0.6]),
    st.sampled_from([0.0, 1.5]),
)
def test_rp3beta_is_its_slow_twin(some, seed, alpha, beta, half_life):
    walk = {"alpha": alpha, "beta": beta, "half_life": half_life}
    made = scores(fitted("rp3beta", log(seed), num_neighbours=99, **walk), some)
    expected = [rp3beta_scores(log(seed), own, NUM_ITEMS, *walk.values()) for own in some]
    np.testing.assert_allclose(made.numpy(), expected, atol=TOLERANCE)


@given(users, st.sampled_from([0.0, 1.5]))
def test_buy_again_adds_up_own_events(some, half_life):
    made = scores(fitted("buy_again", log(), half_life=half_life), some)
    for own, row in zip(some, made.tolist(), strict=True):
        for item in range(NUM_ITEMS):
            ages = [len(own) - 1 - place for place, bought in enumerate(own) if bought == item]
            expected = sum(2 ** (-age / half_life) if half_life else 1.0 for age in ages)
            assert row[item] == pytest.approx(expected**0.5, abs=TOLERANCE)


def test_the_graph_has_a_direction():
    made = scores(fitted("graph", [[1, 2]], text_weight=0.0, second_hop=0.0), [[1], [2]])
    assert made[0, 2] == pytest.approx(1.0, abs=TOLERANCE)
    assert made[1, 1] == pytest.approx(0.0, abs=TOLERANCE)


def test_the_graph_adds_the_likeness_of_texts():
    some = [[1, 2], [5], []]
    walks = scores(fitted("graph", log(), text_weight=0.0), some)
    texts = scores(fitted("text", log()), some)
    made = scores(fitted("graph", log(), text_weight=0.3), some)
    expected = walks / walks.amax(1, keepdim=True) + 0.3 * texts / texts.amax(1, keepdim=True)
    np.testing.assert_allclose(made[:2], expected[:2], atol=2 * TOLERANCE)
    popular = scores(fitted("popular", log()), some)
    assert torch.equal(made[2].argsort(descending=True), popular[2].argsort(descending=True))


def test_a_user_without_walks_gets_likeness_of_texts_before_popularity():
    histories = [[1, 2], [2, 1], [1, 5], [2, 2, 3]]
    made = scores(fitted("graph", histories), [[10]])  # no event; items 2 and 6 share words with 10
    texts = scores(fitted("text", histories), [[10]])
    assert made.argmax() == texts.argmax()


@given(users, st.sampled_from([0.0, 1.0, 2.0]), st.sampled_from([TEXTS, TEXTS[:4] * 3]))
def test_text_is_the_cosine_of_profiles_of_words(some, recency, texts):
    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2)
    vectors = vectorizer.fit_transform(texts).toarray()
    made = scores(fitted("text", log(), texts=texts, recency=recency), some)
    np.testing.assert_allclose(made, cosines(vectors, some, recency), atol=TOLERANCE)


def cosines(vectors, some, recency):
    """Return the cosine of each item's vector and the weighted mean of the history's vectors."""
    expected = np.zeros((len(some), NUM_ITEMS))
    for row, own in enumerate(some):
        profile = np.zeros(vectors.shape[1])
        for item, weight in zip(own, falling_weights(own, recency), strict=True):
            profile += weight * vectors[item]
        if np.linalg.norm(profile):
            expected[row] = vectors @ profile / np.linalg.norm(profile)
    return expected


def test_text_takes_the_vectors_of_an_encoder():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(NUM_ITEMS, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    some = [[1, 2, 2], [5], []]
    given_VH = torch.tensor(vectors, dtype=torch.float32)
    made = scores(fitted("text", log(), text_VH=given_VH), some)
    np.testing.assert_allclose(made, cosines(vectors, some, 1.0), atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["text", "graph"])
def test_an_item_without_any_event_is_found_by_its_text(kind):
    histories = [[1, 2], [2, 1], [1, 5]]
    made = scores(fitted(kind, histories), [[1]])  # items 1 and 9 share a word
    assert counts_of(histories)[9] == 0
    assert made[0, 9] > made[0, 11] + 0.1  # item 11 shares none


@pytest.mark.parametrize("texts", [[""] * NUM_ITEMS, [f"only{i}" for i in range(NUM_ITEMS)]])
def test_texts_without_a_word_in_common_leave_the_popular_items(texts):
    made = scores(fitted("text", log(), texts=texts), [[3], []])
    popular = scores(fitted("popular", log()), [[3], []])
    assert torch.equal(made.argsort(descending=True), popular.argsort(descending=True))


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
@given(users)
def test_a_user_is_scored_alike_alone_and_in_any_batch(kind, some):
    baseline, ids = fitted(kind, log()), [f"user {row}" for row in range(len(some))]
    together = scores(baseline, some, ids)
    alone = [scores(baseline, [own], [name]) for own, name in zip(some, ids, strict=True)]
    assert torch.equal(together, torch.cat(alone))
    assert together.dtype == torch.float32
    assert together.isfinite().all()


@pytest.mark.parametrize("kind", ["popular", "recent_popular", "random", "item_knn", "ease"])
def test_order_and_repeats_of_a_history_change_nothing(kind):
    baseline = fitted(kind, log())
    once = scores(baseline, [[1, 4, 7]], ["a"])
    assert torch.equal(scores(baseline, [[7, 1, 4, 4, 1]], ["a"]), once)


@each_kind
@settings(max_examples=8)
@given(st.permutations(range(NUM_USERS)))
def test_the_order_of_the_train_users_changes_nothing(kind, order):
    histories = log(4)
    some = [[1, 7], [2, 2, 3]]
    made = scores(fitted(kind, [histories[user] for user in order]), some)
    np.testing.assert_allclose(made, scores(fitted(kind, histories), some), atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["graph", "text"])
def test_the_latest_events_count_most(kind):
    first, last = scores(fitted(kind, log(), recency=3.0), [[1, 8], [8, 1]])
    of_8, of_1 = scores(fitted(kind, log(), recency=3.0), [[8], [1]])
    assert (first - of_8).abs().sum() < (first - of_1).abs().sum()
    assert (last - of_1).abs().sum() < (last - of_8).abs().sum()


PERSONAL = [kind for kind in SCORES if kind not in ("popular", "recent_popular", "random")]


@pytest.mark.parametrize("kind", PERSONAL)
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
