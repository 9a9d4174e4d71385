# pyright: strict
"""Scores on one scale: mean 0 and standard deviation 1 over the catalogue, for each user.

On this scale scores of different kinds can be added. B users, V catalogue.
"""

from __future__ import annotations

from typing import Final, cast

import torch
from torch import Tensor

TINY: Final = 1e-11
"""Variance over squared mean at which scores count as equal: rounding alone makes less."""


def standardise(scores_BV: Tensor) -> Tensor:
    """Give each user's scores the mean 0 and the standard deviation 1 over the catalogue, in place.

    Equal scores become 0.
    """
    centre_and_scale(scores_BV)
    return scores_BV


def centre_and_scale(scores_BV: Tensor) -> tuple[Tensor, Tensor]:
    """Standardise scores in place; return what was subtracted, and then multiplied by.

    Returns:
        mean_B1, and inverse_B1, one over the standard deviation; 0 where scores are equal.
    """
    mean_B1 = scores_BV.mean(dim=1, keepdim=True)
    # a mean and a norm take a twentieth of the time of torch.var_mean
    norm_B1 = cast("Tensor", torch.linalg.vector_norm(scores_BV.sub_(mean_B1), dim=1, keepdim=True))  # pyright: ignore
    variance_B1 = norm_B1.square() / max(1, scores_BV.shape[1])
    is_flat_B1 = variance_B1 <= TINY * mean_B1.square()
    inverse_B1 = variance_B1.rsqrt().masked_fill(is_flat_B1, 0.0)
    scores_BV.mul_(inverse_B1)
    return mean_B1, inverse_B1
