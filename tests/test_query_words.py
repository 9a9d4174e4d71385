"""Learned words of queries (models/baselines/query_words.py, slates/query_words.py)."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recdiv_core.models.baselines import Baseline, Histories
from recdiv_core.models.baselines.query_words import SKETCH, query_words, sketch_words
from recdiv_core.models.queries import Queries
from recdiv_core.models.query_text import word_keys
from recdiv_core.slates import query_words as learning
from recdiv_core.slates.query_words import QueryClicks, fit_query_words

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
        words_VL=sketch_words(TITLES),
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


def test_sketches_keep_the_likeness_of_word_sets():
    texts = ["red boot acme", "red boot", "blue lamp", ""]
    sketch = sketch_words(texts).float()
    assert sketch.shape == (4, SKETCH)
    assert sketch[:3].norm(dim=1).numpy() == pytest.approx(np.ones(3), abs=0.2)
    assert not sketch[3].any()
    likeness = sketch @ sketch.T
    assert likeness[0, 1] > 0.5 > abs(likeness[0, 2])
    assert torch.equal(sketch_words([*texts, *texts])[:4], sketch.half())
