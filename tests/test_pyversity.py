"""The same picks as pyversity 0.2.0, on random users and on real ones.

What converts one dial into the other, relevance being the same on both sides:
    mmr: the dial as it is; pyversity cuts cosines off at 0, so that vectors without negative
        cosines are compared.
    msd: theirs sums distances, ours weighs the sum by 2 / (k - 1): their odds of diversity are
        2 d / ((1 - d) (k - 1)).
    dpp: theirs has weights exp(beta z), ours beta = (1 - d) / (2 d).
    ssd: the dial as it is.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pyversity
import torch

from recdiv_core.rerank import Candidates
from recdiv_core.rerank.relevance import zero_to_one
from tests.candidate_worlds import random_candidates, random_traits, rerank, vectors_of

NUM_USERS, NUM_RANDOM, K = 1000, 300, 10


def their_slate(name, vectors, scores, dial, window=None):
    if name == "mmr":
        found = pyversity.mmr(vectors, scores, k=K, diversity=dial)
    elif name == "msd":
        odds = 2 * dial / ((1 - dial) * (K - 1))
        found = pyversity.msd(vectors, scores, k=K, diversity=odds / (1 + odds))
    elif name == "dpp":
        found = pyversity.dpp(vectors, scores, k=K, diversity=0.5, scale=(1 - dial) / dial)
    else:
        found = pyversity.ssd(vectors, scores, k=K, diversity=dial, window=window)
    return found.indices.tolist()


def num_equal(name, candidates, dial, window=0):
    """Count the users who get the same slate."""
    ours = rerank(name, candidates, K, dial, window=window).tolist()
    relevance = zero_to_one(candidates).numpy()
    return sum(
        slate
        == their_slate(name, vectors_of(candidates, user), relevance[user], dial, window or None)
        for user, slate in enumerate(ours)
    )


@pytest.mark.parametrize(
    ("name", "window"), [("mmr", 0), ("msd", 0), ("dpp", 0), ("ssd", 0), ("ssd", 3)]
)
def test_the_picks_are_pyversitys_for_random_users(name, window):
    candidates = random_candidates(
        11, num_users=NUM_RANDOM, num_candidates=40, dim=24, zeros=0.0, positive=name == "mmr"
    )
    assert num_equal(name, candidates, 0.4, window) == NUM_RANDOM


def beauty():
    """Return a thousand users who like what is like one item; cosines halved towards 1."""
    prepared = os.environ.get("RECDIV_BEAUTY")
    if prepared is None:
        pytest.skip("RECDIV_BEAUTY names no prepared data set of Amazon Beauty")
    (path,) = (Path(prepared) / "vectors").glob("tokens-*.npy")
    unit = torch.nn.functional.normalize(torch.from_numpy(np.load(path)).float())
    rng = np.random.default_rng(0)
    liked = torch.from_numpy(rng.integers(0, len(unit), NUM_USERS))
    scores, items = (unit[liked] @ unit.T).topk(100, dim=1)
    shifted = torch.nn.functional.pad(unit, (0, 1), value=1.0) / 2**0.5
    traits = replace(random_traits(rng, len(unit), 2, 4), embeddings_VD=shifted)
    return Candidates(scores, items, traits, torch.zeros(NUM_USERS, 4))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mmr", "msd", "dpp", "ssd"])
def test_the_picks_are_pyversitys_for_a_thousand_real_users(name):
    # texts that differ by next to nothing tie: float32 sums of another order choose the other
    assert num_equal(name, beauty(), 0.4) >= NUM_USERS - 2
