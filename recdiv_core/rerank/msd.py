# pyright: strict
"""Max-sum diversification: what is relevant and far from all that was chosen, on average.

Not an optimum over slates. The one idea: the slate's own figure, mean relevance against ILD, is
what grows with each choice, so that the dial weighs what is measured.

Legend: B users, W dials, C candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recdiv_core.rerank.candidates import Candidates, Options
from recdiv_core.rerank.greedy import Novelty, likeness_rows
from recdiv_core.rerank.relevance import zero_to_one


def msd(candidates: Candidates, k: int, num_dials: int, options: Options) -> Novelty:
    """Novelty = 2 / (k - 1) * sum_{j in S} (1 - cos_ij), k times what i adds to the slate's ILD.

    S are the candidates chosen so far; (1 - d) times the mean relevance plus d times the ILD of the
    whole slate is the sum of all steps, over k (the max-sum dispersion of Gollapudi & Sharma 2009,
    greedily; Borodin, Lee & Ye 2012, Max-sum diversification, monotone submodular functions and
    dynamic updates). Relevance is scaled to [0, 1]. The first choice is the top candidate at every
    dial; diversity weighs little at first and most at the end. k = 1: no pairs, the top candidate.
    A vector of zeros has distance 1 to all. Cost: k C D a user.
    """
    distances = likeness_rows(candidates, k, num_dials, offset=1.0)
    num_users, num_candidates = candidates.scores_BC.shape
    relevance_BC = zero_to_one(candidates)
    novelty_BWC = relevance_BC.new_zeros((num_users, num_dials, num_candidates))
    share = 2 / max(1, k - 1)

    def after(best_BW: Tensor) -> Tensor:
        return torch.add(novelty_BWC, distances(best_BW), alpha=share, out=novelty_BWC)

    return Novelty(relevance_BC, None, after)
