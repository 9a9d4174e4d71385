import hypothesis.strategies as st
import numpy as np
import pytest
import pyversity
import torch
from hypothesis import given, settings

from recdiv_core.rerank import RERANKERS
from recdiv_core.rerank.mmr import scale_scores
from tests.oracles import ild_of_slate, mmr_slate

DIALS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


def random_candidates(seed: int, *, num_users: int = 6, num_candidates: int = 12, dim: int = 4):
    """Return scores in descending order, vectors of any length and some zero, and categories."""
    rng = np.random.default_rng(seed)
    scores = -np.sort(-rng.normal(size=(num_users, num_candidates)).astype(np.float32), axis=1)
    embeddings = rng.normal(size=(num_users, num_candidates, dim)).astype(np.float32)
    embeddings *= rng.uniform(0.1, 9, size=(num_users, num_candidates, 1)).astype(np.float32)
    embeddings[rng.random((num_users, num_candidates)) < 0.1] = 0.0
    categories = rng.integers(-1, 4, size=(num_users, num_candidates))
    return torch.from_numpy(scores), torch.from_numpy(embeddings), torch.from_numpy(categories)


def mmr_of_one(scores: list[float], vectors: list[list[float]], k: int, diversity: float):
    """Return the slate of a single user."""
    categories = torch.zeros(1, len(scores), dtype=torch.int64)
    return RERANKERS["mmr"](
        torch.tensor([scores]), torch.tensor([vectors]), categories, k, diversity
    )[0].tolist()


@pytest.mark.parametrize("k", [1, 5, 12, 15])
@pytest.mark.parametrize("name", RERANKERS)
def test_dial_0_is_the_models_order(name, k):
    chosen = RERANKERS[name](*random_candidates(1), k, 0.0)
    expected = torch.nn.functional.pad(torch.arange(12)[:k], (0, max(0, k - 12)), value=-1)
    assert torch.equal(chosen, expected.expand(6, k))


@pytest.mark.parametrize("name", RERANKERS)
def test_dial_0_is_the_models_order_among_equal_and_almost_equal_scores(name):
    scores = torch.tensor([[1e6 + 0.0625, 1e6, 1e6, 1e6 - 0.0625, -1e6, -1e6]])
    _, embeddings, categories = random_candidates(2, num_users=1, num_candidates=6)
    assert RERANKERS[name](scores, embeddings, categories, 6, 0.0).tolist() == [[0, 1, 2, 3, 4, 5]]


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 14),
    diversity=st.sampled_from(DIALS),
    name=st.sampled_from(sorted(RERANKERS)),
)
def test_a_slate_holds_distinct_real_candidates_and_ends_in_padding(seed, k, diversity, name):
    scores, embeddings, categories = random_candidates(seed)
    is_padding = torch.from_numpy(np.random.default_rng(seed).random((6, 12)) < 0.3)
    is_padding[0] = True
    scores = scores.masked_fill(is_padding, -torch.inf)
    scores[1, 3] = torch.nan
    embeddings[is_padding] = torch.nan
    chosen = RERANKERS[name](scores, embeddings, categories, k, diversity)
    assert chosen.shape == (6, k)
    assert chosen.dtype == torch.int64
    for user, slate in enumerate(chosen.tolist()):
        real = set(torch.isfinite(scores[user]).nonzero().flatten().tolist())
        length = min(k, len(real))
        assert len(set(slate[:length])) == length
        assert set(slate[:length]) <= real
        assert slate[length:] == [-1] * (k - length)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    diversity=st.sampled_from(DIALS),
    name=st.sampled_from(sorted(RERANKERS)),
)
def test_users_do_not_touch_one_another(seed, diversity, name):
    scores, embeddings, categories = random_candidates(seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(6))
    together = RERANKERS[name](scores, embeddings, categories, 5, diversity)
    shuffled = RERANKERS[name](scores[order], embeddings[order], categories[order], 5, diversity)
    assert torch.equal(shuffled, together[order])


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 14), diversity=st.sampled_from(DIALS))
def test_mmr_equals_its_slow_twin(seed, k, diversity):
    scores, embeddings, categories = random_candidates(seed, num_users=3)
    scores[1, 7:] = -torch.inf
    chosen = RERANKERS["mmr"](scores, embeddings, categories, k, diversity)
    for user in range(3):
        expected = mmr_slate(scores[user].tolist(), embeddings[user].numpy(), k, diversity)
        assert chosen[user].tolist() == expected


@pytest.mark.parametrize("diversity", DIALS)
def test_mmr_picks_what_pyversity_picks(diversity):
    # pyversity takes relevance as given and cuts cosines off at 0: give it both as ours are
    scores, embeddings, categories = random_candidates(3, num_users=40, num_candidates=100, dim=16)
    embeddings = embeddings.abs()
    relevance = scale_scores(scores, torch.isfinite(scores)).numpy()
    chosen = RERANKERS["mmr"](scores, embeddings, categories, 10, diversity)
    for user in range(40):
        expected = pyversity.diversify(
            embeddings[user].numpy(), relevance[user], k=10, strategy="mmr", diversity=diversity
        )
        assert chosen[user].tolist() == expected.indices.tolist()


def test_mmr_by_hand():
    vectors = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]
    scores = [1.0, 0.9, 0.5, 0.0]
    assert mmr_of_one(scores, vectors, 3, 0.2) == [0, 1, 2]  # .72-.2, .4, .2; then .4, .2
    assert mmr_of_one(scores, vectors, 3, 0.4) == [0, 3, 2]  # .14, .3, .4; then .14, .3
    assert mmr_of_one(scores, vectors, 4, 1.0) == [0, 3, 2, 1]


def test_mmr_keeps_the_top_candidate_at_every_dial():
    chosen = torch.stack([RERANKERS["mmr"](*random_candidates(4), 5, dial) for dial in DIALS])
    assert bool((chosen[:, :, 0] == 0).all())


def test_mmr_breaks_ties_towards_the_earlier_candidate():
    assert mmr_of_one([1.0] * 5, [[1.0, 0.0]] * 5, 4, 0.5) == [0, 1, 2, 3]
    assert mmr_of_one([1.0] * 4, [[1.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, 9.0]], 3, 0.5) == [
        0,
        2,
        1,
    ]


def test_mmr_leaves_duplicates_of_the_top_candidate_to_the_end():
    vectors = [[1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    assert mmr_of_one([4.0, 3.9, 3.8, 0.0], vectors, 4, 0.6) == [0, 2, 3, 1]


def test_mmr_takes_no_notice_of_the_scale_of_scores_and_vectors():
    scores, embeddings, categories = random_candidates(5)
    plain = RERANKERS["mmr"](scores, embeddings, categories, 6, 0.4)
    scaled = RERANKERS["mmr"](scores * 1024 - 2, embeddings * 0.25, categories, 6, 0.4)
    assert torch.equal(plain, scaled)


def test_raising_the_dial_of_mmr_raises_ild():
    # a user likes items near one point, as a model's scores have it: the top ones are alike
    embeddings = torch.randn(50, 60, 8, generator=torch.Generator().manual_seed(6))
    scores, order = embeddings.sum(dim=2).sort(dim=1, descending=True)
    embeddings = embeddings.take_along_dim(order.unsqueeze(2), dim=1)
    categories = torch.zeros_like(order)
    ilds = []
    for dial in DIALS:
        chosen = RERANKERS["mmr"](scores, embeddings, categories, 8, dial)
        pairs = zip(chosen.tolist(), embeddings.numpy(), strict=True)
        ilds.append(np.mean([ild_of_slate(slate, vectors) for slate, vectors in pairs]))
    assert min(np.diff(ilds)) > -0.01
    assert ilds[-1] > ilds[0] + 0.3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_mmr_takes_candidates_of_any_precision(dtype):
    scores, embeddings, categories = random_candidates(7)
    scores, embeddings = scores.to(dtype), embeddings.to(dtype)
    expected = RERANKERS["mmr"](scores.float(), embeddings.float(), categories, 6, 0.5)
    assert torch.equal(RERANKERS["mmr"](scores, embeddings, categories, 6, 0.5), expected)


@pytest.mark.parametrize("name", RERANKERS)
def test_no_users_make_no_slates(name):
    empty = RERANKERS[name](torch.zeros(0, 3), torch.zeros(0, 3, 2), torch.zeros(0, 3), 2, 0.5)
    assert empty.shape == (0, 2)


@pytest.mark.parametrize(
    ("shapes", "k", "diversity", "message"),
    [
        (((2, 3), (2, 4, 5), (2, 3)), 2, 0.5, r"\[2, 3\], \[2, 4, 5\], \[2, 3\]"),
        (((2, 3), (2, 3, 5), (2, 4)), 2, 0.5, r"\[2, 3\], \[2, 3, 5\], \[2, 4\]"),
        (((3,), (3, 5), (3,)), 2, 0.5, "expected scores"),
        (((2, 0), (2, 0, 5), (2, 0)), 2, 0.5, "C >= 1"),
        (((2, 3), (2, 3, 5), (2, 3)), 0, 0.5, "k=0"),
        (((2, 3), (2, 3, 5), (2, 3)), 2, 1.5, "rerank.diversity=1.5"),
        (((2, 3), (2, 3, 5), (2, 3)), 2, float("nan"), "rerank.diversity=nan"),
    ],
)
@pytest.mark.parametrize("name", RERANKERS)
def test_broken_arguments_are_refused(name, shapes, k, diversity, message):
    scores, embeddings, categories = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        RERANKERS[name](scores, embeddings, categories, k, diversity)
