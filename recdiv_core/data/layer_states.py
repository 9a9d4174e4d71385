"""The output of the frozen layers of a text encoder, computed once per item.

Fine-tuning trains the top layers of the encoder. The layers below give the same output for the same
text in every step, epoch, trial and worker. So Ray Data actors compute it once and write it into a
memory-mapped file beside the vectors of the prepared data, named after the layer and the encoder.
The texts are those of the data set. models/frozen_layers.py runs the rest of the encoder.
T tokens of all items, H width of the encoder.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import pyarrow as pa

from recdiv_core.data.catalogue import Tokens, load_tokens
from recdiv_core.data.text_vectors import ROWS_A_BATCH, checked_encoder, run_blocks
from recdiv_core.data.vector_files import text_blocks
from recdiv_core.models.text_encoder import encoder_width, load_encoder, pad_tokens
from recdiv_core.models.text_groups import CALL_TOKENS, batches_by_length
from recdiv_core.schema import Manifest
from recdiv_core.storage.claims import scratch

if TYPE_CHECKING:
    import torch
    from torch import nn

logger = logging.getLogger(__name__)

GIB: Final = 1 << 30
FREE_SHARE: Final = 0.5
"""Largest share of the free space on the disk that a file may take."""


class LayerStates:
    """States of all items, memory-mapped: one row of H numbers per token, item after item."""

    def __init__(self, path: Path, tokens: Tokens) -> None:
        self._flat = np.load(path, mmap_mode="r")
        self._ends = np.cumsum(tokens.lengths)

    def padded(self, rows: Sequence[int] | np.ndarray, longest: int) -> torch.Tensor:
        """Return the states of some items, [U, `longest`, H] float32; 0 at the padding."""
        import torch

        states = np.zeros((len(rows), longest, self._flat.shape[1]), np.float32)
        for at, row in enumerate(rows):
            start = self._ends[row - 1] if row else 0
            found = self._flat[start : self._ends[row]]
            states[at, : len(found)] = found
        return torch.from_numpy(states)


def states_path(prepared: Path, manifest: Manifest, num_frozen: int) -> Path:
    """Return the path of the output of the lowest layers."""
    return prepared / "vectors" / f"layer{num_frozen}-{manifest.encoder.sha256[:16]}.npy"


def load_states(
    prepared: Path, manifest: Manifest, num_frozen: int, tokens: Tokens
) -> LayerStates | None:
    """Open the output of the lowest layers; None = it was not computed."""
    path = states_path(prepared, manifest, num_frozen)
    return LayerStates(path, tokens) if path.is_file() else None


def ensure_states(prepared: Path, manifest: Manifest, num_frozen: int, *, max_gib: float) -> None:
    """Compute the output of the lowest layers, if it is missing and may be stored; Ray must run.

    It may not if its file is larger than `max_gib` or half of the free space, or if the encoder
    cannot start from it.

    Raises:
        UserError: see `checked_encoder`.
    """
    path = states_path(prepared, manifest, num_frozen)
    if num_frozen < 1 or max_gib <= 0 or path.is_file():
        return
    source = checked_encoder(manifest)
    tokens = load_tokens(prepared)
    shape = (int(tokens.lengths.sum()), encoder_width(source))
    size = shape[0] * shape[1] * 4 / GIB
    home = path.parent
    home.mkdir(exist_ok=True)
    free = shutil.disk_usage(home).free / GIB
    if size > min(max_gib, free * FREE_SHARE):
        logger.warning(
            "the output of %d frozen layers takes %.2f GiB, more than scaling.layer_cache_gib=%g "
            "or half of the free %.0f GiB: every step computes these layers",
            *(num_frozen, size, max_gib, free),
        )
        return
    with scratch(home) as work:
        made = work / path.name
        blocks = state_blocks(made, tokens, shape[1])
        if blocks and run_blocks(blocks, WriteStates, (source, num_frozen), source) < len(tokens):
            logger.warning(
                "model.text.encoder=%s cannot start from the output of its %d frozen layers: every "
                "step computes them",
                *(manifest.encoder.name, num_frozen),
            )
            return
        made.replace(path)
    logger.info("%s: output of %d frozen layers, %.2f GiB", path, num_frozen, size)


def state_blocks(path: Path, tokens: Tokens, width: int) -> list[pa.Table]:
    """Make an empty file of states; return the blocks of Ray Data that fill it."""
    lengths = tokens.lengths
    shape = (int(lengths.sum()), width)
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape).flush()
    starts = np.cumsum(lengths) - lengths
    return [
        block.append_column("start", pa.array(starts[block["row"].to_numpy()]))
        for block in text_blocks(path, tokens, np.arange(len(tokens)))
    ]


class WriteStates:
    """Run the lowest layers on blocks of tokens and write their output; none if it is of no use."""

    def __init__(self, source: str, num_frozen: int, use_gpu: bool) -> None:
        import torch

        from recdiv_core.models.frozen_layers import FrozenLayers

        torch.set_num_threads(1)
        self.device = torch.device("cuda" if use_gpu else "cpu")
        encoder = cast("nn.Module", load_encoder(source)).requires_grad_(False).to(self.device)
        self.frozen = FrozenLayers(encoder, num_frozen)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Run a block; return the number of its texts, 0 = the output is of no use."""
        if not self.frozen.is_possible:
            return pa.table({"rows": [0]})
        flat: Any = np.lib.format.open_memmap(block["path"][0].as_py(), mode="r+")
        ids, starts = block["ids"].to_pylist(), block["start"].to_numpy()
        call = CALL_TOKENS[self.device.type]
        for batch in batches_by_length([len(each) for each in ids], call, ROWS_A_BATCH):
            input_ids, mask = pad_tokens([ids[at] for at in batch])
            states = self.frozen.states(input_ids.to(self.device), mask.to(self.device))
            for at, row in zip(batch, states.cpu().numpy(), strict=True):
                flat[starts[at] : starts[at] + len(ids[at])] = row[: len(ids[at])]
        flat.flush()
        return pa.table({"rows": [len(ids)]})
