"""Measure the cost of each objective: time of its training step over the time of a plain step.

    python -m benchmarks.objectives
    python -m benchmarks.objectives --quick

The shop has the size of Amazon Beauty: 12,101 items and random histories of 7 events on average.
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
from recdiv_core.training.parts import Part, with_dials
from recdiv_core.training.step import train_step

NUM_ITEMS, NUM_CATEGORIES, TEXT_DIM, DIM = 12_101, 240, 384, 64
NUM_USERS, MEAN_EVENTS, MAX_HISTORY, NUM_NEGATIVES = 256, 7, 50, 4096


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds: noisier")
    rounds = 5 if parser.parse_args().quick else 25
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    part = make_part(rng)
    steps = {name: make_step(objective, part) for name, objective in objectives(rng).items()}
    floor = make_floor(part)
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


def make_part(rng: np.random.Generator) -> Part:
    """Make the users of one step."""
    lengths = rng.geometric(1 / MEAN_EVENTS, NUM_USERS)
    num_events = int(lengths.sum())
    examples = Examples(
        items=rng.integers(NUM_ITEMS, size=num_events),
        lengths=lengths,
        queries=np.full(num_events, -1),
        weights=np.ones(num_events, np.float32),
        targets=np.zeros(0, np.int64),
        target_lengths=np.zeros(0, np.int64),
    )
    return Part(pack(examples, max_history=MAX_HISTORY))


def objectives(rng: np.random.Generator) -> dict[str, Objective]:
    """Return every objective to measure; `plain` is the exact softmax at w = 0."""
    unit = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(NUM_ITEMS, TEXT_DIM))))
    num_events = torch.from_numpy(rng.dirichlet(np.ones(NUM_ITEMS)) * 200_000).long()
    attributes = {name: rng.integers(50, size=NUM_ITEMS) for name in ("brand", "colour", "price")}
    plain = Objective(
        relevance="softmax",
        diversity_weight=0.0,
        mix={"coverage": 1.0},
        num_negatives=NUM_NEGATIVES,
        traits=ItemTraits(
            embeddings_VD=unit.float(),
            categories=labels_of_padded(
                torch.from_numpy(rng.integers(NUM_CATEGORIES, size=(NUM_ITEMS, 1)))
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
        "conditioned": replace(diverse, is_conditioned=True, shared_dim=DIM),
    }


def make_step(objective: Objective, part: Part) -> Callable[[], object]:
    """Return a function that does one step on its own model."""
    rng = torch.Generator().manual_seed(0)
    towers = [
        ItemTower(torch.ones(NUM_ITEMS), text_dim=TEXT_DIM, dim=dim, id_dropout=0.0)
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
    places = torch.zeros(NUM_ITEMS)
    negatives: Negatives | None = None
    if objective.relevance != "softmax":
        drawn = torch.randint(NUM_ITEMS, (NUM_NEGATIVES,), generator=rng)
        log_share = objective.traits.log_prior_V
        negatives = mixed_negatives(drawn[:0], drawn, log_share)
    if objective.is_conditioned:
        dials = torch.rand(NUM_USERS, generator=rng)
        part = with_dials(part, dials * (torch.rand(NUM_USERS, generator=rng) < 0.5))

    def run() -> None:
        train_step(
            model,
            [part],
            objective,
            optimizer,
            scaler,
            precision=torch.float32,
            clip_norm=1.0,
            shown_V=places,
            negatives=negatives,
        )

    return run


def make_floor(part: Part) -> Callable[[], object]:
    """Return the three products of the exact softmax: scores, and the gradients of both sides."""
    hidden = torch.randn(len(part.packed.targets_N), DIM)
    items = torch.randn(NUM_ITEMS, DIM)

    def run() -> None:
        scores = hidden @ items.T
        _ = scores @ items, scores.T @ hidden

    return run


if __name__ == "__main__":
    main()
