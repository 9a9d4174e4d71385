# pyright: strict
"""Weights as int8: one scale per row, arithmetic in float32.

Only the weights are rounded, so files are four times smaller and scores barely move. Sums are
float32, on any processor. Shapes: B users, V rows (items), D their width.
"""

from __future__ import annotations

import copy
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INT8_MAX: Final = 127


def round_rows(rows_VD: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row to int8 with a scale of its own, symmetric around 0.

    `row ~ scale * values` with `scale = max |row| / 127`, so an entry moves by at most half a
    scale.

    Returns:
        values_VD int8 in [-127, 127], scale_V1 float32; a row of zeros has the scale 1.
    """
    scale_V1 = rows_VD.abs().amax(dim=1, keepdim=True) / INT8_MAX
    scale_V1 = torch.where(scale_V1 > 0, scale_V1, 1.0)
    return (rows_VD / scale_V1).round().to(torch.int8), scale_V1


class Rows(nn.Module):
    """A matrix with one row per item: float32, or integers with a scale per row.

    Args:
        rows_VD: the matrix.
        is_int8: whether to store it as int8, see `round_rows`.
        scale_V1: scale of each row of a matrix of integers; None = a matrix of floats.
    """

    values_VD: Tensor
    scale_V1: Tensor

    def __init__(self, rows_VD: Tensor, *, is_int8: bool, scale_V1: Tensor | None = None) -> None:
        super().__init__()
        if is_int8:
            floats_VD = rows_VD if scale_V1 is None else rows_VD.float() * scale_V1
            rows_VD, scale_V1 = round_rows(floats_VD)
        self.is_rounded = scale_V1 is not None
        self.register_buffer("values_VD", rows_VD)
        if self.is_rounded:
            self.register_buffer("scale_V1", scale_V1)

    def take(self, index: Tensor) -> Tensor:
        """Return rows by their numbers: [...] int64 -> [..., D] float32."""
        if not self.is_rounded:
            return self.values_VD[index]
        return self.values_VD[index].float() * self.scale_V1[index]

    def dot(self, states_BD: Tensor) -> Tensor:
        """Return the inner products with all rows, [B, V] float32."""
        if not self.is_rounded:
            return states_BD @ self.values_VD.T
        return (states_BD @ self.values_VD.float().T) * self.scale_V1.T


class RoundedLinear(nn.Module):
    """A linear layer with int8 weights, one scale per output."""

    values_VD: Tensor
    scale_V1: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        values_VD, scale_V1 = round_rows(layer.weight.detach())
        self.register_buffer("values_VD", values_VD)
        self.register_buffer("scale_V1", scale_V1)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())  # pyright: ignore[reportUnnecessaryComparison]

    @property
    def weight(self) -> Tensor:
        """The rounded weights, [V, D] float32."""
        return self.values_VD.float() * self.scale_V1

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute `inputs . weights + bias`: [..., D] -> [..., V]."""
        return F.linear(inputs, self.weight, self.bias)


def round_linear_layers(module: nn.Module) -> nn.Module:
    """Return a copy of a module whose linear layers have int8 weights."""
    copied = copy.deepcopy(module)
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, RoundedLinear(child))
    return copied
