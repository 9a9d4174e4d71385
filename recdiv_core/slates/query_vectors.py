"""Vectors of the queries of requests: those of the click log are looked up, others are encoded.

Any text is a query. query_index.py finds the queries of the log, and data/queries.py encodes the
others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from recdiv_core.data.queries import QueryEncoder
from recdiv_core.models.queries import Queries
from recdiv_core.schema import NO_QUERY
from recdiv_core.slates.dataset import Dataset
from recdiv_core.slates.query_index import read_queries


class QueryVectors:
    """The vectors of a data set's queries, and of any other query.

    Without files of an encoder it is `model.text.encoder` of the data set.
    """

    def __init__(self, dataset: Dataset, encoder: Path | None = None) -> None:
        self.dataset = dataset
        self.index = read_queries(dataset.prepared)
        self.encoder = QueryEncoder(dataset.manifest, encoder)

    def is_known(self, text: str) -> bool:
        """Tell whether the click log has a normalised query."""
        return self.index.find(text) != NO_QUERY

    def ask(self, texts: Sequence[str]) -> Queries | None:
        """Return the queries of a batch with their vectors; None without any query.

        An empty text is no query; texts are normalised.

        Raises:
            UserError: the encoder is missing, or is not the one of the data set.
        """
        if not any(texts):
            return None
        text_VH, log_QH = self.dataset.text_VH, self.dataset.queries_QH
        number = {text: self.index.find(text) for text in texts if text}
        fresh = [text for text, found in number.items() if found == NO_QUERY]
        encoded = torch.from_numpy(self.encoder.encode(fresh)).to(text_VH) if fresh else text_VH
        place = {text: at for at, text in enumerate(fresh)}
        vectors_BH = text_VH.new_zeros(len(texts), text_VH.shape[1])
        for row, text in enumerate(texts):
            if text in place:
                vectors_BH[row] = encoded[place[text]]
            elif text and log_QH is not None:
                vectors_BH[row] = log_QH[number[text]]
        return Queries(texts, vectors_BH, text_VH)


def request_numbers(texts: Sequence[str]) -> list[int]:
    """Return the row of each request with a query, else NO_QUERY: `queries` of its examples."""
    return [row if text else NO_QUERY for row, text in enumerate(texts)]
