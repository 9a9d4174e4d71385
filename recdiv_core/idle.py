# pyright: strict
"""Warnings for settings that have no effect because of other settings.

effects.py knows which pipeline reads which key; training/kinds.py knows what depends on
`model.kind`. Here a table lists the condition under which a key has an effect. tests/test_idle.py
changes every key of a training step: either the outcome changes, or a warning names the key.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from recdiv_core.config import Config, flatten


@dataclass(frozen=True)
class Need:
    """A condition under which some keys have an effect.

    Attributes:
        keys: keys that have no effect unless the condition holds.
        of: keys that decide the condition; the warning shows their values.
        is_met: function of the config and the number of catalogue items; True = the keys count.
    """

    keys: tuple[str, ...]
    of: tuple[str, ...]
    is_met: Callable[[Config, int], bool]


def relevance_of(config: Config, num_items: int) -> str:
    """Return the relevance loss, with `auto` resolved."""
    if config.loss.relevance != "auto":
        return config.loss.relevance
    return "softmax" if num_items <= config.loss.softmax_max_items else "sampled_softmax"


def forms_slates(config: Config) -> bool:
    """Tell whether training forms soft slates."""
    return config.loss.diversity_weight > 0


def reranks(config: Config) -> bool:
    """Tell whether a re-ranker changes the slates."""
    return config.rerank.method != "none" and config.rerank.diversity > 0


def _binds(config: Config) -> bool:
    return any(not rule.lstrip().startswith("exclude ") for rule in config.rerank.rules)


def _is_fine_tuned(config: Config) -> bool:
    return config.model.text.enabled and config.model.text.trainable_layers > 0


_RELEVANCE: Final = ("loss.relevance",)
_SLATES: Final = ("loss.diversity_weight",)

TRAINING: Final = (
    Need(
        ("model.baseline.bm25_b",),
        ("model.baseline.bm25_k1",),
        lambda c, _: c.model.baseline.bm25_k1 > 0,
    ),
    Need(
        ("loss.num_negatives",),
        ("loss.relevance", "loss.negatives"),
        lambda c, v: relevance_of(c, v) != "softmax" and c.loss.negatives != "in_batch",
    ),
    Need(
        ("loss.negatives",),
        _RELEVANCE,
        lambda c, v: relevance_of(c, v) != "softmax",
    ),
    Need(("loss.logq_alpha",), _RELEVANCE, lambda c, v: relevance_of(c, v) == "sampled_softmax"),
    Need(("loss.softmax_max_items",), _RELEVANCE, lambda c, _: c.loss.relevance == "auto"),
    Need(
        (
            "loss.diversity",
            "loss.diversity_warmup",
            "loss.slate_size",
            "loss.slate_candidates",
            "loss.slate_temperature",
        ),
        _SLATES,
        lambda c, _: forms_slates(c),
    ),
    Need(
        ("loss.distil_method", "loss.distil_diversity"),
        (*_SLATES, "loss.diversity"),
        lambda c, _: forms_slates(c) and c.loss.diversity.get("distil", 0.0) > 0,
    ),
    Need(
        ("model.id_dropout", "model.text.trainable_layers", "model.text.lora_rank"),
        ("model.text.enabled",),
        lambda c, _: c.model.text.enabled,
    ),
    Need(
        ("train.text_learning_rate", "train.text_refresh_steps", "scaling.layer_cache_gib"),
        ("model.text.enabled", "model.text.trainable_layers"),
        lambda c, _: _is_fine_tuned(c),
    ),
    Need(("train.patience", "train.tie"), ("train.select",), lambda c, _: c.train.select == "best"),
    Need(
        ("scaling.min_workers",),
        ("scaling.num_workers",),
        lambda c, _: c.scaling.min_workers < c.scaling.num_workers,
    ),
    Need(
        ("scaling.shard_encoder",),
        ("scaling.num_workers",),
        lambda c, _: c.scaling.num_workers > 1,
    ),
)
"""Conditions of the keys of training."""

UNTRAINED: Final = ("train.epochs", "train.init_from", "train.select", "train.keep_checkpoints")
"""Keys of training that count also with `train.epochs=0`."""

RERANKING: Final = (
    Need(("rerank.diversity",), ("rerank.method",), lambda c, _: c.rerank.method != "none"),
    Need(("rerank.method",), ("rerank.diversity",), lambda c, _: c.rerank.diversity > 0),
    Need(
        ("rerank.window",),
        ("rerank.method",),
        lambda c, _: c.rerank.method in ("dpp", "ssd"),
    ),
    Need(("rerank.attributes",), ("rerank.method",), lambda c, _: c.rerank.method == "alpha"),
    Need(("rerank.beam_width",), ("rerank.method",), lambda c, _: c.rerank.method == "beam"),
    Need(("rerank.alpha",), ("rerank.method",), lambda c, _: c.rerank.method in ("xquad", "alpha")),
    Need(
        ("rerank.num_candidates",),
        ("rerank.method", "rerank.diversity", "rerank.rules"),
        lambda c, _: reranks(c) or _binds(c),
    ),
)
"""Conditions of the keys of re-ranking."""


def idle_in_training(config: Config, num_items: int, *, swept: Collection[str] = ()) -> list[str]:
    """Return a message for each group of keys without effect in training.

    Keys that depend on `swept` ones are left out.
    """
    if not config.train.epochs and "train.epochs" not in swept:
        keys = [
            key
            for key in _changed(config)
            if key.startswith(("loss.", "train."))
            and key not in UNTRAINED
            and not (key.startswith("loss.") and config.loss.conditioned)
        ]
        return [f"{', '.join(keys)}: no effect with train.epochs=0"] if keys else []
    return _messages(TRAINING, config, num_items, swept)


def idle_in_reranking(config: Config, *, swept: Collection[str] = ()) -> list[str]:
    """Return a message for each group of idle keys of `rerank`; see `idle_in_training`."""
    return _messages(RERANKING, config, 0, swept)


def _changed(config: Config) -> list[str]:
    default = flatten(Config())
    return [key for key, value in flatten(config).items() if value != default[key]]


def _messages(
    needs: Collection[Need], config: Config, num_items: int, swept: Collection[str]
) -> list[str]:
    values, changed = flatten(config), _changed(config)
    messages: list[str] = []
    named: set[str] = set()
    for need in needs:
        if need.is_met(config, num_items) or set(need.of) & set(swept):
            continue
        keys = [key for key in need.keys if key in changed and key not in named]
        named |= set(keys)
        if keys:
            causes = ", ".join(f"{key}={_shown(values[key])}" for key in need.of)
            messages.append(f"{', '.join(keys)}: no effect with {causes}")
    return messages


def _shown(value: object) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)  # pyright: ignore
