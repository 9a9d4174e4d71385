"""Check a checkpoint, a data set and settings together, before Ray starts.

Evaluation and recommendation share these checks. Not what re-ranking needs (checks.py).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

from recdiv_core.cluster.start import start_ray
from recdiv_core.config import Config, check_dial, override
from recdiv_core.data.text_vectors import check_vectors
from recdiv_core.errors import UserError
from recdiv_core.schema import Manifest, check_files, read_manifest
from recdiv_core.slates.checkpoint import check_weights, read_config
from recdiv_core.slates.checkpoint_copies import local_checkpoint
from recdiv_core.slates.checks import check_eligible, check_rerank, warn_of_few_items
from recdiv_core.slates.lineage import check_lineage
from recdiv_core.storage.places import absolute_place, joined

logger = logging.getLogger(__name__)


def check_inputs(
    config: Config, checkpoint: str | Path, *, swept: Collection[str] = ()
) -> tuple[Path, Manifest]:
    """Check everything that a checkpoint is judged or used for slates with, before Ray starts.

    For the version in `data.prepared` see `with_version`. Keys in `swept` may still change, such as
    the dial of a grid.

    Returns:
        the prepared data set, absolute, and its manifest.

    Raises:
        UserError: files, data, settings and checkpoint that do not fit together.
    """
    check_dial(config)
    prepared, manifest = check_prepared(config)
    local = local_checkpoint(checkpoint, "--checkpoint")
    check_lineage(local, manifest, prepared)
    check_rerank(config, prepared, swept=swept)
    check_eligible(config, prepared)
    warn_of_few_items(config.eval.k, manifest.num_items)
    check_weights(local, config.rerank.lift)
    return prepared, manifest


def check_prepared(config: Config) -> tuple[Path, Manifest]:
    """Check the files of a prepared data set, before Ray starts.

    Returns:
        the prepared data set, absolute, and its manifest.

    Raises:
        UserError: no data set is named, files are missing, or vectors cannot be made.
    """
    if not config.data.prepared:
        raise UserError("data.prepared is not set: give the directory of a prepared data set")
    prepared = Path(config.data.prepared)
    manifest = read_manifest(prepared)
    check_files(prepared, manifest)
    check_vectors(prepared, manifest)
    return prepared, manifest


def start_with_gpu(config: Config, checkpoint: str | Path | None = None) -> None:
    """Start or join Ray.

    Without a checkpoint no worker loads one.

    Raises:
        UserError: `scaling.use_gpu=true` and Ray finds no GPU on this machine; or a node does not
            see the data or the checkpoint.
    """
    shared = {"data.prepared": str(Path(config.data.prepared) / "manifest.json")}
    if checkpoint is not None:
        place = absolute_place(checkpoint, "--checkpoint")
        shared["--checkpoint"] = joined(place, "checkpoint.json")
    start_ray(config, shared)
    import ray

    scaling = config.scaling
    if scaling.use_gpu and scaling.address == "local" and not ray.cluster_resources().get("GPU"):
        raise UserError("scaling.use_gpu=true: Ray sees no GPU on this machine")


def checkpoint_config(checkpoint: str | Path, settings: Mapping[str, object]) -> Config:
    """Return a checkpoint's config with the settings of this call, by their dotted keys.

    Raises:
        UserError: not a checkpoint, or a wrong setting.
    """
    own = read_config(local_checkpoint(checkpoint, "--checkpoint"))
    config = override(own, settings)
    if config.model.kind != own.model.kind:
        raise UserError(
            f"model.kind={config.model.kind}: checkpoint {checkpoint} holds a model of "
            f"model.kind={own.model.kind}, which evaluation cannot change"
        )
    return config


def slates_config(settings: Mapping[str, object]) -> Config:
    """Return the config that slates of another system are judged with.

    Settings of a model or a re-ranker have no effect on such slates; a warning names them.

    Raises:
        UserError: a wrong setting.
    """
    idle = [key for key in settings if key.startswith(("model.", "rerank."))]
    if idle:
        logger.warning("%s: no effect on slates that are given", ", ".join(idle))
    return override(Config(), settings)
