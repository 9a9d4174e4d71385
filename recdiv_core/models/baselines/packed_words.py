# pyright: strict
"""Cosines of texts and profiles of words, in operations that ONNX has.

The twin of `text_profile.word_cosines`, for padded histories. Texts of similar length share a
block: first the first word of each text, then the second word of each, and so on. So the sum over
the words of a text is a sum of long rows, and little of a block is padding. Shapes: B users,
L events, V catalogue, T distinct texts, N words of the longest text, W words, M words of all texts,
F cells of all blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from recdiv_core.models.baselines.text_profile import TINY


class PackedWords(nn.Module):
    """TF-IDF vectors of the texts of all items."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        word_M, start_T = weights["word_M"], weights["word_start_T"]
        text_V = weights["text_V"]
        end_T = torch.cat([start_T[1:], start_T.new_tensor([len(word_M)])])[: len(start_T)]
        length_T = end_T - start_T
        self.num_words = max(1, int(weights["num_words"]))
        width_T = block_widths(length_T)
        self.blocks: list[tuple[int, int]] = []  # width in words, and number of texts
        first_T, step_T, order_T = (torch.zeros_like(start_T) for _ in range(3))
        num_texts = num_cells = 0
        for width in sorted(set(cast("list[int]", width_T.tolist()))):  # pyright: ignore
            texts = (width_T == width).nonzero()[:, 0]
            step_T[texts] = len(texts)
            first_T[texts] = num_cells + torch.arange(len(texts))
            order_T[texts] = num_texts + torch.arange(len(texts))
            num_texts, num_cells = num_texts + len(texts), num_cells + width * len(texts)
            self.blocks.append((width, len(texts)))
        text_M = torch.repeat_interleave(length_T)
        cell_M = first_T[text_M] + (torch.arange(len(word_M)) - start_T[text_M]) * step_T[text_M]
        word_F, weight_F = word_M.new_zeros(num_cells), torch.zeros(num_cells)
        word_F[cell_M], weight_F[cell_M] = word_M, weights["word_weight_M"]
        self.register_buffer("word_F", narrowed(word_F))
        self.register_buffer("weight_F", weight_F)
        self.register_buffer("first_V", first_T[text_V])
        self.register_buffer("step_V", step_T[text_V])
        self.register_buffer("width_V", width_T[text_V])
        self.register_buffer("order_V", order_T[text_V])

    def forward(self, items_BL: Tensor, weight_BL: Tensor) -> Tensor:
        """Return the cosine of each item's vector and each user's profile.

        Returns:
            [B, V] float32 in [0, 1]; 0 without a word in common.
        """
        word_F, weight_F = self.get_buffer("word_F"), self.get_buffer("weight_F")
        items_BL1 = items_BL[:, :, None]
        place_N = torch.arange(max(width for width, _ in self.blocks))
        is_word_BLN = place_N < self.get_buffer("width_V")[items_BL1]
        place_BLN = place_N * is_word_BLN.long()
        cell_BLN = self.get_buffer("first_V")[items_BL1]
        cell_BLN = cell_BLN + place_BLN * self.get_buffer("step_V")[items_BL1]
        added_BLN = weight_F[cell_BLN] * is_word_BLN.float() * weight_BL[:, :, None]
        words_BLN = word_F[cell_BLN].long()
        profile_BW = add_at(words_BLN.flatten(1), added_BLN.flatten(1), self.num_words)
        norm_B1 = profile_BW.square().sum(dim=1, keepdim=True).sqrt().clamp_min(TINY)
        product_BF = profile_BW.index_select(1, word_F.long()) * weight_F
        sums: list[Tensor] = []
        start = 0
        for width, num_texts in self.blocks:
            stop = start + width * num_texts
            sums.append(product_BF[:, start:stop].reshape(-1, width, num_texts).sum(dim=1))
            start = stop
        return (torch.cat(sums, dim=1) / norm_B1).index_select(1, self.get_buffer("order_V"))


def block_widths(length_T: Tensor) -> Tensor:
    """Return the words that the block of each text has room for: 4, 6, 8, 12, 16, 24, ...

    >>> block_widths(torch.tensor([0, 4, 5, 9, 13])).tolist()
    [4, 4, 6, 12, 16]
    """
    widths = torch.tensor([width << power for power in range(1, 30) for width in (2, 3)])
    return widths[torch.searchsorted(widths, length_T)]


def narrowed(numbers: Tensor) -> Tensor:
    """Return numbers >= 0 as int16 if they fit, else as int32."""
    fits = not numbers.numel() or int(numbers.max()) <= torch.iinfo(torch.int16).max
    return numbers.to(torch.int16 if fits else torch.int32)


def add_at(places_BP: Tensor, weight_BP: Tensor, width: int) -> Tensor:
    """Add weights at places: [B, P] int64 and [B, P] -> [B, width]."""
    empty = weight_BP.new_zeros(weight_BP.shape[0], width)
    return empty.scatter_add(1, places_BP, weight_BP)
