# pyright: strict
"""Maximal marginal relevance: greedy choice of what is relevant and unlike what was chosen.

Not an optimum over slates. The one idea: only the highest similarity to the items chosen so far
matters, so that a running maximum of one row a step replaces the [C, C] matrix of similarities.

Legend: B users, C candidates, K slate length, D dims.
"""

from __future__ import annotations

from typing import Final, cast

import torch
from torch import Tensor

from recdiv_core.rerank.candidates import check_candidates

BELOW_ALL_COSINES: Final = -2.0
"""Where the running maximum starts; finite, so that 0 * it is 0."""


def mmr(
    scores_BC: Tensor, embeddings_BCD: Tensor, categories_BC: Tensor, k: int, diversity: float
) -> Tensor:
    """Choose step by step the candidate i with the largest (1 - d) r_i - d max_{j in S} cos_ij.

    S are the candidates chosen so far and d is the dial (Carbonell & Goldstein 1998, The use of
    MMR, diversity-based reranking for reordering documents and producing summaries; their lambda is
    1 - d). r is the score scaled to [0, 1] over the user's real candidates, 0 when all are equal.
    The first choice is the top candidate at every dial; ties go to the earlier candidate. Cosines
    may be negative; an embedding of zeros has cosine 0 to all. Categories are not looked at. Cost:
    k * C * D a user.

    Arguments and result are those of every re-ranker (rerank/__init__.py).
    """
    is_real_BC = check_candidates(scores_BC, embeddings_BCD, categories_BC, k, diversity)
    relevance_BC = scale_scores(scores_BC.float(), is_real_BC)
    objective_BC = relevance_BC.masked_fill(~is_real_BC, -torch.inf)
    gains_BC = ((1 - diversity) * relevance_BC).masked_fill(~is_real_BC, -torch.inf)
    embeddings_BCD = embeddings_BCD.float()
    norms_BC = cast(
        "Tensor",
        torch.linalg.vector_norm(embeddings_BCD, dim=2),  # pyright: ignore[reportUnknownMemberType]
    )
    inverse_norms_BC = torch.where(norms_BC > 0, 1 / norms_BC, torch.zeros_like(norms_BC))

    users_B = torch.arange(scores_BC.shape[0], device=scores_BC.device)
    chosen_BK = torch.full((len(users_B), k), -1, dtype=torch.int64, device=scores_BC.device)
    highest_BC = torch.full_like(gains_BC, BELOW_ALL_COSINES)
    for step in range(min(k, scores_BC.shape[1])):
        largest_B, best_B = objective_BC.max(dim=1)  # of equal ones the first
        chosen_BK[:, step] = torch.where(largest_B > -torch.inf, best_B, -1)
        gains_BC[users_B, best_B] = -torch.inf
        # a row vector from the left: twice as fast on the CPU as a column from the right
        best_B1D = embeddings_BCD[users_B, best_B].unsqueeze(1)
        dots_BC = torch.bmm(best_B1D, embeddings_BCD.transpose(1, 2)).squeeze(1)
        cosines_BC = dots_BC * inverse_norms_BC * inverse_norms_BC[users_B, best_B].unsqueeze(1)
        highest_BC = torch.fmax(highest_BC, cosines_BC)  # fmax: padding may hold NaN
        objective_BC = gains_BC - diversity * highest_BC
    return chosen_BK


def scale_scores(scores_BC: Tensor, is_real_BC: Tensor) -> Tensor:
    """Return each user's scores scaled to [0, 1] over the real candidates; 0 where all are equal.

    What stands at the places of padding has no meaning.
    """
    low_B1 = scores_BC.masked_fill(~is_real_BC, torch.inf).amin(dim=1, keepdim=True)
    high_B1 = scores_BC.masked_fill(~is_real_BC, -torch.inf).amax(dim=1, keepdim=True)
    return (scores_BC - low_B1) / torch.where(high_B1 > low_B1, high_B1 - low_B1, 1.0)
