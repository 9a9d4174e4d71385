"""Train events of a log as plain arrays; every baseline is fitted from them.

data/train_events.py reads them from a prepared data set. Memory holds all train events, at most 24
bytes each. Shapes: U users, E events, V catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray

from recdiv_core.models.baselines.histories import Histories


@dataclass(frozen=True, eq=False)
class TrainEvents:
    """Train events, one user after another, each user's oldest first.

    Attributes:
        user_E: int64, 0 .. U - 1, rising.
        item_E: int64 item_index.
        time_E: int64 microseconds, rising within a user; None for a log without times.
    """

    user_E: NDArray[np.int64]
    item_E: NDArray[np.int64]
    time_E: NDArray[np.int64] | None = None

    @property
    def num_users(self) -> int:
        """Users with train events, U."""
        return int(self.user_E.max(initial=-1)) + 1

    def histories(self) -> Histories:
        """Return the train events as histories, to weigh them as in scoring."""
        time_S = None if self.time_E is None else torch.as_tensor(self.time_E)
        return Histories(
            torch.as_tensor(self.user_E),
            torch.as_tensor(self.item_E),
            [""] * self.num_users,
            time_S,
        )


def user_matrix(
    events: TrainEvents, num_items: int, weight_E: NDArray[np.float32] | None = None
) -> Any:
    """Return the largest weight of each user's events with each item.

    Args:
        events: train events.
        num_items: V.
        weight_E: weight of each event, > 0; None = 1.

    Returns:
        scipy CSR array [U, V] float32, without duplicates.
    """
    pair_E = events.user_E * num_items + events.item_E
    if weight_E is None:
        pairs = np.unique(pair_E)
        values = np.ones(len(pairs), np.float32)
    else:
        order = np.lexsort((-weight_E, pair_E))
        is_first = np.ones(len(pair_E), bool)
        is_first[1:] = np.diff(pair_E[order]) > 0
        pairs, values = pair_E[order][is_first], weight_E[order][is_first]
    shape = (events.num_users, num_items)
    return scipy.sparse.csr_array((values, (pairs // num_items, pairs % num_items)), shape)
