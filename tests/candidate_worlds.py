"""Small random candidates with edge cases, for tests of every re-ranker."""

from dataclasses import replace

import numpy as np
import torch

from recdiv_core.items.labels import labels_of_padded
from recdiv_core.items.traits import ItemTraits
from recdiv_core.rerank import RERANKERS, Candidates, Options
from recdiv_core.rerank.candidates import Rule

ATTRIBUTES = ("brand", "colour", "price")


def random_candidates(
    seed, *, num_users=6, num_candidates=12, dim=4, num_categories=5, zeros=0.1, positive=False
):
    """Return candidates from a shared catalogue: zero vectors, several labels or none, no history.

    Scores are in descending order and differ; every third user has no history.
    """
    rng = np.random.default_rng(seed)
    num_items = 3 * num_candidates
    scores = -np.sort(-rng.normal(size=(num_users, num_candidates)).astype(np.float32), axis=1)
    items = np.stack([rng.permutation(num_items)[:num_candidates] for _ in range(num_users)])
    history = rng.dirichlet(np.full(num_categories, 0.5), num_users)
    history[2::3] = 0.0
    return Candidates(
        torch.from_numpy(scores),
        torch.from_numpy(items),
        random_traits(rng, num_items, dim, num_categories, zeros=zeros, positive=positive),
        torch.from_numpy(history).float(),
    )


def random_traits(rng, num_items, dim, num_categories, *, zeros=0.0, positive=False):
    vectors = rng.normal(size=(num_items, dim))
    vectors = np.abs(vectors) if positive else vectors
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[rng.random(num_items) < zeros] = 0.0
    categories = np.full((num_items, 3), -1)
    for row in categories:
        size = rng.integers(0, 4)
        row[:size] = rng.permutation(num_categories)[:size]
    return ItemTraits(
        embeddings_VD=torch.from_numpy(vectors).float(),
        categories=labels_of_padded(torch.from_numpy(categories)),
        num_categories=num_categories,
        num_events_V=torch.ones(num_items, dtype=torch.int64),
        num_train_users=1,
        attributes={name: torch.from_numpy(rng.integers(-1, 4, num_items)) for name in ATTRIBUTES},
    )


def candidates_of_one(scores, vectors=None, *, categories=None, history=None, attributes=None):
    """Return the candidates of a single user: the whole catalogue in order."""
    num_items = len(scores)
    vectors = torch.tensor(vectors or [[1.0, 0.0]] * num_items)
    labels = categories or [[0]] * num_items
    width = max(map(len, labels))
    padded = torch.tensor([own + [-1] * (width - len(own)) for own in labels])
    num_categories = 1 + max(0, int(padded.max())) if history is None else len(history)
    return Candidates(
        torch.tensor([scores], dtype=torch.float32),
        torch.arange(num_items)[None],
        ItemTraits(
            embeddings_VD=torch.nn.functional.normalize(vectors),
            categories=labels_of_padded(padded),
            num_categories=num_categories,
            num_events_V=torch.ones(num_items, dtype=torch.int64),
            num_train_users=1,
            attributes={name: torch.tensor(own) for name, own in (attributes or {}).items()},
        ),
        torch.tensor([history or [0.0] * num_categories]),
    )


def rule(kind, labels, count=1, window=0, share=1.0):
    """Return a rule with labels [V, L], padded with -1."""
    return Rule(kind, labels_of_padded(labels), count, window, share)


def rerank(name, candidates, k, dial, **options):
    """Return the slates of one dial, [B, K]."""
    return RERANKERS[name](candidates, k, [dial], Options(**options))[:, 0]


def slate_of_one(name, scores, vectors, k, dial, **options):
    return rerank(name, candidates_of_one(scores, vectors), k, dial, **options)[0].tolist()


def with_padding(candidates, is_padding):
    """Return the candidates with random padding and one NaN score."""
    scores = candidates.scores_BC.masked_fill(is_padding, -torch.inf)
    scores[1, 3] = torch.nan
    return replace(candidates, scores_BC=scores)


def vectors_of(candidates, user):
    return candidates.traits.embeddings_VD[candidates.items_BC[user]].numpy()
