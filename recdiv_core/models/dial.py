# pyright: strict
"""The dial: one model for the whole front, its session state bent by the diversity asked for.

The state of each user is scaled and shifted (FiLM) by a small network of the dial d in [0, 1], so
that item vectors, and every cache of them, are the same at all settings. At d = 0 nothing is bent,
exactly. Dosovitskiy & Djolonga, 2020, You Only Train Once: Loss-Conditional Training of Deep
Networks; Perez et al., 2018, FiLM. Shapes: D dims.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import nn
from torch.nn import functional as F

DIAL_HIDDEN: Final = 64

LOG_SCALE: Final = 16.0
"""Sharpness of the logarithmic feature: small settings are told apart, as training draws them."""


class Dial(nn.Module):
    """Bend session states by a dial.

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(3, DIAL_HIDDEN)
        self.out = nn.Linear(DIAL_HIDDEN, 2 * dim, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, states: torch.Tensor, dial: torch.Tensor) -> torch.Tensor:
        """Compute `(1 + scale(d)) * state + shift(d)`.

        Args:
            states: [..., D].
            dial: [...] in [0, 1]; 0 leaves the state as it is.

        Returns:
            [..., D].
        """
        d = dial[..., None].to(self.hidden.weight.dtype)
        features = torch.cat([d, d * d, (LOG_SCALE * d).log1p() / math.log1p(LOG_SCALE)], dim=-1)
        bent = self._bend(features) - self._bend(torch.zeros_like(features))
        scale, shift = bent.chunk(2, dim=-1)
        return (1 + scale) * states + shift

    def _bend(self, features: torch.Tensor) -> torch.Tensor:
        return self.out(F.gelu(self.hidden(features)))
