"""Train without Ray: the bare loop that `benchmarks.training` compares with.

    python -m benchmarks.bare_training < config.json

The same steps as one Ray worker, in one process that imports neither ray nor mlflow and reads the
shards itself. Reads a whole config as JSON and prints users per second of all epochs after the
first, as JSON.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from pathlib import Path

import torch

from recdiv_core.config import Config
from recdiv_core.data.plan import num_steps, plan_windows
from recdiv_core.data.reading import list_fragments, read_windows
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.slates.loading import build_model
from recdiv_core.training.build import build_objective, parameter_groups
from recdiv_core.training.feed import Feed
from recdiv_core.training.step import train_step

NICENESS = "RAY_worker_niceness"
"""Ray's name for the niceness of its workers; 0 measures beside other work, at equal priority."""


def main() -> None:
    """Train and print."""
    print(json.dumps(bare_epochs(Config.model_validate_json(sys.stdin.read()))))


def bare_epochs(config: Config) -> list[float]:
    """Take the same steps without Ray; return users per second of all epochs after the first."""
    torch.set_num_threads(config.scaling.threads_per_worker)
    os.nice(int(os.environ.get(NICENESS, "15")))  # as Ray's workers
    dataset = load_dataset(Path(config.data.prepared))
    torch.manual_seed(config.seed)  # noqa: TID251 (as a worker does)
    model = build_model(config, dataset)
    model.train()
    objective = build_objective(config, dataset, model)
    alone = {"rank": 0, "world_size": 1}
    feed = Feed(config, dataset, objective, None, **alone)
    optimizer = torch.optim.AdamW(
        parameter_groups(
            model,
            learning_rate=config.train.learning_rate,
            text_learning_rate=config.train.text_learning_rate,
            weight_decay=config.train.weight_decay,
        )
    )
    train = config.train
    examples = read_windows(
        plan_windows(
            list_fragments(dataset.prepared, "train"),
            batch_size=train.batch_size,
            seed=config.seed,
            epochs=train.epochs,
        )
    )
    steps = enumerate(examples)
    shown_V = torch.zeros(len(dataset.catalogue))
    rates: list[float] = []
    for _ in range(train.epochs):
        started = time.monotonic()
        for step, parts in itertools.islice(steps, num_steps(feed.num_users, train.batch_size)):
            train_step(
                model,
                feed.parts(parts, step),
                objective,
                optimizer,
                torch.amp.GradScaler("cpu", enabled=False),
                precision=torch.float32,
                clip_norm=config.train.clip_norm,
                shown_V=shown_V,
                negatives=None,
            )
        rates.append(feed.num_users / (time.monotonic() - started))
    return rates[1:]


if __name__ == "__main__":
    main()
