"""Measure how much each item must be lifted to be shown now and then, after a training.

items/lifts.py has the arithmetic. All ranks measure the same users, and rank 0 decides, so the
ranks agree to the bit.
Shapes: B users, M candidates, V catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist

from recdiv_core.config import Config, override
from recdiv_core.data.arrays import Examples
from recdiv_core.data.reading import SplitRows, train_examples
from recdiv_core.items.lifts import least_users, lifts_needed, unit_of
from recdiv_core.models.baselines import Baseline
from recdiv_core.models.recommender import Recommender
from recdiv_core.schema import NO_QUERY
from recdiv_core.slates.dataset import Dataset
from recdiv_core.slates.making import leave_out
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import score_users, scoring_of

SAMPLE_USERS: Final = 2048
"""Users whose histories are scored."""

SAMPLE_CHUNKS: Final = 16
"""Ranges of rows that the sample is made of, spread evenly over the split."""

DEPTH: Final = 1000
"""Best items of a user that are looked at: an item further down needs too much."""


def fit_lifts(model: Recommender | Baseline, dataset: Dataset, config: Config) -> None:
    """Measure the lifts of a model, in place.

    The users are a sample of the train split, with all of their train events as history.

    Args:
        model: on the device of the data set.
        dataset: the prepared data set.
        config: `eval`, `model.diversity`, `model.max_history`, and what slates may hold.
    """
    lifts = model.lifts
    assert lifts is not None, "a model in training has lifts"
    # what is excluded takes no place; the adjustment of the scores is not what is measured
    plain = {"rerank.method": "none", "rerank.logit_adjustment": 0.0, "rerank.lift": 0.0}
    policy = slate_policy(override(config, plain), dataset)
    scored: list[torch.Tensor] = []
    items: list[torch.Tensor] = []
    depth = min(DEPTH, len(dataset.catalogue))
    score = scoring_of(model, config.model.diversity)
    batches = latest_histories(dataset, config.eval.batch_size)
    for each in score_users(batches, dataset, score, max_history=config.model.max_history):
        with torch.inference_mode():
            seen = each.packed.seen_user_S, each.packed.seen_item_S
            leave_out(each.scores_BV, *seen, policy)
            best = each.scores_BV.topk(depth, dim=1)
            scored.append(best.values.clone())
            items.append(best.indices)
    with torch.inference_mode():
        scores_BM, items_BM = torch.cat(scored), torch.cat(items)
        num_items, k = len(dataset.catalogue), config.eval.k
        least = least_users(len(scores_BM), num_items, k)
        needed_V = lifts_needed(scores_BM, items_BM, num_items, k=k, least=least)
        unit = unit_of(scores_BM)
    if dist.is_initialized():
        dist.broadcast(needed_V, src=0)
        dist.broadcast(unit, src=0)
    lifts.set(needed_V, unit)


def latest_histories(
    dataset: Dataset, batch_size: int, most_users: int = SAMPLE_USERS
) -> Iterator[Examples]:
    """Yield about `most_users` with their train events as history, without query or target."""
    rows = SplitRows(dataset.prepared, "train")
    size = -(-min(most_users, rows.num_rows) // SAMPLE_CHUNKS)
    for chunk in range(SAMPLE_CHUNKS):
        start = rows.num_rows * chunk // SAMPLE_CHUNKS
        stop = min(start + size, rows.num_rows * (chunk + 1) // SAMPLE_CHUNKS)
        for first in range(start, stop, batch_size):
            yield _without_targets(rows.read(first, min(first + batch_size, stop)))


def _without_targets(table: pa.Table) -> Examples:
    num_users = table.num_rows
    return replace(
        train_examples(table),
        queries=np.full(num_users, NO_QUERY),
        weights=np.zeros(0, np.float32),
        target_lengths=np.zeros(num_users, np.int64),
        user_ids=[""] * num_users,
        is_cold=np.zeros(num_users, bool),
    )
