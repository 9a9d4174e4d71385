"""The texts of a step: each distinct item of the batch is encoded once, by one rank.

All ranks and parts read the same vectors, so any number of them learns the same. The vectors are
leaves: the parts leave their gradients there, the ranks add these up, and each rank sends the sum
through the encoder for the items that it encoded. With several parts no activations are kept
meanwhile; the rank encodes a chunk again for the way back, so a step needs memory for one chunk
alone (Gao et al., 2021, Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup).
The encoder has no dropout, so both passes agree.
Shapes: U items of the step, W ranks, S of the items on a rank, C of these in a chunk, H text width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from recdiv_core.models.recommender import FreshText, FreshVectors, Recommender

if TYPE_CHECKING:  # the step needs no pyarrow
    from recdiv_core.training.item_texts import ItemTexts


@dataclass(frozen=True)
class Chunk:
    """Items that a rank encodes at once.

    Attributes:
        groups: their texts, in groups of similar length.
        row_C: int64 row of each item among those of the groups.
    """

    groups: tuple[FreshText, ...]
    row_C: torch.Tensor


@dataclass(frozen=True)
class StepTexts:
    """What a rank encodes in a step.

    Attributes:
        items_U: int64 item_index of the step's distinct items, in the same order on all ranks. Item
            number n is encoded by rank n mod W.
        chunks: this rank's items, as many chunks and items on every rank. Items are repeated where
            the numbers do not divide.
    """

    items_U: torch.Tensor
    chunks: tuple[Chunk, ...]


def share_texts(
    texts: ItemTexts, items_U: np.ndarray, *, num_chunks: int, rank: int, world_size: int
) -> StepTexts:
    """Share the items of a step among the ranks, so that each gets texts of all lengths.

    Args:
        texts: of the catalogue.
        items_U: distinct items of all ranks and parts; item 0 stands in where there are none.
        num_chunks: parts of a rank's batch, >= 1.
        rank: this worker.
        world_size: number of workers.
    """
    items_U = items_U if items_U.size else np.zeros(1, np.int64)
    items_U = items_U[np.argsort(texts.lengths[items_U], kind="stable")]
    shares = world_size * num_chunks
    padded = np.resize(items_U, -(-len(items_U) // shares) * shares)
    own_S = padded[rank::world_size]
    return StepTexts(
        torch.from_numpy(items_U),
        tuple(_chunk(texts, items_C) for items_C in np.split(own_S, num_chunks)),
    )


def _chunk(texts: ItemTexts, items_C: np.ndarray) -> Chunk:
    distinct, place_C = np.unique(items_C, return_inverse=True)
    groups = texts.groups(distinct)
    grouped = torch.cat([group.items_U for group in groups]).argsort()
    return Chunk(groups, grouped[torch.from_numpy(place_C)])


class EncodedTexts:
    """The text vectors of a step, and the way of their gradients back into the encoder.

    Args:
        model: Recommender with a trained encoder, not in DDP.
        texts: on the device of the model.
        autocast: precision of the step.

    Attributes:
        fresh: vectors of all items of the step, the same on all ranks; leaves for the gradients.
    """

    def __init__(self, model: nn.Module, texts: StepTexts, autocast: torch.autocast) -> None:
        self.model, self.texts, self.autocast = cast("Recommender", model), texts, autocast
        is_kept = len(texts.chunks) == 1
        with torch.set_grad_enabled(is_kept):
            self._encoded = [self._encode(chunk) for chunk in texts.chunks]
        own_SH = torch.cat([encoded.detach() for encoded in self._encoded])
        vectors_UH = _of_all_ranks(own_SH)[: len(texts.items_U)]
        self.fresh = FreshVectors(texts.items_U, vectors_UH.requires_grad_())

    def _encode(self, chunk: Chunk) -> torch.Tensor:
        with self.autocast:
            encoded = [
                self.model.encode(group.input_ids, group.mask, group.states)
                for group in chunk.groups
            ]
        return torch.cat(encoded).float()[chunk.row_C]

    def backward(self) -> None:
        """Add the gradients of the vectors to those of the encoder's weights; a collective call."""
        vectors_UH = self.fresh.vectors_UH
        assert vectors_UH.grad is not None
        gradient_UH, (rank, world_size) = vectors_UH.grad, _place()
        if world_size > 1:
            dist.all_reduce(gradient_UH)
        sizes = [len(chunk.row_C) for chunk in self.texts.chunks]
        padded = gradient_UH.new_zeros(sum(sizes) * world_size, gradient_UH.shape[1])
        padded[: len(gradient_UH)] = gradient_UH
        parts = padded[rank::world_size].split(sizes)
        for chunk, encoded, part in zip(self.texts.chunks, self._encoded, parts, strict=True):
            again = encoded if encoded.requires_grad else self._encode(chunk)
            torch.autograd.backward(again, part)


def _place() -> tuple[int, int]:
    """Return the rank and the number of ranks."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _of_all_ranks(own_SH: torch.Tensor) -> torch.Tensor:
    """Return the rows of all ranks, [S * W, H]: the first of each rank, then the second, ..."""
    _, world_size = _place()
    if world_size == 1:
        return own_SH
    gathered = [torch.empty_like(own_SH) for _ in range(world_size)]
    dist.all_gather(gathered, own_SH.contiguous())
    return torch.stack(gathered, dim=1).flatten(0, 1)
