"""Check a checkpoint, a data set and settings together, before Ray starts.

Evaluation and recommendation share these checks. Not what re-ranking asks (checks.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from recdiv_core.cluster.start import start_ray
from recdiv_core.config import Config, check_dial, override
from recdiv_core.data.text_vectors import check_vectors
from recdiv_core.errors import UserError
from recdiv_core.schema import Manifest, check_files, read_manifest
from recdiv_core.slates.checkpoint import check_data, check_weights, read_config
from recdiv_core.slates.checkpoint_copies import local_checkpoint
from recdiv_core.slates.checks import check_rerank
from recdiv_core.storage.places import absolute_place, joined


def check_inputs(
    config: Config, place: str | Path, *, swept: Collection[str] = ()
) -> tuple[Path, Manifest]:
    """Check all that a checkpoint is judged or recommended with, before Ray starts.

    Args:
        config: with a version in `data.prepared`, see `with_version`.
        place: of the checkpoint, path or URI.
        swept: keys that may still change, such as the dial of a grid.

    Returns:
        the prepared data set, absolute, and its manifest.

    Raises:
        UserError: files, data, settings and checkpoint that do not fit together.
    """
    check_dial(config)
    prepared = Path(config.data.prepared)
    manifest = read_manifest(prepared)
    check_files(prepared, manifest)
    checkpoint = local_checkpoint(place, "--checkpoint")
    check_data(checkpoint, manifest, prepared)
    check_rerank(config, prepared, swept=swept)
    check_weights(checkpoint)
    check_vectors(prepared, manifest)
    return prepared, manifest


def start_with_gpu(config: Config, checkpoint: str | Path) -> None:
    """Start or join Ray.

    Raises:
        UserError: a GPU is asked of this machine, and Ray sees none; or a node does not see the
            data or the checkpoint.
    """
    shared = {"data.prepared": str(Path(config.data.prepared) / "manifest.json")}
    shared["--checkpoint"] = joined(absolute_place(checkpoint, "--checkpoint"), "checkpoint.json")
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
