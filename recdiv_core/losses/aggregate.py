# pyright: strict
"""Regularisers that look at all users' slates together: who is shown the same as everybody.

What a batch alone is too small to show is taken from a running estimate, the share of all slate
places that each item holds; it is a constant, and gradients reach a batch's memberships alone. Each
is the gradient of a measure of the whole catalogue, as a cost of the places of one slate: [B], in
[0, 1], larger = less diverse. What looks inside one slate is in diversity.py, which has the table.
Shapes: B users, M candidates, V catalogue.
"""

from __future__ import annotations

import math
from typing import Final

import torch

from recdiv_core.losses.soft_slates import EMPTY_SLATE, SoftSlates

EXPOSURE_FLOOR: Final = 1e-3
"""Smallest share of an equal part that an item's exposure counts as: bounds the log at 0."""

SHOWN_ENOUGH: Final = 3.0
"""Slates, of all users' together, in which an item counts as covered: an item in one or two of
today's may be in none of tomorrow's."""


def exposure_share(places_V: torch.Tensor) -> torch.Tensor:
    """Share of all places that each item holds: [V], sums to 1; equal where there are none yet."""
    total = places_V.sum()
    equal = torch.full_like(places_V, 1 / len(places_V))
    return torch.where(total > 0, places_V / total.clamp_min(1e-12), equal)


def exposure(slates: SoftSlates) -> torch.Tensor:
    """Penalise places given to items that hold more than an equal part of all exposure.

    The gradient of 1 - H(p) / log V by this batch's slates, where p is the exposure of each item
    over all users: an item costs `log(V p_i)`. p is a running estimate over many batches and all
    workers, held constant; a batch alone is too small to show which items are over-exposed. Mapped
    to [0, 1]: 0 = places held by items of the least exposure, 1 = all by one item.
    """
    num_items = slates.exposure_V.shape[0]
    floor = EXPOSURE_FLOOR
    excess = (slates.exposure_V * num_items).clamp_min(floor).log()
    cost_V = (excess - math.log(floor)) / (math.log(max(num_items, 2)) - math.log(floor))
    return _mean_cost(slates, cost_V)


def coverage(slates: SoftSlates) -> torch.Tensor:
    """Penalise places given to items that are shown anyway.

    The gradient of the share of the catalogue that is hardly shown, `mean_i exp(-n_i / 3)`, by this
    batch's slates; n_i is the number of slates that item i would stand in if every user were shown
    one, from the running exposure. An item costs `1 - exp(-n_i / 3)`: nothing when it is in none,
    1 when it is in many. Unlike `exposure`, which taxes every popular item, this leaves all covered
    items alike and lifts only the others, each where it fits best: most coverage for the accuracy
    it takes, least effect on Gini. 0 = places held by items never shown, 1 = by covered ones.
    """
    return _mean_cost(
        slates, -torch.expm1(-slates.exposure_V * slates.traits.num_places / SHOWN_ENOUGH)
    )


def _mean_cost(slates: SoftSlates, cost_V: torch.Tensor) -> torch.Tensor:
    """Average a constant cost of items over the places of each slate."""
    q = slates.membership_BM
    cost = cost_V.detach()[slates.candidates_BM]
    return (q * cost).sum(1) / q.sum(1).clamp_min(EMPTY_SLATE)
