# pyright: strict
"""Baselines that ignore the history: popular items, items popular of late, random items.

Other baselines add the popularity scores with a tiny weight, so popular items come first where they
know nothing. Shapes: B users, E train events, V catalogue.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recdiv_core.models.baselines.histories import DAY_US, Histories
from recdiv_core.models.baselines.train_events import TrainEvents

FALLBACK: Final = 1e-6
"""Weight of the popularity scores that are added to the scores of other kinds. It is far below any
other score."""


def place_scores(counts_V: NDArray[np.int64]) -> NDArray[np.float32]:
    """Score items by their rank in falling order of counts: 1 - rank / V, in (0, 1].

    Ranks start at 0. Ties go to the lower item_index, so all scores are distinct.
    """
    places_V = np.empty(len(counts_V), np.int64)
    places_V[np.argsort(-counts_V, kind="stable")] = np.arange(len(counts_V))
    return (1 - places_V / len(counts_V)).astype(np.float32)


def fit_popular(counts_V: NDArray[np.int64]) -> dict[str, Tensor]:
    """Return the weights of a baseline that scores by counts, the same for every user.

    Returns:
        popular_V: [V] float32, see `place_scores`.
    """
    return {"popular_V": torch.as_tensor(place_scores(counts_V))}


def count_recent(
    events: TrainEvents, num_items: int, *, days: float, share: float
) -> NDArray[np.int64]:
    """Count each item's recent train events.

    Args:
        events: train events.
        num_items: V.
        days: days before the latest train event that are recent, > 0.
        share: for a log without times: the last ceil(share * n) of the n train events of each user
            are recent, in (0, 1].

    Returns:
        [V] int64.
    """
    return np.bincount(events.item_E[_is_recent(events, days, share)], minlength=num_items)


def _is_recent(events: TrainEvents, days: float, share: float) -> NDArray[np.bool_]:
    if events.time_E is not None:
        return events.time_E > events.time_E.max(initial=0) - days * DAY_US
    length_U = np.bincount(events.user_E)
    from_end_E = np.cumsum(length_U)[events.user_E] - np.arange(len(events.user_E))  # 1 = the last
    return from_end_E <= np.ceil(share * length_U)[events.user_E]


def count_adopted(
    events: TrainEvents, num_items: int, *, days: float, share: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the users whose first event with an item is recent, and the users who could have one.

    Args:
        events: train events.
        num_items: V.
        days: see `count_recent`.
        share: see `count_recent`.

    Returns:
        adopted_V: users whose first event with the item is recent.
        without_V: users without an event with the item before; adopted_V <= without_V.
    """
    pair_E = events.user_E * num_items + events.item_E
    first_P = np.unique(pair_E, return_index=True)[1]  # a user's oldest event comes first
    item_P, is_recent_P = events.item_E[first_P], _is_recent(events, days, share)[first_P]
    adopted_V = np.bincount(item_P[is_recent_P], minlength=num_items)
    had_V = np.bincount(item_P[~is_recent_P], minlength=num_items)
    return adopted_V, events.num_users - had_V


def fit_log_counts(counts_V: NDArray[np.int64]) -> dict[str, Tensor]:
    """Return the weights of a baseline that scores by log(1 + count), the same for every user.

    Unlike the ranks of `fit_popular`, the scores tell how much more popular an item is.
    """
    return {"popular_V": torch.as_tensor(np.log1p(counts_V).astype(np.float32))}


def fit_adoption(adopted_V: NDArray[np.int64], without_V: NDArray[np.int64]) -> dict[str, Tensor]:
    """Return the weights of a baseline that scores by `log((1 + adopted) / (1 + without))`.

    Slates that leave out the user's own items are shown to users without an item. This is the log
    of the share of them who lately took it, where repeats of old buyers count nothing. For the
    counts see `count_adopted`.
    """
    rate_V = np.log1p(adopted_V) - np.log1p(without_V)
    return {"popular_V": torch.as_tensor(rate_V.astype(np.float32))}


def fit_random(num_items: int, seed: int) -> dict[str, Tensor]:
    """Return the weights of a baseline with random scores: the number of items and a seed."""
    return {"num_items": torch.tensor(num_items), "seed": torch.tensor(seed)}


def score_by_place(weights: Mapping[str, Tensor], histories: Histories) -> Tensor:
    """Return the popularity scores for every user."""
    return weights["popular_V"].repeat(histories.num_users, 1)


def score_by_chance(weights: Mapping[str, Tensor], histories: Histories) -> Tensor:
    """Draw scores from [0, 1), seeded by the baseline's seed and the user's id."""
    num_items, seed = int(weights["num_items"]), int(weights["seed"])
    scores_BV = np.empty((histories.num_users, num_items), np.float32)
    for row, user_id in enumerate(histories.user_ids):
        digest = hashlib.blake2b(user_id.encode(), digest_size=8).digest()
        rng = np.random.default_rng([seed, int.from_bytes(digest, "big")])
        scores_BV[row] = rng.random(num_items, np.float32)
    return torch.as_tensor(scores_BV).to(histories.user_S.device)
