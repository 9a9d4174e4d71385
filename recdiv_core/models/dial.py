# pyright: strict
"""The dial: one model covers the whole front by adjusting the session state to a diversity setting.

A small network changes a user's state as a function of the dial d in [0, 1]. It scales the state
and hidden features of the state by functions of d (FiLM). It also fills E extra dims of the state,
which are matched with E extra dims of the item vectors. Item vectors and session states before the
dial are the same at all settings, so one cached state serves any number of dials. At d = 0 the
state is unchanged and the extra dims are exactly 0. Dosovitskiy & Djolonga, 2020, You Only Train
Once: Loss-Conditional Training of Deep Networks; Perez et al., 2018, FiLM.

Reason for the extra dims: items with similar vectors rank next to each other at every dial,
whatever the state. The vectors that rank at dial 0 must not change for the sake of diversity.
Shapes: D dims, E extra dims of the dial, H hidden features.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import nn
from torch.nn import functional as F

WIDENING: Final = 4
"""Ratio H / D, as in the blocks of the session tower."""

DIAL_HIDDEN: Final = 64

LOG_SCALE: Final = 16.0
"""Sharpness of the logarithmic feature. It separates small settings, which are used most."""


def dial_dim(dim: int) -> int:
    """Return E for a model of D dims."""
    return max(1, dim // 2)


class Dial(nn.Module):
    """Adjust session states to a dial.

    Args:
        dim: D.
        own_dim: E, extra dims that only the dial uses.
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
            [..., D + E]; the last E dims belong to the dial and are 0 at a dial of 0.
        """
        d = dial[..., None].to(self.hidden.weight.dtype)
        features = torch.cat([d, d * d, (LOG_SCALE * d).log1p() / math.log1p(LOG_SCALE)], dim=-1)
        moved = F.gelu(self.hidden(features)) - F.gelu(self.hidden(torch.zeros_like(features)))
        bent = self.down(F.gelu(self.up(states)) * self.gate(moved))
        return F.pad(states * (1 + self.scale(moved)), (0, self.own_dim)) + bent
