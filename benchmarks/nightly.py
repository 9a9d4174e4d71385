"""The steps of `recdiv update` in this process: train on a data set, judge, and make slates.

`recdiv update` starts Ray Train, MLflow and its registry each day, which take longer than the work
on a shop of some hundred users. Here the same functions run one after another: the same settings
(updating/day.py), batches, steps, selection of the epoch, evaluation and slates. month.py calls it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from recdiv_core.config import Config, override, to_yaml
from recdiv_core.data.catalogue import load_catalogue, load_tokens
from recdiv_core.data.plan import plan_windows
from recdiv_core.data.reading import list_fragments, read_windows
from recdiv_core.data.text_vectors import encode_here, vectors_path
from recdiv_core.evaluation.evaluate import tally_dials, tally_split
from recdiv_core.metrics.tally import count_users, finish
from recdiv_core.models.recommender import Recommender
from recdiv_core.models.text_encoder import resolve_encoder
from recdiv_core.schema import read_manifest
from recdiv_core.slates.carry import carried
from recdiv_core.slates.checkpoint import (
    Progress,
    items_of,
    load_weights,
    read_config,
    save_checkpoint,
)
from recdiv_core.slates.dataset import Dataset, load_dataset
from recdiv_core.slates.dials import dial_policies, dials_of
from recdiv_core.slates.fitting import fit_terms
from recdiv_core.slates.lifting import fit_lifts
from recdiv_core.slates.loading import OWN_AT_START, build_model, load_model
from recdiv_core.slates.maker import SlateMaker
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import held_out_of_split
from recdiv_core.storage.whole_files import write_whole
from recdiv_core.training.blending import keeps_weights
from recdiv_core.training.dials import settings_of
from recdiv_core.training.epoch import Learner
from recdiv_core.training.selection import Selected, improves, next_selected
from recdiv_core.updating.hold import Serving


class Trained(NamedTuple):
    """A training: its checkpoint, its test metrics by name with cut-off, and ways to serve it."""

    checkpoint: Path
    test: Mapping[str, float]
    ways: Sequence[Serving]


def encode_texts(prepared: Path) -> None:
    """Encode the item texts of a data set, without Ray."""
    manifest = read_manifest(prepared)
    source = resolve_encoder(manifest.encoder.name)
    for name in ("tokens", "queries"):
        path = vectors_path(prepared, manifest, name)
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            tokens = list(load_tokens(prepared, name))
            np.save(path, encode_here(tokens, source, manifest.encoder.pooling))


def copy_texts(source: Path, target: Path) -> None:
    """Copy the vectors of equal items from a data set to another one, which numbers them anew."""
    old, new = read_manifest(source), read_manifest(target)
    vectors_VH = np.load(vectors_path(source, old, "tokens"))
    row = {each: place for place, each in enumerate(_item_ids(source))}
    path = vectors_path(target, new, "tokens")
    path.parent.mkdir(exist_ok=True)
    np.save(path, vectors_VH[[row[each] for each in _item_ids(target)]])
    encode_texts(target)  # the queries, of which there are none


def _item_ids(prepared: Path) -> list[str]:
    return load_catalogue(prepared).item_ids.to_pylist()


def train(config: Config, place: Path) -> Trained:
    """Train in this process as a worker of `recdiv train` does, on one rank; write a checkpoint.

    Args:
        config: `data.prepared` is a data set with text vectors.
        place: directory of the checkpoint, made here.
    """
    dataset = load_dataset(Path(config.data.prepared))
    terms = fit_terms(config, dataset)
    torch.manual_seed(config.seed)  # noqa: TID251
    model = build_model(config, dataset, terms)
    fits_blend = True
    if config.train.init_from:
        given = Path(config.train.init_from)
        start = carried(given, dataset.prepared, dataset.manifest)
        load_weights(start, model, own=OWN_AT_START)
        fits_blend = not keeps_weights(config, read_config(given))
    learner = Learner(
        config, dataset, model, model, rank=0, world_size=1, saved={}, fits_blend=fits_blend
    )
    best = _epochs(config, learner)
    model.load_state_dict(best)
    fit_lifts(model, dataset, config)
    share = held_out_of_split(model, dataset, "test", config)
    tally = tally_split(share, dataset, slate_policy(config, dataset, model.lifts))
    place.mkdir(parents=True)
    weights = model.state_dict() | ({} if model.blend is None else model.blend.terms_state())
    save_checkpoint(
        place,
        config=config,
        manifest=dataset.manifest,
        progress=Progress(is_finished=True),
        weights=weights,
        training={},
        items=items_of(dataset.catalogue, dataset.catalogue.popularity_V),
    )
    return Trained(place, finish(tally) | count_users(tally), _ways(config, dataset, model))


def _ways(config: Config, dataset: Dataset, model: Recommender) -> list[Serving]:
    """Judge a model on validation, as it was trained and under the entries of `eval.dials`."""
    settings = [{}, *map(settings_of, dials_of(config))]
    policies = [
        slate_policy(config, dataset, model.lifts),
        *dial_policies(config, dataset, model.lifts),
    ]
    tallies = tally_dials(held_out_of_split(model, dataset, "val", config), dataset, policies)
    return [Serving(own, finish(tally), {}) for own, tally in zip(settings, tallies, strict=True)]


def serve_with(checkpoint: Path, settings: Mapping[str, object]) -> None:
    """Change the re-ranking that a checkpoint is served with."""
    write_whole(checkpoint / "config.yaml", to_yaml(override(read_config(checkpoint), settings)))


def _epochs(config: Config, learner: Learner) -> dict[str, torch.Tensor]:
    """Train all epochs; return the weights of the selected one."""
    fragments = list_fragments(Path(config.data.prepared), "train")
    windows = plan_windows(
        fragments,
        batch_size=learner.feed.batch_size,
        seed=config.seed,
        epochs=config.train.epochs,
    )
    stream = read_windows(windows)
    best: Selected | None = None
    train, objective = config.train, config.eval.objective_at_k
    weights, waited = _copied(learner), 0
    for epoch in range(config.train.epochs):
        if waited >= config.train.patience:
            break
        first = epoch * learner.steps_an_epoch
        for _ in learner.train_epoch(stream, range(first, first + learner.steps_an_epoch)):
            pass
        values, _ = learner.end_epoch(is_final=False)
        selected = next_selected(train.select, objective, values, best, train.tie)
        waited = 0 if improves(train.select, best, selected) else waited + 1
        best = selected
        if best.metrics is values:
            weights = _copied(learner)
    return weights


def _copied(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in learner.model.state_dict().items()}


def judge(checkpoint: Path, prepared: Path) -> Mapping[str, float]:
    """Return the test metrics of a checkpoint on a data set of its lineage."""
    config, dataset = read_config(checkpoint), load_dataset(prepared)
    fitting = carried(checkpoint, dataset.prepared, dataset.manifest)
    model = load_model(config, dataset, fitting)
    share = held_out_of_split(model, dataset, "test", config)
    tally = tally_split(share, dataset, slate_policy(config, dataset, model.lifts))
    return finish(tally) | count_users(tally)


def make_slates(
    checkpoint: Path,
    prepared: Path,
    histories: Sequence[Sequence[str]],
    times: Sequence[Sequence[int]],
    eligible_at: str = "",
) -> list[list[str]]:
    """Return the slate of each history, as the registered model makes it.

    Args:
        checkpoint: of the model.
        prepared: data set of the model.
        histories: item_ids of each user, oldest first.
        times: time of each event, in microseconds.
        eligible_at: time of the requests; empty = the end of the log, when items that come on sale
            the next day may not be shown.
    """
    maker = SlateMaker(checkpoint, prepared)
    config = maker.config
    made = maker.slates(
        histories,
        None,
        times,
        k=config.eval.k,
        model_diversity=config.model.diversity,
        rerank_diversity=config.rerank.diversity,
        eligible_at=eligible_at,
    )
    return [slate.item_ids for slate in made]
