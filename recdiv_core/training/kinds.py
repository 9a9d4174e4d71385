# pyright: strict
"""The settings that a `model.kind` does not use.

The driver warns of them before Ray starts. slates/loading.py and slates/fitting.py make the models.
"""

from __future__ import annotations

from typing import Final

from recdiv_core.config import Config, flatten

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
