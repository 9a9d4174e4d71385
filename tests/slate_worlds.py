"""Small random soft slates, and free scores that one regulariser trains."""

from dataclasses import replace

import numpy as np
import torch

from recdiv_core.items.labels import labels_of_padded
from recdiv_core.items.traits import ItemTraits
from recdiv_core.losses.aggregate import exposure_share
from recdiv_core.losses.diversity import penalty
from recdiv_core.losses.soft_slates import SoftSlates
from recdiv_core.losses.soft_topk import soft_topk, standardise

NUM_ITEMS, NUM_CATEGORIES, NUM_CANDIDATES, K = 30, 3, 12, 4
ATTRIBUTES = ("brand", "colour", "price")


def random_slates(seed, *, membership=None, dtype=torch.float64, k=K, spread=1.0):
    """Return soft slates over items, some with zero vectors or several labels.

    spread: 0 = all vectors point the same way, 1 = mostly, so that no ILD is above 1.
    """
    rng = np.random.default_rng(seed)
    vectors = np.abs(rng.normal(size=(NUM_ITEMS, 3))) * spread + (1 - spread)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[rng.random(NUM_ITEMS) < 0.2 * spread] = 0.0
    labels = [
        rng.permutation(NUM_CATEGORIES)[:count] for count in rng.integers(1, 3, NUM_ITEMS).tolist()
    ]
    categories = np.full((NUM_ITEMS, 3), -1)
    for item, own in enumerate(labels):
        categories[item, : len(own)] = own
    exposure = rng.dirichlet(np.full(NUM_ITEMS, 0.3))
    candidates = np.stack([rng.permutation(NUM_ITEMS)[:NUM_CANDIDATES] for _ in range(3)])
    scores = torch.from_numpy(rng.normal(size=candidates.shape)).to(dtype)
    history = rng.dirichlet(np.ones(NUM_CATEGORIES), 3)
    attributes = rng.integers(-1, 3, (len(ATTRIBUTES), NUM_ITEMS))
    is_taught = np.arange(NUM_CANDIDATES) < np.full((3, 1), k)
    return SoftSlates(
        membership_BM=soft_topk(scores, k, 0.2) if membership is None else membership,
        candidates_BM=torch.from_numpy(candidates),
        traits=ItemTraits(
            embeddings_VD=torch.from_numpy(vectors).to(dtype),
            categories=labels_of_padded(torch.from_numpy(categories)),
            num_categories=NUM_CATEGORIES,
            num_events_V=torch.from_numpy(rng.dirichlet(np.full(NUM_ITEMS, 0.3)) * 1000).long(),
            num_train_users=25,
            attributes=dict(zip(ATTRIBUTES, torch.from_numpy(attributes), strict=True)),
        ),
        exposure_V=torch.from_numpy(exposure).to(dtype),
        history_BG=torch.from_numpy(history).to(dtype),
        slate_size=k,
        taught_BM=torch.from_numpy(rng.permuted(is_taught, axis=1)),
    )


def lists_of(labels):
    """Return the labels of every item as lists."""
    rows = labels[torch.arange(len(labels))].tolist()
    return [[label for label in row if label >= 0] for row in rows]


def replaced(slates, **changes):
    """Return the slates with other fields, of the slates or of their traits."""
    own = {name: changes.pop(name) for name in list(changes) if hasattr(slates, name)}
    return replace(slates, **own, traits=replace(slates.traits, **changes))


def hard_membership(seed, k=K):
    """Return 0/1 memberships of k random candidates, and their indexes."""
    rng = np.random.default_rng(seed)
    places = np.stack([rng.permutation(NUM_CANDIDATES)[:k] for _ in range(3)])
    membership = torch.zeros(3, NUM_CANDIDATES, dtype=torch.float64)
    return membership.scatter(1, torch.from_numpy(places), 1.0), places


def hard_slates(slates, places):
    return np.take_along_axis(slates.candidates_BM.numpy(), places, 1).tolist()


def shop_traits(vectors, num_train_users):
    """Return the traits of a shop with items around 8 centres, one per category."""
    items = torch.arange(len(vectors))
    return ItemTraits(
        embeddings_VD=torch.tensor(vectors).float(),
        categories=labels_of_padded(items[:, None] % 8),
        num_categories=8,
        num_events_V=(items < 8) * 30,
        num_train_users=num_train_users,
        attributes={
            "brand": items % 8 // 2,
            "colour": items % 4,
            "price": torch.where(items % 5 == 0, -1, items % 8 // 4),
        },
    )


def shop_history(num_users):
    """Return the tastes of users: one category for even users, all categories for odd users."""
    users = torch.arange(num_users)
    return torch.where(users[:, None] % 2 == 0, torch.eye(8)[users % 8], 1 / 8)


def descend(name, *, num_users=20, num_items=40, num_steps=40):
    """Train free scores with one regulariser; return hard top-k slates before and after."""
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(8, 6))
    vectors = centres[np.arange(num_items) % 8] + 0.3 * rng.normal(size=(num_items, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    taste = centres[rng.integers(8, size=num_users)]
    start = taste @ vectors.T + 1.5 * (np.arange(num_items) < 8)  # narrow tastes, a popular head
    scores = torch.tensor(start, dtype=torch.float32, requires_grad=True)
    traits = shop_traits(vectors, num_users)
    history = shop_history(num_users)
    places = torch.zeros(num_items)
    optimizer = torch.optim.Adam([scores], lr=0.1)
    candidates = torch.arange(num_items).expand(num_users, -1)
    for _ in range(num_steps):
        soft = soft_topk(standardise(scores), K, 0.1)
        places = 0.9 * places + soft.detach().sum(0)
        slates = SoftSlates(soft, candidates, traits, exposure_share(places), history, K)
        optimizer.zero_grad()
        penalty(slates, {name: 1.0}).mean().backward()
        optimizer.step()
    before = torch.tensor(start).topk(K, dim=1).indices
    return before.tolist(), scores.detach().topk(K, dim=1).indices.tolist(), vectors
