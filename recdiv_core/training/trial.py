"""What runs inside a trial of a sweep: its config, and its reports on their way to Tune.

Every process of every trial imports this module, so it stays away from MLflow and the report; the
sweep's driver logs what is forwarded here (sweep.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import yaml
from ray import tune
from ray.train import Checkpoint
from ray.tune.integration.ray_train import TuneReportCallback

from recdiv_core.config import Config, from_tree, override, to_yaml
from recdiv_core.search_space import Objective
from recdiv_core.training.launch import launch

RUNG: Final = "dominated"
"""Reported figure that the scheduler compares trials by."""


def trial_function(
    config: Config,
    objectives: tuple[Objective, ...],
    root: str,
    parent_run_id: str,
    concurrent: int,
) -> Callable[[dict[str, Any]], None]:
    """Return what Tune calls with each sample.

    Args:
        config: what all trials share, checked.
        objectives: axes of the volume that trials are compared by.
        root: directory or URI of the sweep.
        parent_run_id: MLflow run of the sweep.
        concurrent: trials that share the cluster.
    """
    shared = yaml.safe_load(to_yaml(config))

    def train_trial(sample: dict[str, Any]) -> None:
        name = tune.get_context().get_trial_name()
        settings = trial_settings(from_tree(shared), sample, root, str(name), parent_run_id)
        launch(settings, callbacks=[ScoredReports(objectives)], concurrent=concurrent)

    return train_trial


def trial_settings(
    shared: Config, sample: Mapping[str, Any], root: str, name: str, parent_run_id: str
) -> Config:
    """Return the config of one trial."""
    return override(
        shared,
        {
            **sample,
            "run.name": name,
            "run.storage": f"{root}/trials",
            "tracking.parent_run_id": parent_run_id,
        },
    )


def dominated_volume(metrics: Mapping[str, float], objectives: tuple[Objective, ...]) -> float:
    """Return the volume between a trial's figures and the reference point, >= 0.

    One number to compare trials by that favours no end of the front: a trial is stopped when it
    dominates little, not when its accuracy is low.
    """
    gains = [
        (metrics[o.metric] - o.reference) * (1 if o.direction == "max" else -1) for o in objectives
    ]
    return math.prod(max(0.0, gain) for gain in gains)


class ScoredReports(TuneReportCallback):
    """Forward a trial's reports to Tune, with the figure that the scheduler goes by.

    A report inside an epoch only brings a checkpoint: it has no figures to forward.
    """

    def __init__(self, objectives: tuple[Objective, ...]) -> None:
        super().__init__()
        self.objectives = objectives

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None
    ) -> None:
        """Forward rank 0's figures: they are global sums already."""
        figures = metrics[0]
        if "epoch" in figures:
            scored = {**figures, RUNG: dominated_volume(figures, self.objectives)}
            super().after_report(run_context, [scored], checkpoint)
