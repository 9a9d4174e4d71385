# pyright: strict
"""Scores on one scale: mean 0 and standard deviation 1 over the catalogue, for each user.

On this scale scores of different kinds can be added. B users, V catalogue.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

TINY: Final = 1e-12
"""Variance over squared mean at which scores count as equal: rounding alone makes more."""


def standardise(scores_BV: Tensor) -> Tensor:
    """Give each user's scores the mean 0 and the standard deviation 1 over the catalogue, in place.

    Equal scores become 0.
    """
    mean_B1, inverse_B1 = moments(scores_BV)
    return scores_BV.sub_(mean_B1).mul_(inverse_B1)


def moments(scores_BV: Tensor) -> tuple[Tensor, Tensor]:
    """Return each user's mean and one over the standard deviation; 0 where scores are equal."""
    if not len(scores_BV):  # torch warns about the variance of nothing
        return scores_BV.new_zeros(0, 1), scores_BV.new_zeros(0, 1)
    variance_B1, mean_B1 = torch.var_mean(scores_BV, dim=1, keepdim=True, correction=0)
    is_flat_B1 = variance_B1 <= TINY * mean_B1.square()
    return mean_B1, variance_B1.rsqrt().masked_fill(is_flat_B1, 0.0)
