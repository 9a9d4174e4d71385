"""Carry a checkpoint over to a newer data set of its lineage: the same model, fitted to its items.

The one idea: the result is a checkpoint of the newer data set, so evaluation, recommendation, the
gate and the registry need no case of their own. It is made once and kept beside the data set:

    prepared/carried/<digest of the weights>/

- Rows of the weights and of the lifts move by item_id. An item that the checkpoint does not know
  starts from its text, as a cold item does. Rows of items that the data set does not have are left
  out.
- Terms of a blend, and models that are a baseline, are fitted again on the train events of the
  newer data set, with the settings and the weights of the checkpoint. They are closed forms and
  take seconds. Moved matrices would know neither the new items nor the latest events.
V items of the newer data set, D dims.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from recdiv_core.config import Config, override
from recdiv_core.models.blend import TERMS, read_terms
from recdiv_core.models.lifts import LIFTS
from recdiv_core.models.recommender import Recommender
from recdiv_core.models.text_encoder import pad_tokens
from recdiv_core.schema import ITEM_ID, Manifest
from recdiv_core.slates.checkpoint import (
    is_whole,
    items_of,
    read_config,
    read_items,
    read_progress,
    read_tensors,
    read_trained_on,
    save_checkpoint,
    weights_digest,
)
from recdiv_core.slates.checkpoint_copies import local_checkpoint
from recdiv_core.slates.dataset import Dataset, load_dataset, tokens_of
from recdiv_core.slates.fitting import fit_baseline, fit_terms
from recdiv_core.slates.lifting import fit_lifts
from recdiv_core.slates.lineage import check_lineage
from recdiv_core.slates.loading import build_model
from recdiv_core.storage.claims import scratch
from recdiv_core.storage.places import absolute_place

logger = logging.getLogger(__name__)

HOME: Final = "carried"
TOWERS: Final = ("item_tower", "dial_items")
"""Parts of a model whose `ids` have one row per item."""
ROWS_A_BATCH: Final = 64
"""Texts that a trained encoder encodes at once."""


def carried_place(checkpoint: str | Path, prepared: Path, manifest: Manifest) -> str:
    """Return where workers find a checkpoint that fits a data set, path or URI; see `carried`."""
    local = local_checkpoint(checkpoint, "--checkpoint")
    fitting = carried(local, prepared, manifest)
    return absolute_place(checkpoint, "--checkpoint") if fitting == local else str(fitting)


def carried(checkpoint: Path, prepared: Path, manifest: Manifest) -> Path:
    """Return a checkpoint that fits a data set: the given one, or its copy for the data set.

    Raises:
        UserError: the checkpoint is of another lineage, or a file is missing or damaged.
    """
    if read_trained_on(checkpoint).fingerprint == manifest.fingerprint:
        return checkpoint
    check_lineage(checkpoint, manifest, prepared)
    place = prepared / HOME / weights_digest(checkpoint)[:16]
    if place.is_dir() and is_whole(place):
        return place
    home = place.parent
    home.mkdir(exist_ok=True)
    with scratch(home) as work:
        made = work / "checkpoint"
        made.mkdir()
        _write(checkpoint, load_dataset(prepared), made)
        try:
            made.rename(place)
        except OSError:  # another worker was faster; both made the same
            if not is_whole(place):
                raise
    return place


def _write(checkpoint: Path, dataset: Dataset, made: Path) -> None:
    """Write the copy of a checkpoint for a data set."""
    config = override(read_config(checkpoint), {"data.prepared": str(dataset.prepared)})
    weights = read_tensors(checkpoint, "model.pt")
    known_V = np.array(dataset.catalogue.popularity_V)
    if config.model.kind == "neural":
        items = read_items(checkpoint)
        assert items is not None, "check_lineage passes checkpoints with items alone"
        row_V, known_V = find_rows(items, dataset.catalogue.item_ids)
        logger.info(
            "%s: %d of %d items are known, the others start from their texts",
            checkpoint,
            int((known_V > 0).sum()),
            len(known_V),
        )
        weights = carry_weights(config, weights, dataset, row_V, known_V)
    else:
        baseline = fit_baseline(config, dataset)
        fit_lifts(baseline, dataset, config)
        weights = baseline.state()
    save_checkpoint(
        made,
        config=config,
        manifest=dataset.manifest,
        progress=read_progress(checkpoint),
        weights=weights,
        training={},
        items=items_of(dataset.catalogue, known_V),
    )


def find_rows(items: pa.Table, item_ids: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return the row of each item in a checkpoint, and its train events there.

    For `items` see `read_items`.

    Returns:
        row_V, -1 = the checkpoint does not have the item; known_V, 0 = it never trained the item.
    """
    found = pc.call_function("index_in", [item_ids], pc.SetLookupOptions(items[ITEM_ID]))
    row_V = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    known_V = np.where(row_V >= 0, items["popularity"].to_numpy()[row_V], 0)
    return row_V, known_V


def carry_weights(
    config: Config,
    weights: dict[str, Any],
    dataset: Dataset,
    row_V: np.ndarray,
    known_V: np.ndarray,
) -> dict[str, Any]:
    """Return the weights of a trained model for another data set of its lineage.

    For `row_V` and `known_V` see `find_rows`.
    """
    kinds = [term.kind for term in read_terms(config.model.blend, weights)]
    terms = fit_terms(override(config, {"model.blend": kinds}), dataset)
    model = build_model(config, dataset, terms, torch.tensor(known_V))
    state = model.state_dict()
    own = {name: value for name, value in weights.items() if not name.startswith(TERMS)}
    for tower in TOWERS:
        if (name := f"{tower}.ids.weight") in own:
            own[name] = own[name][torch.tensor(row_V)]
    if (name := f"{LIFTS}needed_V") in own:
        own[name] = torch.where(torch.tensor(row_V) < 0, -1.0, own[name][torch.tensor(row_V)])
    if "text_VH" in own:
        own["text_VH"] = state["text_VH"]
    for name in state.keys() - own.keys():  # the first queries of the lineage: they change nothing
        own[name] = state[name] if name.startswith(LIFTS) else torch.zeros_like(state[name])
    model.load_state_dict({name: own[name] for name in state})
    _start_new_items(model, row_V, known_V)
    if model.encoder is not None:
        _encode_texts(model, dataset)
    return model.state_dict() | ({} if model.blend is None else model.blend.terms_state())


@torch.no_grad()
def _start_new_items(model: Recommender, row_V: np.ndarray, known_V: np.ndarray) -> None:
    """Give items that the model does not know the mean id part of the others.

    Scores do not change: a cold item takes this part in any case. Training on the newer data set
    starts from it, instead of from random ids.
    """
    for tower in (model.item_tower, model.dial_items):
        if tower is not None:
            is_new = (row_V < 0) | ((known_V == 0) & tower.has_text)
            tower.ids.weight[torch.tensor(is_new)] = tower.mean_id_part(model.text_VH)


@torch.no_grad()
def _encode_texts(model: Recommender, dataset: Dataset) -> None:
    """Encode all texts with the trained encoder: texts may be new or corrected."""
    if model.text_VH is None:
        return
    tokens = tokens_of(dataset)
    for start in range(0, len(tokens), ROWS_A_BATCH):
        input_ids, mask = pad_tokens(tokens[start : start + ROWS_A_BATCH])
        model.text_VH[start : start + ROWS_A_BATCH] = model.encode(input_ids, mask)
