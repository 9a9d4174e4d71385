import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from recdiv_core.rerank import NOVELTIES, RERANKERS, Options
from recdiv_core.rerank.explain import FREE, explain
from tests.candidate_worlds import candidates_of_one, random_candidates, rule, with_padding
from tests.test_quota import item_rule, labels_of, only, random_rules

DIALS = (0.0, 0.4, 1.0)
each_novelty = pytest.mark.parametrize("name", NOVELTIES)


def explained(name, candidates, k, dials=DIALS, rules=()):
    options = Options(rules=rules)
    chosen = RERANKERS[name](candidates, k, dials, options)
    return chosen, explain(NOVELTIES[name], candidates, chosen, dials, options)


def mmr_sum(candidates, slate, place, dial):
    """Return what mmr weighs a place's item by, from its definition."""
    scores = candidates.scores_BC[0].double()
    relevance = (scores - scores.min()) / (scores.max() - scores.min())
    vectors = candidates.traits.embeddings_VD[candidates.items_BC[0]].double()
    if not place:
        return float(relevance[slate[0]]), 0.0
    nearest = min(float(1 - vectors[slate[place]] @ vectors[other]) for other in slate[:place])
    return float((1 - dial) * relevance[slate[place]]), dial * nearest


@pytest.mark.parametrize("dial", DIALS)
def test_the_parts_are_those_of_the_definition(dial):
    candidates = random_candidates(3, num_users=1)
    chosen, why = explained("mmr", candidates, 6, [dial])
    slate = chosen[0, 0].tolist()
    expected = [mmr_sum(candidates, slate, place, dial) for place in range(6)]
    found = torch.stack([why.relevance_BWK[0, 0], why.novelty_BWK[0, 0]], dim=1)
    assert found.numpy() == pytest.approx(np.array(expected), abs=1e-6)


@each_novelty
def test_without_rules_every_place_is_free(name):
    candidates = with_padding(random_candidates(4), torch.zeros(6, 12, dtype=torch.bool))
    chosen, why = explained(name, candidates, 14)
    assert bool((why.rule_BWK == FREE).all())
    assert why.relevance_BWK.shape == why.novelty_BWK.shape == chosen.shape
    is_end = chosen < 0
    parts = torch.stack([why.relevance_BWK, why.novelty_BWK])
    assert not parts[:, is_end].any()


@each_novelty
def test_the_dial_shares_out_what_a_place_is_chosen_by(name):
    _, why = explained(name, random_candidates(5), 6)
    assert not why.novelty_BWK[:, 0].any()
    assert not why.relevance_BWK[:, 2, 1:].any()


@given(seed=st.integers(0, 10_000), name=st.sampled_from(sorted(NOVELTIES)), k=st.integers(1, 6))
def test_a_place_that_is_not_free_is_where_the_free_choice_differs(seed, name, k):
    rng = np.random.default_rng(seed)
    candidates = random_candidates(seed)
    rules = tuple(r for r in random_rules(rng, candidates, k) if r.kind != "exclude")
    free, _ = explained(name, candidates, k)
    bound, why = explained(name, candidates, k, rules=rules)
    first = (why.rule_BWK != FREE).long().cumsum(dim=2)
    assert torch.equal(bound[first == 0], free[first == 0])
    is_first = (first == 1) & (why.rule_BWK != FREE)
    assert not (bound[is_first] == free[is_first]).any()


def test_the_rule_that_intervened_is_named():
    candidates = candidates_of_one([6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    brand = torch.tensor([[0], [0], [1], [1], [2], [2]])
    rules = (
        item_rule("exclude", candidates, 2),
        rule("at least", only(brand, 2), 1),
        rule("at most", brand, 1, window=2),
    )
    chosen, why = explained("mmr", candidates, 4, [0.0], rules)
    assert chosen.tolist() == [[[0, 3, 1, 4]]]
    assert why.rule_BWK.tolist() == [[[FREE, 2, FREE, FREE]]]
    chosen, why = explained("mmr", candidates, 3, [0.0], rules)
    assert chosen.tolist() == [[[0, 3, 4]]]
    assert why.rule_BWK.tolist() == [[[FREE, 2, 1]]]


def test_what_several_rules_forced_together_is_told_apart():
    brand = torch.tensor([[0], [1], [2]])
    rules = (rule("at least", only(brand, 1), 1), rule("at least", only(brand, 2), 1))
    chosen, why = explained("mmr", candidates_of_one([3.0, 2.0, 1.0]), 2, [0.0], rules)
    assert chosen.tolist() == [[[1, 2]]]
    assert why.rule_BWK.tolist() == [[[2, 1]]]  # each rule alone would have let the first come


def test_a_wanted_item_in_the_last_place_is_the_rules():
    candidates = random_candidates(0, num_users=1)
    rules = (
        rule("at most", labels_of(candidates, "brand"), 12),
        item_rule("include", candidates, 0),
    )
    items = candidates.items_BC[0].tolist()
    candidates.items_BC[0, items.index(0) if 0 in items else 11] = items[11]
    candidates.items_BC[0, 11] = 0
    chosen, why = explained("mmr", candidates, 3, [0.0], rules)
    assert chosen[0, 0].tolist() == [0, 1, 11]
    assert why.rule_BWK[0, 0].tolist() == [FREE, FREE, 1]
