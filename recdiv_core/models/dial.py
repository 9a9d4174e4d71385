# pyright: strict
"""The dial: one model for the whole front, its session tower bent by the diversity asked for.

Wherever the session tower normalises, what it passes on is scaled and shifted (FiLM) by a small
network of the dial d in [0, 1]. Item vectors, and every cache of them, are the same at all
settings. At d = 0 nothing is bent, exactly. Dosovitskiy & Djolonga, 2020, You Only Train Once:
Loss-Conditional Training of Deep Networks; Perez et al., 2018, FiLM. Shapes: D dims, P places.
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

Bend = tuple[torch.Tensor, torch.Tensor]
"""Scale and shift, [..., D] both: `x -> (1 + scale) * x + shift`."""


class Dial(nn.Module):
    """Turn a dial into the bends of a tower.

    Args:
        dim: D.
        num_places: P, places of the tower that are bent.
    """

    def __init__(self, dim: int, num_places: int) -> None:
        super().__init__()
        self.dim = dim
        self.hidden = nn.Linear(3, DIAL_HIDDEN)
        self.out = nn.Linear(DIAL_HIDDEN, 2 * dim * num_places, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, dial: torch.Tensor) -> list[Bend]:
        """Compute the bend of each place.

        Args:
            dial: [...] in [0, 1]; where it is 0, so are scale and shift.

        Returns:
            P pairs of [..., D].
        """
        d = dial[..., None].to(self.hidden.weight.dtype)
        features = torch.cat([d, d * d, (LOG_SCALE * d).log1p() / math.log1p(LOG_SCALE)], dim=-1)
        hidden = F.gelu(self.hidden(features)) - F.gelu(self.hidden(torch.zeros_like(features)))
        halves = self.out(hidden).split(self.dim, dim=-1)
        return list(zip(halves[::2], halves[1::2], strict=True))


def bend(x: torch.Tensor, place: Bend | None) -> torch.Tensor:
    """Scale and shift [..., D]; None leaves it as it is."""
    if place is None:
        return x
    scale, shift = place
    return (1 + scale) * x + shift
