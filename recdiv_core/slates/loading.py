"""Build a model from the config and a data set, with fresh weights or those of a checkpoint.

Models take plain arguments; this module reads them from the config.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import torch

from recdiv_core.config import Config
from recdiv_core.errors import UserError
from recdiv_core.models.baselines import Baseline
from recdiv_core.models.blend import DIAL_CHANGE, Blend, read_terms
from recdiv_core.models.dial import dial_dim
from recdiv_core.models.item_tower import ItemTower
from recdiv_core.models.lifts import LIFTS
from recdiv_core.models.recommender import Recommender
from recdiv_core.models.session_tower import SessionTower
from recdiv_core.models.text_encoder import resolve_encoder
from recdiv_core.models.trainable_encoder import trainable_encoder
from recdiv_core.slates.checkpoint import load_weights, read_items, read_tensors
from recdiv_core.slates.dataset import Dataset

OWN_AT_START: Final = ("dial", "blend.", "encoder.", "text_VH", LIFTS)
"""Prefixes of weights that a training does not need to find in `train.init_from`. A frozen encoder
has none, so a fine-tuning starts from the pretrained encoder."""
EARLIER: Final = "words_VL"
"""Tensor that `query_words` had when items had a sketch of their words."""


def build_model(
    config: Config,
    dataset: Dataset,
    terms: Sequence[Baseline] = (),
    known_V: torch.Tensor | None = None,
) -> Recommender:
    """Build the model of the config with fresh weights from PyTorch's global generator.

    `known_V` are the train events of each item in the training of the weights; None = those of the
    data set.
    """
    text = config.model.text
    text_vectors = dataset.text_VH if text.enabled else None
    encoder = None
    if text.enabled and text.trainable_layers:
        encoder = trainable_encoder(
            resolve_encoder(text.encoder),
            text.trainable_layers,
            text.lora_rank,
            recomputes=text.gradient_checkpointing,
        )
        text_vectors = dataset.text_VH.clone()
    popularity_V = torch.tensor(dataset.catalogue.popularity_V)
    make_item_tower = partial(
        ItemTower,
        popularity_V if known_V is None else known_V,
        text_dim=dataset.text_VH.shape[1] if text.enabled else 0,
        id_dropout=config.model.id_dropout,
    )
    dim = config.model.dim
    return Recommender(
        make_item_tower(dim=dim),
        SessionTower(
            dim=config.model.dim,
            num_layers=config.model.num_layers,
            num_heads=config.model.num_heads,
            max_history=config.model.max_history,
            dropout=config.model.dropout,
            normalises_inputs=not text.enabled,
        ),
        text_VH=text_vectors,
        queries_QH=dataset.queries_QH,
        dim=config.model.dim,
        encoder=encoder,
        pooling=dataset.manifest.encoder.pooling,
        dial_items=make_item_tower(dim=dial_dim(dim)) if config.loss.conditioned else None,
        blend=Blend(terms, popularity_V > 0, has_dial=config.loss.conditioned) if terms else None,
    )


def load_model(config: Config, dataset: Dataset, checkpoint: Path) -> Recommender | Baseline:
    """Load the model of a checkpoint that was trained with this config.

    The data set is that of the training, or the one that the checkpoint was carried over to.

    Raises:
        UserError: missing or damaged file, weights of another shape, or terms of an earlier
            version.
    """
    weights = read_tensors(checkpoint, "model.pt")
    if any(name.rpartition(".")[2] == EARLIER for name in weights):
        raise UserError(
            f"{checkpoint / 'model.pt'} has learned words of queries of an earlier version; train "
            "the model again"
        )
    if config.model.kind != "neural":
        return Baseline.from_state(config.model.kind, weights, len(dataset.catalogue))
    items = read_items(checkpoint)
    known_V = None if items is None else torch.tensor(items["popularity"].to_numpy())
    model = build_model(config, dataset, read_terms(config.model.blend, weights), known_V)
    load_weights(checkpoint, model, own=(LIFTS, DIAL_CHANGE))  # earlier versions kept none
    return model
