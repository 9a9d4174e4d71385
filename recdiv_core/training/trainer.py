"""Ray Train's trainer, without the process that would hand out its datasets.

Workers read by a plan of their own (data/plan.py), so a trainer is given none; Ray starts that
process even so, a second of a CPU a run, before the first step.
"""

from __future__ import annotations

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2.api.callback import RayTrainCallback


class PlannedTrainer(TorchTrainer):
    """A TorchTrainer whose workers ask for no dataset."""

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        callbacks = super()._create_default_callbacks()
        return [c for c in callbacks if not isinstance(c, DatasetsCallback)]
