# pyright: strict
"""No re-ranking: the model's own order, which every re-ranker returns at dial 0.

Legend: B users, W dials, C candidates, K slate length.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from recdiv_core.rerank.candidates import Candidates, Options, check_candidates
from recdiv_core.rerank.greedy import Novelty, choose


def none(candidates: Candidates, k: int, dials: Sequence[float], options: Options) -> Tensor:
    """Choose the first k real candidates in order; the dials have no effect.

    With rules, each position gets the first candidate that the rules allow.

    Arguments and result are those of every re-ranker (rerank/__init__.py).
    """
    check_candidates(candidates, k, dials, options)
    if options.rules:
        return choose(_as_they_come, candidates, k, [0.0] * len(dials), options)
    is_real_BC = candidates.is_real_BC
    real_first_BC = is_real_BC.byte().argsort(dim=1, descending=True, stable=True)
    chosen_BK = real_first_BC.masked_fill(~is_real_BC.gather(1, real_first_BC), -1)[:, :k]
    chosen_BK = F.pad(chosen_BK, (0, k - chosen_BK.shape[1]), value=-1)
    return chosen_BK[:, None].repeat(1, len(dials), 1)


def _as_they_come(candidates: Candidates, k: int, num_dials: int, options: Options) -> Novelty:
    scores_BC = candidates.scores_BC
    falling_C = -torch.arange(scores_BC.shape[1], dtype=torch.float32, device=scores_BC.device)
    nothing_BWC = falling_C.new_zeros((len(scores_BC), num_dials, len(falling_C)))
    return Novelty(falling_C.expand(scores_BC.shape), None, lambda best_BW: nothing_BWC)
