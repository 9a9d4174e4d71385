"""Measure the cost of each objective: time of its training step over the time of a plain step.

    python -m benchmarks.objectives
    python -m benchmarks.objectives --quick
    python -m benchmarks.objectives --items 150000 --only sampled_softmax,own_items

The shop has the size of Amazon Beauty: 12,101 items and random histories of 7 events on average.
`own_items` is `sampled_softmax` with the vectors of the items alone that the step reads.
A step has 256 users, one thread and random weights. The objectives take turns, one step each, so
all see the same noise of the machine. `epoch_floor_ratio` is the time of the plain step over the
time of the three matrix products that the exact softmax needs. Prints one JSON line:
{"overhead": {name: ratio}, "epoch_floor_ratio", "median_ms": {name: ms}, "floor_ms", ...}.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from recdiv_core.data.arrays import Examples
from recdiv_core.data.batches import pack
from recdiv_core.items.labels import labels_of_padded
from recdiv_core.items.traits import ItemTraits
from recdiv_core.losses.diversity import REGULARISERS
from recdiv_core.losses.negatives import Negatives, mixed_negatives
from recdiv_core.models.dial import dial_dim
from recdiv_core.models.item_tower import ItemTower
from recdiv_core.models.recommender import Recommender
from recdiv_core.models.session_tower import SessionTower
from recdiv_core.training.objective import Objective
from recdiv_core.training.parts import Part, with_dials, with_needed
from recdiv_core.training.step import train_step

NUM_ITEMS, NUM_CATEGORIES, TEXT_DIM, DIM = 12_101, 240, 384, 64
NUM_USERS, MEAN_EVENTS, MAX_HISTORY, NUM_NEGATIVES = 256, 7, 50, 4096


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds: noisier")
    parser.add_argument("--items", type=int, default=NUM_ITEMS, help="items of the catalogue")
    parser.add_argument("--only", default="", help="names to measure beside `plain`; all if empty")
    args = parser.parse_args()
    rounds = 5 if args.quick else 25
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    part = make_part(rng, args.items)
    wanted = {"plain", *args.only.split(",")} if args.only else None
    steps = {
        name: make_step(objective, part)
        for name, objective in objectives(rng, args.items).items()
        if wanted is None or name in wanted
    }
    floor = make_floor(part, args.items)
    times: dict[str, list[float]] = {name: [] for name in (*steps, "floor")}
    for index in range(rounds + 2):
        for name, run in (*steps.items(), ("floor", floor)):
            started = time.perf_counter()
            run()
            if index >= 2:  # the first ones warm up
                times[name].append(time.perf_counter() - started)
    plain = times["plain"]
    medians = {name: 1e3 * statistics.median(taken) for name, taken in times.items()}
    overhead = {
        name: statistics.median(t / p for t, p in zip(taken, plain, strict=True))
        for name, taken in times.items()
        if name not in ("plain", "floor")
    }
    ratios = [p / f for p, f in zip(plain, times["floor"], strict=True)]
    print(
        json.dumps(
            {
                "overhead": {name: round(ratio, 3) for name, ratio in overhead.items()},
                "epoch_floor_ratio": round(statistics.median(ratios), 3),
                "median_ms": {name: round(value, 1) for name, value in medians.items()},
                "rounds": rounds,
                "num_targets": len(part.packed.targets_N),
                "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, 1 thread",
                "versions": {"torch": torch.__version__, "python": platform.python_version()},
            }
        )
    )


def make_part(rng: np.random.Generator, num_items: int) -> Part:
    """Make the users of one step."""
    lengths = rng.geometric(1 / MEAN_EVENTS, NUM_USERS)
    num_events = int(lengths.sum())
    examples = Examples(
        items=rng.integers(num_items, size=num_events),
        lengths=lengths,
        queries=np.full(num_events, -1),
        weights=np.ones(num_events, np.float32),
        targets=np.zeros(0, np.int64),
        target_lengths=np.zeros(0, np.int64),
    )
    return Part(pack(examples, max_history=MAX_HISTORY))


def objectives(rng: np.random.Generator, num_items: int) -> dict[str, Objective]:
    """Return every objective to measure; `plain` is the exact softmax at w = 0."""
    unit = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(num_items, TEXT_DIM))))
    num_events = torch.from_numpy(rng.dirichlet(np.ones(num_items)) * 200_000).long()
    attributes = {name: rng.integers(50, size=num_items) for name in ("brand", "colour", "price")}
    plain = Objective(
        relevance="softmax",
        diversity_weight=0.0,
        mix={"coverage": 1.0},
        num_negatives=NUM_NEGATIVES,
        traits=ItemTraits(
            embeddings_VD=unit.float(),
            categories=labels_of_padded(
                torch.from_numpy(rng.integers(NUM_CATEGORIES, size=(num_items, 1)))
            ),
            num_categories=NUM_CATEGORIES,
            num_events_V=num_events,
            num_train_users=22_363,
            attributes={name: torch.from_numpy(values) for name, values in attributes.items()},
        ),
    )
    diverse = replace(plain, diversity_weight=0.1)
    return {
        "plain": plain,
        **{name: replace(diverse, mix={name: 1.0}) for name in REGULARISERS},
        "sampled_softmax": replace(plain, relevance="sampled_softmax"),
        "own_items": replace(plain, relevance="sampled_softmax", reads_all=False),
        "conditioned": replace(diverse, is_conditioned=True, shared_dim=DIM),
    }


def make_step(objective: Objective, part: Part) -> Callable[[], object]:
    """Return a function that does one step on its own model."""
    rng, num_items = torch.Generator().manual_seed(0), objective.traits.num_items
    towers = [
        ItemTower(torch.ones(num_items), text_dim=TEXT_DIM, dim=dim, id_dropout=0.0)
        for dim in (DIM, dial_dim(DIM))
    ]
    model = Recommender(
        towers[0],
        SessionTower(dim=DIM, num_layers=2, num_heads=2, max_history=MAX_HISTORY, dropout=0.3),
        text_VH=objective.traits.embeddings_VD,
        queries_QH=None,
        dim=DIM,
        dial_items=towers[1] if objective.is_conditioned else None,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    places = torch.zeros(num_items)
    negatives: Negatives | None = None
    if objective.relevance != "softmax":
        drawn = torch.randint(num_items, (NUM_NEGATIVES,), generator=rng)
        log_share = objective.traits.log_prior_V
        negatives = mixed_negatives(drawn[:0], drawn, log_share)
    if objective.is_conditioned:
        dials = torch.rand(NUM_USERS, generator=rng)
        part = with_dials(part, dials * (torch.rand(NUM_USERS, generator=rng) < 0.5))

    def run() -> None:
        own = part
        if negatives is not None and not objective.reads_all:
            own = with_needed(part, negatives.items_S)
        train_step(
            model,
            [own],
            objective,
            optimizer,
            scaler,
            precision=torch.float32,
            clip_norm=1.0,
            shown_V=places,
            negatives=negatives,
        )

    return run


def make_floor(part: Part, num_items: int) -> Callable[[], object]:
    """Return the three products of the exact softmax: scores, and the gradients of both sides."""
    hidden = torch.randn(len(part.packed.targets_N), DIM)
    items = torch.randn(num_items, DIM)

    def run() -> None:
        scores = hidden @ items.T
        _ = scores @ items, scores.T @ hidden

    return run


if __name__ == "__main__":
    main()
