"""The tokeniser of a data set, read without transformers.

The import of transformers, and of torch with it, takes longer than the rest of an append. So
`prepare` saves the tokeniser as transformers uses it: the state of its Rust part, which the library
tokenizers runs alone. data/tokeniser.py compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class SavedTokeniser:
    """What `token_ids` and the audit need of a tokeniser.

    Attributes:
        backend: `tokenizers.Tokenizer`.
        eos_token_id: end-of-text token; None = none.
        unk_token_id: unknown token; None = none.
        all_special_ids: special tokens.
        truncation_side: `right` or `left`.
    """

    backend: Any
    eos_token_id: int | None
    unk_token_id: int | None
    all_special_ids: list[int]
    truncation_side: str

    def __call__(
        self, texts: Sequence[str], *, truncation: bool, max_length: int
    ) -> dict[str, list[list[int]]]:
        """Return the tokens of texts under `input_ids`, as transformers does."""
        assert truncation
        self.backend.enable_truncation(max_length, direction=self.truncation_side)
        return {"input_ids": [found.ids for found in self.backend.encode_batch(list(texts))]}


def describe_tokeniser(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    """Return a tokeniser of transformers as JSON values; None = it has no Rust part."""
    if not tokenizer.is_fast:
        return None
    return {
        "backend": cast("Any", tokenizer).backend_tokenizer.to_str(),
        "eos_token_id": tokenizer.eos_token_id,
        "unk_token_id": tokenizer.unk_token_id,
        "all_special_ids": tokenizer.all_special_ids,
        "truncation_side": tokenizer.truncation_side,
    }


def read_tokeniser(path: Path) -> SavedTokeniser:
    """Read a saved tokeniser."""
    return make_tokeniser(json.loads(path.read_text(encoding="utf-8")))


def make_tokeniser(tree: dict[str, Any]) -> SavedTokeniser:
    """Make a tokeniser of its description."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tree["backend"])
    backend.no_padding()
    return SavedTokeniser(**{**tree, "backend": backend})
