"""From Config and a prepared data set to the objects that training and evaluation work with.

The doorway: here the Config is unpacked into plain arguments, and nowhere below. Everything a
worker needs of the data set besides the examples is in a Dataset, loaded once a process.
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
from recdiv_core.data.text_vectors import load_vectors
from recdiv_core.items.labels import Labels, labels_of_lists
from recdiv_core.items.traits import ItemTraits
from recdiv_core.losses.class_balance import log_prior
from recdiv_core.metrics.facts import CatalogueFacts, catalogue_facts
from recdiv_core.schema import Manifest, read_manifest


@dataclass(frozen=True, eq=False)
class Dataset:
    """A prepared data set as a worker holds it.

    Attributes:
        prepared: its directory, absolute.
        manifest: its manifest.
        catalogue: its items.
        text_VH: unit text vectors, [V, H] float32.
        queries_QH: unit text vectors of the queries, [Q, H]; None without queries.
        categories: category indices of every item.
        log_prior_V: log of each item's share of train events, smoothed.
        facts: what metrics must know of the catalogue.
    """

    prepared: Path
    manifest: Manifest
    catalogue: Catalogue
    text_VH: torch.Tensor
    queries_QH: torch.Tensor | None
    categories: Labels
    log_prior_V: torch.Tensor
    facts: CatalogueFacts

    def to(self, device: torch.device) -> Dataset:
        """Return the data set with its tensors on a device."""
        return replace(
            self,
            text_VH=self.text_VH.to(device),
            queries_QH=None if self.queries_QH is None else self.queries_QH.to(device),
            categories=self.categories.to(device),
            log_prior_V=self.log_prior_V.to(device),
            facts=self.facts.to(device),
        )

    @cached_property
    def traits(self) -> ItemTraits:
        """What regularisers and re-rankers may know of the items; one place a train user."""
        device = self.text_VH.device
        return ItemTraits(
            embeddings_VD=self.text_VH,
            categories=self.categories,
            num_categories=self.catalogue.num_categories,
            popularity_V=self.log_prior_V.exp(),
            num_places=float(self.manifest.num_train_users),
            attributes={
                name: torch.from_numpy(values).to(device)
                for name, values in item_attributes(self.catalogue).items()
            },
        )


def load_dataset(prepared: Path) -> Dataset:
    """Load a prepared data set whose text vectors are cached.

    Raises:
        UserError: not a prepared data set, another schema version, or no cached vectors.
    """
    manifest = read_manifest(prepared)
    catalogue = load_catalogue(prepared)
    categories = as_labels(catalogue.category_lists)
    text = torch.from_numpy(np.array(load_vectors(prepared, manifest)))
    queries = torch.from_numpy(np.array(load_vectors(prepared, manifest, "queries")))
    return Dataset(
        prepared=prepared,
        manifest=manifest,
        catalogue=catalogue,
        text_VH=text,
        queries_QH=queries if len(queries) else None,
        categories=categories,
        log_prior_V=log_prior(torch.tensor(catalogue.popularity_V)),
        facts=catalogue_facts(
            text,
            categories,
            torch.tensor(catalogue.popularity_V),
            num_train_users=max(1, manifest.num_train_users),
            num_categories=catalogue.num_categories,
            attributes={
                name: torch.from_numpy(values)
                for name, values in item_attributes(catalogue).items()
            },
        ),
    )


def as_labels(lists: pa.ListArray) -> Labels:
    """Return lists of labels as tensors."""
    lengths = np.diff(lists.offsets.to_numpy())
    return labels_of_lists(torch.tensor(lists.flatten().to_numpy()), torch.tensor(lengths))


def tokens_of(dataset: Dataset) -> Tokens:
    """Open the token ids of the catalogue, for an encoder that is fine-tuned."""
    return load_tokens(dataset.prepared)
