# pyright: strict
"""Max-sum diversification: relevant items far from all chosen items on average.

Not an optimum over slates. Each choice increases a weighted sum of the slate's mean relevance and
its ILD, so the dial weighs the metrics themselves.

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
    dynamic updates). Relevance is scaled to [0, 1]. The first item is the top candidate at every
    dial; diversity has little weight at first and most at the end. k = 1 has no pairs and gives the
    top candidate. A vector of zeros has distance 1 to all. Cost per user: k C D.
    """
    distances = likeness_rows(candidates, k, num_dials, offset=1.0)
    num_users, num_candidates = candidates.scores_BC.shape
    relevance_BC = zero_to_one(candidates)
    novelty_BWC = relevance_BC.new_zeros((num_users, num_dials, num_candidates))
    share = 2 / max(1, k - 1)

    def after(best_BW: Tensor) -> Tensor:
        return torch.add(novelty_BWC, distances(best_BW), alpha=share, out=novelty_BWC)

    return Novelty(relevance_BC, None, after)
