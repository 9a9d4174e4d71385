"""The directory of an adapted encoder: weights, tokeniser, and how the encoder is used.

Files are those of transformers and sentence-transformers, so both load it, and
`model.text.encoder` takes it. The directory appears in one step.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import nn

from recdiv_core.errors import UserError
from recdiv_core.models.encoder_description import pool
from recdiv_core.models.text_encoder import (
    READ,
    encoder_files,
    encoder_width,
    load_encoder,
    pad_tokens,
)
from recdiv_core.schema import EncoderSource
from recdiv_core.storage.claims import new_directory_at
from recdiv_core.storage.whole_files import write_json

FACTS: Final = "adaptation.json"
"""File with the origin of the encoder: base, data, settings and losses."""
OWN: Final = ("config.json", "modules.json", "config_sentence_transformers.json", FACTS)
"""Files that are written anew."""
MODULES: Final = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
"""Directory and class of the modules of sentence-transformers."""
POOLING_NAMES: Final = {
    "mean": "mean_tokens",
    "cls": "cls_token",
    "last": "lasttoken",
    "eos": "eos",
}
"""Pooling -> its name in the files of sentence-transformers, which do not know `eos`."""
CLOSE: Final = 1e-3
"""Largest difference between numbers of the vectors before and after writing."""


def write_encoder(
    out: Path,
    encoder: nn.Module,
    source: str,
    own: EncoderSource,
    facts: dict[str, Any],
    tokens: Sequence[list[int]],
) -> None:
    """Write an encoder.

    `tokens` are the texts by which the written encoder is compared with the trained one.

    Raises:
        UserError: the written encoder gives other vectors: encoders of its kind cannot be written.
    """
    with new_directory_at(out) as made:
        _copy_tokeniser(source, made)
        cast("Any", encoder).save_pretrained(made)
        _describe(made, own, encoder_width(str(made)))
        write_json(made / FACTS, facts, indent=1)
        _check_same(encoder, made, own, tokens)


def _copy_tokeniser(source: str, made: Path) -> None:
    """Copy the small files of an encoder: tokeniser and settings."""
    for path in encoder_files(source).iterdir():
        is_own = path.name in OWN or path.name.endswith(".index.json")
        if path.suffix in READ[:3] and not is_own:
            shutil.copy2(path, made / path.name)


def _describe(made: Path, own: EncoderSource, width: int) -> None:
    """Write how the encoder is used, for `describe_encoder` and sentence-transformers."""
    modules = [
        {
            "idx": at,
            "name": str(at),
            "path": path,
            "type": f"sentence_transformers.models.{kind}",
        }
        for at, (path, kind) in enumerate(MODULES)
    ]
    write_json(made / "modules.json", modules, indent=1)
    for path, _ in MODULES[1:]:
        (made / path).mkdir()
    pooling = {
        "word_embedding_dimension": width,
        f"pooling_mode_{POOLING_NAMES[own.pooling]}": True,
    }
    write_json(made / "1_Pooling" / "config.json", pooling, indent=1)
    prompts = {"query": own.query_prefix, "document": own.passage_prefix}
    write_json(made / "config_sentence_transformers.json", {"prompts": prompts}, indent=1)


@torch.inference_mode()
def _check_same(
    encoder: nn.Module, made: Path, own: EncoderSource, tokens: Sequence[list[int]]
) -> None:
    input_ids, mask = pad_tokens(list(tokens))
    vectors = [
        pool(each(input_ids=input_ids, attention_mask=mask).last_hidden_state, mask, own.pooling)
        for each in (encoder, cast("nn.Module", load_encoder(str(made))))
    ]
    if (vectors[0] - vectors[1]).abs().max() > CLOSE:
        raise UserError(
            f"recdiv adapt: {type(encoder).__name__} gives other vectors after writing; encoders "
            "of this kind cannot be adapted, or not with adapt.layers"
        )
