# pyright: strict
"""The dial: one model for the whole front, its session state bent by the diversity asked for.

A small network adds to the state of a user what the dial d in [0, 1] makes of it: hidden features
of the state, each scaled by a function of d (FiLM). Item vectors, session states and every cache of
them are the same at all settings, so that one state serves any number of dials. At d = 0 nothing is
added, exactly. Dosovitskiy & Djolonga, 2020, You Only Train Once: Loss-Conditional Training of Deep
Networks; Perez et al., 2018, FiLM. Shapes: D dims, H hidden features.
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
"""Sharpness of the logarithmic feature: small settings are told apart, as training draws them."""


class Dial(nn.Module):
    """Bend session states by a dial.

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, WIDENING * dim)
        self.down = nn.Linear(WIDENING * dim, dim, bias=False)
        self.hidden = nn.Linear(3, DIAL_HIDDEN)
        self.gate = nn.Linear(DIAL_HIDDEN, WIDENING * dim, bias=False)
        nn.init.zeros_(self.gate.weight)

    def forward(self, states: torch.Tensor, dial: torch.Tensor) -> torch.Tensor:
        """Compute `state + down(gelu(up(state)) * gate(d))`, where `gate(0) = 0`.

        Args:
            states: [..., D].
            dial: [...] in [0, 1]; 0 leaves the state as it is.

        Returns:
            [..., D].
        """
        d = dial[..., None].to(self.hidden.weight.dtype)
        features = torch.cat([d, d * d, (LOG_SCALE * d).log1p() / math.log1p(LOG_SCALE)], dim=-1)
        moved = F.gelu(self.hidden(features)) - F.gelu(self.hidden(torch.zeros_like(features)))
        return states + self.down(F.gelu(self.up(states)) * self.gate(moved))
