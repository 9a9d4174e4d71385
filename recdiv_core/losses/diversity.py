# pyright: strict
"""Diversity regularisers: penalties on soft slates, trained against the hard metric they stand for.

Each is a plain function of a SoftSlates and returns one penalty a user, [B], in [0, 1], larger =
less diverse; the caller averages over the global batch. Gradients reach the scores alone: item
embeddings and running estimates are constants here, else a model could win by inflating them. Here
stand the table and those that look inside one slate; aggregate.py has those that look at all.
Shapes: B users, M candidates, N of them, D dims, L labels an item, G categories.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final, cast

import torch
from torch.nn.functional import embedding_bag

from recdiv_core.errors import UserError
from recdiv_core.losses.aggregate import coverage, exposure, mutual_information, popularity_power
from recdiv_core.losses.soft_slates import EMPTY_SLATE, SoftSlates

NEEDS_HISTORY: Final = frozenset({"calibration", "user_adaptive"})
"""Regularisers that look at `history_BG`."""

NEEDS_TEACHER: Final = frozenset({"distil"})
"""Regularisers that look at `taught_BM`."""

OVER_ALL: Final = frozenset({"exposure", "coverage", "popularity_power", "mutual_information"})
"""Regularisers that look at all slates together; the others look inside one."""

SHORTLIST: Final = 4
"""Slates' worth of candidates, those of most membership, whose pairs are compared where every pair
is looked at on its own: what lies deeper has next to no place, and costs the square."""

SURE: Final = 1e-6
"""What a membership of 1 lacks of certainty: bounds the log of the chance that it is not shown."""

KEPT_TASTE: Final = 0.01
"""Share of the history mixed into the slate before their divergence, which it bounds."""

ROOT_FLOOR: Final = 1e-12
"""Added to a membership before its root is taken: the root of 0 has no slope."""

SHARPNESS: Final = 4.0
"""Of uniformity's kernel exp(4 cos - 4), which is exp(-2 |x - y|^2) of unit vectors."""

Regulariser = Callable[[SoftSlates], torch.Tensor]


def ild(slates: SoftSlates) -> torch.Tensor:
    """Penalise similarity inside a slate: 1 - expected ILD, clipped to [0, 1].

    For unit vectors `sum_{i != j} q_i q_j cos_ij = |sum_i q_i e_i|^2 - sum_i q_i^2 |e_i|^2`;
    divided by the mass of the pairs `k^2 - sum_i q_i^2` it is the mean cosine, which at a 0/1 q is
    exactly 1 - ILD of the hard slate. Smyth & McClave, 2001; Rao's quadratic entropy. Slates of one
    item give 0.
    """
    q = slates.membership_BM
    # not the [B, M, D] of all candidates' vectors: a tenth of the time
    mean = embedding_bag(
        slates.candidates_BM,
        slates.traits.embeddings_VD.detach(),
        mode="sum",
        per_sample_weights=q,
    )
    own = (q.square() * slates.traits.squared_norm_V[slates.candidates_BM]).sum(1)
    pairs = q.sum(1).square() - q.square().sum(1)
    similarity = (mean.square().sum(1) - own) / pairs.clamp_min(1e-6)
    return similarity.clamp(0.0, 1.0)


def uniformity(slates: SoftSlates) -> torch.Tensor:
    """Penalise near-duplicates inside a slate, harder than `ild` does.

    `1 + log(mean_{i != j} exp(-2 |x_i - x_j|^2)) / 4`, the mean by the mass q_i q_j of the pairs:
    1 = all vectors equal, 0 = mutually orthogonal or farther apart (clipped). One pair of twins
    among ten orthogonal items raises the mean cosine to 0.02, this to 0.2. Wang & Isola,
    "Understanding contrastive representation learning through alignment and uniformity", 2020, on
    the slate instead of all items. A vector of zeros counts as orthogonal to all. Slates of one
    item give 0. Approximation: the 4 k candidates of the largest q alone.
    """
    q, cosines = _shortlist(slates)
    other = 1 - torch.eye(q.shape[1], dtype=q.dtype, device=q.device)
    closeness = ((SHARPNESS * (cosines - 1)).exp() * other) @ q[..., None]
    pairs = q.sum(1).square() - q.square().sum(1)
    mean = (q * closeness[..., 0]).sum(1) / pairs.clamp_min(EMPTY_SLATE)
    return (1 + mean.clamp_min(math.exp(-SHARPNESS)).log() / SHARPNESS).clamp(0.0, 1.0)


def dpp(slates: SoftSlates) -> torch.Tensor:
    """Penalise slates that span little: 1 - log det(I + sum_i q_i v_i v_i^T) / its upper bound.

    By Sylvester the determinant is that of `I + Q^1/2 K Q^1/2` with the cosines K, and it is the
    mean of det(I + K_S) over slates S that hold each item by chance q_i. By Hadamard it is at most
    `prod_i (1 + q_i |v_i|^2)`, reached by orthogonal vectors: k log 2 at a 0/1 q, so that the
    penalty is 0 for orthogonal slates whatever their softness, and `1 - log2(1 + k) / k` for k
    equal ones. Not for pairs alone: any item that the others span adds little. After Kulesza &
    Taskar, "Determinantal point processes for machine learning", 2012. Vectors of zeros count
    neither way; nothing but such gives 0, and so does a slate of one item. No jitter is needed, all
    eigenvalues are >= 1. Approximation: the 4 k candidates of the largest q alone.
    """
    q, cosines = _shortlist(slates)
    bound = torch.log1p(q * cosines.diagonal(dim1=1, dim2=2)).sum(1)
    root = (q + ROOT_FLOOR).sqrt()
    identity = torch.eye(q.shape[1], dtype=q.dtype, device=q.device)
    spanned = identity + root[:, :, None] * cosines * root[:, None, :]
    factor = cast(
        "torch.Tensor",
        # cholesky itself makes the host wait for a check; every eigenvalue is at least 1
        torch.linalg.cholesky_ex(spanned).L,  # pyright: ignore[reportUnknownMemberType]
    )
    log_det = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
    return ((bound - log_det) / bound.clamp_min(EMPTY_SLATE)).clamp(0.0, 1.0)


def category_entropy(slates: SoftSlates) -> torch.Tensor:
    """Penalise slates of few categories: 1 - H(P) / log(min(k, G)), P = q C / k.

    P is the slate's share of each category; an item of several labels gives each an equal part.
    Equal to 1 - diversity index at a 0/1 q. Yin et al., 2024, on the soft slate instead of the
    whole catalogue, whose tail can be fattened without changing the top k. G < 2 gives 0.
    """
    return _unevenness(_category_share(slates), slates.slate_size)


def category_coverage(slates: SoftSlates) -> torch.Tensor:
    """Penalise slates that leave categories out: 1 - covered / min(k, G), clipped to [0, 1].

    `covered = sum_g 1 - prod_{i in g} (1 - q_i)`: the categories that a slate which holds each item
    by chance q_i has on average (noisy-or; the coverage of xQuAD, Santos et al., 2010). An item
    covers each of its labels. Equal to 1 - category coverage at a 0/1 q; unlike `category_entropy`
    it does not press once a category is there. A user without any item left gets 1.
    """
    q = slates.membership_BM
    num_categories = slates.traits.num_categories
    row_N, place_N, part_N = _category_places(slates)
    left_out_N = torch.log1p(-q * (1 - SURE)).flatten().index_select(0, row_N) * (part_N > 0)
    log_missed = q.new_zeros(q.shape[0] * num_categories).index_add(0, place_N, left_out_N)
    log_missed = log_missed.view(q.shape[0], num_categories)
    covered = -torch.expm1(log_missed).sum(1)
    return (1 - covered / max(1, min(slates.slate_size, num_categories))).clamp(0.0, 1.0)


def calibration(slates: SoftSlates) -> torch.Tensor:
    """Penalise slates whose categories are in other proportions than the user's history.

    `KL(h || (1 - a) P + a h) / log(1 / a)` with the history's share h of each category, the slate's
    share P as in `category_entropy`, and a = 0.01, which bounds it: 0 = the same proportions, 1 =
    no category of the history in the slate. Steck, "Calibrated recommendations", 2018. Not
    diversity for its own sake: who looked at one category is to be shown that one. No history: 0.
    """
    history = _history(slates)
    slate = (1 - KEPT_TASTE) * _category_share(slates) + KEPT_TASTE * history
    tiny = torch.finfo(slate.dtype).tiny
    divergence = (history * (history.clamp_min(tiny).log() - slate.clamp_min(tiny).log())).sum(1)
    return (divergence / math.log(1 / KEPT_TASTE)).clamp(0.0, 1.0)


def user_adaptive(slates: SoftSlates) -> torch.Tensor:
    """Penalise slates of few categories, by as much as the user's taste is broad.

    `category_entropy` times H(h) / log(min(k, G)), at most 1, with the history's share h of each
    category: 0 for a user who ever looked at one category only, 1 for one of even tastes. Without a
    history nothing speaks against diversity: full weight. The idea of EDUA, Liang et al., 2021.
    """
    history = _history(slates)
    breadth = 1 - _unevenness(history, slates.slate_size)
    weight = torch.where(history.sum(1) > 0, breadth, torch.ones_like(breadth))
    return weight * category_entropy(slates)


def brand_entropy(slates: SoftSlates) -> torch.Tensor:
    """Penalise slates of few brands; see _attribute_entropy."""
    return _attribute_entropy(slates, "brand")


def colour_entropy(slates: SoftSlates) -> torch.Tensor:
    """Penalise slates of few colours; see _attribute_entropy."""
    return _attribute_entropy(slates, "colour")


def price_entropy(slates: SoftSlates) -> torch.Tensor:
    """Penalise slates of few price bands; see _attribute_entropy."""
    return _attribute_entropy(slates, "price")


def distil(slates: SoftSlates) -> torch.Tensor:
    """Penalise slates that differ from the ones a re-ranker makes of the same scores.

    `1 - sum_{i in R} q_i / |R|` with the re-ranked slate R, a constant: 0 = the scores alone give
    the re-ranked slate, 1 = nothing of it. What is then served costs no re-ranking. Not the
    likelihood of the re-ranked order (Plackett-Luce; Tang & Wang, 2018, Ranking Distillation): a
    slate's diversity does not depend on the order, and accuracy, which does, has a loss of its own.
    The teacher re-ranks the scores of now: a weight that is large lets it go on for ever. A user
    without any item left gets 1.
    """
    assert slates.taught_BM is not None, "NEEDS_TEACHER lacks a name"
    taught = slates.taught_BM.to(slates.membership_BM.dtype)
    kept = (slates.membership_BM * taught).sum(1)
    return (1 - kept / taught.sum(1).clamp_min(1)).clamp(0.0, 1.0)


def _attribute_entropy(slates: SoftSlates, name: str) -> torch.Tensor:
    """Return 1 - H(P) / log(min(k, values)), P = the share of each value among the known places.

    An item whose value is unknown counts neither way. Slates without a known value give 1, a
    catalogue of fewer than 2 values 0.

    Raises:
        ValueError: the catalogue has no such attribute.
    """
    attributes = slates.traits.attributes
    if name not in attributes:
        raise UserError(
            f"loss.diversity.{name}_entropy: the catalogue has no attribute {name!r}; "
            f"it has {', '.join(attributes) or 'none'}"
        )
    q = slates.membership_BM
    num_values = slates.traits.num_values[name]
    values = attributes[name][slates.candidates_BM]
    places = torch.zeros(q.shape[0], num_values, dtype=q.dtype, device=q.device)
    places = places.scatter_add(1, values.clamp_min(0), q * (values >= 0))
    share = places / places.sum(1, keepdim=True).clamp_min(EMPTY_SLATE)
    return _unevenness(share, slates.slate_size)


def _category_share(slates: SoftSlates) -> torch.Tensor:
    """Share of each category in each slate, [B, G]; 0 where nothing is left to be shown."""
    q = slates.membership_BM
    row_N, place_N, part_N = _category_places(slates)
    part_N = q.flatten().index_select(0, row_N) * part_N
    num_categories = slates.traits.num_categories
    share = q.new_zeros(q.shape[0] * num_categories).index_add(0, place_N, part_N)
    return share.view(q.shape[0], num_categories) / q.sum(1, keepdim=True).clamp_min(EMPTY_SLATE)


def _category_places(slates: SoftSlates) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return of each category of a candidate the candidate, its place in [B, G], and its part."""
    num_candidates = slates.candidates_BM.shape[1]
    row_N, label_N, part_N = slates.traits.categories.spread(
        slates.candidates_BM, slates.membership_BM.dtype
    )
    user_N = row_N.div(max(1, num_candidates), rounding_mode="floor")
    return row_N, user_N * slates.traits.num_categories + label_N, part_N


def _unevenness(share_BG: torch.Tensor, slate_size: int) -> torch.Tensor:
    """Return 1 - H / log(min(k, G)), clipped to [0, 1]; 0 where that limit is below 2."""
    limit = min(slate_size, share_BG.shape[1])
    if limit < 2:
        return share_BG.sum(1) * 0.0
    tiny = torch.finfo(share_BG.dtype).tiny
    entropy = -(share_BG * share_BG.clamp_min(tiny).log()).sum(1)
    return (1 - entropy / math.log(limit)).clamp(0.0, 1.0)


def _history(slates: SoftSlates) -> torch.Tensor:
    assert slates.history_BG is not None, "NEEDS_HISTORY lacks a name"
    return slates.history_BG.detach()


def _shortlist(slates: SoftSlates) -> tuple[torch.Tensor, torch.Tensor]:
    """Return q, [B, N], of the candidates of most membership, and their cosines, [B, N, N]."""
    q = slates.membership_BM
    num_kept = min(SHORTLIST * slates.slate_size, q.shape[1])
    # of equal ones, such as many of 1, the better scored
    kept = q.detach().sort(dim=1, descending=True, stable=True).indices[:, :num_kept]
    vectors = slates.traits.embeddings_VD.detach()[slates.candidates_BM.gather(1, kept)]
    return q.gather(1, kept), vectors @ vectors.mT


REGULARISERS: Final[dict[str, Regulariser]] = {
    "ild": ild,
    "category_entropy": category_entropy,
    "exposure": exposure,
    "coverage": coverage,
    "category_coverage": category_coverage,
    "dpp": dpp,
    "uniformity": uniformity,
    "calibration": calibration,
    "user_adaptive": user_adaptive,
    "mutual_information": mutual_information,
    "popularity_power": popularity_power,
    "brand_entropy": brand_entropy,
    "colour_entropy": colour_entropy,
    "price_entropy": price_entropy,
    "distil": distil,
}


def penalty(
    slates: SoftSlates, mix: Mapping[str, float], *, inside: SoftSlates | None = None
) -> torch.Tensor:
    """Average regularisers by weight.

    Args:
        slates: the soft slates.
        mix: name -> weight >= 0, not all 0; normalised to sum to 1.
        inside: the same slates for the regularisers that look inside one, where gradients of those
            are to reach something else; None = `slates` for all.

    Returns:
        [B] penalty of each user, in [0, 1].

    Raises:
        ValueError: an unknown name, weights that sum to 0, or an attribute the catalogue has not.
    """
    unknown = set(mix) - set(REGULARISERS)
    total = sum(mix.values())
    if unknown or total <= 0:
        raise ValueError(
            f"loss.diversity={dict(mix)}: allowed names are {', '.join(REGULARISERS)}, "
            "with weights that sum to more than 0"
        )
    parts = [
        weight / total * REGULARISERS[name](slates if name in OVER_ALL else inside or slates)
        for name, weight in mix.items()
        if weight
    ]
    return torch.stack(parts).sum(0)
