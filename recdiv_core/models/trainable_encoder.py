"""A text encoder with trainable top layers or with adapters on them.

It works for any encoder of transformers with one list of layers: BERT, RoBERTa, MPNet, DeBERTa,
DistilBERT, ModernBERT, decoders such as GPT-2 and Qwen, and the encoder of T5. text_encoder.py
finds and loads the encoder; recommender.py encodes texts.
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
    *("Wqkv", "c_attn", "query_key_value", "qkv_proj"),
)
"""Names of the query and value projections in the families of encoders, or of one for all three."""

CHECKPOINTING: Final = {"use_reentrant": False, "preserve_rng_state": False}
"""Checkpoint arguments for the encoder's layers. They are in evaluation mode, so they use no
random numbers."""


def trainable_encoder(
    source: str, trainable_layers: int, lora_rank: int, *, recomputes: bool
) -> nn.Module:
    """Load an encoder with its top layers trainable, or with adapters on them.

    Args:
        source: see `resolve_encoder`.
        trainable_layers: number of trainable layers from the top, >= 1.
        lora_rank: rank of the adapters; 0 = no adapters, the layers themselves train.
        recomputes: whether each layer stores only its input and is recomputed in the backward pass.

    Raises:
        UserError: no encoder at `source`, too few layers, or no module for adapters.
    """
    encoder = load_encoder(source)
    layers = encoder_layers(encoder)
    if trainable_layers > len(layers):
        raise ValueError(
            f"model.text.trainable_layers={trainable_layers}: the encoder has {len(layers)} layers"
        )
    encoder.requires_grad_(False)
    # token states are averaged; BERT's own pooler would get no gradients
    encoder.register_module("pooler", None)
    top = layers[len(layers) - trainable_layers :]
    if recomputes:
        # transformers' own switch works only in training mode, and the encoder is never in it
        for layer in top:
            layer.forward = partial(checkpoint, layer.forward, **CHECKPOINTING)
    if lora_rank:
        from peft import LoraConfig, get_peft_model
        from transformers.pytorch_utils import Conv1D

        targets = _adapted(encoder, top)
        adapters = LoraConfig(
            r=lora_rank,
            lora_alpha=2 * lora_rank,
            target_modules=targets,
            # the linear layers of GPT-2 have their weights transposed
            fan_in_fan_out=any(isinstance(encoder.get_submodule(t), Conv1D) for t in targets),
        )
        return get_peft_model(encoder, adapters)
    for layer in top:
        layer.requires_grad_(True)
    return encoder


def encoder_layers(encoder: nn.Module) -> list[nn.Module]:
    """Return the layers of an encoder from the bottom: its longest list of modules.

    A layer of T5 is a list itself, so lists inside lists do not count.
    """
    lists = {n: m for n, m in encoder.named_modules() if isinstance(m, nn.ModuleList)}
    outer = [m for n, m in lists.items() if not any(n.startswith(f"{other}.") for other in lists)]
    return list(max(outer, key=len, default=[]))


def _adapted(encoder: nn.Module, layers: Sequence[nn.Module]) -> list[str]:
    """Name the query and value projections in some layers of an encoder, as in the LoRA paper.

    Where none has a name in ADAPTED, these are all linear maps of the attention.

    Raises:
        UserError: the layers have no attention with linear maps.
    """
    from transformers.pytorch_utils import Conv1D

    within = {module for layer in layers for module in layer.modules()}
    linear = [
        name
        for name, module in encoder.named_modules()
        if module in within and isinstance(module, nn.Linear | Conv1D)
    ]
    names = [name for name in linear if name.rpartition(".")[2] in ADAPTED]
    names = names or [name for name in linear if "att" in name.lower()]
    if not names:
        raise UserError(
            f"model.text.lora_rank: {type(encoder).__name__} has no attention with linear maps; "
            "model.text.lora_rank=0 trains the layers themselves"
        )
    return names
