from functools import partial

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from recdiv_core.rerank import NOVELTIES, RERANKERS, Options
from recdiv_core.rerank.greedy import choose
from recdiv_core.rerank.span import Span
from tests.candidate_worlds import random_candidates, rerank, slate_of_one, vectors_of
from tests.oracles import greedy_regret, log_volume, standard_scores

EYE = np.eye(4).tolist()


@pytest.mark.parametrize("window", [0, 1, 2, 3])
@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 7), dial=st.sampled_from([0.2, 0.6, 1.0]))
def test_dpp_takes_what_adds_most_to_the_log_determinant(window, seed, k, dial):
    candidates = random_candidates(seed, num_users=1, num_candidates=9, dim=10)
    vectors, relevance = (
        vectors_of(candidates, 0),
        standard_scores(candidates.scores_BC[0].tolist()),
    )

    def value(item, chosen):
        if not chosen:
            return relevance[item]
        near = chosen[-window:] if window else chosen
        grown = log_volume([*near, item], vectors) - log_volume(near, vectors)
        return (1 - dial) * relevance[item] + dial * grown

    # compiled, and as tensors
    told = Options(window=window)
    for choose_slates in (RERANKERS["dpp"], partial(choose, NOVELTIES["dpp"])):
        slate = choose_slates(candidates, k, [dial], told)[0, 0].tolist()
        assert len(slate) == k
        assert greedy_regret(slate, relevance, value) < 1e-4


@pytest.mark.parametrize("size", [1, 2, 3])
def test_what_is_left_is_the_distance_to_the_span_of_the_windows_choices(size):
    vectors = np.random.default_rng(size).normal(size=(9, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    minus_kernel = torch.tensor(-vectors @ vectors.T)
    span = Span(
        minus_kernel.__getitem__, torch.ones(1, 9, dtype=torch.float64), size=size, exact=True
    )
    for last in range(7):
        span.add(torch.tensor([[last]]))
        near = vectors[max(0, last - size + 1) : last + 1]
        inside = vectors @ np.linalg.pinv(near) @ near
        left = ((vectors - inside) ** 2).sum(axis=1)[last + 1 :]
        assert span.left_RC[0, last + 1 :].tolist() == pytest.approx(left, abs=1e-5)


def test_dpp_leaves_what_lies_in_the_span_to_the_end_in_order_of_relevance():
    vectors = [EYE[0], EYE[1], [1.0, 1.0, 0.0, 0.0], EYE[0], EYE[2], EYE[3]]
    slate = slate_of_one("dpp", [6.0, 5.0, 4.0, 3.0, 2.0, 1.0], vectors, 6, 0.9)
    assert slate == [0, 1, 4, 5, 2, 3]


def test_dpp_with_a_window_may_return_to_what_it_has_left():
    vectors = [EYE[0], EYE[0], EYE[1], EYE[1], EYE[2], EYE[2]]
    scores = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    assert slate_of_one("dpp", scores, vectors, 6, 0.9) == [0, 2, 4, 1, 3, 5]
    assert slate_of_one("dpp", scores, vectors, 6, 0.9, window=1) == [0, 2, 1, 3, 4, 5]
    assert slate_of_one("dpp", scores, vectors, 6, 0.9, window=2) == [0, 2, 4, 1, 3, 5]


@pytest.mark.parametrize("window", [1, 2, 5])
def test_dpp_forgets_exactly_also_when_everything_is_alike(window):
    slate = slate_of_one("dpp", [5.0, 4.0, 3.0, 2.0, 1.0], [EYE[0]] * 5, 5, 0.7, window=window)
    assert slate == [0, 1, 2, 3, 4]


def test_dpp_does_not_blow_up_in_a_space_of_two_dimensions():
    candidates = random_candidates(8, num_users=20, num_candidates=100, dim=2, zeros=0.0)
    slates = rerank("dpp", candidates, 50, 0.5)
    assert all(len(set(slate)) == 50 for slate in slates.tolist())
    # two choices span it: from then on all are alike new
    rest = slates[:, 2:]
    assert bool((rest.diff(dim=1) > 0).all())
