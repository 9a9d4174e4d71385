# pyright: strict
"""The scale of relevance beside diversity.

Each re-ranker says which of two scales it uses: [0, 1] beside distances and shares, or standard
deviations beside the logarithm of a volume. Both keep the order of the scores.

Legend: B users, C candidates.
"""

from __future__ import annotations

from torch import Tensor

from recdiv_core.rerank.candidates import Candidates


def zero_to_one(candidates: Candidates) -> Tensor:
    """Scale each user's scores to [0, 1] over the real candidates; 0 where all are equal.

    Values at padding have no meaning.
    """
    scores_BC, is_padding_BC = candidates.scores_BC.float(), ~candidates.is_real_BC
    low_B1 = scores_BC.masked_fill(is_padding_BC, float("inf")).amin(dim=1, keepdim=True)
    high_B1 = scores_BC.masked_fill(is_padding_BC, -float("inf")).amax(dim=1, keepdim=True)
    return (scores_BC - low_B1) / (high_B1 - low_B1).where(high_B1 > low_B1, 1.0)


def standardised(candidates: Candidates) -> Tensor:
    """Scale each user's real candidates to mean 0 and standard deviation 1; 0 where all are equal.

    Values at padding are 0.
    """
    is_real_BC = candidates.is_real_BC
    num_real_B1 = is_real_BC.sum(dim=1, keepdim=True).clamp_min(1)
    scores_BC = candidates.scores_BC.float().masked_fill(~is_real_BC, 0.0)
    mean_B1 = scores_BC.sum(dim=1, keepdim=True) / num_real_B1
    centred_BC = (scores_BC - mean_B1).masked_fill(~is_real_BC, 0.0)
    deviation_B1 = (centred_BC.square().sum(dim=1, keepdim=True) / num_real_B1).sqrt()
    return centred_BC / deviation_B1.where(deviation_B1 > 0, 1.0)
