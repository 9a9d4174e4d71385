"""Load a prepared data set as a worker holds it: catalogue, text vectors and item traits.

A Dataset holds everything but the examples, and each process loads it once. Examples are read in
data/reading.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from recdiv_core.data.catalogue import (
    Catalogue,
    Tokens,
    item_attributes,
    load_catalogue,
    load_tokens,
)
from recdiv_core.data.queries import load_queries
from recdiv_core.data.text_vectors import load_vectors
from recdiv_core.items.labels import Labels, labels_of_lists
from recdiv_core.items.traits import ItemTraits, describe_items
from recdiv_core.schema import Manifest, read_manifest


@dataclass(frozen=True, eq=False)
class Dataset:
    """A prepared data set as a worker holds it.

    `traits` have the text vectors as embeddings; `queries_QH` are unit text vectors of the queries
    of the click log, None without queries.
    """

    prepared: Path
    manifest: Manifest
    catalogue: Catalogue
    traits: ItemTraits
    queries_QH: torch.Tensor | None

    @cached_property
    def query_texts(self) -> pa.ChunkedArray:
        """Texts of the queries of the click log, [Q] string; a registered model has none."""
        return load_queries(self.prepared)

    @property
    def text_VH(self) -> torch.Tensor:
        """Unit text vectors of the items, [V, H] float32."""
        return self.traits.embeddings_VD

    @property
    def categories(self) -> Labels:
        """Category indices of every item."""
        return self.traits.categories

    @property
    def log_prior_V(self) -> torch.Tensor:
        """Log of each item's smoothed share of train events, [V] float32."""
        return self.traits.log_prior_V

    def to(self, device: torch.device) -> Dataset:
        """Return the data set with its tensors on a device."""
        return replace(
            self,
            traits=self.traits.to(device),
            queries_QH=None if self.queries_QH is None else self.queries_QH.to(device),
        )


def load_dataset(prepared: Path) -> Dataset:
    """Load a prepared data set and its cached text vectors.

    Raises:
        UserError: no prepared data set, another schema version, or no cached vectors.
    """
    manifest = read_manifest(prepared)
    catalogue = load_catalogue(prepared)
    text = torch.from_numpy(np.array(load_vectors(prepared, manifest)))
    queries = torch.from_numpy(np.array(load_vectors(prepared, manifest, "queries")))
    traits = describe_items(
        text,
        as_labels(catalogue.category_lists),
        torch.tensor(catalogue.popularity_V),
        num_train_users=max(1, manifest.num_train_users),
        num_categories=catalogue.num_categories,
        attributes={
            name: torch.from_numpy(values) for name, values in item_attributes(catalogue).items()
        },
    )
    return Dataset(prepared, manifest, catalogue, traits, queries if len(queries) else None)


def as_labels(lists: pa.ListArray) -> Labels:
    """Convert lists of labels to tensors."""
    lengths = np.diff(lists.offsets.to_numpy())
    return labels_of_lists(torch.tensor(lists.flatten().to_numpy()), torch.tensor(lengths))


def tokens_of(dataset: Dataset) -> Tokens:
    """Open the token ids of the item texts, for a fine-tuned encoder."""
    return load_tokens(dataset.prepared)
