"""Learned words of queries (models/baselines/query_words.py, slates/query_words.py)."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from recdiv_core.config import Config
from recdiv_core.errors import UserError
from recdiv_core.models.baselines import Baseline, Histories
from recdiv_core.models.baselines.query_words import (
    SKETCH,
    entries_of,
    query_words,
    sketch_values,
)
from recdiv_core.models.queries import Queries
from recdiv_core.models.query_text import word_keys, words_of
from recdiv_core.slates import fitting
from recdiv_core.slates import query_words as learning
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.slates.loading import load_model
from recdiv_core.slates.query_words import QueryClicks, fit_query_words
from tests.worlds import write_dataset

COLOURS, NOUNS = ["red", "blue", "green"], ["boot", "lamp", "tent"]
SAID = {"red": "rot", "blue": "azul", "green": "verde"}
SAID |= {"boot": "stompers", "lamp": "glow", "tent": "wigwam"}
TITLES = [f"{colour} {noun}" for noun in NOUNS for colour in COLOURS]
ASKED = [f"{SAID[colour]} {SAID[noun]}" for noun in NOUNS for colour in COLOURS]
"""Query n asks for item n, in other words than its title."""


def units(rows: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return F.normalize(torch.as_tensor(rng.normal(size=(rows, 6))).float())


def clicks_after(asked: list[int], times: int = 20, *, knows: bool = False) -> QueryClicks:
    """Return clicks of each query of `asked` on the item that it means.

    Unless the encoder `knows` texts, it gives all of them one vector.
    """
    numbers = torch.tensor(asked).long().repeat(times)
    return QueryClicks(
        query_P=numbers,
        item_P=numbers,
        texts=ASKED,
        vectors_QH=units(len(ASKED), 1) if knows else units(1, 1).repeat(len(ASKED), 1),
        text_VH=units(len(TITLES), 2) if knows else units(1, 1).repeat(len(TITLES), 1),
        values_VL=sketch_values([title.split() for title in TITLES]),
        counts_V=np.full(len(TITLES), 5),
        category_V=torch.arange(len(TITLES)) // len(COLOURS),
    )


def requests(clicks: QueryClicks, asked: list[int]) -> Histories:
    nothing = torch.zeros(0, dtype=torch.int64)
    texts = [clicks.texts[query] for query in asked]
    queries = Queries(texts, clicks.vectors_QH[asked], clicks.text_VH)
    return Histories(nothing, nothing, ["u"] * len(asked), queries=queries)


def fitted(clicks: QueryClicks, seed: int = 0) -> Baseline:
    return Baseline("query_words", fit_query_words(clicks, seed=seed))


def best(clicks: QueryClicks, asked: list[int]) -> list[int]:
    return fitted(clicks).scores(requests(clicks, asked)).argmax(dim=1).tolist()


def test_without_clicks_the_order_is_that_of_the_cosine():
    clicks = clicks_after([], knows=True)
    asked = requests(clicks, [0, 4])
    made = fitted(clicks).scores(asked)
    cosines = asked.queries.vectors_BH @ clicks.text_VH.T
    assert torch.equal(made.argsort(dim=1), cosines.argsort(dim=1))


def test_clicked_words_find_what_they_mean():
    everything = list(range(len(ASKED)))
    assert best(clicks_after(everything), everything) == everything


def test_a_query_that_nobody_asked_profits_from_its_words():
    held_out = [0, 4, 8]  # each of their words stands in two other queries
    asked = [query for query in range(len(ASKED)) if query not in held_out]
    assert best(clicks_after(asked), held_out) == held_out


@pytest.mark.parametrize("exact_items", [0, 2_000])
def test_sampled_negatives_learn_the_same_words(monkeypatch, exact_items):
    monkeypatch.setattr(learning, "EXACT_ITEMS", exact_items)
    held_out = [1, 5, 6]
    asked = [query for query in range(len(ASKED)) if query not in held_out]
    assert best(clicks_after(asked), held_out) == held_out


def test_the_expected_negatives_are_those_that_are_drawn(monkeypatch):
    monkeypatch.setattr(learning, "EXACT_ITEMS", 0)
    clicks = clicks_after([0, 0, 0, 1, 3, 8])
    sampler = learning._Sampler(clicks, torch.Generator().manual_seed(0))
    drawn_V = torch.zeros(len(TITLES))
    for _ in range(300):
        negatives = sampler.draw(clicks.item_P)
        drawn_V[negatives.items_S] += negatives.log_count_S.exp()
    expected_V = 300 * len(clicks.item_P) * sampler._expected_V
    np.testing.assert_allclose(drawn_V, expected_V, rtol=0.03)


def test_equal_seeds_learn_equal_words():
    clicks = clicks_after([0, 1, 5])
    one, same, other = (fitted(clicks, seed).weights["move_WD"] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_few_clicks_move_a_word_less_than_many():
    few, many = (fitted(clicks_after([0], times)).weights["move_WD"] for times in (1, 50))
    assert few.norm() < 0.7 * many.norm()


def test_an_item_without_events_counts_as_popular_as_the_mean():
    clicks = clicks_after([0, 1])
    counts_V = clicks.counts_V.copy()
    counts_V[[2, 3]] = 0, 80
    weights = fit_query_words(replace(clicks, counts_V=counts_V), seed=0)
    popular_V = weights["popular_V"]
    warm = [place for place in range(len(TITLES)) if place != 2]
    assert float(popular_V[2]) == pytest.approx(float(popular_V[warm].mean()), rel=1e-5)


def test_a_request_without_a_query_gets_the_popular_items():
    clicks = replace(clicks_after([0]), counts_V=np.arange(1, len(TITLES) + 1))
    nothing = torch.zeros(0, dtype=torch.int64)
    for histories in (Histories(nothing, nothing, ["u"]), requests(clicks, [])):
        made = fitted(clicks).scores(histories)
        assert made.shape == (histories.num_users, len(TITLES))
    ranked = fitted(clicks).scores(Histories(nothing, nothing, ["u"]))[0].argsort(descending=True)
    assert ranked.tolist() == list(range(len(TITLES)))[::-1]


def test_known_words_of_queries_are_found_once_each():
    keys = torch.as_tensor(np.sort(word_keys(["red", "boot"])))
    user_P, word_P = query_words(keys, ["red boot red", "unheard", "", "Boots"])
    assert user_P.tolist() == [0, 0, 3]
    assert len(set(word_P[:2].tolist())) == 2
    assert query_words(keys[:0], ["red"])[0].tolist() == []


def test_sketches_count_the_values_in_common():
    values = [["red", "boot", "acme"], ["acme", "red", "red"], ["blue"], []]
    sketch = sketch_values(values).float()
    assert sketch.shape == (4, SKETCH)
    np.testing.assert_allclose(
        sketch @ sketch.T,
        [[len({*own} & {*other}) for other in values] for own in values],
        atol=0.5,
    )
    assert not sketch[3].any()
    assert torch.equal(sketch_values([*values, ["more"]])[:4], sketch.half())


def test_a_rare_word_means_the_only_category_of_its_clicks():
    clicks = clicks_after([0, 1], times=1)  # one click after each of two queries with `stompers`
    weights = fit_query_words(clicks, seed=0)
    asked = requests(replace(clicks, texts=["stompers"] * len(ASKED)), [0])
    boots = {0, 1, 2}  # the third has no click after any query
    assert set(Baseline("query_words", weights).scores(asked)[0].topk(3).indices.tolist()) == boots
    mute = weights | {"evidence_N": 0 * weights["evidence_N"]}
    gap, small = (
        float(scores_V[:3].min() - scores_V[3:].max())
        for scores_V in (Baseline("query_words", own).scores(asked)[0] for own in (weights, mute))
    )
    assert gap > small + 0.5


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=30), st.integers(0, 5))
def test_the_evidence_is_a_smoothed_log_ratio(pairs, cut):
    category_V = torch.tensor([0, 0, 1, 1, 2, 2, -1, 3, 3])
    counts_V = np.random.default_rng(cut).integers(0, 20, len(TITLES))
    clicks = replace(
        clicks_after([]),
        query_P=torch.tensor([query for query, _ in pairs]).long(),
        item_P=torch.tensor([item for _, item in pairs]).long(),
        category_V=category_V,
        counts_V=counts_V,
    )
    key_W = learning._keys(clicks)[cut:]
    pair_P, word_P = query_words(key_W, clicks.texts)
    start_Q = torch.searchsorted(pair_P, torch.arange(len(clicks.texts) + 1))
    found = learning._evidence(clicks, len(key_W), start_Q, word_P)
    share_C = [1.0 + counts_V[(category_V == c).numpy()].sum() for c in range(4)]
    words = {int(word_keys(words_of(word))[0]): word for word in SAID.values()}
    for place, key in enumerate(key_W.tolist()):
        after = [item for query, item in pairs if words[key] in ASKED[query].split()]
        counts = Counter(int(category_V[item]) for item in after)
        own = slice(int(found["start_W"][place]), int(found["start_W"][place + 1]))
        made = dict(zip(found["category_N"][own].tolist(), found["evidence_N"][own], strict=True))
        assert made.keys() == {category for category in counts if category >= 0}
        for category, evidence in made.items():
            prior = share_C[category] / sum(share_C)
            total = counts.total() + learning.SPREAD
            after_word = (counts[category] + learning.SPREAD * prior) / total
            constant = np.log(learning.SPREAD / total)
            expected = learning.BELIEF * (np.log(after_word / prior) - constant)
            assert float(evidence) == pytest.approx(expected, rel=1e-5)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.data())
def test_entries_are_those_of_each_word_in_order(lengths, data):
    start_W = torch.tensor([0, *lengths]).cumsum(0)
    words = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=8))
    place_M, pair_M = entries_of(start_W, torch.tensor(words).long())
    expected = [
        (place, pair)
        for pair, word in enumerate(words)
        for place in range(int(start_W[word]), int(start_W[word + 1]))
    ]
    assert list(zip(place_M.tolist(), pair_M.tolist(), strict=True)) == expected


def test_items_without_a_category_get_no_evidence():
    clicks = clicks_after([0, 4])
    clicks = replace(clicks, category_V=torch.full_like(clicks.category_V, -1))
    weights = fit_query_words(clicks, seed=0)
    assert not len(weights["evidence_N"])
    assert torch.isfinite(Baseline("query_words", weights).scores(requests(clicks, [0, 4]))).all()


def test_the_values_of_an_item_are_its_levels_of_categories_and_columns(tmp_path, manifest):
    write_dataset(tmp_path, manifest, num_items=3, num_queries=0)
    dataset = load_dataset(tmp_path)
    own = replace(
        dataset.catalogue,
        categories=("Home > Mugs", "(none)", "B"),
        category_lists=pa.array([[0, 2], [1], [1]]),
        table=dataset.catalogue.table.append_column("colour", pa.array(["Red", None, ""])),
    )
    with_path, *without = fitting._values(replace(dataset, catalogue=own))
    home, mugs, b, colour = with_path
    assert home != mugs
    assert b not in (home, mugs)
    assert colour == "colour=red"
    assert without == [["item", "1"], ["item", "2"]]


def test_learned_words_of_an_earlier_version_are_refused_in_one_line(tmp_path):
    torch.save({"terms.query_words.words_VL": torch.zeros(2, SKETCH)}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="earlier version; train the model again"):
        load_model(Config(), None, tmp_path)  # pyright: ignore[reportArgumentType]
