# pyright: strict
"""Search queries of a batch of requests, as models and baselines read them.

A query is a text and its vector, so any text can be a query. Whether the click log has it makes no
difference here. Shapes: B requests, V catalogue, H text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Queries:
    """Queries of a batch.

    Attributes:
        texts: query of each request, see `normalise_query`; "" = no query.
        vectors_BH: unit text vectors of the queries; 0 for a request without a query.
        text_VH: unit text vectors of the items, by the same encoder.
    """

    texts: Sequence[str]
    vectors_BH: Tensor
    text_VH: Tensor

    @property
    def has_query_B(self) -> Tensor:
        """Whether each request has a query, [B] bool."""
        return torch.tensor([bool(text) for text in self.texts], device=self.vectors_BH.device)

    def of(self, rows: slice) -> Queries:
        """Return the queries of some requests."""
        return Queries(self.texts[rows], self.vectors_BH[rows], self.text_VH)

    def cosines(self) -> Tensor:
        """Return the cosine of each query and item, [B, V] float32; 0 without a query."""
        return self.vectors_BH @ self.text_VH.T
