"""How an encoder is used: its pooling, its prefixes and the longest text that it takes.

Vectors are only as good as this description. E5 was trained with the prefixes `query: ` and
`passage: `, a decoder puts the meaning of a text into its last token, and BERT averages. The files
of sentence-transformers hold the description of many encoders; `describe_encoder` reads them and
otherwise takes the usual one of the architecture. `prepare` writes it into the manifest, and every
vector of the data set is made with it. text_encoder.py finds and loads encoders.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from recdiv_core.config import Pooling
from recdiv_core.errors import UserError
from recdiv_core.models.text_encoder import encoder_files, mean_pool, pad_tokens, read_settings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from recdiv_core.models.saved_tokeniser import SavedTokeniser

logger = logging.getLogger(__name__)

POOLINGS: Final[Mapping[str, Pooling]] = {
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean",  # differs in length alone, and vectors get length 1
    "mean_tokens": "mean",
    "cls": "cls",
    "cls_token": "cls",
    "lasttoken": "last",
    "eos": "eos",  # of an encoder that `recdiv adapt` wrote
}
"""Name of a pooling in the files of sentence-transformers -> pooling."""
QUERY_PROMPTS: Final = ("query",)
PASSAGE_PROMPTS: Final = ("document", "passage", "corpus")
"""Names of prompts in the files of sentence-transformers, the first that is there counts."""
E5: Final = re.compile(r"(^|[/_-])e5-", re.IGNORECASE)
"""Names of E5 encoders, whose files do not name their prefixes."""
FIRST_POSITION: Final = {"roberta": 2, "xlm-roberta": 2, "camembert": 2, "mpnet": 2}
"""Position of the first token, by architecture, where it is not 0."""
UNLIMITED: Final = 1 << 20


@dataclass(frozen=True)
class EncoderDescription:
    """How an encoder is used.

    Attributes:
        pooling: token states that make the vector of a text: `mean` of all, `cls` the first,
            `last` the last, `eos` the end-of-text token, which is added where it is missing.
        query_prefix: text before each query.
        passage_prefix: text before each item text.
        max_tokens: longest text that the encoder takes, in tokens.
    """

    pooling: Pooling = "mean"
    query_prefix: str = ""
    passage_prefix: str = ""
    max_tokens: int = UNLIMITED


def describe_encoder(
    source: str, name: str = "", pooling: Pooling | None = None
) -> EncoderDescription:
    """Return the description of a resolved encoder from its files, or that of its architecture.

    An E5 encoder is told by the name in the config; `pooling` None = the encoder's own.

    Raises:
        UserError: the files name a pooling that is not known; see also `encoder_files`.
    """
    directory = encoder_files(source)
    _warn_left_out(directory, source)
    settings = _read(directory / "config.json", source)
    query, passage = _prefixes(directory, source)
    names = (name, directory.name, str(settings.get("_name_or_path", "")))
    if not query and not passage and any(E5.search(each) for each in names):
        query, passage = "query: ", "passage: "
    return EncoderDescription(
        pooling=pooling or _given_pooling(directory, source) or _usual_pooling(source),
        query_prefix=query,
        passage_prefix=passage,
        max_tokens=_longest(directory, settings, source),
    )


def _read(path: Path, source: str) -> dict[str, Any]:
    tree = read_settings(path, source) if path.is_file() else {}
    return cast("dict[str, Any]", tree) if isinstance(tree, dict) else {}


def _warn_left_out(directory: Path, source: str) -> None:
    """Warn of modules of sentence-transformers that are not applied, such as a dense layer."""
    path = directory / "modules.json"
    modules = cast("list[dict[str, str]]", read_settings(path, source) if path.is_file() else [])
    kinds = {module["type"].rpartition(".")[2] for module in modules}
    if left_out := sorted(kinds - {"Transformer", "Pooling", "Normalize"}):
        logger.warning(
            "model.text.encoder=%s: vectors are made without its %s", source, " and ".join(left_out)
        )


def _given_pooling(directory: Path, source: str) -> Pooling | None:
    """Return the pooling that the files of sentence-transformers name; None = no such file.

    Raises:
        UserError: the pooling is not known.
    """
    for path in sorted(directory.glob("*_Pooling/config.json")):
        tree = _read(path, source)
        named = tree.get("pooling_mode")
        modes = [named] if isinstance(named, str) else list(named or ())
        prefix = "pooling_mode_"
        modes = (
            modes
            or [
                key.removeprefix(prefix)
                for key, on in tree.items()
                if key.startswith(prefix) and on
            ]
            or ["mean"]
        )
        pooling = POOLINGS.get(modes[0]) if len(modes) == 1 else None
        if pooling:
            return pooling
        raise UserError(
            f"model.text.encoder={source} pools its tokens by {' and '.join(modes)}, which is not "
            "known here: set model.text.pooling to mean, cls, last or eos"
        )
    return None


def _usual_pooling(source: str) -> Pooling:
    """Return `last` for a decoder, otherwise `mean`.

    Raises:
        UserError: the architecture is not known.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING, AutoConfig

    try:
        kind = type(AutoConfig.from_pretrained(source))
    except (OSError, ValueError) as error:
        raise UserError(f"model.text.encoder={source}: no model found: {error}") from None
    # BERT and its like are in both tables
    is_decoder = kind in MODEL_FOR_CAUSAL_LM_MAPPING and kind not in MODEL_FOR_MASKED_LM_MAPPING
    return "last" if is_decoder else "mean"


def _prefixes(directory: Path, source: str) -> tuple[str, str]:
    """Return the prefixes of queries and of passages in the files of sentence-transformers."""
    tree = _read(directory / "config_sentence_transformers.json", source)
    prompts = cast("dict[str, str]", tree.get("prompts") or {})
    usual = prompts.get(str(tree.get("default_prompt_name")), "")
    query, passage = (
        next((prompts[name] for name in names if name in prompts), usual)
        for names in (QUERY_PROMPTS, PASSAGE_PROMPTS)
    )
    return query, passage


def _longest(directory: Path, settings: Mapping[str, Any], source: str) -> int:
    """Return the smallest limit of tokens that an encoder's files name."""
    own = _read(directory / "sentence_bert_config.json", source)
    tokeniser = _read(directory / "tokenizer_config.json", source)
    positions = settings.get("max_position_embeddings") or settings.get("n_positions") or 0
    positions -= FIRST_POSITION.get(str(settings.get("model_type")), 0)
    limits = (own.get("max_seq_length"), tokeniser.get("model_max_length"), positions)
    return min([int(limit) for limit in limits if limit and limit > 0], default=UNLIMITED)


def token_ids(
    tokenizer: PreTrainedTokenizerBase | SavedTokeniser,
    texts: Sequence[str],
    max_tokens: int,
    pooling: Pooling,
) -> list[list[int]]:
    """Tokenise texts, prefixes included, as the pooling needs it.

    Longer texts are cut to `max_tokens`, special ones included; `eos` ends every text with the
    end-of-text token.

    Returns:
        N lists of at least one token.

    Raises:
        UserError: the tokeniser has no end-of-text token.
    """
    end = cast("int | None", tokenizer.eos_token_id)
    encoded = cast("Any", tokenizer(list(texts), truncation=True, max_length=max_tokens))
    lists = cast("list[list[int]]", encoded["input_ids"])
    if pooling == "eos":
        if end is None:
            raise UserError(
                "model.text.pooling=eos: the tokeniser of model.text.encoder has no end-of-text "
                "token; allowed: mean, cls, last"
            )
        lists = [ids if ids[-1:] == [end] else [*ids[: max_tokens - 1], end] for ids in lists]
    # a tokeniser without special tokens has none for an empty text, and attention needs one
    return [ids or [0 if end is None else end] for ids in lists]


def text_vectors(
    encoder: Any, tokens: list[list[int]], pooling: Pooling, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Encode texts in one call: unit vectors, [N, H] float32, on the CPU."""
    input_ids, mask = (each.to(device) for each in pad_tokens(tokens))
    hidden = encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state
    return pool(hidden, mask, pooling).cpu()


def pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Turn token states into one vector of unit length per text.

    Args:
        hidden: [N, L, H] float.
        mask: [N, L], 1 = a real token; padding is on the right. A row without tokens gives the zero
            vector.
        pooling: see EncoderDescription.

    Returns:
        [N, H] float32.
    """
    import torch

    if pooling == "mean":
        return mean_pool(hidden, mask)
    lengths = mask.sum(1)
    at = torch.zeros_like(lengths) if pooling == "cls" else (lengths - 1).clamp_min(0)
    rows = torch.arange(len(hidden), device=hidden.device)
    states = hidden[rows, at].float() * (lengths > 0)[:, None]
    return torch.nn.functional.normalize(states, dim=-1)
