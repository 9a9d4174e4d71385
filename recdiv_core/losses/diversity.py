# pyright: strict
"""Diversity regularisers: penalties on soft slates, each the soft form of a metric.

Each is a plain function of a SoftSlates and returns one penalty per user, [B], in [0, 1], larger =
less diverse; the caller averages over the global batch. Gradients reach only the scores: item
embeddings and running estimates are constants, because a model could otherwise lower a penalty by
changing them. This file has the table and the regularisers inside one slate; aggregate.py has those
over all slates. Shapes: B users, M candidates, N of them, D dims, L labels of an item, G
categories.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, cast

import torch
from torch.nn.functional import embedding_bag

from recdiv_core.errors import UserError
from recdiv_core.losses.aggregate import coverage, exposure, mutual_information, popularity_power
from recdiv_core.losses.soft_slates import EMPTY_SLATE, SoftSlates

NEEDS_HISTORY: Final = frozenset({"calibration", "user_adaptive"})
"""Regularisers that need `history_BG`."""

NEEDS_TEACHER: Final = frozenset({"distil"})
"""Regularisers that need `taught_BM`."""

OVER_ALL: Final = frozenset({"exposure", "coverage", "popularity_power", "mutual_information"})
"""Regularisers over all slates together; the others act inside one slate."""

SHORTLIST: Final = 4
"""Candidates of highest membership whose pairs are compared, as a multiple of k; deeper candidates
have almost no membership, and the cost grows with the square."""

SURE: Final = 1e-6
"""Distance of a membership of 1 from certainty; bounds the log of the chance of not being shown."""

KEPT_TASTE: Final = 0.01
"""Share of the history mixed into the slate; it bounds their divergence."""

ROOT_FLOOR: Final = 1e-12
"""Added to a membership before its square root, whose slope at 0 is infinite."""

Regulariser = Callable[[SoftSlates], torch.Tensor]


def ild(slates: SoftSlates) -> torch.Tensor:
    """Penalise similarity inside a slate: 1 - expected ILD, clipped to [0, 1].

    For unit vectors `sum_{i != j} q_i q_j cos_ij = |sum_i q_i e_i|^2 - sum_i q_i^2 |e_i|^2`;
    divided by the mass of the pairs `k^2 - sum_i q_i^2` it is the mean cosine, which at a 0/1 q is
    exactly 1 - ILD of the hard slate. Smyth & McClave, 2001; Rao's quadratic entropy. Slates of one
    item give 0.
    """
    q = slates.membership_BM
    # without the [B, M, D] vectors of all candidates: a tenth of the time
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


def dpp(slates: SoftSlates) -> torch.Tensor:
    """Penalise slates that span little: 1 - log det(I + sum_i q_i v_i v_i^T) / its upper bound.

    By Sylvester the determinant is that of `I + Q^1/2 K Q^1/2` with the cosines K, and it is the
    mean of det(I + K_S) over slates S that hold each item by chance q_i. By Hadamard it is at most
    `prod_i (1 + q_i |v_i|^2)`, reached by orthogonal vectors: k log 2 at a 0/1 q. So the penalty is
    0 for orthogonal slates of any softness, and `1 - log2(1 + k) / k` for k equal items. It acts on
    more than pairs: any item inside the span of the others adds little. After Kulesza & Taskar,
    "Determinantal point processes for machine learning", 2012. Vectors of zeros have no effect; a
    slate of only such vectors gives 0, and so does a slate of one item. No jitter is needed,
    because all eigenvalues are >= 1. Approximation: only the 4 k candidates of the largest q count.
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
    """Penalise slates with few categories: 1 - H(P) / log(min(k, G)), P = q C / k.

    P is the slate's share of each category; an item of several labels counts in equal parts for
    each. Equal to 1 - diversity index at a 0/1 q. Yin et al., 2024, applied to the soft slate; over
    the whole catalogue a model could change the tail and keep the top k. G < 2 gives 0.
    """
    return _unevenness(_category_share(slates), slates.slate_size)


def category_coverage(slates: SoftSlates) -> torch.Tensor:
    """Penalise slates that miss categories: 1 - covered / min(k, G), clipped to [0, 1].

    `covered = sum_g 1 - prod_{i in g} (1 - q_i)` is the expected number of categories in a slate
    that holds item i with probability q_i (noisy-or; the coverage of xQuAD, Santos et al., 2010).
    An item covers each of its labels. Equal to 1 - category coverage at a 0/1 q. Unlike
    `category_entropy`, a covered category has no further effect. A user without items left gets 1.
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
    diversity for its own sake: a user who looked at one category is shown that one. No history: 0.
    """
    history = _history(slates)
    slate = (1 - KEPT_TASTE) * _category_share(slates) + KEPT_TASTE * history
    tiny = torch.finfo(slate.dtype).tiny
    divergence = (history * (history.clamp_min(tiny).log() - slate.clamp_min(tiny).log())).sum(1)
    return (divergence / math.log(1 / KEPT_TASTE)).clamp(0.0, 1.0)


def user_adaptive(slates: SoftSlates) -> torch.Tensor:
    """Penalise slates with few categories, more strongly for users with broad histories.

    `category_entropy` times H(h) / log(min(k, G)), at most 1, with the history's share h of each
    category: 0 for a user who only looked at one category, 1 for even shares. A user without a
    history gets the full weight. The idea is that of EDUA, Liang et al., 2021.
    """
    history = _history(slates)
    breadth = 1 - _unevenness(history, slates.slate_size)
    weight = torch.where(history.sum(1) > 0, breadth, torch.ones_like(breadth))
    return weight * category_entropy(slates)


def distil(slates: SoftSlates) -> torch.Tensor:
    """Penalise slates that differ from the slates that a re-ranker makes of the same scores.

    `1 - sum_{i in R} q_i / |R|` with the re-ranked slate R, a constant: 0 = the scores alone give
    the re-ranked slate, 1 = no item of it. Serving then needs no re-ranking. The order of R is not
    learnt (as in Plackett-Luce; Tang & Wang, 2018, Ranking Distillation), because a slate's
    diversity does not depend on it. The teacher re-ranks the current scores, so with a large weight
    it moves on and the penalty does not settle. A user without items left gets 1.
    """
    assert slates.taught_BM is not None, "NEEDS_TEACHER lacks a name"
    taught = slates.taught_BM.to(slates.membership_BM.dtype)
    kept = (slates.membership_BM * taught).sum(1)
    return (1 - kept / taught.sum(1).clamp_min(1)).clamp(0.0, 1.0)


def _attribute_entropy(name: str, slates: SoftSlates) -> torch.Tensor:
    """Penalise slates with few values of an attribute: 1 - H(P) / log(min(k, values)).

    P is the share of each value among known values; an item with an unknown value has no effect.
    Slates without a known value give 1, a catalogue
    with fewer than 2 values gives 0.

    Raises:
        UserError: the catalogue has no such attribute.
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
    """Return the share of each category in each slate, [B, G]; 0 where no item is left."""
    q = slates.membership_BM
    row_N, place_N, part_N = _category_places(slates)
    part_N = q.flatten().index_select(0, row_N) * part_N
    num_categories = slates.traits.num_categories
    share = q.new_zeros(q.shape[0] * num_categories).index_add(0, place_N, part_N)
    return share.view(q.shape[0], num_categories) / q.sum(1, keepdim=True).clamp_min(EMPTY_SLATE)


def _category_places(slates: SoftSlates) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the candidate, the flat index in [B, G], and the part of each candidate's label."""
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
    """Return q, [B, N], of the candidates of highest membership, and their cosines, [B, N, N]."""
    q = slates.membership_BM
    num_kept = min(SHORTLIST * slates.slate_size, q.shape[1])
    # ties, such as many memberships of 1, go to the higher score
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
    "calibration": calibration,
    "user_adaptive": user_adaptive,
    "mutual_information": mutual_information,
    "popularity_power": popularity_power,
    **{
        f"{name}_entropy": partial(_attribute_entropy, name)
        for name in ("brand", "colour", "price")
    },
    "distil": distil,
}


def penalty(
    slates: SoftSlates, mix: Mapping[str, float], *, inside: SoftSlates | None = None
) -> torch.Tensor:
    """Return the weighted average of regularisers.

    Args:
        slates: the soft slates.
        mix: name -> weight >= 0, not all 0; normalised to sum to 1.
        inside: the same slates for the regularisers inside one slate, if their gradients must reach
            other parameters; None = `slates` for all.

    Returns:
        [B] penalty of each user, in [0, 1].

    Raises:
        ValueError: unknown name, or weights that sum to 0.
        UserError: an attribute that the catalogue does not have.
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
