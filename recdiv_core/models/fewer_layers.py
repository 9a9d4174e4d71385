"""A smaller encoder: some layers of a large one, which then learns to give the same vectors.

The first and the last layer stay, and the others are chosen at equal distances. Embeddings and
tokeniser stay too, so both encoders read the same tokens. losses/text_pairs.py has the loss
(`imitation`).
"""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from recdiv_core.errors import UserError
from recdiv_core.models.trainable_encoder import encoder_layers


def kept_layers(depth: int, num_layers: int) -> list[int]:
    """Return which layers a smaller encoder keeps, from the bottom.

    The first one stays because some families build it differently: the first layer of T5 makes the
    position bias of all, and that of ModernBERT has no norm.

    >>> [kept_layers(6, num_layers) for num_layers in (1, 2, 3, 4)]
    [[0], [0, 5], [0, 2, 5], [0, 2, 3, 5]]
    """
    steps = max(1, num_layers - 1)
    return [round(place * (depth - 1) / steps) for place in range(num_layers)]


def check_layers(encoder: nn.Module, num_layers: int) -> None:
    """Check that a student has fewer layers.

    Raises:
        UserError: the encoder has no more layers than its student.
    """
    depth = len(encoder_layers(encoder))
    if not 0 < num_layers < depth:
        raise UserError(
            f"adapt.layers={num_layers}: the encoder has {depth} layers; allowed are 1 to "
            f"{depth - 1}, and 0 for no student"
        )


def keep_layers(encoder: nn.Module, num_layers: int) -> None:
    """Remove layers of an encoder, in place; see `kept_layers` and `check_layers`."""
    layers = encoder_layers(encoder)
    kept = kept_layers(len(layers), num_layers)
    (place,) = (
        module
        for module in encoder.modules()
        if isinstance(module, nn.ModuleList) and list(module) == layers
    )
    for at in reversed(range(len(layers))):
        if at not in kept:
            del place[at]
    config = cast("Any", encoder).config
    # ModernBERT and Qwen name the kind of attention of each layer
    if kinds := config.to_dict().get("layer_types"):
        config.layer_types = [kinds[at] for at in kept]
    config.num_hidden_layers = num_layers
