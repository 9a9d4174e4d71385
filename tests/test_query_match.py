"""Baselines that answer queries (models/baselines/query_match.py), against slow twins and bm25s."""

import bm25s
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.models.baselines import READ_QUERIES, SCORES, Baseline, Histories
from recdiv_core.models.baselines.popularity import fit_popular
from recdiv_core.models.baselines.query_match import TIES, fit_bm25
from recdiv_core.models.queries import Queries
from tests.oracles import bm25_scores

WORDS = ["red", "shoe", "glass", "boot", "acme", "42", "\u978b\u5b50"]
TEXTS = [["red", "shoe", "acme"], ["boot"], [], ["red", "boot", "42", "red"], ["shoe", "shoe"]]
COUNTS = np.array([1, 9, 4, 3, 2])
texts = st.lists(st.lists(st.sampled_from(WORDS), max_size=5), min_size=1, max_size=8)
KINDS = [kind for kind in READ_QUERIES if kind != "query_words"]  # test_query_words.py
queries = st.lists(st.sampled_from([*WORDS, "unheard"]), min_size=1, max_size=4, unique=True)


def requests(asked: list[str], num_items: int) -> Histories:
    """Return requests without history; vectors are random, and 0 without a query."""
    rng = np.random.default_rng(len(asked))
    vectors_BH = torch.as_tensor(rng.normal(size=(len(asked), 4))).float()
    vectors_BH *= torch.tensor([bool(text) for text in asked])[:, None]
    text_VH = torch.as_tensor(np.random.default_rng(0).normal(size=(num_items, 4))).float()
    nothing = torch.zeros(0, dtype=torch.int64)
    return Histories(
        nothing, nothing, ["u"] * len(asked), queries=Queries(asked, vectors_BH, text_VH)
    )


def fitted(kind: str, own=TEXTS, counts=COUNTS, *, k1=1.2, b=0.75, share=0.5) -> Baseline:
    weights = fit_bm25(counts, [" ".join(text) for text in own], k1=k1, b=b)
    return Baseline(kind, weights | {"lexical_weight": torch.tensor(share)})


def relative(scores: list[float]) -> np.ndarray:
    return np.array(scores) / (max(scores) or 1.0)


@given(texts, queries, st.floats(0.0, 3.0), st.floats(0.0, 1.0))
def test_bm25_is_its_slow_twin(own, query, k1, b):
    counts = np.zeros(len(own), np.int64)
    made = fitted("bm25", own, counts, k1=k1, b=b).scores(requests([" ".join(query)], len(own)))
    ties = TIES * fit_popular(counts)["popular_V"].numpy()
    found = bm25_scores(own, query, k1=k1, b=b) if any(own) else [0.0] * len(own)
    np.testing.assert_allclose(made[0], relative(found) + ties, atol=2e-6)


@pytest.mark.parametrize("query", [["red"], ["red", "shoe"], ["42", "boot", "unheard"]])
def test_bm25_is_that_of_bm25s(query):
    own = [text or ["acme"] for text in TEXTS]
    index = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    index.index(own, show_progress=False)
    known = [word for word in query if any(word in text for text in own)]
    made = fitted("bm25", own).scores(requests([" ".join(query)], len(own)))
    want = relative(index.get_scores(known).tolist())
    np.testing.assert_allclose(made[0], want, atol=TIES + 1e-6)


def test_a_word_counts_however_it_is_typed():
    baseline = fitted("bm25")
    spelt = baseline.scores(requests(["red shoe"], 5))
    assert torch.equal(baseline.scores(requests(["  RED, Shoe!"], 5)), spelt)
    assert spelt[0].argmax() == 0


def test_equal_items_stand_in_order_of_popularity():
    ranked = fitted("bm25").scores(requests(["boot"], 5))[0].argsort(descending=True)
    assert ranked.tolist() == [1, 3, 2, 4, 0]


def test_the_cosine_is_that_of_query_and_item():
    asked = requests(["red"], 5)
    made = fitted("text_cosine").scores(asked)
    want = asked.queries.vectors_BH @ asked.queries.text_VH.T
    np.testing.assert_allclose(made, want, atol=2e-6)


@pytest.mark.parametrize(("share", "kind"), [(1.0, "bm25"), (0.0, "text_cosine")])
def test_the_ends_of_a_hybrid_are_its_parts(share, kind):
    asked = requests(["red boot", "shoe"], 5)
    made = fitted("hybrid", share=share).scores(asked)
    alone = fitted(kind).scores(asked)
    assert torch.equal(made.topk(3).indices, alone.topk(3).indices)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_query_the_popular_items_stand_first(kind):
    nothing = torch.zeros(0, dtype=torch.int64)
    for asked in (requests(["", "red"], 5), Histories(nothing, nothing, ["u"])):
        order = fitted(kind).scores(asked)[0].argsort(descending=True)
        assert order.tolist() == np.argsort(-COUNTS).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_is_scored_alike_in_any_batch(kind):
    asked = requests(["red", "", "shoe acme"], 5)
    together = fitted(kind).scores(asked)
    for row, text in enumerate(asked.queries.texts):
        own = Queries([text], asked.queries.vectors_BH[row : row + 1], asked.queries.text_VH)
        alone = fitted(kind).scores(Histories(asked.user_S, asked.item_S, ["u"], queries=own))
        np.testing.assert_allclose(alone[0], together[row], atol=1e-6)


def test_items_without_words_are_scored_by_popularity():
    ranked = fitted("bm25", [[]] * 5).scores(requests(["red"], 5))[0].argsort(descending=True)
    assert ranked.tolist() == np.argsort(-COUNTS).tolist()


def test_only_these_kinds_read_queries():
    assert set(READ_QUERIES) <= set(SCORES)
