# pyright: strict
"""What depends on `model.kind`: which settings are heeded, and how large a catalogue may be.

Not the models (models/), nor their making (build.py, fit.py): asked in the driver, before Ray
starts.
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
"""Key -> the one `model.kind` that it is of."""

OF_TRAINING: Final = (
    "model.",
    "loss.",
    "train.",
    "scaling.num_workers",
    "scaling.min_workers",
    "scaling.shard_encoder",
    "scaling.preemptible",
)
"""What only a trained model has."""

OF_ANY_KIND: Final = (
    "model.kind",
    "model.temperature",
    "train.keep_checkpoints",
    "train.max_failures",
)
"""Keys of the trained model's sections that a baseline heeds too."""


def check_size(config: Config, manifest: Manifest) -> None:
    """Refuse a catalogue whose items x items matrix is too large to be inverted.

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
    """Return the keys set away from their defaults that are not of this `model.kind`."""
    kind, default = config.model.kind, flatten(Config())
    idle: list[str] = []
    for key, value in flatten(config).items():
        of_training = key.startswith(OF_TRAINING) and key not in OF_ANY_KIND
        owner = BASELINE_KEYS.get(key, "neural" if of_training else kind)
        if owner != kind and value != default[key]:
            idle.append(key)
    return idle
