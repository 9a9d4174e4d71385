"""What training minimises, as plain values: the losses and their weights.

build.py makes an `Objective` from the config. part_losses.py and step.py compute with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from recdiv_core.items.traits import ItemTraits
from recdiv_core.models.blend import Blend


@dataclass(frozen=True)
class Objective:
    """What a step minimises; LossConfig describes each setting.

    Attributes:
        relevance: name of the relevance loss.
        diversity_weight: weight w in [0, 1]; for a conditioned model, the weight at dial 1.
        mix: regulariser -> weight.
        traits: properties of the items that regularisers use.
        temperature: divisor of the scores, > 0.
        num_negatives: uniform draws per step (sampled losses).
        negatives: source of the negatives.
        logq_alpha: strength of the correction in [0, 1] (sampled_softmax).
        reads_all: whether a step reads the vectors of all items, and not only those of its
            histories, targets and negatives.
        left_out_X: int64 item_index of the items that are no negatives, or None.
        is_conditioned: whether each user has a dial.
        shared_dim: leading dims of the item vectors that dial 0 uses too (conditioned model).
        blend: terms that are added to the learned scores before slates are formed, or None.
        slate_size: length k of the soft slate.
        slate_candidates: items that the soft slate is formed from.
        slate_temperature: softness of the slate, > 0.
        teacher: name and dial of the re-ranker that `distil` learns from.
    """

    relevance: str
    diversity_weight: float
    mix: Mapping[str, float]
    traits: ItemTraits
    temperature: float = 1.0
    num_negatives: int = 0
    negatives: str = "uniform"
    logq_alpha: float = 1.0
    reads_all: bool = True
    left_out_X: torch.Tensor | None = None
    is_conditioned: bool = False
    shared_dim: int = 0
    blend: Blend | None = None
    slate_size: int = 10
    slate_candidates: int = 200
    slate_temperature: float = 0.1
    teacher: tuple[str, float] = ("mmr", 0.3)

    @property
    def log_items(self) -> float:
        """Loss of a uniform guess in nats, log V; it divides the relevance loss."""
        return math.log(max(2, self.traits.num_items))

    @property
    def num_negative_items(self) -> int:
        """Items that can be negatives."""
        return self.traits.num_items - (0 if self.left_out_X is None else len(self.left_out_X))

    @property
    def needs_penalty(self) -> bool:
        """Whether soft slates are formed."""
        return self.diversity_weight > 0
