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
from typing import Final

import torch

from recdiv_core.losses.aggregate import coverage, exposure
from recdiv_core.losses.soft_slates import EMPTY_SLATE, SoftSlates

NEEDS_HISTORY: Final = frozenset({"calibration", "user_adaptive"})
"""Regularisers that look at `history_BG`."""

Regulariser = Callable[[SoftSlates], torch.Tensor]


def ild(slates: SoftSlates) -> torch.Tensor:
    """Penalise similarity inside a slate: 1 - expected ILD, clipped to [0, 1].

    For unit vectors `sum_{i != j} q_i q_j cos_ij = |sum_i q_i e_i|^2 - sum_i q_i^2 |e_i|^2`;
    divided by the mass of the pairs `k^2 - sum_i q_i^2` it is the mean cosine, which at a 0/1 q is
    exactly 1 - ILD of the hard slate. Smyth & McClave, 2001; Rao's quadratic entropy. Slates of one
    item give 0.
    """
    q = slates.membership_BM
    vectors = slates.traits.embeddings_VD.detach()[slates.candidates_BM]
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
    limit = min(slates.slate_size, slates.traits.num_categories)
    if limit < 2:
        return q.sum(1) * 0.0
    labels = slates.traits.categories_VL[slates.candidates_BM]
    is_label = labels >= 0
    part = q[..., None] * is_label / is_label.sum(-1, keepdim=True).clamp_min(1)
    share = torch.zeros(q.shape[0], slates.traits.num_categories, dtype=q.dtype, device=q.device)
    share = share.scatter_add(1, labels.clamp_min(0).flatten(1), part.flatten(1))
    share = share / q.sum(1, keepdim=True).clamp_min(EMPTY_SLATE)
    entropy = -(share * share.clamp_min(torch.finfo(q.dtype).tiny).log()).sum(1)
    return (1 - entropy / math.log(limit)).clamp(0.0, 1.0)


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
