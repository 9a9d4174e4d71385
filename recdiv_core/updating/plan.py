"""What an update does: the plan, and the settings of the candidate's training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from recdiv_core.config import Config, flatten, override
from recdiv_core.slates.checkpoint import read_config

OF_THE_MODEL: Final = ("model.", "loss.", "rerank.", "eval.")
"""Settings that a fine-tuned model takes from the champion; rules of the call replace its own."""


@dataclass(frozen=True)
class Plan:
    """What an update does beside the settings.

    Attributes:
        name: name of the registered model.
        retrains: whether the candidate is trained from scratch, not from the champion's weights.
        epochs: epochs of a fine-tuning over the train split, old and new events alike.
        rate_share: share of `train.learning_rate` of a fine-tuning, in (0, 1].
        floors: see `gate.pass_gate`.
        largest_drop: share of the mean NDCG of the last week that the champion may lose, in [0, 1].
        has_yardstick: whether a model is also trained from scratch, for comparison alone.
        holds: whether the re-ranking is chosen such that diversity holds its levels, see hold.py.
    """

    name: str
    retrains: bool
    epochs: int
    rate_share: float
    floors: Mapping[str, float]
    largest_drop: float
    has_yardstick: bool = False
    holds: bool = True


def training_config(config: Config, plan: Plan, start: Path | None, run_name: str) -> Config:
    """Return the settings of the training of the candidate.

    Args:
        config: settings of the call.
        plan: what to do.
        start: checkpoint of the champion; None = there is none, so the candidate starts afresh.
        run_name: name of the run.
    """
    named: dict[str, object] = {"run.name": run_name, "data.base": "", "data.out": ""}
    if start is None or plan.retrains:
        return override(config, named)
    champion = flatten(read_config(start))
    kept = {key: value for key, value in champion.items() if key.startswith(OF_THE_MODEL)}
    if config.rerank.rules:
        kept["rerank.rules"] = config.rerank.rules
    tuned: dict[str, object] = {
        "train.init_from": str(start),
        "train.epochs": plan.epochs,
        "train.learning_rate": config.train.learning_rate * plan.rate_share,
    }
    return override(config, {**kept, **named, **tuned})


def own_settings(config: Config, prefix: str) -> dict[str, object]:
    """Return the settings of a section that differ from the defaults."""
    usual = flatten(Config())
    return {
        key: value
        for key, value in flatten(config).items()
        if key.startswith(prefix) and value != usual[key]
    }
