# pyright: strict
"""Checks that depend on `model.kind`: unused settings, and the largest catalogue.

The driver runs them before Ray starts. The models stand in models/; build.py and fit.py make them.
"""

from __future__ import annotations

from typing import Final

from recdiv_core.config import Config, flatten
from recdiv_core.errors import UserError
from recdiv_core.schema import Manifest

BASELINE_KEYS: Final = {
    "model.baseline.recent_share": "recent_popular",
    "model.baseline.num_neighbours": "item_knn",
    "model.baseline.shrinkage": "item_knn",
    "model.baseline.ridge": "ease",
    "model.baseline.max_items": "ease",
}
"""Key -> the only `model.kind` that uses it."""

OF_TRAINING: Final = (
    "model.",
    "loss.",
    "train.",
    "scaling.num_workers",
    "scaling.min_workers",
    "scaling.shard_encoder",
    "scaling.preemptible",
)
"""Prefixes of the keys that only a trained model uses."""

OF_ANY_KIND: Final = (
    "model.kind",
    "model.temperature",
    "train.keep_checkpoints",
    "train.max_failures",
)
"""Keys of these sections that a baseline uses too."""


def check_size(config: Config, manifest: Manifest) -> None:
    """Refuse a catalogue with too many items for the inverse of an items x items matrix.

    Raises:
        UserError: more items than `model.baseline.max_items` (ease).
    """
    num_items, limit = manifest.num_items, config.model.baseline.max_items
    if config.model.kind == "ease" and num_items > limit:
        raise UserError(
            f"model.kind=ease inverts a matrix of items x items: data.prepared has {num_items} "
            f"items, which takes {12 * num_items**2 / 2**30:.2g} GiB; allowed are "
            f"model.baseline.max_items={limit}. Raise it, or take model.kind=item_knn"
        )


def idle_keys(config: Config) -> list[str]:
    """Return the changed keys that this `model.kind` does not use."""
    kind, default = config.model.kind, flatten(Config())
    idle: list[str] = []
    for key, value in flatten(config).items():
        of_training = key.startswith(OF_TRAINING) and key not in OF_ANY_KIND
        owner = BASELINE_KEYS.get(key, "neural" if of_training else kind)
        if owner != kind and value != default[key]:
            idle.append(key)
    return idle
