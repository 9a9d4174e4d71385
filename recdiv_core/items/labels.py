# pyright: strict
"""Labels of items as a ragged list: memory grows with the labels, not with the longest row.

A label is a category or a value that a rule counts; this module does not know which. All labels
stand in one list. They are padded only for the items that are looked up, to the longest of these.

Legend: V catalogue, N entries, L the most labels of the items looked up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

FEW: Final = 8
"""Number of labels up to which all items are padded alike; the host then never waits for a GPU."""


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of every item; made by `labels_of_lists` or `labels_of_padded`.

    Item -1 is no item and has no label.

    Attributes:
        values_N: int64 labels, those of item 0 first; one more entry of -1 at the end.
        starts_V: int32 [V + 1], index of the first label of each item.
        lengths_V: int32 [V + 1], number of labels of each item; 0 for the last row, no item.
        most: largest number of labels of any item.
    """

    values_N: Tensor
    starts_V: Tensor
    lengths_V: Tensor
    most: int

    def __len__(self) -> int:
        """Return V."""
        return len(self.lengths_V) - 1

    def __getitem__(self, items: Tensor) -> Tensor:
        """Return the labels of items, int64 [..., L] padded with -1, L >= 1."""
        lengths = self.lengths_V[items][..., None]
        place_L = torch.arange(max(1, self.width(items)), device=items.device)
        places = (self.starts_V[items][..., None] + place_L).where(place_L < lengths, -1)
        return self.values_N[places]

    def width(self, items: Tensor) -> int:
        """Return the largest number of labels of these items, or of all items if at most FEW."""
        if self.most <= FEW or not items.numel():
            return self.most
        return int(self.lengths_V[items].max())

    def spread(
        self, items: Tensor, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Split items into their labels, without padding where items have many.

        Returns:
            for each entry the index into `items`, the label, and its part of the item: 1 / labels
            of the item. An entry without a label has label 0 and part 0.
        """
        items = items.flatten()
        if self.most <= FEW:
            labels_IL = self[items]
            part_I1 = 1 / self.lengths_V[items].clamp_min(1).to(dtype)[:, None]
            part_IL = (labels_IL >= 0) * part_I1
            row_I1 = torch.arange(len(items), device=items.device)[:, None]
            row_IL = row_I1.expand_as(labels_IL)
            return row_IL.flatten(), labels_IL.clamp_min(0).flatten(), part_IL.flatten()
        lengths_I = self.lengths_V[items].long()
        row_N = torch.repeat_interleave(lengths_I)
        before_I = lengths_I.cumsum(0) - lengths_I - self.starts_V[items]
        label_N = self.values_N[torch.arange(len(row_N), device=items.device) - before_I[row_N]]
        return row_N, label_N, 1 / lengths_I[row_N].to(dtype)

    def packed(self, items_BK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the labels of each row of items, without padding inside a row.

        Returns:
            [B, M] labels, padded with -1; the position of each label's item in the row; and its
            part of the item, float64, 0 at padding.
        """
        num_rows, num_places = items_BK.shape
        item_N, label_N, part_N = self.spread(items_BK, torch.float64)
        label_N = label_N.masked_fill(part_N == 0, -1)
        place_N = item_N % max(1, num_places)
        if self.most <= FEW:  # as many entries in each row
            shape = (num_rows, num_places * max(1, self.most))
            return label_N.view(shape), place_N.view(shape), part_N.view(shape)
        row_N = item_N.div(max(1, num_places), rounding_mode="floor")
        lengths_B = torch.bincount(row_N, minlength=num_rows)
        slot_N = torch.arange(len(row_N), device=row_N.device)
        slot_N -= (lengths_B.cumsum(0) - lengths_B)[row_N]
        width = max(1, int(lengths_B.amax())) if num_rows else 1
        packed: list[Tensor] = []
        for values_N, end in ((label_N, -1), (place_N, 0), (part_N, 0)):
            values_BM = values_N.new_full((num_rows, width), end)
            values_BM[row_N, slot_N] = values_N
            packed.append(values_BM)
        return packed[0], packed[1], packed[2]

    @property
    def has_any_V(self) -> Tensor:
        """[V] bool, the items with a label."""
        return self.lengths_V[:-1] > 0

    def to(self, device: torch.device | str) -> Labels:
        """Return the labels on another device."""
        return Labels(
            self.values_N.to(device), self.starts_V.to(device), self.lengths_V.to(device), self.most
        )


def labels_of_lists(values_N: Tensor, lengths_V: Tensor) -> Labels:
    """Return labels that stand one after another, `lengths_V` of each item."""
    lengths_V = torch.nn.functional.pad(lengths_V.long(), (0, 1))
    return Labels(
        values_N=torch.nn.functional.pad(values_N.long(), (0, 1), value=-1),
        starts_V=(lengths_V.cumsum(0) - lengths_V).int(),
        lengths_V=lengths_V.int(),
        most=int(lengths_V.max()),
    )


def labels_of_padded(labels_VL: Tensor) -> Labels:
    """Return labels given as [V, L], padded with -1.

    >>> labels = labels_of_padded(torch.tensor([[3, 5], [4, -1], [-1, -1]]))
    >>> labels[torch.tensor([1, 0])]
    tensor([[ 4, -1],
            [ 3,  5]])
    """
    is_label_VL = labels_VL >= 0
    return labels_of_lists(labels_VL[is_label_VL], is_label_VL.sum(dim=1))
