"""The queries of a data set: their texts, which of them train events have, and vectors of others.

Any text is a query. text_vectors.py encodes the queries of the click log once per data set. Another
query is encoded here, by the same encoder, when it is asked. The latest vectors are kept, because
few queries make up most of the traffic. N queries asked, Q queries of the log, H text width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdiv_core.data.reading import flatten_lists
from recdiv_core.data.text_vectors import ROWS_A_BATCH, checked_encoder
from recdiv_core.models.encoder_description import text_vectors, token_ids
from recdiv_core.models.text_encoder import load_encoder, load_tokenizer
from recdiv_core.schema import NO_QUERY, QUERY, Manifest

if TYPE_CHECKING:
    from torch import nn

KEPT_VECTORS: Final = 20_000
"""Latest vectors that are kept: 30 MiB at a width of 384."""


def load_queries(prepared: Path) -> pa.ChunkedArray:
    """Return the texts of the queries in order of query_index, [Q] string, memory-mapped."""
    source = pa.memory_map(str(prepared / "queries.arrow"))
    return pa.ipc.open_file(source).read_all()["query"]


def mark_seen(prepared: Path, num_queries: int) -> np.ndarray:
    """Return whether a train event came from each query, [Q] bool; reads one column of train."""
    is_seen_Q = np.zeros(num_queries, bool)
    if not num_queries:
        return is_seen_Q
    for path in sorted((prepared / "train").glob("part-*.parquet")):
        found = flatten_lists(pq.read_table(path, columns=["queries"])["queries"])[0]
        is_seen_Q[found[found >= 0]] = True
    return is_seen_Q


def read_query_clicks(prepared: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return query_index and item_index of each train event with a query, int64.

    An event that two rows of a long history share counts twice.
    """
    queries, items = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for path in sorted((prepared / "train").glob("part-*.parquet")):
        table = pq.read_table(path, columns=["items", "queries"])
        query_E = flatten_lists(table["queries"])[0].astype(np.int64)
        has_query_E = query_E >= 0
        queries.append(query_E[has_query_E])
        items.append(flatten_lists(table["items"])[0].astype(np.int64)[has_query_E])
    return np.concatenate(queries), np.concatenate(items)


def count_requests(prepared: Path, split: str) -> int:
    """Return the number of requests with a query in a split; reads one column."""
    paths = sorted((prepared / split).glob("part-*.parquet"))
    columns = (pq.read_table(path, columns=[QUERY])[QUERY].to_numpy() for path in paths)
    return sum(int((query_R != NO_QUERY).sum()) for query_R in columns)


class QueryEncoder:
    """The encoder of a data set for queries, loaded with the first query.

    Args:
        directory: files of the encoder; None = `model.text.encoder` of the data set.
        kept: number of latest vectors that are kept, >= 1.

    Attributes:
        num_encoded: queries that were encoded so far, without those whose vector was kept.
    """

    def __init__(
        self, manifest: Manifest, directory: Path | None = None, *, kept: int = KEPT_VECTORS
    ) -> None:
        self._manifest = manifest
        self._directory = directory
        self._num_kept = kept
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()
        self._loaded: tuple[Any, Any] | None = None
        self.num_encoded = 0

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of normalised queries, [N, H] float32 of unit length.

        Raises:
            UserError: the encoder is missing, or is not the one of the data set.
        """
        missing = [text for text in dict.fromkeys(texts) if text not in self._kept]
        fresh = dict(zip(missing, self._encode(missing), strict=True))
        found = [fresh[text] if text in fresh else self._kept[text] for text in texts]
        for text, vector in zip(texts, found, strict=True):
            self._kept[text] = vector
            self._kept.move_to_end(text)
        while len(self._kept) > self._num_kept:
            self._kept.popitem(last=False)
        return np.stack(found)

    def _encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        import torch

        self.num_encoded += len(texts)
        own = self._manifest.encoder
        vectors: list[np.ndarray] = []
        with torch.inference_mode():
            for start in range(0, len(texts), ROWS_A_BATCH):
                tokenizer, encoder = self._load()
                asked = [own.query_prefix + text for text in texts[start : start + ROWS_A_BATCH]]
                tokens = token_ids(tokenizer, asked, own.max_tokens, own.pooling)
                vectors += list(text_vectors(encoder, tokens, own.pooling).numpy())
        return vectors

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            source = checked_encoder(self._manifest, self._directory)
            self._loaded = load_tokenizer(source), cast("nn.Module", load_encoder(source))
        return self._loaded
