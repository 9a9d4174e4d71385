"""The item texts of a fine-tuning: which tokens and which stored states the encoder gets.

Texts of a step are encoded in groups of similar length. Where the output of the frozen layers is
stored (data/layer_states.py), the groups carry it, and the encoder runs its trained layers only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from recdiv_core.config import Config
from recdiv_core.data.catalogue import Tokens
from recdiv_core.data.layer_states import LayerStates, load_states
from recdiv_core.models.frozen_layers import FrozenLayers
from recdiv_core.models.recommender import FreshText, Recommender
from recdiv_core.models.text_encoder import pad_tokens
from recdiv_core.models.text_groups import CALL_TOKENS, ONE_GROUP, group_by_length
from recdiv_core.models.trainable_encoder import encoder_layers
from recdiv_core.slates.dataset import Dataset, tokens_of


class ItemTexts:
    """Make the input of the encoder.

    Args:
        tokens: token ids of all items.
        states: output of the frozen layers; None = not stored.
        call: price of a call of the encoder, see `group_by_length`.

    Attributes:
        lengths: tokens of each item, [V] int64.
    """

    def __init__(
        self, tokens: Tokens, states: LayerStates | None = None, *, call: int = ONE_GROUP
    ) -> None:
        self.tokens, self.states, self.call = tokens, states, call
        self.lengths = tokens.lengths

    def __len__(self) -> int:
        return len(self.tokens)

    def groups(self, items: Sequence[int] | np.ndarray) -> tuple[FreshText, ...]:
        """Return some distinct items in groups of similar length."""
        lists = [self.tokens[int(item)] for item in items]
        found = group_by_length([len(ids) for ids in lists], self.call)
        return tuple(self._group([(int(items[at]), lists[at]) for at in group]) for group in found)

    def one_group(self, items: Sequence[int]) -> FreshText:
        """Return some items as one group."""
        return self._group([(item, self.tokens[item]) for item in items])

    def _group(self, texts: Sequence[tuple[int, list[int]]]) -> FreshText:
        items = [item for item, _ in texts]
        input_ids, mask = pad_tokens([ids for _, ids in texts])
        states = None if self.states is None else self.states.padded(items, input_ids.shape[1])
        return FreshText(torch.tensor(items), input_ids, mask, states)


def open_texts(model: Recommender, dataset: Dataset, config: Config) -> ItemTexts | None:
    """Open the item texts of a model on its device; None = its encoder is not trained.

    If the output of the frozen layers is stored, the model skips them. With shards this is a
    collective call.
    """
    encoder = model.encoder
    if encoder is None:
        return None
    tokens = tokens_of(dataset)
    num_frozen = len(encoder_layers(encoder)) - config.model.text.trainable_layers
    states = None
    if config.scaling.layer_cache_gib > 0:
        states = load_states(dataset.prepared, dataset.manifest, num_frozen, tokens)
    if states is not None:
        model.frozen = FrozenLayers(encoder, num_frozen)
        assert model.frozen.is_possible
    # every pass of a sharded encoder is collective, so all ranks need equally many
    call = ONE_GROUP if config.scaling.shard_encoder else CALL_TOKENS[dataset.text_VH.device.type]
    return ItemTexts(tokens, states, call=call)
