# pyright: strict
"""No re-ranking: the model's own order. What every other re-ranker returns at dial 0."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from recdiv_core.rerank.candidates import Candidates, Options, check_candidates


def none(candidates: Candidates, k: int, dials: Sequence[float], options: Options) -> Tensor:
    """Choose the first k real candidates as they come; the dials have no effect.

    Arguments and result are those of every re-ranker (rerank/__init__.py).
    """
    check_candidates(candidates, k, dials, options)
    is_real_BC = candidates.is_real_BC
    real_first_BC = is_real_BC.byte().argsort(dim=1, descending=True, stable=True)
    chosen_BK = real_first_BC.masked_fill(~is_real_BC.gather(1, real_first_BC), -1)[:, :k]
    chosen_BK = F.pad(chosen_BK, (0, k - chosen_BK.shape[1]), value=-1)
    return chosen_BK[:, None].repeat(1, len(dials), 1)
