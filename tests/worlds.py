"""Small random worlds for tests of metrics and re-rankers: ragged lists, and their tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from recdiv_core.data.arrays import Examples
from recdiv_core.data.plan import plan_windows
from recdiv_core.data.reading import list_fragments, read_windows
from recdiv_core.data.text_vectors import vectors_path
from recdiv_core.items.labels import labels_of_padded
from recdiv_core.items.traits import ItemTraits, describe_items
from recdiv_core.metrics import Tally, tally_slates
from recdiv_core.metrics.scorecard import user_metrics
from recdiv_core.metrics.slate_batch import Background
from recdiv_core.schema import CATALOGUE, QUERIES, Manifest


@dataclass(frozen=True)
class World:
    """Users' slates and targets over a catalogue, with edge cases.

    Some slates are short or empty. Some users have no target. Some items have no vector, no
    category, several categories, no train event, or more train events than there are train users.
    """

    slates: list[list[int]]
    targets: list[list[int]]
    embeddings: NDArray[np.float32]
    categories: list[list[int]]
    popularity: list[int]
    num_train_users: int
    num_categories: int
    histories: list[list[int]] = field(default_factory=list)
    scores: list[list[float | None]] = field(default_factory=list)
    attributes: dict[str, list[int]] = field(default_factory=dict)


def with_background(world: World, seed: int) -> World:
    """Return the world with the inputs of all metrics: histories, scores and attributes.

    Some histories are empty or hold an item twice. Scores tie, and are None for items that could
    not be shown; targets always have a score. Attributes have unknown values.
    """
    rng = np.random.default_rng(seed)
    num_items = len(world.popularity)

    def scores(targets: list[int]) -> list[float | None]:
        values = [float(value) for value in rng.integers(0, 12, num_items)]
        can_be = rng.random(num_items) < 0.8
        return [v if can_be[i] or i in targets else None for i, v in enumerate(values)]

    return replace(
        world,
        histories=[
            rng.integers(0, num_items, int(size)).tolist()
            for size in rng.integers(0, 9, len(world.slates))
        ],
        scores=[scores(targets) for targets in world.targets],
        attributes={
            name: rng.integers(-1, size, num_items).tolist()
            for name, size in (("brand", 9), ("price", 3))
        },
    )


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


def renumbered(world: World, rng: np.random.Generator) -> World:
    """Return the world with permuted item indexes; equally popular items keep their order."""
    place_V = rng.permutation(len(world.popularity))
    popularity = np.array(world.popularity)
    for count in np.unique(popularity):
        place_V[popularity == count] = np.sort(place_V[popularity == count])
    old_V = np.argsort(place_V)

    def moved(lists: list[list[int]]) -> list[list[int]]:
        return [place_V[np.array(items, int)].tolist() for items in lists]

    return replace(
        world,
        slates=moved(world.slates),
        targets=moved(world.targets),
        histories=moved(world.histories),
        embeddings=world.embeddings[old_V],
        categories=[world.categories[old] for old in old_V],
        popularity=popularity[old_V].tolist(),
        scores=[[own[old] for old in old_V] for own in world.scores],
        attributes={name: np.array(own)[old_V].tolist() for name, own in world.attributes.items()},
    )


def pad(lists: Sequence[Sequence[int]]) -> Tensor:
    """Return ragged lists as one int64 tensor, padded with -1."""
    width = max((len(values) for values in lists), default=0)
    rows = [[*values, *[-1] * (width - len(values))] for values in lists]
    return torch.tensor(rows, dtype=torch.int64).reshape(len(lists), width)


def traits_of(world: World) -> ItemTraits:
    return describe_items(
        torch.from_numpy(world.embeddings),
        labels_of_padded(pad(world.categories)),
        torch.tensor(world.popularity),
        num_train_users=world.num_train_users,
        num_categories=world.num_categories,
        attributes={name: torch.tensor(values) for name, values in world.attributes.items()},
    )


def background_of(world: World, users: Sequence[int]) -> Background:
    """Return the background of these users, from their histories and scores."""
    targets = [world.targets[user] for user in users]
    above = []
    for user, wanted in zip(users, targets, strict=True):
        scores = np.array([-np.inf if s is None else s for s in world.scores[user]])
        above.append(
            [(scores > scores[t]).sum() + ((scores == scores[t]).sum() - 1) / 2 for t in wanted]
        )
    num_above = pad(targets).double()
    num_above[num_above >= 0] = torch.tensor(
        [value for values in above for value in values], dtype=torch.float64
    )
    return replace(
        histories_of(world, users),
        num_above_BT=num_above,
        num_rankable_B=torch.tensor(
            [sum(score is not None for score in world.scores[user]) for user in users]
        ),
    )


def histories_of(world: World, users: Sequence[int]) -> Background:
    """Return the histories of these users."""
    history = [(row, item) for row, user in enumerate(users) for item in world.histories[user]]
    history_S2 = torch.tensor(history, dtype=torch.int64).reshape(-1, 2)
    return Background(history_user_S=history_S2[:, 0], history_item_S=history_S2[:, 1])


def scorecard_tally(world: World, *, k: int, users: Sequence[int] | None = None) -> Tally:
    """Return the tally of all metrics, over all users or over the given users."""
    chosen = range(len(world.slates)) if users is None else users
    traits = traits_of(world)
    return tally_slates(
        pad([world.slates[user] for user in chosen]),
        pad([world.targets[user] for user in chosen]),
        traits,
        k=k,
        metrics=user_metrics(traits.attributes),
        background=background_of(world, chosen),
    )


def tally_of(world: World, *, k: int, users: Sequence[int] | None = None) -> Tally:
    """Return the tally of all users, or of the given users in the given order."""
    chosen = range(len(world.slates)) if users is None else users
    slates = pad([world.slates[user] for user in chosen])
    targets = pad([world.targets[user] for user in chosen])
    background = histories_of(world, chosen) if world.histories else None
    return tally_slates(slates, targets, traits_of(world), k=k, background=background)


def write_dataset(prepared: Path, manifest: Manifest, *, num_items: int, num_queries: int) -> None:
    """Write a prepared data set without splits: manifest, catalogue and random vectors."""
    small = manifest.model_copy(update={"num_items": num_items, "categories": ("A", "B", "C")})
    (prepared / "manifest.json").write_text(small.model_dump_json())
    items = [
        {
            "item_index": item,
            "item_id": f"i{item}",
            "title": f"item {item}",
            "categories": [item % 3] if item % 4 else [item % 3, (item + 1) % 3],
            "popularity": item // 2,
            "is_cold": item < 2,
        }
        for item in range(num_items)
    ]
    pq.write_table(pa.Table.from_pylist(items, CATALOGUE), prepared / "catalogue.parquet")
    rng = np.random.default_rng(1)
    texts = pa.array([f"query {query}" for query in range(num_queries)], pa.string())
    queries = pa.table([texts, [[]] * num_queries], schema=QUERIES)
    place = str(prepared / "queries.arrow")
    with pa.OSFile(place, "wb") as sink, pa.ipc.new_file(sink, queries.schema) as writer:
        writer.write_table(queries)
    for name, rows in (("tokens", num_items), ("queries", num_queries)):
        vectors = rng.normal(size=(rows, 6)).astype(np.float32)
        path = vectors_path(prepared, small, name)
        path.parent.mkdir(exist_ok=True)
        np.save(path, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def read_train(prepared: Path, **order: int) -> Iterator[list[Examples]]:
    """Read train steps in this process; `order` as in `plan_windows`."""
    return read_windows(plan_windows(list_fragments(prepared, "train"), **order))
