"""Scores of padded histories are those of ragged ones, for each baseline and whole models."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from recdiv_core.data.arrays import Examples
from recdiv_core.data.batches import pack
from recdiv_core.models.baselines import READ_QUERIES, SCORES, Histories
from recdiv_core.models.baselines.histories import DAY_US
from recdiv_core.models.baselines.packed_words import PackedWords, narrowed
from recdiv_core.models.baselines.padded import PADDED, Events, PaddedTerm
from recdiv_core.models.baselines.text_profile import fit_words, word_cosines
from recdiv_core.models.blend import Blend
from recdiv_core.models.dial import dial_dim
from recdiv_core.models.int8 import Rows, round_linear_layers, round_rows
from recdiv_core.models.item_tower import ItemTower
from recdiv_core.models.padded_scorer import PaddedScorer
from recdiv_core.models.recommender import Recommender
from recdiv_core.models.session_tower import SessionTower
from recdiv_core.slates.scoring import scoring_of
from tests.test_baselines import NUM_ITEMS, fitted, log

HISTORIES = [[1, 2, 3], [], [4], [5, 6, 7, 8, 1, 2, 3], [2, 2], [3, 9, 3, 9]]
TIMES = [[1, 1, 5], [], [2], [1, 2, 2, 2, 5, 6, 6], [4, 4], [1, 2, 3, 4]]
DIM, MAX_HISTORY = 8, 4

lists = st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=7), min_size=1, max_size=5)


def padded(rows, width=None, fill=-1):
    width = max(map(len, rows)) if width is None else width
    return torch.tensor([[fill] * (width - len(row)) + row for row in rows], dtype=torch.int64)


def ragged(histories, times=None):
    return Histories(
        torch.tensor([row for row, own in enumerate(histories) for _ in own]).long(),
        torch.tensor([item for own in histories for item in own]).long(),
        [""] * len(histories),
        None if times is None else torch.tensor([t * DAY_US for own in times for t in own]).long(),
    )


def in_days(times):
    return padded([[time * DAY_US for time in own] for own in times], fill=0)


def examples_of(histories, times=None):
    return Examples(
        items=np.array([item for own in histories for item in own], np.int64),
        lengths=np.array([len(own) for own in histories], np.int64),
        queries=np.full(len(histories), -1),
        weights=np.zeros(0, np.float32),
        targets=np.zeros(0, np.int64),
        target_lengths=np.zeros(len(histories), np.int64),
        user_ids=[""] * len(histories),
        times=None if times is None else ragged(histories, times).time_S.numpy(),
    )


def scored(model, histories, times=None, dial=0.0):
    """Return the scores of the product for ragged histories."""
    examples = examples_of(histories, times)
    with torch.inference_mode():
        return scoring_of(model, dial)(examples, pack(examples, max_history=MAX_HISTORY)).clone()


def model_of(*, terms=(), conditioned=False, text=True, num_cold=2):
    """Return a model with random weights; the last items are cold."""
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251
        popularity_V = torch.tensor([3] * (NUM_ITEMS - num_cold) + [0] * num_cold)

        def tower(dim):
            return ItemTower(popularity_V, text_dim=5 if text else 0, dim=dim, id_dropout=0.0)

        blend = Blend(terms, popularity_V > 0, has_dial=conditioned) if terms else None
        if blend is not None:
            blend.weight_T2 = torch.randn_like(blend.weight_T2)
            if conditioned:
                blend.dial_change_T2 = torch.randn_like(blend.weight_T2)
        model = Recommender(
            tower(DIM),
            SessionTower(
                dim=DIM,
                num_layers=2,
                num_heads=2,
                max_history=MAX_HISTORY,
                dropout=0.1,
                normalises_inputs=not text,
            ),
            text_VH=torch.nn.functional.normalize(torch.randn(NUM_ITEMS, 5), dim=1),
            queries_QH=None,
            dim=DIM,
            dial_items=tower(dial_dim(DIM)) if conditioned else None,
            blend=blend,
        )
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def test_every_kind_is_exported_or_reads_queries_or_is_random():
    assert set(PADDED) == set(SCORES) - {*READ_QUERIES, "random"}


@pytest.mark.parametrize("kind", PADDED)
@settings(max_examples=15)
@given(lists, st.data())
def test_padded_scores_are_those_of_ragged_histories(kind, histories, data):
    baseline = fitted(kind, log())
    if "half_life" in baseline.weights:
        half_life = torch.tensor([data.draw(st.sampled_from([0.0, 1.5])), 1.0])
        baseline.weights["half_life"] = half_life
    times = [
        sorted(data.draw(st.lists(st.integers(0, 5), min_size=len(own), max_size=len(own))))
        for own in histories
    ]
    items = padded(histories)
    for given_times in (None, times):
        known = None if given_times is None else in_days(given_times)
        events = Events(items.clamp_min(0), items >= 0, known)
        got = PaddedTerm(baseline)(events)
        wanted = baseline.scores(ragged(histories, given_times))
        torch.testing.assert_close(got, wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("ease", {"max_items": 5}),
        ("ease", {"kept_weights": 3}),
        ("text", {"text_VH": torch.eye(NUM_ITEMS)[:, :6]}),
        ("graph", {"text_weight": 0.0}),
        ("buy_again", {"half_life": 2.0}),
    ],
)
def test_every_form_of_a_baseline_has_a_padded_twin(kind, changes):
    baseline, items = fitted(kind, log(), **changes), padded(HISTORIES)
    got = PaddedTerm(baseline)(Events(items.clamp_min(0), items >= 0, None))
    torch.testing.assert_close(got, baseline.scores(ragged(HISTORIES)), rtol=0, atol=2e-6)


@pytest.mark.parametrize("times", [None, TIMES])
@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("conditioned", [True, False])
@pytest.mark.parametrize("terms", [(), ("graph", "text", "ease", "recent_popular", "bm25")])
def test_a_padded_model_scores_as_the_model_does(times, text, conditioned, terms):
    model = model_of(
        terms=[fitted(kind, log()) for kind in terms], conditioned=conditioned, text=text
    )
    dial = 0.7 if conditioned else 0.0
    wanted = scored(model, HISTORIES, times, dial)
    dials = torch.full((len(HISTORIES),), dial) if conditioned else None
    known = None if times is None else in_days(times)
    got = PaddedScorer(model)(padded(HISTORIES), known, dials)
    torch.testing.assert_close(got, wanted, rtol=0, atol=2e-5)


def test_more_padding_changes_no_score():
    scorer = PaddedScorer(model_of(terms=[fitted("graph", log()), fitted("text", log())]))
    got = scorer(padded(HISTORIES, width=11))
    torch.testing.assert_close(got, scorer(padded(HISTORIES)), rtol=0, atol=1e-5)


def test_times_that_count_up_are_unknown_times():
    scorer = PaddedScorer(model_of(terms=[fitted("graph", log()), fitted("ease", log())]))
    items = padded(HISTORIES)
    counted = torch.arange(items.shape[1]).expand(items.shape)
    torch.testing.assert_close(scorer(items, counted), scorer(items), rtol=0, atol=1e-6)


def test_lowered_scores_are_the_scores_less_a_constant_per_item():
    model, lowered_V = model_of(), torch.arange(NUM_ITEMS).float()
    plain, lowered = PaddedScorer(model), PaddedScorer(model, lowered_V=lowered_V)
    items = padded(HISTORIES)
    torch.testing.assert_close(lowered(items), plain(items) - lowered_V)


@settings(max_examples=25)
@given(
    st.lists(st.lists(st.floats(-9, 9, width=32), min_size=3, max_size=3), min_size=1, max_size=4)
)
def test_int8_rows_are_the_rounded_shares_of_the_largest_entry(rows):
    values_VD, scale_V1 = round_rows(torch.tensor(rows))
    for row, values, scale in zip(rows, values_VD.tolist(), scale_V1[:, 0].tolist(), strict=True):
        largest = max(map(abs, row))
        assert scale == pytest.approx(largest / 127 if largest else 1.0)
        for entry, value in zip(row, values, strict=True):
            assert abs(value) <= 127
            assert abs(entry - scale * value) <= 0.5 * scale * (1 + 1e-4) + 1e-30


def test_int8_rows_are_taken_and_multiplied_with_their_scale():
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251
        rows_VD, states_BD = torch.randn(6, 16), torch.randn(3, 16)
    rows = Rows(rows_VD, is_int8=True)
    near = rows.values_VD.float() * rows.scale_V1
    torch.testing.assert_close(rows.take(torch.tensor([[4, 0]])), near[[4, 0]][None])
    torch.testing.assert_close(rows.dot(states_BD), states_BD @ near.T)
    assert (near - rows_VD).abs().max() < 0.02


def test_linear_layers_are_rounded_in_a_copy():
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251
        layers = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.Linear(8, 4, bias=False))
        inputs = torch.randn(3, 16)
    before = layers(inputs)
    near = round_linear_layers(layers)(inputs)
    assert torch.equal(layers(inputs), before)
    assert 0 < (near - before).abs().max() < 0.02
    weight, rounded = layers[1].weight, round_linear_layers(layers)[1]
    slow = [[round(v / (max(map(abs, row)) / 127)) for v in row] for row in weight.tolist()]
    assert rounded.values_VD.tolist() == slow


def test_an_int8_model_scores_nearly_as_the_model_does():
    model = model_of(terms=[fitted(k, log()) for k in ("graph", "text", "ease")], conditioned=True)
    items, dials = padded(HISTORIES), torch.full((len(HISTORIES),), 0.5)
    exact, near = (PaddedScorer(model, is_int8=i)(items, None, dials) for i in (False, True))
    assert 0 < (near - exact).abs().max() < 0.05 * exact.std()


@pytest.mark.parametrize(("largest", "dtype"), [(32767, torch.int16), (32768, torch.int32)])
def test_numbers_are_as_narrow_as_the_largest_allows(largest, dtype):
    numbers = torch.tensor([0, largest])
    assert narrowed(numbers).dtype == dtype
    assert narrowed(numbers).tolist() == [0, largest]
    assert narrowed(numbers[:0]).dtype == torch.int16


@settings(max_examples=20)
@given(st.lists(st.integers(0, 14), min_size=1, max_size=9), st.data())
def test_texts_of_any_length_have_the_cosines_of_ragged_words(lengths, data):
    texts = [
        " ".join(f"word{(5 * n + row) % 17}" for n in range(own)) for row, own in enumerate(lengths)
    ]
    weights = fit_words(texts)
    item = st.integers(0, len(texts) - 1)
    items = torch.tensor([data.draw(st.lists(item, min_size=3, max_size=3)) for _ in range(2)])
    weight_BL = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    pairs = torch.tensor([0, 0, 0, 1, 1, 1]), items.flatten(), weight_BL.flatten()
    wanted = word_cosines(weights, *pairs, 2)
    torch.testing.assert_close(PackedWords(weights)(items, weight_BL), wanted, rtol=0, atol=1e-6)
