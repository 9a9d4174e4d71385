"""A checkpoint: a directory from which training continues exactly; evaluation needs nothing else.

    config.yaml       the whole config
    checkpoint.json   progress of the training, its data set, and the sha256 of the files below
    model.pt          weights to continue with; in the last checkpoint of a run, the selected ones
    training.pt       optimiser and loss scaler, and the selected weights if they are older
    items.parquet     the items of its data set: row i has the item_id of item_index i, and its
                      train events; so the weights fit a newer data set too (carry.py)

A checkpoint holds no scheduler and no random generator: learning rate, seed and position in the
data are functions of the step's number (data/plan.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from torch import nn

from recdiv_core.config import Config, from_tree, to_yaml
from recdiv_core.data.catalogue import Catalogue
from recdiv_core.errors import UserError
from recdiv_core.models.blend import TERMS
from recdiv_core.models.lifts import check_lifts
from recdiv_core.schema import ITEM_ID, Manifest
from recdiv_core.storage.whole_files import write_whole

logger = logging.getLogger(__name__)

VERSION: Final = 2
"""Version of the files of a checkpoint; 2 = the text term of a blend has each text once."""
SUMMED: Final = ("model.pt", "training.pt")
ITEMS: Final = "items.parquet"


@dataclass(frozen=True)
class TrainedOn:
    """The data set that a checkpoint was trained on.

    An empty lineage (`Manifest.root`) was not recorded: the checkpoint fits its own data set alone.
    """

    fingerprint: str
    name: str = ""
    lineage: str = ""
    generation: int = 0


@dataclass(frozen=True)
class Progress:
    """Where training stands.

    Attributes:
        step: steps done, over all epochs.
        best_epoch: epoch selected so far (`train.select`), from 1; 0 = none yet.
        best_metrics: validation metrics of that epoch, by name without a prefix.
        highest: highest value of `eval.objective` so far; 0 = none yet.
        epochs_without_better: epochs since then.
        is_finished: whether training is over; the weights are then the selected ones.
        metrics: metrics of the last report, with prefixes (`val/`, `test/`, ...).
        dials: what `dials_json` returns; empty = not evaluated.
    """

    step: int = 0
    best_epoch: int = 0
    best_metrics: Mapping[str, float] = field(default_factory=dict)
    highest: float = 0.0
    epochs_without_better: int = 0
    is_finished: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)
    dials: str = ""


def save_checkpoint(
    directory: Path,
    *,
    config: Config,
    manifest: Manifest,
    progress: Progress,
    weights: Mapping[str, Any],
    training: Mapping[str, Any],
    items: pa.Table | None = None,
) -> None:
    """Write a checkpoint into an existing directory; `items` are the rows of `items.parquet`."""
    write_whole(directory / "config.yaml", to_yaml(config))
    torch.save(dict(weights), directory / "model.pt")
    torch.save(dict(training), directory / "training.pt")
    if items is not None:
        pq.write_table(items, directory / ITEMS)
    names = SUMMED if items is None else (*SUMMED, ITEMS)
    data = {"name": manifest.name, "generation": manifest.generation}
    data |= {} if items is None else {"lineage": manifest.root}
    tree = {
        "version": VERSION,
        "manifest_fingerprint": manifest.fingerprint,
        "data": data,
        "sha256": {name: _sha256(directory / name) for name in names},
        **dataclasses.asdict(progress),
    }
    write_whole(directory / "checkpoint.json", json.dumps(tree))  # may hold NaN


def read_config(checkpoint: Path) -> Config:
    """Read the config that a checkpoint was trained with.

    Raises:
        UserError: no such directory, not a checkpoint, or a config of another version.
    """
    path = checkpoint / "config.yaml"
    if not checkpoint.is_dir():
        raise UserError(f"checkpoint {checkpoint} is not a directory")
    if not path.is_file():
        raise UserError(f"checkpoint {checkpoint} holds no config.yaml: not a checkpoint")
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
        if not isinstance(tree, dict):
            raise UserError(f"it holds a {type(tree).__name__}, no mapping")
        return from_tree(tree)
    except (yaml.YAMLError, UnicodeDecodeError, UserError) as error:
        raise UserError(f"{path} cannot be read as a config: {error}") from None


def read_progress(checkpoint: Path) -> Progress:
    """Read where a checkpoint's training stood.

    Raises:
        UserError: missing or damaged file.
    """
    return Progress(**_read_json(checkpoint)[1])


def read_trained_on(checkpoint: Path) -> TrainedOn:
    """Read which prepared data set a checkpoint was trained on.

    Raises:
        UserError: missing or damaged file.
    """
    return _read_json(checkpoint)[0]


def items_of(catalogue: Catalogue, popularity_V: Any) -> pa.Table:
    """Return the rows of `items.parquet`.

    `popularity_V` are the train events that the model knows of each item; 0 = it knows the text
    alone.
    """
    columns = [catalogue.item_ids, pa.array(popularity_V, pa.int64())]
    return pa.table(columns, names=[ITEM_ID, "popularity"])


def read_items(checkpoint: Path) -> pa.Table | None:
    """Read the items of a checkpoint; None = it records none and fits its own data set alone.

    Raises:
        UserError: missing or damaged file.
    """
    if ITEMS not in _read_json(checkpoint)[2]:
        return None
    check_sum(checkpoint, ITEMS)
    return pq.read_table(checkpoint / ITEMS)


def weights_digest(checkpoint: Path) -> str:
    """Return a digest of the weights and the config of a checkpoint: equal = the same model.

    Raises:
        UserError: missing or damaged file.
    """
    sums = _read_json(checkpoint)[2]
    text = sums["model.pt"] + (checkpoint / "config.yaml").read_text(encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def chosen_checkpoint(run: Path) -> Path:
    """Return the last checkpoint of a training run, which holds its selected weights.

    Raises:
        UserError: no checkpoint, or training has not ended.
    """
    found = by_progress(run)
    if not found:
        trials = sorted((run / "trials").glob("*"))
        hint = f"; it is a sweep, give one of its trials, such as {trials[0]}" if trials else ""
        raise UserError(
            f"{run} holds no checkpoint: it is neither a checkpoint nor the directory of a "
            f"training run{hint}"
        )
    if not read_progress(found[0]).is_finished:
        raise UserError(f"the training run {run} is not finished: the same command resumes it")
    return found[0]


def by_progress(run: Path) -> list[Path]:
    """Return the checkpoints in the directory of a run, the furthest first.

    The order is that of the steps that they record: their names are local times, and a clock can
    be set back. A checkpoint that records no step is left out.
    """
    found: list[tuple[tuple[bool, int], str, Path]] = []
    for path in run.glob("checkpoint_*/checkpoint.json"):
        try:
            found.append((_reached(path.parent), path.parent.name, path.parent))
        except UserError as error:
            logger.warning("%s: passed over", error)
    return [place for *_, place in sorted(found, reverse=True)]


def _reached(checkpoint: Path) -> tuple[bool, int]:
    progress = read_progress(checkpoint)
    return progress.is_finished, progress.step


def newest_whole(checkpoint: Path) -> Path:
    """Return this checkpoint, or if it is damaged, the last whole one before it.

    Raises:
        UserError: none is whole.
    """
    others = [path for path in by_progress(checkpoint.parent) if path != checkpoint]
    with contextlib.suppress(UserError):  # damaged: then all others count as earlier
        limit = _reached(checkpoint)
        others = [path for path in others if _reached(path) <= limit]
    for place in (checkpoint, *others):
        if is_whole(place):
            return place
    raise UserError(f"{checkpoint} is damaged, and none before it is whole: give a new run.name")


def is_whole(checkpoint: Path) -> bool:
    """Return whether the files of a checkpoint are as they were written; log a damaged one."""
    try:
        for name in {*SUMMED, *_read_json(checkpoint)[2]}:
            check_sum(checkpoint, name)
    except UserError as error:
        logger.warning("%s: going back to the checkpoint before", error)
        return False
    return True


def check_sum(checkpoint: Path, name: str) -> None:
    """Check that a file of a checkpoint is as it was written.

    Raises:
        UserError: the file or `checkpoint.json` is missing or damaged.
    """
    wanted = _read_json(checkpoint)[2].get(name)
    path = checkpoint / name
    if not path.is_file():
        raise UserError(f"{path} is missing: not a whole checkpoint")
    if _sha256(path) != wanted:
        raise UserError(f"{path} is damaged: its sha256 is not the one in checkpoint.json")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_weights(checkpoint: Path, model: nn.Module, *, own: tuple[str, ...] = ()) -> None:
    """Load a checkpoint's weights into a model of the same shape; the terms of a blend stay.

    Args:
        checkpoint: directory.
        model: model that gets the weights.
        own: prefixes of weights that stay the model's own where the checkpoint has none, or those
            of another shape.

    Raises:
        UserError: missing or damaged file, or weights of another shape.
    """
    saved = read_tensors(checkpoint, "model.pt").items()
    weights = {name: value for name, value in saved if not name.startswith(TERMS)}
    for name, value in model.state_dict().items():
        if name.startswith(own) and (name not in weights or weights[name].shape != value.shape):
            weights[name] = value
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise UserError(
            f"checkpoint {checkpoint} does not fit the model.* keys: {reason}"
        ) from None


def check_weights(checkpoint: Path, lift: float = 0.0) -> None:
    """Check a checkpoint's weights by reading them once.

    Args:
        checkpoint: directory.
        lift: `rerank.lift` of the slates to make.

    Raises:
        UserError: missing or damaged file, or no lifts where they are asked for.
    """
    check_lifts(read_tensors(checkpoint, "model.pt"), lift)
    check_sum(checkpoint, "model.pt")


def read_tensors(checkpoint: Path, name: str) -> dict[str, Any]:
    """Read `model.pt` (weights by name) or `training.pt` of a checkpoint, as it was saved.

    Raises:
        UserError: missing or damaged file.
    """
    path = checkpoint / name
    if not path.is_file():
        raise UserError(f"{path} is missing: not a whole checkpoint")
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} is damaged: {reason}") from None
    if not isinstance(tensors, dict):
        raise UserError(f"{path} is damaged: it holds a {type(tensors).__name__}, no mapping")
    return tensors


def _read_json(checkpoint: Path) -> tuple[TrainedOn, dict[str, Any], dict[str, str]]:
    """Return the data set, fields of Progress, and checksums."""
    path = checkpoint / "checkpoint.json"
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: not a whole checkpoint ({error})") from None
    version = tree.get("version") if isinstance(tree, dict) else None
    if version != VERSION:
        raise UserError(
            f"{path} is not of this version: it has {version}, {VERSION} can be read; train the "
            "model again"
        )
    needed = {"version", "manifest_fingerprint", "sha256"}
    known = needed | {"data"} | {entry.name for entry in fields(Progress)}
    if not isinstance(tree, dict) or not needed <= set(tree) <= known:
        raise UserError(f"{path} is not of this version: expected {', '.join(sorted(known))}")
    tree.pop("version")
    trained_on = TrainedOn(tree.pop("manifest_fingerprint"), **tree.pop("data", {}))
    return trained_on, tree, tree.pop("sha256")
