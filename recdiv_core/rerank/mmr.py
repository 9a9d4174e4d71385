# pyright: strict
"""Maximal marginal relevance: relevant items that differ from the nearest chosen item.

Not an optimum over slates. Only the distance to the nearest chosen item matters, so the state is a
running minimum.

Legend: B users, W dials, C candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recdiv_core.rerank.candidates import Candidates, Options
from recdiv_core.rerank.greedy import Novelty, likeness_rows
from recdiv_core.rerank.relevance import zero_to_one


def mmr(candidates: Candidates, k: int, num_dials: int, options: Options) -> Novelty:
    """Novelty = min_{j in S} (1 - cos_ij), the distance to the nearest chosen item, in [0, 2].

    S are the candidates chosen so far (Carbonell & Goldstein 1998, The use of MMR, diversity-based
    reranking for reordering documents and producing summaries; their lambda is 1 - d). Relevance is
    scaled to [0, 1]. The first item is the top candidate at every dial. Cosines may be negative; a
    vector of zeros has cosine 0 to all. Cost per user: k C D.
    """
    distances = likeness_rows(candidates, k, num_dials, offset=1.0)
    num_users, num_candidates = candidates.scores_BC.shape
    relevance_BC = zero_to_one(candidates)
    nearest_BWC = relevance_BC.new_full((num_users, num_dials, num_candidates), 2.0)

    def after(best_BW: Tensor) -> Tensor:
        return torch.minimum(nearest_BWC, distances(best_BW), out=nearest_BWC)

    return Novelty(relevance_BC, None, after)
