# pyright: strict
"""Regularisers over the slates of all users: they act on items that are shown to everybody.

A batch is too small to show the exposure of items, so these use a running estimate: the share of
all slate positions that each item has. It is a constant, and gradients reach only the memberships
of the batch. Each is the gradient of a measure of the whole catalogue, as a cost of the positions
of one slate: [B], in [0, 1], larger = less diverse. Regularisers inside one slate, and the table,
are in diversity.py. Shapes: B users, M candidates, V catalogue.
"""

from __future__ import annotations

import math
from typing import Final

import torch

from recdiv_core.losses.soft_slates import EMPTY_SLATE, SoftSlates

EXPOSURE_FLOOR: Final = 1e-3
"""Smallest exposure of an item, as a fraction of an equal share; bounds the logarithm."""

SHOWN_ENOUGH: Final = 3.0
"""Number of slates after which an item counts as covered; an item in only one or two slates may be
in none the next time."""

POPULARITY_POWER: Final = 0.5
"""gamma of the target pi^gamma, in [0, 1]: 0 = equal shares, 1 = popularity in the train events."""


def exposure_share(places_V: torch.Tensor) -> torch.Tensor:
    """Return each item's share of all positions, [V], sums to 1; equal shares if there are none."""
    total = places_V.sum()
    equal = torch.full_like(places_V, 1 / len(places_V))
    return torch.where(total > 0, places_V / total.clamp_min(1e-12), equal)


def exposure(slates: SoftSlates) -> torch.Tensor:
    """Penalise positions of items with more than an equal share of all exposure.

    The gradient of 1 - H(p) / log V with respect to this batch's slates, where p is the exposure of
    each item over all users: an item costs `log(V p_i)`. p is a running estimate over many batches
    and all workers, held constant. In [0, 1]: 0 = positions of the least exposed items, 1 = all
    positions have the same item.
    """
    num_items = slates.exposure_V.shape[0]
    floor = EXPOSURE_FLOOR
    excess = (slates.exposure_V * num_items).clamp_min(floor).log()
    cost_V = (excess - math.log(floor)) / (math.log(max(num_items, 2)) - math.log(floor))
    return _mean_cost(slates, cost_V)


def coverage(slates: SoftSlates) -> torch.Tensor:
    """Penalise positions of items that are already shown often enough.

    The gradient of the share of the catalogue that is hardly shown, `mean_i exp(-n_i / 3)`, with
    respect to this batch's slates; n_i is the expected number of slates with item i if every user
    is shown one, from the running exposure. An item costs `1 - exp(-n_i / 3)`: 0 if it is in no
    slate, near 1 if it is in many. `exposure` penalises every popular item; this treats all covered
    items alike and lifts only the others. It gains the most coverage for the accuracy lost, and
    moves Gini least. In [0, 1]: 0 = positions of items that are never shown, 1 = of covered items.
    """
    return _mean_cost(slates, -torch.expm1(-slates.exposure_V * slates.num_places / SHOWN_ENOUGH))


def popularity_power(slates: SoftSlates) -> torch.Tensor:
    """Penalise positions of items with more exposure than a power of their popularity.

    The gradient of `KL(p || pi^gamma / Z)` with respect to this batch's slates: an item costs
    `log(p_i / t_i)` with the running exposure p, the shares pi of the train events and the target
    t = pi^gamma / Z. gamma = POPULARITY_POWER lies between an equal share for all items (0, as
    `exposure`) and the popularity itself (1). Popularity below EXPOSURE_FLOOR of an equal share,
    and exposure below that fraction of the target, are raised to it. In [0, 1]: 0 = positions of
    items far below their target, 1 = all positions have the one item of the lowest target.
    """
    return _mean_cost(slates, _excess_cost(slates, POPULARITY_POWER))


def mutual_information(slates: SoftSlates) -> torch.Tensor:
    """Penalise slates that resemble the average slate: 1 - KL(p_b || p) / log V, clipped.

    p_b = q_b / k and p the running exposure. The mean of KL(p_b || p) over users is the mutual
    information of user and item, H(p) - mean_b H(p_b): high where the slates of users differ and
    each slate is decisive. p may be held constant, because its part of the gradient is the same for
    all items. After RIM, Krause, Perona & Gomes, 2010. In [0, 1]: 1 = every slate equals the mean
    of all slates.
    """
    q = slates.membership_BM
    num_items = slates.traits.num_items
    own = q / q.sum(1, keepdim=True).clamp_min(EMPTY_SLATE)
    floor = EXPOSURE_FLOOR / num_items
    common = slates.exposure_V.detach().clamp_min(floor)[slates.candidates_BM]
    divergence = own * (own.clamp_min(torch.finfo(own.dtype).tiny).log() - common.log())
    return (1 - divergence.sum(1) / math.log(max(num_items, 2))).clamp(0.0, 1.0)


def _excess_cost(slates: SoftSlates, power: float) -> torch.Tensor:
    """Map log(exposure / target) of each item to [0, 1]: [V]."""
    floor = EXPOSURE_FLOOR
    target_V = exposure_share(
        slates.traits.popularity_share_V.clamp_min(floor / slates.traits.num_items).pow(power)
    )
    excess = (slates.exposure_V / target_V).clamp_min(floor).log()
    most = -target_V.min().log().clamp_max(-math.log(2))
    return (excess - math.log(floor)) / (most - math.log(floor))


def _mean_cost(slates: SoftSlates, cost_V: torch.Tensor) -> torch.Tensor:
    """Average a constant cost of items over the positions of each slate."""
    q = slates.membership_BM
    cost = cost_V.detach()[slates.candidates_BM]
    return (q * cost).sum(1) / q.sum(1).clamp_min(EMPTY_SLATE)
