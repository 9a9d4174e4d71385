# pyright: strict
"""The pipelines that read each setting.

A setting on the command line that the pipeline does not read is ignored, and a warning names it and
the pipelines that read it. Presets and config files serve all pipelines, so there unread settings
give no warning. One exception: a warning names each setting of a config file that differs from the
one the data set was prepared with. tests/test_effects.py checks the table against the source.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, cast

from recdiv_core.config import Config, flatten
from recdiv_core.storage.given_paths import local_path

_TRAIN: Final = ("train", "tune", "update")
ON_CHECKPOINTS: Final = ("evaluate", "recommend", "compare", "register", "export")
"""Pipelines that use the settings of a checkpoint instead of defaults and preset."""
_CHECK: Final = ("audit", "inspect", "monitor", "report", "forget")
_DATA: Final = ("prepare", "update")

READERS: Final[dict[str, tuple[str, ...]]] = {
    "data.": _DATA,
    "data.prepared": (*_TRAIN, *ON_CHECKPOINTS, *_CHECK, "dashboard", "adapt"),
    "data.name": (*_DATA, "report", "dashboard"),
    "data.pseudonymise": (*_DATA, "evaluate", "recommend", "forget"),
    "data.demo_events": ("prepare",),
    "data.demo_queries": ("prepare",),
    "data.derived_categories": ("prepare",),
    "split.": _DATA,
    "split.protocol": ("prepare",),
    "model.": _TRAIN,
    "model.kind": (*_TRAIN, *ON_CHECKPOINTS),
    "model.diversity": (*_TRAIN, *ON_CHECKPOINTS),
    "model.text.encoder": (*_DATA, *_TRAIN),
    "model.text.max_tokens": ("prepare",),
    "model.text.pooling": ("prepare",),
    "model.text.query_prefix": ("prepare",),
    "model.text.passage_prefix": ("prepare",),
    "model.text.fields": _DATA,
    "loss.": _TRAIN,
    "rerank.": (*_TRAIN, *ON_CHECKPOINTS),
    "train.": _TRAIN,
    "adapt.": ("adapt",),
    "eval.": (*_TRAIN, *ON_CHECKPOINTS),
    "eligible.": (*_TRAIN, *ON_CHECKPOINTS),
    "eligible.at": ("recommend", "register", "update"),
    "eval.max_users": (*_TRAIN, "evaluate", "compare", "register"),
    "eval.cutoffs": ("evaluate", "update"),
    "eval.slices": ("tune", "evaluate", "report", "update"),
    "eval.dials": _TRAIN,
    "eval.objective": _TRAIN,
    "scaling.": (*_TRAIN, "evaluate", "recommend"),
    "scaling.use_gpu": (*_TRAIN, "evaluate", "recommend", "compare", "register", "adapt"),
    "scaling.threads_per_worker": (*_TRAIN, *ON_CHECKPOINTS, "inspect", "monitor", "adapt"),
    "scaling.min_workers": _TRAIN,
    "scaling.shard_encoder": _TRAIN,
    "scaling.layer_cache_gib": _TRAIN,
    "scaling.max_concurrent_trials": ("tune",),
    "scaling.trial_workers": ("tune",),
    "scaling.preemptible": _TRAIN,
    "scaling.address": (*_DATA, *_TRAIN, "evaluate", "recommend"),
    "run.": (*_TRAIN, "register"),
    "run.storage": (*_TRAIN, "register", "report"),
    "tracking.": (*_TRAIN, "compare", "register", "report", "dashboard"),
    "seed": (*_DATA, *_TRAIN, "adapt"),
}
"""Key, or section with its dot -> pipelines that read it; the longest match counts.
Evaluation reads the shape of a model from the checkpoint, so those keys cannot be set there."""


def readers(key: str) -> tuple[str, ...]:
    """Return the pipelines that read a key or an entry of a table.

    >>> readers("data.event_weights.cart")
    ('prepare', 'update')
    """
    fitting = [name for name in READERS if key == name or key.startswith(f"{name.rstrip('.')}.")]
    return READERS[max(fitting, key=len)]


def unread(pipeline: str, settings: Mapping[str, object]) -> list[str]:
    """Return a message for each group of settings that a pipeline does not read.

    >>> unread("train", {"data.event_weights": {}, "split.val_share": 0.2, "seed": 1})
    ['data.event_weights, split.val_share: no effect in train; takes effect in prepare, update']
    """
    groups: dict[str, list[str]] = {}
    for key in settings:
        if pipeline not in readers(key):
            groups.setdefault(", ".join(readers(key)), []).append(key)
    return [
        f"{', '.join(keys)}: no effect in {pipeline}; takes effect in {places}"
        for places, keys in groups.items()
    ]


def only_read_by(pipeline: str, settings: Mapping[str, object]) -> dict[str, object]:
    """Return the settings that a pipeline reads."""
    return {key: value for key, value in settings.items() if pipeline in readers(key)}


def of_the_call(settings: Mapping[str, object]) -> dict[str, object]:
    """Return the settings that belong to a call, not to a checkpoint: data, runs and tracking.

    >>> of_the_call({"tracking.uri": "sqlite:///runs.db", "eval.k": 5})
    {'tracking.uri': 'sqlite:///runs.db'}
    """
    of_call = ("tracking.", "run.", "data.", "split.")
    return {key: value for key, value in settings.items() if key.startswith(of_call)}


def stale(pipeline: str, settings: Mapping[str, object], config: Config) -> list[str]:
    """Return a message for each setting that differs from the one of the prepared data set.

    Raises:
        UserError: `data.prepared` is not a valid path.
    """
    manifest = local_path(config.data.prepared or ".", "data.prepared") / "manifest.json"
    if pipeline not in READERS["data.prepared"] or not manifest.is_file():
        return []
    try:
        made_with = cast("dict[str, object]", json.loads(manifest.read_bytes())["settings"])
    except (ValueError, KeyError, TypeError):
        return []  # its reader raises an error with details
    now = flatten(config)
    messages: list[str] = []
    # an entry of a table, such as data.columns.user_id, stands for the table
    for key in dict.fromkeys(key if key in now else key.rpartition(".")[0] for key in settings):
        value: object = json.loads(json.dumps(now[key], default=dict))
        if key in made_with and made_with[key] != value and pipeline not in readers(key):
            messages.append(
                f"{key}={value} has no effect: data.prepared={config.data.prepared} was prepared "
                f"with {made_with[key]}; run prepare again to change it"
            )
    return messages
