# pyright: strict
"""Checks that depend on `model.kind`: unused settings, and memory.

The driver runs them before Ray starts. The models stand in models/; slates/loading.py and
baselines.py make them.
"""

from __future__ import annotations

import os
from typing import Final

from recdiv_core.config import Config, flatten
from recdiv_core.errors import UserError
from recdiv_core.schema import Manifest

BASELINE_KEYS: Final = {
    "model.baseline.recent_days": ("recent_popular",),
    "model.baseline.recent_share": ("recent_popular",),
    "model.baseline.num_neighbours": ("item_knn", "graph", "rp3beta"),
    "model.baseline.shrinkage": ("item_knn",),
    "model.baseline.half_life": ("item_knn", "ease", "rp3beta", "buy_again"),
    "model.baseline.ridge": ("ease",),
    "model.baseline.max_items": ("ease",),
    "model.baseline.kept_weights": ("ease",),
    "model.baseline.recency": ("graph", "text"),
    "model.baseline.lags": ("graph",),
    "model.baseline.lag_decay": ("graph",),
    "model.baseline.second_hop": ("graph",),
    "model.baseline.text_weight": ("graph",),
    "model.baseline.text_vectors": ("text",),
    "model.baseline.alpha": ("rp3beta",),
    "model.baseline.beta": ("rp3beta",),
    "model.baseline.bm25_k1": ("bm25", "hybrid"),
    "model.baseline.bm25_b": ("bm25", "hybrid"),
    "model.baseline.lexical_weight": ("hybrid",),
}
"""Key -> the kinds of model that use it."""

EASE_ITEMS: Final = 6_000
"""Most popular items of EASE as a term of a blend: its matrix takes .4 GiB and seconds."""

BYTES_PER_ENTRY: Final = 12
"""Memory of EASE per entry of its matrix: float64, and float32 for the result."""

SPARSE: Final = ("rp3beta", "item_knn", "graph")
"""Kinds of model with a similar use whose memory grows with the number of items."""

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


def check_size(config: Config, manifest: Manifest, memory: int | None = None) -> None:
    """Refuse a dense matrix of items x items that does not fit into memory.

    Ease needs one, as the kind of the model or as a term of its blend.

    Args:
        config: `model`.
        manifest: of the prepared data set.
        memory: bytes; None = physical memory of this machine.

    Raises:
        UserError: the matrix is too large.
    """
    kind, blend = config.model.kind, config.model.blend
    if not (kind == "ease" or (kind == "neural" and "ease" in blend)):
        return
    memory = memory or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    num_items = manifest.num_items
    limit = config.model.baseline.max_items or (num_items if kind == "ease" else EASE_ITEMS)
    size = min(num_items, limit)
    if BYTES_PER_ENTRY * size**2 > memory:
        fits = int((memory / 2 / BYTES_PER_ENTRY) ** 0.5)
        name = "model.kind=ease" if kind == "ease" else "ease in model.blend"
        raise UserError(
            f"{name} inverts a matrix of {size} x {size} items, which takes "
            f"{BYTES_PER_ENTRY * size**2 / 2**30:.2g} GiB; this machine has "
            f"{memory / 2**30:.2g} GiB. Restrict it to the most popular items with "
            f"model.baseline.max_items={fits}, or take a sparse kind: {', '.join(SPARSE)}"
        )


def idle_keys(config: Config) -> list[str]:
    """Return the changed keys that this `model.kind` does not use."""
    kind, default = config.model.kind, flatten(Config())
    idle: list[str] = []
    for key, value in flatten(config).items():
        of_training = key.startswith(OF_TRAINING) and key not in OF_ANY_KIND
        users = BASELINE_KEYS.get(key, ("neural",) if of_training else (kind,))
        own = (kind, *config.model.blend) if kind == "neural" else (kind,)
        if not set(own) & set(users) and value != default[key]:
            idle.append(key)
    return idle
