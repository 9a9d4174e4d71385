# pyright: strict
"""No re-ranking: the model's own order. What every other re-ranker returns at dial 0."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from recdiv_core.rerank.candidates import check_candidates


def none(
    scores_BC: Tensor, embeddings_BCD: Tensor, categories_BC: Tensor, k: int, diversity: float
) -> Tensor:
    """Choose the first k real candidates as they come; the dial has no effect.

    Arguments and result are those of every re-ranker (rerank/__init__.py).
    """
    is_real_BC = check_candidates(scores_BC, embeddings_BCD, categories_BC, k, diversity)
    real_first_BC = is_real_BC.byte().argsort(dim=1, descending=True, stable=True)
    chosen_BK = real_first_BC.masked_fill(~is_real_BC.gather(1, real_first_BC), -1)[:, :k]
    return F.pad(chosen_BK, (0, k - chosen_BK.shape[1]), value=-1)
