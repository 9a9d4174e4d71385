"""Users' events as flat arrays, the ragged form between Parquet files and tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from recdiv_core.models.queries import Queries


@dataclass(frozen=True)
class Examples:
    """Ragged examples of some users, as flat arrays.

    Attributes:
        items: item_index of all events, users one after another, oldest first.
        lengths: Events of each user, >= 0.
        queries: query_index that led to each event (train), or of each user's request (eval).
        weights: Weight of each event as a target; empty for evaluation examples.
        targets: Held-out items of all users; empty for train examples.
        target_lengths: Held-out items of each user; empty for train examples.
        user_ids: User ids of evaluation examples; empty for train examples.
        is_cold: Whether each user has no event in the train window; None for train examples.
        times: Microseconds of each event; None for a log without times.
        requested: Microseconds of each user's request; None = unknown.
        asked: Texts and vectors of the users' queries, for scoring; None = not looked up, or no
            user has a query.
    """

    items: np.ndarray
    lengths: np.ndarray
    queries: np.ndarray
    weights: np.ndarray
    targets: np.ndarray
    target_lengths: np.ndarray
    user_ids: Sequence[str] = ()
    is_cold: np.ndarray | None = None
    times: np.ndarray | None = None
    requested: np.ndarray | None = None
    asked: Queries | None = None
