# pyright: strict
"""Requests of a batch of users as baselines read them, and the weights of their events.

Events that a user did at the same time are one set and have the same age. A log without times has
one event per set. All weights of a user depend on that user only.
Shapes: B users, S events, P distinct (user, item) pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, cast

import torch
from torch import Tensor

from recdiv_core.models.queries import Queries

DAY_US: Final = 86_400_000_000
"""Microseconds in a day; schema.py has it too, but needs pyarrow."""


@dataclass(frozen=True)
class HalfLife:
    """Time after which the weight of an event is half.

    Attributes:
        value: days or later events of the user, >= 0; 0 = all events count alike.
        in_days: whether the unit is days; else later events, for a log without times.
    """

    value: float
    in_days: bool

    @property
    def tensor(self) -> Tensor:
        """The half-life for the weights of a baseline, see `read_half_life`."""
        return torch.tensor([self.value, float(self.in_days)])


@dataclass(frozen=True, eq=False)
class Histories:
    """Histories of the users of a batch, one user after another, oldest event first.

    Attributes:
        user_S: int64 batch row of the user of each event, rising.
        item_S: int64 item_index of each event.
        user_ids: ids of all users of the batch; a user may have no event.
        time_S: int64 time of each event in microseconds, rising within a user; None = unknown.
        queries: queries of the users' requests; None = no user has one.
    """

    user_S: Tensor
    item_S: Tensor
    user_ids: Sequence[str]
    time_S: Tensor | None = None
    queries: Queries | None = None

    @property
    def num_users(self) -> int:
        """Users of the batch, B."""
        return len(self.user_ids)

    def parts(self, size: int) -> Iterator[tuple[slice, Histories]]:
        """Yield parts of at most `size` users: their rows of the batch, and their histories."""
        starts = range(0, self.num_users, size)
        edges = torch.tensor([*starts, self.num_users], device=self.user_S.device)
        ends = cast("list[int]", torch.searchsorted(self.user_S, edges).tolist())  # pyright: ignore
        for start, (first, last) in zip(starts, pairwise(ends), strict=True):
            rows, events = slice(start, start + size), slice(first, last)
            yield (
                rows,
                Histories(
                    self.user_S[events] - start,
                    self.item_S[events],
                    self.user_ids[rows],
                    None if self.time_S is None else self.time_S[events],
                    None if self.queries is None else self.queries.of(rows),
                ),
            )


def ages(histories: Histories) -> Tensor:
    """Count the sets of events from each event to the end of its history.

    Returns:
        age_S: int64 >= 1; 1 = the latest set of the user.
    """
    user_S = histories.user_S
    if not len(user_S):
        return user_S
    is_first_S = torch.ones_like(user_S, dtype=torch.bool)
    is_first_S[1:] = user_S[1:] != user_S[:-1]
    if histories.time_S is None:
        is_first_S[1:] = True
    else:
        is_first_S[1:] |= histories.time_S[1:] != histories.time_S[:-1]
    set_S = is_first_S.cumsum(0)
    return set_S[_last_place(user_S, histories.num_users)[user_S]] - set_S + 1


def falling_weights(histories: Histories, recency: float) -> Tensor:
    """Weigh each event by age ** -recency; the weights of a user sum to 1.

    Args:
        histories: of the batch.
        recency: exponent >= 0; 0 = all events count alike.

    Returns:
        [S] float32.
    """
    weight_S = ages(histories).double() ** -recency
    sum_B = weight_S.new_zeros(histories.num_users).index_add_(0, histories.user_S, weight_S)
    return (weight_S / sum_B[histories.user_S]).float()


def halving_weights(histories: Histories, half_life: HalfLife) -> Tensor:
    """Weigh each event by 2 ** (-age / half-life), where the user's latest event has age 0.

    Args:
        histories: of the batch. All events count alike where the unit is days and times are
            unknown.
        half_life: and its unit.

    Returns:
        [S] float32 in [0, 1].
    """
    weight_S = torch.ones_like(histories.item_S, dtype=torch.float32)
    if not half_life.value or (half_life.in_days and histories.time_S is None):
        return weight_S
    if half_life.in_days:
        time_S = cast("Tensor", histories.time_S)
        last_B = _last_place(histories.user_S, histories.num_users)
        age_S = (time_S[last_B[histories.user_S]] - time_S).double() / DAY_US
    else:
        age_S = (ages(histories) - 1).double()
    return torch.exp2(-age_S / half_life.value).float()


def read_half_life(weights: Mapping[str, Tensor]) -> HalfLife:
    """Return the half-life among the weights of a baseline."""
    value, in_days = weights["half_life"]
    return HalfLife(float(value), bool(in_days))


def join_repeats(
    histories: Histories, weight_S: Tensor, num_items: int, join: Literal["sum", "amax"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Join the events of a user with the same item, and add their weights or keep the largest.

    Returns:
        user_P int64, item_P int64, weight_P of each distinct pair, in order of users and items.
    """
    pair_S = histories.user_S * num_items + histories.item_S
    pair_P, place_S = cast("tuple[Tensor, Tensor]", pair_S.unique(return_inverse=True))  # pyright: ignore
    weight_P = weight_S.new_zeros(len(pair_P)).scatter_reduce_(0, place_S, weight_S, join)
    return pair_P // num_items, pair_P % num_items, weight_P


def _last_place(user_S: Tensor, num_users: int) -> Tensor:
    """Return the place of each user's latest event; -1 + events before it for users without."""
    return torch.bincount(user_S, minlength=num_users).cumsum(0) - 1
