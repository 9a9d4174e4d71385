# pyright: strict
"""The door of every re-ranker: what candidates are, and which of them are real.

Legend: B users, C candidates, D dims.
"""

from __future__ import annotations

import torch
from torch import Tensor


def check_candidates(
    scores_BC: Tensor, embeddings_BCD: Tensor, categories_BC: Tensor, k: int, diversity: float
) -> Tensor:
    """Check a re-ranker's arguments and return which candidates are real, [B, C] bool.

    A candidate without a finite score (-inf, NaN) is padding and is never chosen.

    Raises:
        ValueError: shapes that do not fit, k < 1, or a dial out of [0, 1].
    """
    shape = scores_BC.shape
    if (
        scores_BC.ndim != 2
        or embeddings_BCD.ndim != 3
        or embeddings_BCD.shape[:2] != shape
        or categories_BC.shape != shape
        or not shape[1]
    ):
        raise ValueError(
            "expected scores [B, C], embeddings [B, C, D], categories [B, C] with C >= 1; got "
            f"{list(shape)}, {list(embeddings_BCD.shape)}, {list(categories_BC.shape)}"
        )
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
    if not 0 <= diversity <= 1:
        raise ValueError(f"rerank.diversity={diversity} must lie in [0, 1]")
    return torch.isfinite(scores_BC)
