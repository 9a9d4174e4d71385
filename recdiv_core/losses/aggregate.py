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

POPULARITY_POWER: Final = 0.5
"""gamma of the target pi^gamma: 0 = every item alike, 1 = as popular as in the train events."""


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
    return _mean_cost(slates, -torch.expm1(-slates.exposure_V * slates.num_places / SHOWN_ENOUGH))


def popularity_power(slates: SoftSlates) -> torch.Tensor:
    """Penalise places given to items that hold more than their due by popularity.

    The gradient of `KL(p || pi^gamma / Z)` by this batch's slates: an item costs `log(p_i / t_i)`
    with the running exposure p, the shares pi of the train events and the target t = pi^gamma / Z.
    gamma = POPULARITY_POWER lies between an equal share for all (0, which is `exposure`) and the
    popularity that there is (1). Popularity below EXPOSURE_FLOOR of an equal part, and exposure
    below that part of the target, count as that. Mapped to [0, 1]: 0 = places held by items far
    below their target, 1 = all by one item of least target.
    """
    return _mean_cost(slates, _excess_cost(slates, POPULARITY_POWER))


def mutual_information(slates: SoftSlates) -> torch.Tensor:
    """Penalise users who are shown what everybody is shown: 1 - KL(p_b || p) / log V, clipped.

    p_b = q_b / k and p the running exposure. The mean of KL(p_b || p) over users is the mutual
    information of user and item, H(p) - mean_b H(p_b): high where users differ from one another
    (against homogenisation) and each slate is decisive. Holding p constant loses nothing: its own
    part of the gradient is the same for all items. After RIM, Krause, Perona & Gomes, 2010. 1 =
    every slate is the same as the mean of all.
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
    """Average a constant cost of items over the places of each slate."""
    q = slates.membership_BM
    cost = cost_V.detach()[slates.candidates_BM]
    return (q * cost).sum(1) / q.sum(1).clamp_min(EMPTY_SLATE)
