"""The text encoder that is trained along: which of its layers, whole or by adapters.

Any encoder of transformers whose layers stand in one list: BERT, RoBERTa, MPNet, DeBERTa,
DistilBERT, ModernBERT and their kin. Not how it is found and loaded (text_encoder.py), nor when
texts are encoded (recommender.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from torch import nn
from torch.utils.checkpoint import checkpoint

from recdiv_core.errors import UserError
from recdiv_core.models.text_encoder import load_encoder

ADAPTED: Final = (
    *("query", "value", "query_proj", "value_proj", "q_proj", "v_proj", "q_lin", "v_lin", "q", "v"),
    "Wqkv",
)
"""Names of what makes queries and values in one family of encoders or another."""

CHECKPOINTING: Final = {"use_reentrant": False, "preserve_rng_state": False}
"""Of the encoder's layers, which draw nothing at random: it is in evaluation mode."""


def trainable_encoder(
    source: str, trainable_layers: int, lora_rank: int, *, recomputes: bool
) -> nn.Module:
    """Load an encoder with its top layers trainable, or with adapters on them.

    Args:
        source: see `resolve_encoder`.
        trainable_layers: how many, >= 1.
        lora_rank: of the adapters; 0 = none, the layers themselves are trained.
        recomputes: whether each layer keeps its input alone and is computed again on the way back.

    Raises:
        UserError: no encoder at `source`, one of fewer layers, or one that adapters do not know.
    """
    encoder = load_encoder(source)
    layers = encoder_layers(encoder)
    if trainable_layers > len(layers):
        raise ValueError(
            f"model.text.trainable_layers={trainable_layers}: the encoder has {len(layers)} layers"
        )
    encoder.requires_grad_(False)
    # states are averaged; BERT's own pooler would be left without gradients
    encoder.register_module("pooler", None)
    if recomputes:
        # transformers' own switch works in training mode alone, and the encoder is kept out of it;
        # all layers: noise on tokens sends gradients through the frozen ones too
        for layer in layers:
            layer.forward = partial(checkpoint, layer.forward, **CHECKPOINTING)
    top = layers[len(layers) - trainable_layers :]
    if lora_rank:
        from peft import LoraConfig, get_peft_model

        adapters = LoraConfig(
            r=lora_rank, lora_alpha=2 * lora_rank, target_modules=_adapted(encoder, top)
        )
        return get_peft_model(encoder, adapters)
    for layer in top:
        layer.requires_grad_(True)
    return encoder


def encoder_layers(encoder: nn.Module) -> list[nn.Module]:
    """Return the layers of an encoder from its tokens up: the longest list of modules in it."""
    lists = [module for module in encoder.modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=len, default=[]))


def _adapted(encoder: nn.Module, layers: Sequence[nn.Module]) -> list[str]:
    """Name what makes queries and values in some layers of an encoder, as LoRA's paper adapts it.

    Raises:
        UserError: there is nothing that is called so.
    """
    within = {module for layer in layers for module in layer.modules()}
    names = [
        name
        for name, module in encoder.named_modules()
        if module in within and name.rpartition(".")[2] in ADAPTED
    ]
    if not names:
        raise UserError(
            f"model.text.lora_rank: no module of {type(encoder).__name__} is called one of "
            f"{', '.join(sorted(ADAPTED))}; model.text.lora_rank=0 trains the layers themselves"
        )
    return names
