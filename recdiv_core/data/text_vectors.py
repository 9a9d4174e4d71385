"""Text vectors of the catalogue and the queries, encoded once per data set.

Training does not change the vectors of a frozen encoder. So Ray Data actors encode each distinct
text once and write the vectors into a memory-mapped file beside the prepared data, which every
trial, worker and evaluation reads. ILD is measured with these vectors for every model. The file of
an interrupted encoding is kept, and the next run encodes the texts that it lacks. V rows, H text
width.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import pyarrow as pa

from recdiv_core.config import Pooling
from recdiv_core.data.catalogue import load_tokens
from recdiv_core.data.vector_files import fill_repeats, first_equal, missing_blocks
from recdiv_core.errors import UserError
from recdiv_core.models.encoder_description import text_vectors
from recdiv_core.models.text_encoder import (
    encoder_sha256,
    encoder_width,
    load_encoder,
    resolve_encoder,
    weights_bytes,
)
from recdiv_core.models.text_groups import CALL_TOKENS, batches_by_length
from recdiv_core.schema import EncoderSource, Manifest
from recdiv_core.storage.claims import UNFINISHED, scratch
from recdiv_core.wording import counted

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

ROWS_A_BATCH: Final = 64
"""Most texts that the encoder processes at once."""
PROGRESS_S: Final = 10.0
"""Seconds between two lines of the log."""
WORK_AN_ACTOR: Final = 1e12
"""Least work of an actor: tokens times bytes of the encoder's weights.

A CPU needs about 4 s for it: 11,000 tokens of all-MiniLM-L6-v2. An actor takes longer to start,
because it imports torch and transformers.
"""


def vectors_path(prepared: Path, manifest: Manifest, name: str) -> Path:
    """Return the path of the vectors of `tokens` or `queries`."""
    return _path(prepared, manifest.encoder, name)


def _path(prepared: Path, encoder: EncoderSource, name: str) -> Path:
    return prepared / "vectors" / f"{name}-{encoder.sha256[:16]}.npy"


def load_vectors(prepared: Path, manifest: Manifest, name: str = "tokens") -> np.ndarray:
    """Open the cached vectors, [V, H] float32 of unit length, memory-mapped and read-only.

    Raises:
        UserError: The vectors have not been computed yet.
    """
    path = vectors_path(prepared, manifest, name)
    if not path.is_file():
        raise UserError(f"{path} is missing: text vectors are made by train, tune or evaluate")
    return np.load(path, mmap_mode="r")


def check_vectors(prepared: Path, manifest: Manifest) -> None:
    """Check before Ray starts that missing vectors can be computed.

    Raises:
        UserError: see `checked_encoder`.
    """
    if _missing(prepared, manifest):
        checked_encoder(manifest)


def checked_encoder(manifest: Manifest, directory: Path | None = None) -> str:
    """Return the resolved encoder of a prepared data set.

    Without a directory it is the encoder that the manifest names.

    Raises:
        UserError: The encoder is missing, or is not the one of the data set.
    """
    source = resolve_encoder(str(directory or manifest.encoder.name))
    digest = encoder_sha256(source)
    if digest != manifest.encoder.sha256:
        raise UserError(
            f"the files of model.text.encoder={manifest.encoder.name} have sha256 {digest[:12]}, "
            f"the data set was prepared with {manifest.encoder.sha256[:12]}: weights, tokeniser or "
            "settings have changed; run `recdiv prepare` again"
        )
    return source


def _missing(prepared: Path, manifest: Manifest) -> dict[str, Path]:
    paths = {name: vectors_path(prepared, manifest, name) for name in ("tokens", "queries")}
    return {name: path for name, path in paths.items() if not path.is_file()}


def ensure_vectors(prepared: Path, manifest: Manifest) -> None:
    """Compute missing vectors of items and queries; Ray must run.

    Raises:
        UserError: see `checked_encoder`.
    """
    missing = _missing(prepared, manifest)
    if not missing:
        return
    source = checked_encoder(manifest)
    _make(prepared, missing, source, manifest.encoder.pooling)


def make_item_vectors(
    work: Path, encoder: EncoderSource, source: str, *, on_ray: bool = True
) -> np.ndarray:
    """Encode the items of a data set that `prepare` builds.

    Trainings of the data set find the vectors and do not encode the items again.

    Returns:
        [V, H] float32 of unit length, memory-mapped.
    """
    path = _path(work, encoder, "tokens")
    if on_ray:
        _make(work, {"tokens": path}, source, encoder.pooling)
    else:
        path.parent.mkdir()
        np.save(path, encode_here(list(load_tokens(work)), source, encoder.pooling))
    return np.load(path, mmap_mode="r")


def _make(prepared: Path, missing: Mapping[str, Path], source: str, pooling: Pooling) -> None:
    """Encode the texts of some files of tokens; each file of vectors appears when it is whole.

    The files of an interrupted run are taken by a rename, so only one process continues them.
    """
    wanted = {path: load_tokens(prepared, name) for name, path in missing.items()}
    home = prepared / "vectors"
    home.mkdir(exist_ok=True)
    unfinished = {path: path.with_name(f"{path.name}{UNFINISHED}") for path in wanted}
    with scratch(home, keep=[path.name for path in wanted]) as work:
        for path, left in unfinished.items():
            with suppress(FileNotFoundError):
                left.replace(work / path.name)
        tokens_of = {work / path.name: tokens for path, tokens in wanted.items()}
        _encode_all(tokens_of, source, pooling)
        for path in wanted:
            (work / path.name).replace(path)
    for left in unfinished.values():
        left.unlink(missing_ok=True)  # of another process that was interrupted meanwhile


def encode_here(tokens: Sequence[list[int]], source: str, pooling: Pooling) -> np.ndarray:
    """Encode a few texts in this process, without Ray.

    Returns:
        [N, H] float32 of unit length.
    """
    import torch

    encoder = cast("nn.Module", load_encoder(source))
    vectors = np.empty((len(tokens), encoder_width(source)), np.float32)
    order = np.argsort([len(ids) for ids in tokens], kind="stable")  # equal lengths: less padding
    with torch.inference_mode():
        for start in range(0, len(order), ROWS_A_BATCH):
            rows = order[start : start + ROWS_A_BATCH]
            vectors[rows] = text_vectors(encoder, [tokens[row] for row in rows], pooling).numpy()
    return vectors


def _encode_all(
    tokens_of: Mapping[Path, Sequence[list[int]]], source: str, pooling: Pooling
) -> None:
    """Fill the files of vectors in one Ray Data job."""
    width = encoder_width(source)
    first_of = {path: first_equal(tokens) for path, tokens in tokens_of.items()}
    blocks = [
        block
        for path, tokens in tokens_of.items()
        for block in missing_blocks(path, tokens, first_of[path], width)
    ]
    if blocks:
        done = run_blocks(blocks, WriteVectors, (source, pooling), source)
        assert done == sum(map(len, blocks)), "Ray Data lost texts"
    for path, first in first_of.items():
        fill_repeats(path, first)


def run_blocks(
    blocks: Sequence[pa.Table], actor: type, arguments: tuple[object, ...], source: str
) -> int:
    """Send blocks of texts through actors that write files, in one Ray Data job.

    Args:
        blocks: see `vector_files.text_blocks`; at least one.
        actor: class that takes `arguments` and whether there is a GPU, and turns a block into a
            table with the number of its finished texts (`rows`).
        arguments: first arguments of the class.
        source: resolved encoder.

    Returns:
        Number of finished texts.
    """
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    num_tokens = sum(len(ids) for block in blocks for ids in block["ids"])
    resources = ray.cluster_resources()
    has_gpu = resources.get("GPU", 0) > 0
    free = int(resources.get("GPU" if has_gpu else "CPU", 1))
    actors = num_actors(len(blocks), num_tokens * weights_bytes(source), free)
    encoded = ray.data.from_arrow(list(blocks)).map_batches(
        actor,
        fn_constructor_args=(*arguments, has_gpu),
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=0 if has_gpu else 0.9,
        num_gpus=1 if has_gpu else 0,
        compute=ray.data.ActorPoolStrategy(size=actors),
    )
    done, total = 0, sum(len(block) for block in blocks)
    logger.info("encoding %s with %s", counted(total, "text"), counted(actors, "Ray actor"))
    finished: Iterator[Any] = iter(encoded.iter_batches(batch_size=None, batch_format="pyarrow"))
    for so_far, said in paced((sum(batch["rows"].to_pylist()) for batch in finished), total):
        done = so_far
        if said:
            logger.info("encoded %s", said)
    return done


def paced(
    counts: Iterable[int], total: int, clock: Callable[[], float] = time.monotonic
) -> Iterator[tuple[int, str]]:
    """Add up finished texts, and say now and then how far they are.

    The rate is that since the first block, because actors take long to start.

    Args:
        counts: texts of each block, as blocks are finished.
        total: texts of all blocks.
        clock: seconds.

    Yields:
        the texts finished so far, and a text every PROGRESS_S seconds and at the end, else empty.
    """
    done, first, first_at, said_at = 0, 0, 0.0, 0.0
    for count in counts:
        done, now = done + count, clock()
        if not first:
            first, first_at, said_at = done, now, now
        said = ""
        if done == total:
            said = f"{done} of {total} texts"
        elif now - said_at >= PROGRESS_S:
            rate, said_at = (done - first) / (now - first_at), now
            left_s = (total - done) / rate
            said = f"{done} of {total} texts, {rate:.0f} a second, {left_s:.0f} s left"
        yield done, said


def num_actors(num_blocks: int, work: float, num_devices: int) -> int:
    """Return how many actors encode: an actor that starts has at least `WORK_AN_ACTOR` to do.

    Args:
        num_blocks: blocks of texts; an actor needs one.
        work: tokens times bytes of the encoder's weights.
        num_devices: GPUs of the cluster, or CPUs if it has no GPU.

    >>> [num_actors(40, work, num_devices=8) for work in (1e10, 2.5e12, 1e15)]
    [1, 2, 8]
    """
    return max(1, min(num_blocks, num_devices, int(work / WORK_AN_ACTOR)))


class WriteVectors:
    """Encode blocks of tokens and write the vectors into the memory-mapped files."""

    def __init__(self, source: str, pooling: Pooling, use_gpu: bool) -> None:
        import torch

        torch.set_num_threads(1)
        self.pooling: Pooling = pooling
        self.device = torch.device("cuda" if use_gpu else "cpu")
        self.call = CALL_TOKENS[self.device.type]
        self.encoder = cast("nn.Module", load_encoder(source)).to(self.device)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Encode a block; return the number of its texts."""
        import torch

        vectors = np.lib.format.open_memmap(block["path"][0].as_py(), mode="r+")
        rows = block["row"].to_numpy()
        ids = block["ids"].to_pylist()
        lengths = [len(each) for each in ids]
        with torch.inference_mode():
            for batch in batches_by_length(lengths, self.call, ROWS_A_BATCH):
                some = [ids[at] for at in batch]
                made = text_vectors(self.encoder, some, self.pooling, self.device)
                vectors[rows[batch]] = made.numpy()
        vectors.flush()
        return pa.table({"rows": [len(rows)]})
