# pyright: strict
"""The dial: one model for the whole front, its session state bent by the diversity asked for.

A small network adds to the state of a user what the dial d in [0, 1] makes of it: the state and
hidden features of it, each scaled by a function of d (FiLM), and further dims of its own, which
meet dims of the items that nothing else looks at. Item vectors, session states and every cache of
them are the same at all settings, so that one state serves any number of dials. At d = 0 nothing is
added, exactly, and the dial's own dims are 0. Dosovitskiy & Djolonga, 2020, You Only Train Once:
Loss-Conditional Training of Deep Networks; Perez et al., 2018, FiLM.

Why dims of its own: what is alike in the vectors that dial 0 ranks by stands side by side at every
dial, however the state is bent, and those vectors must not move for diversity's sake.
Shapes: D dims, E of the dial's own, H hidden features.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import nn
from torch.nn import functional as F

WIDENING: Final = 4
"""H / D, as in the blocks of the session tower."""

DIAL_HIDDEN: Final = 64

LOG_SCALE: Final = 16.0
"""Sharpness of the logarithmic feature, which tells small settings apart: there use lies."""


def dial_dim(dim: int) -> int:
    """Return E for a model of D dims."""
    return max(1, dim // 2)


class Dial(nn.Module):
    """Bend session states by a dial.

    Args:
        dim: D.
        own_dim: E, dims that only the dial looks at.
    """

    def __init__(self, dim: int, own_dim: int) -> None:
        super().__init__()
        self.own_dim = own_dim
        self.up = nn.Linear(dim, WIDENING * dim)
        self.down = nn.Linear(WIDENING * dim, dim + own_dim, bias=False)
        self.hidden = nn.Linear(3, DIAL_HIDDEN)
        self.gate = nn.Linear(DIAL_HIDDEN, WIDENING * dim, bias=False)
        self.scale = nn.Linear(DIAL_HIDDEN, dim, bias=False)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.scale.weight)

    def forward(self, states: torch.Tensor, dial: torch.Tensor) -> torch.Tensor:
        """Compute `[state (1 + scale(d)), 0] + down(gelu(up(state)) * gate(d))`; both are 0 at 0.

        Args:
            states: [..., D].
            dial: [...] in [0, 1]; 0 leaves the state as it is.

        Returns:
            [..., D + E]; the last E dims are those of the dial's own, 0 at a dial of 0.
        """
        d = dial[..., None].to(self.hidden.weight.dtype)
        features = torch.cat([d, d * d, (LOG_SCALE * d).log1p() / math.log1p(LOG_SCALE)], dim=-1)
        moved = F.gelu(self.hidden(features)) - F.gelu(self.hidden(torch.zeros_like(features)))
        bent = self.down(F.gelu(self.up(states)) * self.gate(moved))
        return F.pad(states * (1 + self.scale(moved)), (0, self.own_dim)) + bent
