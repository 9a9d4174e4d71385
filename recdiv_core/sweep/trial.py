"""What runs inside a trial of a sweep: its config, and its reports on their way to Tune.

A process that Tune starts runs trials one after another; it keeps their workers (trainer.py) and
hands them on. It stays away from MLflow and the report: the sweep's driver logs what is forwarded
here (sweep.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final

import yaml
from ray import tune
from ray.train import Checkpoint, UserCallback

from recdiv_core.cluster.start import set_environment
from recdiv_core.config import Config, from_tree, override, to_yaml
from recdiv_core.storage.places import joined
from recdiv_core.training.launch import launch
from recdiv_core.training.workers import Workers

STOPPING_S: Final = "60"
"""Time for a stopped trial to let go of its workers, before the next one takes its place."""


def trial_function(
    config: Config, fingerprint: str, root: str, concurrent: int
) -> Callable[[dict[str, Any]], None]:
    """Return what Tune calls with each sample.

    Args:
        config: what all trials share, checked.
        fingerprint: of the data set that was checked.
        root: directory or URI of the sweep.
        concurrent: trials that share the cluster.
    """
    shared = yaml.safe_load(to_yaml(config))

    def train_trial(sample: dict[str, Any]) -> None:
        name = tune.get_context().get_trial_name()
        settings = trial_settings(from_tree(shared), sample, root, str(name))
        os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", STOPPING_S)
        set_environment(settings)  # on a cluster that was started without
        Workers.are_handed_on = True  # to the next trial of this process, with which they end
        launch(settings, fingerprint, callbacks=[EpochReports()], concurrent=concurrent)

    return train_trial


def trial_settings(shared: Config, sample: Mapping[str, Any], root: str, name: str) -> Config:
    """Return the config of one trial."""
    return override(
        shared,
        {
            **sample,
            "run.name": name,
            "run.storage": joined(root, "trials"),
        },
    )


class EpochReports(UserCallback):
    """Forward a trial's reports to Tune; called in the trial's own process.

    A report inside an epoch only brings a checkpoint: it has no figures to forward.
    """

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None
    ) -> None:
        """Forward rank 0's figures: they are global sums already."""
        if "epoch" in metrics[0]:
            tune.report(metrics[0])
