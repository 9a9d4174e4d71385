from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import torch
from hypothesis import given

from tests.candidate_worlds import random_candidates, rerank
from tests.oracles import serve_one_after_another


def exposure_of(candidates, slates):
    places = candidates.items_BC.gather(1, slates.clamp_min(0))[slates >= 0]
    return torch.bincount(places, minlength=candidates.traits.num_items)


@given(seed=st.integers(0, 10_000), dial=st.sampled_from([0.3, 0.7, 1.0]), k=st.integers(1, 4))
def test_the_slates_are_those_of_users_who_ask_one_after_another(seed, dial, k):
    rng = np.random.default_rng(seed)
    candidates = random_candidates(seed, num_users=15)
    candidates.scores_BC[3, 7:] = -torch.inf
    num_items = candidates.traits.num_items
    capacity = round(15 ** (1 - dial) * (-(-15 * k // num_items)) ** dial)
    kept = serve_one_after_another(
        candidates.scores_BC.tolist(),
        candidates.items_BC.tolist(),
        k,
        [capacity] * num_items,
        rng.permutation(15).tolist(),
    )
    slates = rerank("exposure", candidates, k, dial).tolist()
    assert [slate[: len(own)] for slate, own in zip(slates, kept, strict=True)] == kept


def test_no_item_exceeds_its_capacity_where_there_are_enough():
    candidates = random_candidates(1, num_users=30, num_candidates=60)
    for dial in (0.2, 0.5, 0.8, 1.0):
        slates = rerank("exposure", candidates, 3, dial)
        assert int(exposure_of(candidates, slates).max()) <= round(30 ** (1 - dial))


def test_raising_the_dial_raises_coverage():
    candidates = random_candidates(2, num_users=40, num_candidates=100)
    popular = torch.arange(100).expand(40, 100)
    candidates = replace(candidates, items_BC=popular)  # everybody likes the same items best
    coverage = [
        int((exposure_of(candidates, rerank("exposure", candidates, 5, dial)) > 0).sum())
        for dial in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    assert coverage == sorted(set(coverage))
    assert (coverage[0], coverage[-1]) == (5, 100)


def test_places_that_nobody_has_free_are_filled_by_the_scores():
    candidates = random_candidates(4, num_users=5, num_candidates=3)
    same = replace(candidates, items_BC=torch.arange(3).expand(5, 3))
    slates = rerank("exposure", same, 3, 1.0)
    assert slates.sort(dim=1).values.tolist() == [[0, 1, 2]] * 5


def test_the_user_for_whom_an_item_stands_out_keeps_it():
    scores = torch.tensor([[3.0, 2.9, 0.0, -0.1], [9.0, 1.0, 0.9, 0.8], [3.0, 2.8, 0.0, -0.1]])
    candidates = random_candidates(5, num_users=3, num_candidates=4)
    candidates = replace(candidates, scores_BC=scores, items_BC=torch.arange(4).expand(3, 4))
    slates = rerank("exposure", candidates, 1, 1.0)
    assert slates.tolist() == [[1], [0], [2]]
