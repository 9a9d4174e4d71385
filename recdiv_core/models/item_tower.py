# pyright: strict
"""The item tower: text vector plus id embedding, mixed by a gate that depends on popularity.

Text generalises: a cold item has a vector on its first day. Ids memorise the behaviour of items
with many events. The gate has one value in (0, 2) per dimension, computed from both vectors and the
item's train popularity. It starts at 1, which is a plain sum. An item without train events takes
the mean id part of all others. With its text alone it would rank above items of average popularity,
because ids also learn which items are unpopular.
Shapes: V catalogue, H text width, D dims.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import nn

TEXT_GAIN: Final = 10.0
"""Initial scale of the projected text, as a multiple of the default of nn.Linear. Text separates
items at the start; ids start near 0 and learn the rest."""


class ItemTower(nn.Module):
    """Map the catalogue to item vectors.

    Args:
        popularity_V: train events of each item, >= 0; 0 = cold.
        text_dim: H; 0 = a tower of ids without text.
        dim: D.
        id_dropout: share of items without their id vector in a training step, in [0, 1).
    """

    popularity_V1: torch.Tensor

    def __init__(
        self,
        popularity_V: torch.Tensor,
        *,
        text_dim: int,
        dim: int,
        id_dropout: float,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.id_dropout = id_dropout
        self.has_text = text_dim > 0
        self.ids = nn.Embedding(popularity_V.shape[0], dim)
        nn.init.normal_(self.ids.weight, std=0.02)
        log_popularity = popularity_V.double().log1p().float()[:, None]
        self.register_buffer("popularity_V1", log_popularity, persistent=False)
        if self.has_text:
            self.project = nn.Linear(text_dim, dim)
            with torch.no_grad():
                self.project.weight.mul_(TEXT_GAIN)
            nn.init.zeros_(self.project.bias)
            self.gate = nn.Linear(2 * dim + 1, dim)
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)

    def forward(
        self, text_VH: torch.Tensor | None, items_U: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute item vectors.

        Args:
            text_VH: [V, H] unit text vectors; None = a tower of ids without text.
            items_U: int64 item_index of the items that are wanted; None = all items. Cold ones
                among them, which no training reads, take the mean id part of the others.

        Returns:
            [V, D], or [U, D].
        """
        ids_VD, popularity_V1 = self.ids.weight, self.popularity_V1
        if items_U is not None:
            ids_VD, popularity_V1 = self.ids(items_U), popularity_V1[items_U]
            text_VH = None if text_VH is None else text_VH[items_U]
        if not self.has_text or text_VH is None:
            return ids_VD
        text_VD = self.project(text_VH)
        is_known = popularity_V1 > 0
        if self.training and self.id_dropout > 0:
            is_known = is_known & (torch.rand_like(popularity_V1) >= self.id_dropout)
        own_VD = self._own_parts(text_VD, ids_VD, popularity_V1)
        return text_VD + torch.where(is_known, own_VD, _mean_of(own_VD, is_known).detach())

    def _own_parts(
        self, text_VD: torch.Tensor, ids_VD: torch.Tensor, popularity_V1: torch.Tensor
    ) -> torch.Tensor:
        mixed = torch.cat([ids_VD, text_VD, popularity_V1], dim=1)
        return 2 * torch.sigmoid(self.gate(mixed)) * ids_VD

    def mean_id_part(self, text_VH: torch.Tensor | None) -> torch.Tensor:
        """Return the mean id part of the items with train events, [D]: what a cold item takes."""
        is_known = self.popularity_V1 > 0
        if not self.has_text or text_VH is None:
            return _mean_of(self.ids.weight, is_known)
        own_VD = self._own_parts(self.project(text_VH), self.ids.weight, self.popularity_V1)
        return _mean_of(own_VD, is_known)


def _mean_of(rows_VD: torch.Tensor, is_in_V1: torch.Tensor) -> torch.Tensor:
    return (rows_VD * is_in_V1).sum(0) / is_in_V1.sum().clamp_min(1)
