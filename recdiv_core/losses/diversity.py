# pyright: strict
"""Diversity regularisers: penalties on soft slates, trained against the hard metric they stand for.

Each is a plain function of a SoftSlates and returns one penalty a user, [B], in [0, 1], larger =
less diverse; the caller averages over the global batch. Gradients reach the scores alone: item
embeddings and running estimates are constants here, else a model could win by inflating them.
Shapes: B users, M candidates, D dims, L labels an item, V catalogue.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch

EXPOSURE_FLOOR: Final = 1e-3
"""Smallest share of an equal part that an item's exposure counts as: bounds the log at 0."""

SHOWN_ENOUGH: Final = 3.0
"""Slates, of all users' together, in which an item counts as covered: an item in one or two of
today's may be in none of tomorrow's."""

EMPTY_SLATE: Final = 1e-6
"""Places below which nothing is divided: a user who has seen the whole catalogue has none."""


@dataclass(frozen=True)
class SoftSlates:
    """What a regulariser may look at.

    Attributes:
        membership_BM: q, in [0, 1], rows sum to k (to less where fewer items are left).
        candidates_BM: item_index of each candidate.
        embeddings_VD: unit item vectors of a fixed yardstick (the text vectors); zero rows allowed.
        categories_VL: category indices of every item, padded with -1; at least one an item.
        num_categories: G.
        exposure_V: running share of all slate places that each item holds, sums to 1.
        num_places: places that there are when every user is shown one slate.
        slate_size: k.
    """

    membership_BM: torch.Tensor
    candidates_BM: torch.Tensor
    embeddings_VD: torch.Tensor
    categories_VL: torch.Tensor
    num_categories: int
    exposure_V: torch.Tensor
    num_places: float
    slate_size: int


Regulariser = Callable[[SoftSlates], torch.Tensor]


def ild(slates: SoftSlates) -> torch.Tensor:
    """Penalise similarity inside a slate: 1 - expected ILD, clipped to [0, 1].

    For unit vectors `sum_{i != j} q_i q_j cos_ij = |sum_i q_i e_i|^2 - sum_i q_i^2 |e_i|^2`;
    divided by the mass of the pairs `k^2 - sum_i q_i^2` it is the mean cosine, which at a 0/1 q is
    exactly 1 - ILD of the hard slate. Smyth & McClave, 2001; Rao's quadratic entropy. Slates of one
    item give 0.
    """
    q = slates.membership_BM
    vectors = slates.embeddings_VD.detach()[slates.candidates_BM]
    mean = torch.einsum("bm,bmd->bd", q, vectors)
    own = (q.square() * vectors.square().sum(-1)).sum(1)
    pairs = q.sum(1).square() - q.square().sum(1)
    similarity = (mean.square().sum(1) - own) / pairs.clamp_min(1e-6)
    return similarity.clamp(0.0, 1.0)


def category_entropy(slates: SoftSlates) -> torch.Tensor:
    """Penalise slates of few categories: 1 - H(P) / log(min(k, G)), P = q C / k.

    P is the slate's share of each category; an item of several labels gives each an equal part.
    Equal to 1 - diversity index at a 0/1 q. Yin et al., 2024, on the soft slate instead of the
    whole catalogue, whose tail can be fattened without changing the top k. G < 2 gives 0.
    """
    q = slates.membership_BM
    limit = min(slates.slate_size, slates.num_categories)
    if limit < 2:
        return q.sum(1) * 0.0
    labels = slates.categories_VL[slates.candidates_BM]
    is_label = labels >= 0
    part = q[..., None] * is_label / is_label.sum(-1, keepdim=True).clamp_min(1)
    share = torch.zeros(q.shape[0], slates.num_categories, dtype=q.dtype, device=q.device)
    share = share.scatter_add(1, labels.clamp_min(0).flatten(1), part.flatten(1))
    share = share / q.sum(1, keepdim=True).clamp_min(EMPTY_SLATE)
    entropy = -(share * share.clamp_min(torch.finfo(q.dtype).tiny).log()).sum(1)
    return (1 - entropy / math.log(limit)).clamp(0.0, 1.0)


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


def _mean_cost(slates: SoftSlates, cost_V: torch.Tensor) -> torch.Tensor:
    """Average a constant cost of items over the places of each slate."""
    q = slates.membership_BM
    cost = cost_V.detach()[slates.candidates_BM]
    return (q * cost).sum(1) / q.sum(1).clamp_min(EMPTY_SLATE)


REGULARISERS: Final[dict[str, Regulariser]] = {
    "ild": ild,
    "category_entropy": category_entropy,
    "exposure": exposure,
    "coverage": coverage,
}


def penalty(slates: SoftSlates, mix: Mapping[str, float]) -> torch.Tensor:
    """Average regularisers by weight.

    Args:
        slates: the soft slates.
        mix: name -> weight >= 0, not all 0; normalised to sum to 1.

    Returns:
        [B] penalty of each user, in [0, 1].

    Raises:
        ValueError: an unknown name, or weights that sum to 0.
    """
    unknown = set(mix) - set(REGULARISERS)
    total = sum(mix.values())
    if unknown or total <= 0:
        raise ValueError(
            f"loss.diversity={dict(mix)}: allowed names are {', '.join(REGULARISERS)}, "
            "with weights that sum to more than 0"
        )
    parts = [weight / total * REGULARISERS[name](slates) for name, weight in mix.items() if weight]
    return torch.stack(parts).sum(0)


def exposure_share(places_V: torch.Tensor) -> torch.Tensor:
    """Share of all places that each item holds: [V], sums to 1; equal where there are none yet."""
    total = places_V.sum()
    equal = torch.full_like(places_V, 1 / len(places_V))
    return torch.where(total > 0, places_V / total.clamp_min(1e-12), equal)
