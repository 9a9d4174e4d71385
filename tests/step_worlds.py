"""A small model and its training steps, for tests of the pure layers: no pyarrow, no Ray."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from recdiv_core.data.arrays import Examples
from recdiv_core.data.batches import pack
from recdiv_core.items.labels import labels_of_padded
from recdiv_core.items.traits import ItemTraits
from recdiv_core.losses.diversity import REGULARISERS
from recdiv_core.losses.negatives import mixed_negatives
from recdiv_core.models.item_tower import ItemTower
from recdiv_core.models.recommender import Recommender
from recdiv_core.models.session_tower import SessionTower
from recdiv_core.training.objective import Objective
from recdiv_core.training.parts import Part, with_dials, with_needed
from recdiv_core.training.step import fetch_sums, train_step

NUM_ITEMS = 16


MAX_HISTORY = 6


USERS = [[1, 2, 3], [4, 5], [], [6, 7, 8, 9, 10, 11, 12], [2], [3, 3, 1], [15, 14], [0, 2, 4, 6]]


ALL = dict.fromkeys(REGULARISERS, 1.0)


NEGATIVES = torch.tensor([0, 3, 3, 9, 14])


def draws(seed):
    return torch.Generator().manual_seed(seed)


def traits(vectors):
    return ItemTraits(
        embeddings_VD=torch.nn.functional.normalize(vectors, dim=1),
        categories=labels_of_padded(torch.arange(NUM_ITEMS)[:, None] % 4),
        num_categories=4,
        num_events_V=torch.arange(NUM_ITEMS),
        num_train_users=len(USERS),
        attributes={name: torch.arange(NUM_ITEMS) % 3 for name in ("brand", "colour", "price")},
    )


def objective(**changes):
    standard = Objective(
        relevance="softmax",
        diversity_weight=0.0,
        mix=ALL,
        slate_size=3,
        slate_candidates=6,
        slate_temperature=0.3,
        traits=traits(torch.randn(NUM_ITEMS, 4, generator=draws(0))),
    )
    return replace(standard, **changes)


def fresh_model(dropout=0.0, *, is_conditioned=False, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # noqa: TID251
        model = Recommender(
            ItemTower(torch.arange(NUM_ITEMS), text_dim=5, dim=8, id_dropout=0.0),
            SessionTower(
                dim=8, num_layers=1, num_heads=2, max_history=MAX_HISTORY, dropout=dropout
            ),
            text_VH=torch.randn(NUM_ITEMS, 5),
            queries_QH=None,
            dim=8,
            dial_items=ItemTower(torch.arange(NUM_ITEMS), text_dim=5, dim=4, id_dropout=0.0)
            if is_conditioned
            else None,
        )
        if model.dial is not None:
            nn.init.normal_(model.dial.gate.weight, std=0.3)
        return model


def warm_model():
    """Return a fresh model of items that all have train events."""
    model = fresh_model()
    model.item_tower.popularity_V1 += 1
    return model


def part(users, dials=None):
    flat = np.array([item for user in users for item in user], np.int64)
    examples = Examples(
        items=flat,
        lengths=np.array([len(user) for user in users], np.int64),
        queries=np.full(len(flat), -1),
        weights=(0.5 + flat % 3).astype(np.float32),
        targets=np.zeros(0, np.int64),
        target_lengths=np.zeros(0, np.int64),
    )
    made = Part(pack(examples, max_history=MAX_HISTORY))
    return made if dials is None else with_dials(made, torch.tensor(dials, dtype=torch.float32))


def negatives_of(wanted):
    """Return the negatives of a step on USERS: those of the whole batch, however it is cut."""
    if wanted.relevance == "softmax":
        return None
    targets = torch.tensor([item for user in USERS for item in user])
    return mixed_negatives(
        targets if wanted.negatives != "uniform" else targets[:0],
        NEGATIVES if wanted.negatives != "in_batch" else NEGATIVES[:0],
        wanted.traits.log_prior_V,
    )


class Training:
    """A model under training, one step after another."""

    def __init__(self, model=None, *, precision=torch.float32, lr=0.05, **changes):
        self.model = fresh_model() if model is None else model
        self.objective = objective(**changes)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=lr)
        self.scaler = torch.amp.GradScaler(
            "cpu", init_scale=1024.0, enabled=precision == torch.float16
        )
        self.precision = precision
        self.shown_V = torch.zeros(NUM_ITEMS)

    def step(self, *parts_of_users, clip_norm=1e9):
        negatives = negatives_of(self.objective)
        parts = [part(users) for users in parts_of_users]
        if not self.objective.reads_all:
            parts = [with_needed(each, negatives.items_S) for each in parts]
        sums = train_step(
            self.model,
            parts,
            self.objective,
            self.optimizer,
            self.scaler,
            precision=self.precision,
            clip_norm=clip_norm,
            shown_V=self.shown_V,
            negatives=negatives,
        )
        return fetch_sums([sums])[0]

    def weights(self):
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}


def trained(*parts_of_users, num_steps=2, **changes):
    """Return the weights and the running places after some steps on the same parts."""
    training = Training(**changes)
    for _ in range(num_steps):
        training.step(*parts_of_users)
    return training.weights() | {"shown_V": training.shown_V}


def assert_equal_weights(got, wanted, *, atol=1e-6):
    torch.testing.assert_close(got, wanted, rtol=0, atol=atol)
