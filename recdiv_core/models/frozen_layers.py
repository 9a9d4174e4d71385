"""Run an encoder from its first trained layer on, with the stored output of the frozen layers.

Frozen layers give the same output for the same text in every step. data/layer_states.py stores it
once per item. The encoder itself still runs from the bottom, because it makes masks, positions and
rotations in its own way; its frozen layers only pass their input on, and the first trained layer
takes the stored states in its place. This works for any encoder with one list of layers. T5 needs
its lowest layer, which computes the position bias of all others, so that one may stay. A check on
two short texts decides. Shapes: U texts, L tokens, H width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from recdiv_core.models.trainable_encoder import encoder_layers

CHECKED_IDS: Final = [[1, 2, 3, 4], [2, 3, 0, 0]]
TOLERANCE: Final = 1e-3
"""Largest difference of two computations of one state; float32 has errors of 1e-6."""


class FrozenLayers:
    """The lowest layers of an encoder, which can be skipped.

    Args:
        encoder: encoder of `trainable_encoder`, on its device, sharded where it will be; its layers
            are wrapped in place. With shards this is a collective call.
        num_frozen: frozen layers from the bottom, >= 0 and fewer than all.

    Attributes:
        is_possible: whether states that are given lead to the same output.
    """

    def __init__(self, encoder: nn.Module, num_frozen: int) -> None:
        self.encoder = encoder
        self._given: Tensor | None = None
        self._reached: Tensor | None = None
        self._num_outputs: dict[int, int] = {}  # of layers that return a tuple
        self._others: tuple[Any, ...] = ()  # what the lowest layer returns beside its states
        self._num_kept = 0
        layers = encoder_layers(encoder)
        for at, layer in enumerate(layers[:num_frozen]):
            layer.forward = partial(self._pass, at, layer.forward)
        layers[num_frozen].forward = partial(self._enter, layers[num_frozen].forward)
        self.is_possible = self._check(num_frozen)

    def _check(self, num_frozen: int) -> bool:
        device = next(self.encoder.parameters()).device
        input_ids = torch.tensor(CHECKED_IDS, device=device)
        mask = (input_ids > 0).long()
        is_token = mask.bool()
        with torch.no_grad():
            wanted = self.encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state
            states = self._reached
            for self._num_kept in range(min(2, num_frozen)):
                assert states is not None
                found = self.finish(input_ids, mask, states)
                if torch.allclose(found[is_token], wanted[is_token], atol=TOLERANCE):
                    return True
        return False

    def states(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Return the output of the frozen layers, [U, L, H]."""
        with torch.no_grad():
            self.encoder(input_ids=input_ids, attention_mask=mask)
        assert self._reached is not None
        return self._reached

    def finish(self, input_ids: Tensor, mask: Tensor, states: Tensor) -> Tensor:
        """Return the output of the encoder from that of the frozen layers, both [U, L, H]."""
        self._given, self._others = states, ()
        try:
            return self.encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state
        finally:
            self._given = None

    def _pass(self, at: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._given is None or at < self._num_kept:
            output = forward(*args, **kwargs)
            if isinstance(output, tuple):
                self._num_outputs[at] = len(output)
                self._others = output[1:]
            return output
        hidden = args[0] if args else kwargs["hidden_states"]
        if at not in self._num_outputs:
            return hidden
        return (hidden, *(self._others or [None] * (self._num_outputs[at] - 1)))

    def _enter(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        self._reached = hidden.detach()
        if self._given is not None:
            given = self._given.to(hidden.dtype)
            if args:
                args = (given, *args[1:])
            else:
                kwargs = {**kwargs, "hidden_states": given}
        return forward(*args, **kwargs)
