# pyright: strict
"""Popularity of items: how the train events spread over the catalogue.

Pure functions of the number of train events of each item. Not the popularity of a slate
(metrics/exposure.py). Legend: V catalogue.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

HEAD_SHARE: Final = 0.5
"""Share of the train events that the head makes."""

TAIL_FROM: Final = 0.8
"""Share of the train events that head and middle make together; the tail has the rest."""

POPULARITY_GROUPS: Final = ("head", "mid", "tail")


def log_prior(num_events_V: Tensor) -> Tensor:
    """Estimate the log of each item's share of events, smoothed so that cold items have one.

    `log((n_v + 1) / (sum n + V))`, Laplace's rule. `rerank.logit_adjustment` lowers scores by
    it, and in-batch negatives take their expected counts from it.

    Args:
        num_events_V: [V] train events of each item, >= 0.

    Returns:
        [V] float32, finite, < 0 for V > 1; exp sums to 1.
    """
    smoothed = num_events_V.double() + 1
    return (smoothed.log() - smoothed.sum().log()).float()


def self_information(num_events_V: Tensor, num_train_users: int) -> Tensor:
    """Return -log2 of the share of train users who met the item, in bits.

    An item without events counts as met by one user, and no item as met by more than all users, so
    that the value is finite and not negative.

    Returns:
        [V] float64 in [0, log2(num_train_users)], higher for rarer items.
    """
    share_V = num_events_V.double().clamp(min=1) / num_train_users
    return -share_V.clamp(max=1).log2()


def popularity_order(num_events_V: Tensor) -> Tensor:
    """Return each item's position by popularity, [V] int64: 0 = most events, ties by item_index.

    >>> popularity_order(torch.tensor([1, 60, 0, 60]))
    tensor([2, 0, 3, 1])
    """
    return num_events_V.argsort(descending=True, stable=True).argsort()


def popularity_ranks(num_events_V: Tensor) -> Tensor:
    """Return the rank of each item's number of events, [V] int64; equal numbers share a rank.

    1 is the largest number that occurs, 2 the next; an item without events has rank V + 1.

    >>> popularity_ranks(torch.tensor([1, 60, 0, 60]))
    tensor([2, 1, 5, 1])
    """
    events_V, order_V = num_events_V.sort(descending=True)
    rank_V = torch.ones_like(order_V)
    rank_V[1:] += (events_V[1:] != events_V[:-1]).cumsum(dim=0)
    rank_V = torch.empty_like(rank_V).scatter_(0, order_V, rank_V)
    return rank_V.masked_fill(num_events_V == 0, len(num_events_V) + 1)


def popularity_groups(num_events_V: Tensor) -> Tensor:
    """Return the group of each item: 0 the head, 1 the middle, 2 the tail, [V] int64.

    Items are taken from the most popular one down, ties by item_index. The head is the smallest
    set that makes HEAD_SHARE of all events; head and middle are the smallest set that makes
    TAIL_FROM. The tail is the rest, and every item without an event.

    >>> popularity_groups(torch.tensor([1, 60, 0, 25, 14]))
    tensor([2, 0, 2, 1, 2])
    """
    events_V, order_V = num_events_V.double().sort(descending=True, stable=True)
    share_before_V = (events_V.cumsum(dim=0) - events_V) / events_V.sum().clamp(min=1)
    group_V = (share_before_V >= HEAD_SHARE).long() + (share_before_V >= TAIL_FROM).long()
    group_V[events_V == 0] = len(POPULARITY_GROUPS) - 1
    return torch.empty_like(group_V).scatter_(0, order_V, group_V)
