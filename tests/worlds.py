"""Small random worlds that metrics and re-rankers are tried on: ragged lists, and their tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recdiv_core.metrics import CatalogueFacts, Tally, catalogue_facts, tally_slates


@dataclass(frozen=True)
class World:
    """Users' slates and targets over a catalogue with everything awkward in it.

    Some slates are short or empty, some users have no target, some items no vector, no category or
    several, no train event or more events than there are train users.
    """

    slates: list[list[int]]
    targets: list[list[int]]
    embeddings: NDArray[np.float32]
    categories: list[list[int]]
    popularity: list[int]
    num_train_users: int
    num_categories: int


def random_world(
    seed: int, *, num_users: int = 40, num_items: int = 30, width: int = 10, dim: int = 5
) -> World:
    rng = np.random.default_rng(seed)
    num_categories = int(rng.integers(1, 12))

    def draw(size: int) -> list[int]:
        return rng.permutation(num_items)[:size].tolist()

    lengths = np.where(rng.random(num_users) < 0.6, width, rng.integers(0, width + 1, num_users))
    embeddings = rng.normal(size=(num_items, dim)).astype(np.float32)
    embeddings[rng.random(num_items) < 0.15] = 0.0
    return World(
        slates=[draw(int(length)) for length in lengths],
        targets=[draw(int(size)) for size in rng.integers(0, 15, num_users)],
        embeddings=embeddings,
        categories=[
            rng.permutation(num_categories)[: rng.integers(0, 4)].tolist() for _ in range(num_items)
        ],
        popularity=rng.integers(0, 2 * num_users, num_items).tolist(),
        num_train_users=num_users,
        num_categories=num_categories,
    )


def pad(lists: Sequence[Sequence[int]]) -> Tensor:
    """Return ragged lists as one int64 tensor, -1 behind the end."""
    width = max((len(values) for values in lists), default=0)
    rows = [[*values, *[-1] * (width - len(values))] for values in lists]
    return torch.tensor(rows, dtype=torch.int64).reshape(len(lists), width)


def facts_of(world: World) -> CatalogueFacts:
    return catalogue_facts(
        torch.from_numpy(world.embeddings),
        pad(world.categories),
        torch.tensor(world.popularity),
        num_train_users=world.num_train_users,
        num_categories=world.num_categories,
    )


def tally_of(world: World, *, k: int, users: Sequence[int] | None = None) -> Tally:
    """Return the tally of all users, or of those given, in that order."""
    chosen = range(len(world.slates)) if users is None else users
    slates = pad([world.slates[user] for user in chosen])
    targets = pad([world.targets[user] for user in chosen])
    return tally_slates(slates, targets, facts_of(world), k=k)
