# pyright: strict
"""The recommender: item tower, session tower, dial, and the text encoder when it is trained.

Score = state . item / temperature over the whole catalogue. A step computes the vectors of all
items (a few matrix products), or of those that a sampled loss reads. With a frozen encoder the text
vectors are constants. If its top layers train, a step encodes the texts of its batch
(training/step_texts.py). All other items have the vectors of the last refresh, moved by the mean
change of the batch. Shapes: V catalogue, H text width, D dims, R packed rows, W width, U some
items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from recdiv_core.config import Pooling
from recdiv_core.models.blend import Blend
from recdiv_core.models.dial import Dial
from recdiv_core.models.encoder_description import pool
from recdiv_core.models.frozen_layers import FrozenLayers
from recdiv_core.models.item_tower import ItemTower
from recdiv_core.models.lifts import Lifts
from recdiv_core.models.session_tower import SessionTower


class FreshVectors(NamedTuple):
    """Text vectors of a step that are newer than those of the model.

    Attributes:
        items_U: int64 item_index, distinct.
        vectors_UH: [U, H] unit vectors, float32.
    """

    items_U: torch.Tensor
    vectors_UH: torch.Tensor


@dataclass(frozen=True)
class FreshText:
    """Items with text to encode in this step, of similar length.

    Attributes:
        items_U: int64 item_index, distinct.
        input_ids: [U, L] int64, token ids.
        mask: [U, L] int64, 1 = a real token.
        states: [U, L, H] float32, stored output of the encoder's frozen layers; None = not stored.
    """

    items_U: torch.Tensor
    input_ids: torch.Tensor
    mask: torch.Tensor
    states: torch.Tensor | None = None


class Recommender(nn.Module):
    """Score the catalogue with two towers and text vectors.

    Args:
        item_tower: see ItemTower.
        session_tower: see SessionTower.
        text_VH: [V, H] unit text vectors of the catalogue; None without text.
        queries_QH: [Q, H] unit text vectors of the queries; None without queries.
        dim: D.
        encoder: text encoder with trainable top layers; None = frozen.
        pooling: how the encoder's token states become a vector.
        dial_items: item tower of E dims that only the dial uses (dial.py); None = no dial.
        blend: terms that are added to the learned scores (blend.py); None = none.
    """

    text_VH: torch.Tensor | None
    queries_QH: torch.Tensor | None

    def __init__(
        self,
        item_tower: ItemTower,
        session_tower: SessionTower,
        *,
        text_VH: torch.Tensor | None,
        queries_QH: torch.Tensor | None,
        dim: int,
        encoder: nn.Module | None = None,
        pooling: Pooling = "mean",
        dial_items: ItemTower | None = None,
        blend: Blend | None = None,
    ) -> None:
        super().__init__()
        self.item_tower = item_tower
        self.session_tower = session_tower
        self.encoder = encoder
        self.pooling: Pooling = pooling
        self.frozen: FrozenLayers | None = None  # set by a training that has their output
        # the data set stores frozen vectors; trained ones belong to the checkpoint
        self.register_buffer("text_VH", text_VH, persistent=encoder is not None)
        self.register_buffer("queries_QH", queries_QH, persistent=False)
        if queries_QH is not None:
            self.project_query = nn.Linear(queries_QH.shape[1], dim)
        self.dim = dim
        self.dial_items = dial_items
        self.blend = blend
        self.lifts = Lifts(item_tower.ids.num_embeddings)
        self.dial = None if dial_items is None else Dial(dim, dial_items.dim)

    def train(self, mode: bool = True) -> Recommender:
        """Switch dropout on or off; the mostly frozen encoder never has dropout."""
        super().train(mode)
        if self.encoder is not None:
            self.encoder.eval()
        return self

    def encode(
        self, input_ids: torch.Tensor, mask: torch.Tensor, states: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Encode tokens with the trained encoder: [U, L] -> [U, H] unit vectors.

        `states` is the output of the frozen layers, [U, L, H]; None = they are computed.
        """
        assert self.encoder is not None
        if states is None:
            hidden = self.encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state
        else:
            assert self.frozen is not None
            hidden = self.frozen.finish(input_ids, mask, states)
        return pool(hidden, mask, self.pooling)

    def item_vectors(self, text_VH: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the vectors of all items, [V, D]; None = the text vectors of the model."""
        text = self.text_VH if text_VH is None else text_VH
        items_VD = self.item_tower(text)
        if self.dial_items is None:
            return items_VD
        return torch.cat([items_VD, self.dial_items(text)], dim=1)

    def states(
        self,
        items_VD: torch.Tensor,
        items_RW: torch.Tensor,
        position_RW: torch.Tensor,
        segment_RW: torch.Tensor,
        queries_RW: torch.Tensor,
        dial_RW: torch.Tensor | None = None,
        queries_QH: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compute the state at every position of packed histories, [R * W, D].

        `dial_RW`, in [0, 1], sets the dial of a conditioned model; None = 0 everywhere.
        `queries_QH` holds the vectors that `queries_RW` numbers; None = those of the click log. A
        model of a log without queries ignores both.
        """
        own_VD = items_VD[:, : self.dim]
        inputs = F.embedding(items_RW, own_VD)
        request = None
        if self.queries_QH is not None:
            has_query = (queries_RW >= 0)[..., None]
            vectors_QH = self.queries_QH if queries_QH is None else queries_QH
            request = self.project_query(vectors_QH[queries_RW.clamp_min(0)]) * has_query
        states = self.session_tower(inputs, position_RW, segment_RW, request)
        if self.dial is not None:
            at_0 = torch.zeros_like(position_RW)
            states = self.dial(states, at_0 if dial_RW is None else dial_RW)
        return states.flatten(0, 1)

    def forward(
        self,
        items_RW: torch.Tensor,
        position_RW: torch.Tensor,
        segment_RW: torch.Tensor,
        queries_RW: torch.Tensor,
        fresh: FreshVectors | None = None,
        dial_RW: torch.Tensor | None = None,
        items_U: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return states [R * W, D] and item vectors [V, D]; see `states` and `item_vectors`.

        With `items_U` the vectors are those of these items alone, [U, D], and `items_RW` has places
        among them; see ItemTower. It goes with neither `fresh` nor a dial.

        Items that are not in `fresh` move by the mean change of those that are. If they stayed, the
        encoder would learn to move all texts alike: targets are always among the fresh items, so
        this would raise them above most others.
        """
        text = self.text_VH
        if fresh is not None and text is not None:
            text = text + (fresh.vectors_UH - text[fresh.items_U]).mean(0)
            text = text.index_copy(0, fresh.items_U, fresh.vectors_UH)
        return self.towers(text, items_RW, position_RW, segment_RW, queries_RW, dial_RW, items_U)

    def towers(
        self,
        text_VH: torch.Tensor | None,
        items_RW: torch.Tensor,
        position_RW: torch.Tensor,
        segment_RW: torch.Tensor,
        queries_RW: torch.Tensor,
        dial_RW: torch.Tensor | None,
        items_U: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return states and item vectors from text vectors: everything after the encoder."""
        if items_U is None:
            items_VD = self.item_vectors(text_VH)
        else:
            items_VD = self.item_tower(text_VH, items_U)
        states = self.states(items_VD, items_RW, position_RW, segment_RW, queries_RW, dial_RW)
        return states, items_VD

    def compile_towers(self, backend: str = "inductor") -> None:
        """Compile the towers that `forward` runs; weights and their names do not change.

        Only training calls `forward`. The encoder is not compiled because it is code of
        transformers. The number of rows differs between steps, so the second step compiles a graph
        for any number. With inductor, dropout draws the same numbers as without compilation.
        """
        options: Any = {"fallback_random": True} if backend == "inductor" else None
        compiled: Any = torch.compile(self.towers, backend=backend, options=options)  # pyright: ignore[reportUnknownMemberType]
        self.towers = compiled
