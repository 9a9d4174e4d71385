"""Measure how much each item must be lifted to be shown now and then, after a training.

The one idea: an item comes into the slate of a user as soon as its score passes that of the last
item there. So the lift of an item is what it lacks in the slates that are easiest for it: the
smallest number that brings it into as many slates as LEAST_SHARE of an equal share of all places.
Adding it costs little accuracy, because the item replaces the last one of users who like it most.
It depends on the item alone, so a slate needs no other user, unlike with `rerank.method=exposure`.
It is the first step of the dual ascent that solves the problem of a least exposure of every item
(Xu et al., 2023, P-MMF); further steps gained nothing where many items are out of reach.

All ranks measure the same users, and rank 0 decides, so the ranks agree to the bit.
Shapes: B users, M candidates, V catalogue, N pairs of a user and a candidate.
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

UNIT_DEPTH: Final = 100
"""Place whose distance to the first one is the unit of `rerank.lift`."""

LEAST_SHARE: Final = 0.5
"""Places that a lift must bring, as a share of the places per item; one at least."""


def fit_lifts(model: Recommender | Baseline, dataset: Dataset, config: Config) -> None:
    """Measure the lifts of a model, in place.

    The users are those of the train split, with all of their train events: their next slates are
    what a new model makes first.

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
        num_items = len(dataset.catalogue)
        least = max(1, round(LEAST_SHARE * len(scores_BM) * config.eval.k / num_items))
        needed_V = lifts_needed(scores_BM, items_BM, num_items, k=config.eval.k, least=least)
        unit = unit_of(scores_BM)
    if dist.is_initialized():
        dist.broadcast(needed_V, src=0)
        dist.broadcast(unit, src=0)
    lifts.set(needed_V, unit)


def latest_histories(dataset: Dataset, batch_size: int) -> Iterator[Examples]:
    """Yield users with their train events as history, without a query or a held-out item."""
    rows = SplitRows(dataset.prepared, "train")
    size = -(-min(SAMPLE_USERS, rows.num_rows) // SAMPLE_CHUNKS)
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


def lifts_needed(
    scores_BM: torch.Tensor, items_BM: torch.Tensor, num_items: int, *, k: int, least: int
) -> torch.Tensor:
    """Return what each item lacks to be among the k best items of `least` users, [V] float32.

    The other items keep their scores. 0 = it is among them already; inf = fewer than `least` users
    have it as a candidate.

    Args:
        scores_BM: scores of each user's best items, highest first; -inf = not a candidate.
        items_BM: their item_index; no item twice for a user.
        num_items: V.
        k: slate length.
        least: number of users, 1 or more.

    >>> scores, items = torch.tensor([[5.0, 4.0, 1.0], [5.0, 3.0, 2.0]]), torch.tensor([[0, 1, 2]])
    >>> lifts_needed(scores, items.expand(2, 3), 4, k=1, least=1).tolist()
    [0.0, 1.0, 3.0, inf]
    """
    k = min(k, scores_BM.shape[1])
    is_real_BM = scores_BM.isfinite()
    lacks_N = (scores_BM[:, k - 1 : k] - scores_BM).clamp_min(0)[is_real_BM]
    item_N = items_BM[is_real_BM]
    # by item, then by what it lacks
    order_N = lacks_N.argsort()
    order_N = order_N[item_N[order_N].argsort(stable=True)]
    num_users_V = item_N.bincount(minlength=num_items)
    place_V = num_users_V.cumsum(0) - num_users_V + least - 1
    needed_V = scores_BM.new_full((num_items,), torch.inf)
    has_enough_V = num_users_V >= least
    needed_V[has_enough_V] = lacks_N[order_N[place_V[has_enough_V]]]
    return needed_V


def unit_of(scores_BM: torch.Tensor) -> torch.Tensor:
    """Return the median over users of the distance from the first to the UNIT_DEPTH-th score.

    Users with fewer candidates count with their last one. It is 0 only if all scores are equal.

    >>> unit_of(torch.tensor([[5.0, 4.0, 1.0], [5.0, 3.0, -torch.inf]]))
    tensor(2.)
    """
    best_BM = scores_BM[:, :UNIT_DEPTH]
    is_real_BM = best_BM.isfinite()
    lowest_B = best_BM.where(is_real_BM, torch.inf).amin(1)
    distance_B = (best_BM[:, 0] - lowest_B)[is_real_BM.any(1)]
    return distance_B.median() if len(distance_B) else scores_BM.new_zeros(())
