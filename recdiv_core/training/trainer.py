"""Ray Train's trainer, with what it lacks for many short runs and for several Rays (ray 2.60).

Workers read by a plan of their own (data/plan.py), so a trainer is given no datasets; Ray starts
the process that would hand them out even so, a second of a CPU a run, before the first step. And
Ray's clean-up after a run asks for the run's processes at the one Ray of the machine; where there
are several it asks the wrong one, takes a live run for dead, and ends it.
"""

from __future__ import annotations

import os
from typing import Final

import ray
from ray.train import Result
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE
from ray.train.v2.api.callback import RayTrainCallback

ADDRESS: Final = "RAY_ADDRESS"


class PlannedTrainer(TorchTrainer):
    """A TorchTrainer whose workers ask for no dataset, and whose processes know their Ray."""

    def fit(self) -> Result:
        """Train; see TorchTrainer."""
        ENV_VARS_TO_PROPAGATE.add(ADDRESS)  # from here to all of them
        before = os.environ.get(ADDRESS)
        os.environ[ADDRESS] = ray.get_runtime_context().gcs_address
        try:
            return super().fit()
        finally:
            del os.environ[ADDRESS]
            if before is not None:
                os.environ[ADDRESS] = before

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        callbacks = super()._create_default_callbacks()
        return [c for c in callbacks if not isinstance(c, DatasetsCallback)]
