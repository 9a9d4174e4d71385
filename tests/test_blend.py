"""The blend of learned scores and counted terms (models/blend.py)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.models.baselines import Baseline
from recdiv_core.models.baselines.histories import Histories
from recdiv_core.models.baselines.popularity import fit_popular
from recdiv_core.models.baselines.query_match import fit_bm25
from recdiv_core.models.baselines.query_words import SKETCH
from recdiv_core.models.baselines.text_profile import fit_text
from recdiv_core.models.blend import (
    Blend,
    read_terms,
)
from recdiv_core.models.queries import Queries
from recdiv_core.models.query_text import word_keys
from recdiv_core.models.scale import standardise
from tests.test_baselines import NUM_ITEMS, fitted, log


def some_histories(lengths: list[int], num_items: int = 9) -> Histories:
    """Return histories of these lengths, with items at random."""
    rng = np.random.default_rng(3)
    user_S = torch.as_tensor(np.repeat(np.arange(len(lengths)), lengths))
    item_S = torch.as_tensor(rng.integers(num_items, size=sum(lengths)))
    return Histories(user_S, item_S, [str(user) for user in range(len(lengths))])


def warm(num_items: int, *cold: int) -> torch.Tensor:
    """Return that all items but these have train events."""
    return torch.tensor([item not in cold for item in range(num_items)])


def popular(counts: list[int]) -> Baseline:
    return Baseline("popular", fit_popular(np.array(counts)))


@given(st.integers(0, 2**31), st.floats(0.01, 100), st.floats(-50, 50))
def test_standard_scores_have_mean_0_and_deviation_1(seed: int, scale: float, shift: float):
    scores_BV = torch.randn(3, 40, generator=torch.Generator().manual_seed(seed))
    made_BV = standardise(scores_BV * scale + shift)
    assert torch.allclose(made_BV.mean(1), torch.zeros(3), atol=1e-3)
    assert torch.allclose(made_BV.std(1, correction=0), torch.ones(3), atol=1e-3)


def test_equal_scores_become_0():
    assert not standardise(torch.full((2, 5), 7.0)).any()


def test_a_new_blend_keeps_the_order_of_the_learned_scores():
    blend, learned_BV = Blend([popular([1, 9, 3, 4, 5])], warm(5)), torch.rand(2, 5)
    blended_BV = blend(learned_BV.clone(), some_histories([2, 0], 5))
    assert torch.equal(blended_BV.argsort(dim=1), learned_BV.argsort(dim=1))


def test_a_blend_is_the_weighted_sum_of_standard_scores():
    counts = [4, 1, 7, 2, 9, 3, 8, 5, 6]
    blend, learned_BV = Blend([popular(counts)], warm(9)), torch.rand(3, 9)
    blend.weight_T2.copy_(torch.tensor([[0.7, 0.1], [0.4, -0.2]]))
    lengths = [4, 0, 30]
    blended_BV = blend(learned_BV.clone(), some_histories(lengths))
    rank = np.argsort(np.argsort(-np.array(counts)))
    for row, length in enumerate(lengths):
        learned, term = learned_BV[row].numpy().astype(float), 1 - rank / 9
        gate = np.log((length + 1) / 9)
        want = (0.7 + 0.1 * gate) * (learned - learned.mean()) / learned.std()
        want += (0.4 - 0.2 * gate) * (term - term.mean()) / term.std()
        np.testing.assert_allclose(blended_BV[row], want, atol=1e-5)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.integers(0, 99))
def test_the_weights_of_a_dial_lie_between_those_of_dials_0_and_1(dials: list[float], seed: int):
    draw = torch.Generator().manual_seed(seed)
    histories, learned_BV = some_histories([1, 4, 7]), torch.randn(3, 9, generator=draw)
    ends: list[torch.Tensor] = []
    blend = Blend([popular([5, 4, 3, 2, 1, 1, 1, 1, 1])], warm(9), has_dial=True)
    blend.weight_T2 = torch.randn(2, 2, generator=draw)
    change_T2 = torch.randn(2, 2, generator=draw)
    for share in (0.0, 1.0):
        plain = Blend(blend.baselines, warm(9))
        plain.weight_T2 = blend.weight_T2 + share * change_T2
        ends.append(plain(learned_BV.clone(), histories))
    blend.dial_change_T2 = change_T2
    dial_B = torch.tensor(dials)
    wanted_BV = torch.lerp(*ends, dial_B[:, None].expand(-1, 9))
    got_BV = blend(learned_BV.clone(), histories, dial_B)
    torch.testing.assert_close(got_BV, wanted_BV, rtol=0, atol=1e-5)
    factor_B1, added_BV = blend.around(learned_BV, histories, dial_B)
    torch.testing.assert_close(factor_B1 * learned_BV + added_BV, wanted_BV, rtol=0, atol=1e-5)


def test_dial_0_is_the_blend_without_a_dial_to_the_bit():
    histories, learned_BV = some_histories([1, 4]), torch.randn(2, 9)
    blend = Blend([popular([5, 4, 3, 2, 1, 1, 1, 1, 1])], warm(9), has_dial=True)
    blend.dial_change_T2 = torch.tensor([[0.3, -0.1], [2.0, 0.5]])
    without_BV = blend(learned_BV.clone(), histories)
    assert torch.equal(blend(learned_BV.clone(), histories, torch.zeros(2)), without_BV)


def test_a_term_takes_its_value_for_a_cold_item_from_the_learned_score():
    blend, learned_BV = (
        Blend([popular([4, 1, 7, 0, 9, 3, 8, 0, 6])], warm(9, 3, 7)),
        torch.rand(2, 9),
    )
    learned, term = (each.numpy() for each in blend.each(learned_BV, some_histories([3, 5])))
    known = [0, 1, 2, 4, 5, 6, 8]
    for row in range(2):
        alike = np.mean(learned[row, known] * term[row, known])
        np.testing.assert_allclose(term[row, [3, 7]], alike * learned[row, [3, 7]], atol=1e-6)


def test_the_text_term_knows_cold_items():
    text = Baseline(
        "text", fit_text(np.array([2, 0, 1]), texts=["red", "red", "blue"], recency=1.0)
    )
    learned_BV, histories = torch.rand(1, 3), Histories(torch.tensor([0]), torch.tensor([0]), ["0"])
    with_cold = Blend([text], warm(3, 1)).each(learned_BV.clone(), histories)
    without = Blend([text], warm(3)).each(learned_BV.clone(), histories)
    torch.testing.assert_close(with_cold, without)


def test_the_score_of_a_user_does_not_depend_on_the_batch():
    blend = Blend([popular([3, 1, 2, 5, 4, 9, 8, 7, 6])], warm(9))
    blend.weight_T2.copy_(torch.tensor([[1.0, 0.3], [0.5, -0.2]]))
    histories, learned_BV = some_histories([3, 6]), torch.rand(2, 9)
    both_BV = blend(learned_BV.clone(), histories)
    second = Histories(histories.user_S[3:] - 1, histories.item_S[3:], ["1"])
    assert torch.equal(blend(learned_BV[1:].clone(), second)[0], both_BV[1])


def test_a_batch_is_blended_in_parts_as_its_users_are_one_by_one(monkeypatch: pytest.MonkeyPatch):
    blend = Blend([popular([3, 1, 2, 5, 4, 9, 8, 7, 6])], warm(9, 4))
    blend.weight_T2.copy_(torch.tensor([[1.0, 0.3], [0.5, -0.2]]))
    histories, learned_BV = some_histories([3, 0, 6, 1, 0]), torch.rand(5, 9)
    whole_BV, around = blend(learned_BV.clone(), histories), blend.around(learned_BV, histories)
    monkeypatch.setattr("recdiv_core.models.blend.USERS", 2)
    assert torch.equal(blend(learned_BV.clone(), histories), whole_BV)
    for made, wanted in zip(blend.around(learned_BV, histories), around, strict=True):
        assert torch.equal(made, wanted)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=7), st.integers(1, 8))
def test_the_parts_of_a_batch_hold_each_user_once(lengths: list[int], size: int):
    histories = replace(some_histories(lengths), time_S=torch.arange(sum(lengths)))
    found: list[tuple[str, list[int], list[int]]] = []
    for rows, own in histories.parts(size):
        assert own.user_ids == histories.user_ids[rows]
        assert own.time_S is not None
        for row, user_id in enumerate(own.user_ids):
            is_own = own.user_S == row
            found.append((user_id, own.item_S[is_own].tolist(), own.time_S[is_own].tolist()))
    wanted = [histories.item_S[histories.user_S == row].tolist() for row in range(len(lengths))]
    assert [items for _, items, _ in found] == wanted
    assert [time for *_, times in found for time in times] == list(range(sum(lengths)))


def test_all_tensors_of_a_blend_can_be_sent_to_other_workers():
    blend = Blend([fitted("ease", log())], warm(NUM_ITEMS))
    sendable = {torch.float32, torch.int64, torch.int32, torch.uint8}  # of torch.distributed
    assert {each.dtype for each in blend.buffers()} <= sendable
    assert blend.baselines[0].weights["weight_MM"].dtype == torch.int16
    moved = Blend(blend.baselines, warm(NUM_ITEMS)).terms_state()
    assert moved.keys() == blend.terms_state().keys()
    assert all(torch.equal(moved[name], each) for name, each in blend.terms_state().items())


def test_a_checkpoint_keeps_the_terms():
    blend = Blend([popular([1, 2, 3]), Baseline("graph", {"recency": torch.tensor(2.0)})], warm(3))
    first, second = read_terms(["popular", "graph"], blend.terms_state())
    assert torch.equal(first.weights["popular_V"], fit_popular(np.array([1, 2, 3]))["popular_V"])
    assert [first.kind, second.kind] == ["popular", "graph"]
    assert second.weights["recency"] == 2
    assert set(blend.state_dict()) == {"weight_T2"}


def with_queries(histories: Histories, texts: list[str], num_items: int = 9) -> Histories:
    """Return the requests with queries; vectors are random, and 0 without a query."""
    rng = np.random.default_rng(1)
    vectors_BH = torch.as_tensor(rng.normal(size=(len(texts), 4))).float()
    vectors_BH *= torch.tensor([bool(text) for text in texts])[:, None]
    text_VH = torch.as_tensor(rng.normal(size=(num_items, 4))).float()
    return replace(histories, queries=Queries(texts, vectors_BH, text_VH))


def searching_blend(num_items: int = 9) -> Blend:
    """Return a blend whose first given term reads queries, with weights of all sizes."""
    counts = np.arange(num_items)
    cosine = Baseline("text_cosine", fit_popular(counts))
    blend = Blend([cosine, popular(counts.tolist())], warm(num_items))
    blend.weight_T2.copy_(torch.tensor([[0.7, 0.1], [0.4, -0.2]]))
    blend.query_weight_U2.copy_(torch.tensor([[0.3, 0.2], [0.1, -0.1], [2.0, 0.5]]))
    return blend


def test_bm25_has_no_say_on_a_query_of_unknown_words():
    counts = np.arange(4)
    bm25 = Baseline("bm25", fit_bm25(counts, ["red", "red", "blue", "boot"], k1=0.0, b=0.0))
    blend, histories = Blend([bm25], warm(4)), some_histories([0, 0], num_items=4)
    _, scores = blend.each(torch.rand(2, 4), with_queries(histories, ["red", "rot"], 4))
    assert scores[0].argmax() == 1
    assert not scores[1].any()


def test_a_sure_query_leaves_less_to_the_other_scores():
    texts = ["sure", "vague"]
    counts_C = torch.tensor([8.0, 0.5])  # evidence of each word for the category of item 3
    words = Baseline(
        "query_words",
        {
            "key_W": torch.as_tensor(np.sort(word_keys(texts))),
            "move_WD": torch.zeros(2, 4 + SKETCH),
            "values_VL": torch.zeros(9, SKETCH),
            "scale": torch.tensor(0.0),
            "popular_V": torch.zeros(9),
            "category_V": torch.tensor([-1, -1, -1, 0, -1, -1, -1, -1, -1]),
            "start_W": torch.arange(3),
            "category_N": torch.zeros(2, dtype=torch.int64),
            "evidence_N": counts_C[np.argsort(word_keys(texts))],
        },
    )
    blend, histories = Blend([words], warm(9)), some_histories([3, 3])
    blend.query_weight_U2.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    liked_BV = torch.zeros(2, 9)
    liked_BV[:, 5], liked_BV[:, 3] = 1.0, -0.1
    blended_BV = blend(liked_BV, with_queries(histories, texts))
    assert blended_BV.argmax(dim=1).tolist() == [5, 5]
    blend.query_weight_U2[1, 0] = 2.0
    liked_BV[:] = 0.0
    liked_BV[:, 5], liked_BV[:, 3] = 1.0, -0.1
    assert blend(liked_BV, with_queries(histories, texts)).argmax(dim=1).tolist() == [3, 5]


def test_terms_that_read_queries_stand_last():
    blend = searching_blend()
    assert blend.kinds == ["popular", "text_cosine"]
    assert (len(blend.weight_T2), len(blend.query_weight_U2)) == (2, 3)
    assert Blend([popular([1, 2])], warm(2)).query_weight_U2 is None


def test_a_request_without_a_query_scores_as_in_a_blend_without_query_terms():
    searching, plain = searching_blend(), Blend([popular(list(range(9)))], warm(9))
    plain.weight_T2.copy_(searching.weight_T2)
    learned_BV, histories = torch.rand(3, 9), some_histories([4, 0, 30])
    want_BV = plain(learned_BV.clone(), histories)
    assert torch.equal(searching(learned_BV.clone(), histories), want_BV)
    mixed_BV = searching(learned_BV.clone(), with_queries(histories, ["", "red", ""]))
    assert torch.equal(mixed_BV[[0, 2]], want_BV[[0, 2]])
    assert not torch.allclose(mixed_BV[1], want_BV[1])


def test_a_request_with_a_query_is_the_weighted_sum_of_all_scores():
    blend, learned_BV = searching_blend(), torch.rand(2, 9)
    histories = with_queries(some_histories([4, 0]), ["red", "blue"])
    blended_BV = blend(learned_BV.clone(), histories)
    each = blend.each(learned_BV.clone(), histories)
    for row, length in enumerate([4, 0]):
        gate = np.log((length + 1) / 9)
        want = (0.3 + 0.2 * gate) * each[0][row] + (0.1 - 0.1 * gate) * each[1][row]
        want += (2.0 + 0.5 * gate) * each[2][row]
        np.testing.assert_allclose(blended_BV[row], want, atol=1e-5)


def test_a_checkpoint_keeps_the_weights_of_queries():
    assert set(searching_blend().state_dict()) == {"weight_T2", "query_weight_U2"}
