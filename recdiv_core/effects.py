# pyright: strict
"""Where each setting takes effect: the pipelines that read it.

One rule: a setting on the command line that the pipeline does not read is left out, and a warning
names it and the pipelines that read it. A preset and a config file serve all pipelines, so there
each takes what it reads and says nothing of the rest. One exception: settings of a config file that
differ from those that the prepared data set was made with are named, since they are not in force.
tests/test_effects.py holds the table against the source.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, cast

from recdiv_core.config import Config, flatten
from recdiv_core.storage.given_paths import local_path

_TRAIN: Final = ("train", "tune")
ON_CHECKPOINTS: Final = ("evaluate", "recommend", "compare", "register")
"""Pipelines that take a checkpoint's own settings in place of defaults and preset."""
_CHECK: Final = ("audit", "inspect", "report")
_DATA: Final = ("prepare",)

READERS: Final[dict[str, tuple[str, ...]]] = {
    "data.": _DATA,
    "data.prepared": (*_TRAIN, *ON_CHECKPOINTS, *_CHECK, "dashboard"),
    "data.name": (*_DATA, "report", "dashboard"),
    "split.": _DATA,
    "model.": _TRAIN,
    "model.kind": (*_TRAIN, *ON_CHECKPOINTS),
    "model.diversity": (*_TRAIN, *ON_CHECKPOINTS),
    "model.text.encoder": (*_DATA, *_TRAIN),
    "model.text.max_tokens": _DATA,
    "model.text.fields": _DATA,
    "loss.": _TRAIN,
    "rerank.": (*_TRAIN, *ON_CHECKPOINTS),
    "train.": _TRAIN,
    "eval.": (*_TRAIN, *ON_CHECKPOINTS),
    "eval.cutoffs": ("evaluate",),
    "eval.slices": ("tune", "evaluate", "report"),
    "eval.objective": _TRAIN,
    "scaling.": (*_TRAIN, "evaluate", "recommend"),
    "scaling.use_gpu": (*_TRAIN, *ON_CHECKPOINTS),
    "scaling.threads_per_worker": (*_TRAIN, *ON_CHECKPOINTS, "inspect"),
    "scaling.shard_encoder": _TRAIN,
    "scaling.max_concurrent_trials": ("tune",),
    "scaling.preemptible": _TRAIN,
    "scaling.address": (*_DATA, *_TRAIN, "evaluate", "recommend"),
    "run.": (*_TRAIN, "register"),
    "run.storage": (*_TRAIN, "register", "report"),
    "tracking.": (*_TRAIN, "compare", "register", "report", "dashboard"),
    "seed": (*_DATA, *_TRAIN),
}
"""Key, or a section with its dot -> the pipelines that read it; the longest one that fits counts.
What evaluation reads of a model's shape comes from the checkpoint and cannot be set."""


def readers(key: str) -> tuple[str, ...]:
    """Return the pipelines that read a key, or an entry of the table of that key.

    >>> readers("data.event_weights.cart")
    ('prepare',)
    """
    fitting = [name for name in READERS if key == name or key.startswith(f"{name.rstrip('.')}.")]
    return READERS[max(fitting, key=len)]


def unread(pipeline: str, settings: Mapping[str, object]) -> list[str]:
    """Return a message for each group of settings that a pipeline does not read.

    >>> unread("train", {"data.event_weights": {}, "split.val_share": 0.2, "seed": 1})
    ['data.event_weights, split.val_share: no effect in train; takes effect in prepare']
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
    """Return the settings that are of a call and of no checkpoint: data, and where runs are.

    >>> of_the_call({"tracking.uri": "sqlite:///runs.db", "eval.k": 5})
    {'tracking.uri': 'sqlite:///runs.db'}
    """
    of_call = ("tracking.", "run.", "data.", "split.")
    return {key: value for key, value in settings.items() if key.startswith(of_call)}


def stale(pipeline: str, settings: Mapping[str, object], config: Config) -> list[str]:
    """Return a message for each setting that the prepared data set was made without.

    Args:
        pipeline: which reads `data.prepared`, or not.
        settings: of a config file, by their dotted keys.
        config: of the call.

    Raises:
        UserError: `data.prepared` cannot be a path.
    """
    manifest = local_path(config.data.prepared or ".", "data.prepared") / "manifest.json"
    if pipeline not in READERS["data.prepared"] or not manifest.is_file():
        return []
    try:
        made_with = cast("dict[str, object]", json.loads(manifest.read_bytes())["settings"])
    except (ValueError, KeyError, TypeError):
        return []  # refused by its reader, which says more
    now = flatten(config)
    messages: list[str] = []
    for key in dict.fromkeys(_of_config(key, now) for key in settings):
        value: object = json.loads(json.dumps(now[key], default=dict))
        if key in made_with and made_with[key] != value and pipeline not in readers(key):
            messages.append(
                f"{key}={value} is not in force: data.prepared={config.data.prepared} was prepared "
                f"with {made_with[key]}; run prepare again to change it"
            )
    return messages


def _of_config(key: str, known: Mapping[str, object]) -> str:
    """Return the key itself, or the one of the table that it is an entry of."""
    return key if key in known else key.rpartition(".")[0]
