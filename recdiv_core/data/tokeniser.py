"""The tokeniser of a data set: saved by `prepare`, read by appends, and audited.

models/saved_tokeniser.py reads it without transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import pyarrow as pa

from recdiv_core.config import Pooling
from recdiv_core.data import catalogue
from recdiv_core.data.audit import scripts
from recdiv_core.data.audit.findings import Finding
from recdiv_core.models.encoder_description import token_ids
from recdiv_core.models.saved_tokeniser import (
    SavedTokeniser,
    describe_tokeniser,
    make_tokeniser,
    read_tokeniser,
)
from recdiv_core.models.text_encoder import PROBES, load_tokenizer, resolve_encoder
from recdiv_core.schema import EncoderSource, Manifest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENISER: Final = "tokeniser.json"
"""File of a data set with its tokeniser; absent = only transformers has it."""
SAMPLE: Final = 1_000
"""Texts on which the saved tokeniser is compared with that of transformers."""


def audit_tokens(
    work: Path,
    texts: Mapping[str, pa.Array],
    tokenizer: PreTrainedTokenizerBase | SavedTokeniser,
) -> list[Finding]:
    """Audit the tokens of items and queries by script."""
    special, unknown = tokenizer.all_special_ids, cast("int | None", tokenizer.unk_token_id)
    files = ("tokens", "queries")
    return [
        scripts.audit_scripts(
            kind, column.to_pylist(), catalogue.load_tokens(work, name), unknown, special
        )
        for name, (kind, column) in zip(files, texts.items(), strict=True)
    ]


def save_tokeniser(
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    texts: Sequence[str],
    max_tokens: int,
    pooling: Pooling,
) -> None:
    """Write a tokeniser, unless it gives other tokens without transformers.

    The tokens of `texts`, prefixes included, are compared.
    """
    tree = describe_tokeniser(tokenizer)
    some = [*texts, *PROBES, " ".join(PROBES) * max_tokens, ""]
    if tree and token_ids(make_tokeniser(tree), some, max_tokens, pooling) == token_ids(
        tokenizer, some, max_tokens, pooling
    ):
        path.write_text(json.dumps(tree), encoding="utf-8")


def save_own(
    work: Path, texts: pa.Array, queries: pa.Array, source: str, encoder: EncoderSource
) -> PreTrainedTokenizerBase:
    """Return the tokeniser of the encoder, and save it for appends."""
    tokenizer = load_tokenizer(source)
    prefixed = [
        catalogue.with_prefix(encoder.passage_prefix, texts),
        catalogue.with_prefix(encoder.query_prefix, queries),
    ]
    step = max(1, sum(map(len, prefixed)) // SAMPLE)
    some = [text for part in prefixed for text in part[::step].to_pylist()]
    save_tokeniser(tokenizer, work / TOKENISER, some, encoder.max_tokens, encoder.pooling)
    return tokenizer


def tokeniser_of(base: Path, manifest: Manifest) -> PreTrainedTokenizerBase | SavedTokeniser:
    """Return the tokeniser of a data set; without transformers, if `prepare` saved it."""
    if (base / TOKENISER).is_file():
        return read_tokeniser(base / TOKENISER)
    return load_tokenizer(resolve_encoder(manifest.encoder.name))
