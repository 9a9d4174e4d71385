"""What every re-ranker of the table keeps to; what each chooses stands in the test of its file."""

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from recdiv_core.rerank import NOVELTIES, RERANKERS, Options
from tests.candidate_worlds import candidates_of_one, random_candidates, rerank, with_padding

DIALS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
names = st.sampled_from(sorted(RERANKERS))
each_reranker = pytest.mark.parametrize("name", RERANKERS)


@pytest.mark.parametrize("k", [1, 5, 12, 15])
@each_reranker
def test_dial_0_is_the_models_order(name, k):
    chosen = rerank(name, random_candidates(1), k, 0.0)
    expected = torch.nn.functional.pad(torch.arange(12)[:k], (0, max(0, k - 12)), value=-1)
    assert torch.equal(chosen, expected.expand(6, k))


@each_reranker
def test_dial_0_is_the_models_order_among_equal_and_almost_equal_scores(name):
    scores = torch.tensor([[1e6 + 0.0625, 1e6, 1e6, 1e6 - 0.0625, -1e6, -1e6]])
    candidates = random_candidates(2, num_users=1, num_candidates=6)
    candidates = replace(candidates, scores_BC=scores)
    assert rerank(name, candidates, 6, 0.0).tolist() == [[0, 1, 2, 3, 4, 5]]


@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 14),
    diversity=st.sampled_from(DIALS),
    name=names,
    window=st.integers(0, 4),
)
def test_a_slate_holds_distinct_real_candidates_and_ends_in_padding(
    seed, k, diversity, name, window
):
    is_padding = torch.from_numpy(np.random.default_rng(seed).random((6, 12)) < 0.3)
    is_padding[0] = True
    candidates = with_padding(random_candidates(seed), is_padding)
    chosen = rerank(name, candidates, k, diversity, window=window)
    assert chosen.shape == (6, k)
    assert chosen.dtype == torch.int64
    for user, slate in enumerate(chosen.tolist()):
        real = set(torch.isfinite(candidates.scores_BC[user]).nonzero().flatten().tolist())
        length = min(k, len(real))
        assert len(set(slate[:length])) == length
        assert set(slate[:length]) <= real
        assert slate[length:] == [-1] * (k - length)


@given(seed=st.integers(0, 10_000), diversity=st.sampled_from(DIALS), name=names)
def test_padding_is_as_if_it_were_not_there(seed, diversity, name):
    candidates = random_candidates(seed)
    short = replace(
        candidates, scores_BC=candidates.scores_BC[:, :9], items_BC=candidates.items_BC[:, :9]
    )
    padded = candidates.scores_BC.clone()
    padded[:, 9:] = -torch.inf
    expected = rerank(name, short, 5, diversity)
    assert torch.equal(rerank(name, replace(candidates, scores_BC=padded), 5, diversity), expected)


@given(seed=st.integers(0, 10_000), diversity=st.sampled_from(DIALS), name=names)
def test_the_order_of_the_users_does_not_matter(seed, diversity, name):
    candidates = random_candidates(seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(6))
    shuffled = replace(
        candidates,
        scores_BC=candidates.scores_BC[order],
        items_BC=candidates.items_BC[order],
        history_BG=candidates.history_BG[order],
    )
    together = rerank(name, candidates, 5, diversity)
    assert torch.equal(rerank(name, shuffled, 5, diversity), together[order])


@pytest.mark.parametrize("name", NOVELTIES)
def test_users_are_chosen_for_apart_and_tiles_do_not_show(name, monkeypatch):
    candidates = random_candidates(3, num_users=11)
    together = rerank(name, candidates, 6, 0.6)
    alone = [rerank(name, candidates.of_rows(slice(user, user + 1)), 6, 0.6) for user in range(11)]
    assert torch.equal(together, torch.cat(alone))
    monkeypatch.setattr("recdiv_core.rerank.greedy.CPU_TILE_BYTES", 4 * 12 * 8 * 4)
    assert torch.equal(rerank(name, candidates, 6, 0.6), together)


@given(seed=st.integers(0, 10_000), k=st.integers(1, 14), name=names, window=st.integers(0, 3))
def test_a_grid_of_dials_is_each_dial_by_itself(seed, k, name, window):
    candidates = random_candidates(seed, dim=16)
    grid = RERANKERS[name](candidates, k, DIALS, Options(window=window))
    assert grid.shape == (6, len(DIALS), k)
    for index, dial in enumerate(DIALS):
        assert torch.equal(grid[:, index], rerank(name, candidates, k, dial, window=window))


@each_reranker
def test_scores_may_be_scaled_and_moved(name):
    candidates = random_candidates(5)
    scaled = replace(candidates, scores_BC=candidates.scores_BC * 1024 - 2)
    assert torch.equal(rerank(name, scaled, 6, 0.4), rerank(name, candidates, 6, 0.4))


@each_reranker
def test_alike_candidates_of_equal_score_stay_in_order(name):
    candidates = candidates_of_one([1.0] * 6, attributes={"brand": [3] * 6}, history=[1.0])
    slates = [rerank(name, candidates, 4, dial).tolist() for dial in DIALS]
    assert slates == [[[0, 1, 2, 3]]] * len(DIALS)


@pytest.mark.parametrize("diversity", [0.0, 0.5])
@each_reranker
def test_a_user_of_alike_candidates_gets_the_models_order(name, diversity):
    candidates = candidates_of_one([4.0, 3.0, 2.0, 1.0], attributes={"brand": [3] * 4})
    assert rerank(name, candidates, 3, diversity).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@each_reranker
def test_candidates_may_be_of_any_precision(name, dtype):
    candidates = random_candidates(7)
    traits = candidates.traits
    low = replace(
        candidates,
        scores_BC=candidates.scores_BC.to(dtype),
        traits=replace(traits, embeddings_VD=traits.embeddings_VD.to(dtype)),
    )
    same = replace(
        low,
        scores_BC=low.scores_BC.float(),
        traits=replace(traits, embeddings_VD=low.traits.embeddings_VD.float()),
    )
    assert torch.equal(rerank(name, low, 6, 0.5), rerank(name, same, 6, 0.5))


@each_reranker
def test_no_users_make_no_slates(name):
    assert rerank(name, random_candidates(0).of_rows(slice(0, 0)), 2, 0.5).shape == (0, 2)


@each_reranker
def test_no_dials_make_no_slates(name):
    assert RERANKERS[name](random_candidates(0), 2, [], Options()).shape == (6, 0, 2)


@pytest.mark.parametrize(
    ("change", "k", "diversity", "options", "message"),
    [
        ({"items_BC": torch.zeros(2, 4)}, 2, 0.5, {}, r"\[2, 3\], \[2, 4\], \[2, 5\]"),
        ({"history_BG": torch.zeros(2, 6)}, 2, 0.5, {}, r"G = 5; got \[2, 3\], .*, \[2, 6\]"),
        ({"history_BG": torch.zeros(1, 5)}, 2, 0.5, {}, r"\[1, 5\]"),
        ({"scores_BC": torch.zeros(3)}, 2, 0.5, {}, "expected scores"),
        ({"scores_BC": torch.zeros(2, 0)}, 2, 0.5, {}, "C >= 1"),
        ({}, 0, 0.5, {}, "k=0"),
        ({}, 2, 1.5, {}, "rerank.diversity=1.5"),
        ({}, 2, float("nan"), {}, "rerank.diversity=nan"),
        ({}, 2, 0.5, {"window": -1}, "rerank.window=-1"),
        ({}, 2, 0.5, {"alpha": 1.5}, "rerank.alpha=1.5"),
        ({}, 2, 0.5, {"beam_width": 0}, "rerank.beam_width=0"),
        ({}, 2, 0.5, {"attributes": {"size": 1.0}}, "no size; allowed are brand, category, colour"),
    ],
)
@each_reranker
def test_broken_arguments_are_refused(name, change, k, diversity, options, message):
    candidates = replace(random_candidates(0, num_users=2, num_candidates=3), **change)
    with pytest.raises(ValueError, match=message):
        rerank(name, candidates, k, diversity, **options)
