"""One trial of a sweep: its config, and the training that Tune follows report by report.

Tune runs this class in a process of its own. The training runs on Ray Train, whose controller is
another process; a Desk, a small actor, stands between the two. The controller leaves each report
there and waits until Tune has decided whether the trial goes on. The trial stays away from MLflow
and the report: the driver of the sweep logs what Tune hands it (sweep/tracking.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import ray
from ray import tune
from ray.train import Checkpoint, UserCallback

from recdiv_core.cluster.failures import end_training
from recdiv_core.cluster.start import set_environment
from recdiv_core.config import Config, from_tree, override
from recdiv_core.storage.places import joined
from recdiv_core.training.launch import Outcome, launch

POLL_S: Final = 0.2
"""Interval in seconds at which a trial looks whether its training has failed."""


class StoppedError(Exception):
    """Tune has stopped this trial."""


class Trial(tune.Trainable):
    """A trial; one step of it is one report of its training."""

    def setup(  # pyright: ignore[reportIncompatibleMethodOverride]: tune.with_parameters adds
        self,
        config: dict[str, Any],
        *,
        shared: Mapping[str, Any],
        fingerprint: str,
        root: str,
        concurrent: int,
    ) -> None:
        """Start the training.

        `shared` is the checked config of all trials as a tree; `concurrent` trials share the
        cluster.
        """
        self.shared, self.root = from_tree(dict(shared)), root
        self.fingerprint, self.concurrent = fingerprint, concurrent
        self.thread = ThreadPoolExecutor(max_workers=1)
        self.desk: Any = ray.remote(num_cpus=0)(Desk).remote()
        self._start(config)

    def _start(self, sample: Mapping[str, Any]) -> None:
        settings = trial_settings(self.shared, sample, self.root, self.trial_name)
        set_environment(settings)  # the cluster may have been started without
        self.is_answer_due = False
        self.training: Future[Outcome] = self.thread.submit(
            launch,
            settings,
            self.fingerprint,
            callbacks=[EpochReports(self.desk)],
            concurrent=self.concurrent,
        )

    def step(self) -> dict[str, Any]:
        """Return the next report; with the last one, which holds test metrics, the trial is done.

        Raises:
            Exception: whatever the training raised.
        """
        self._answer(goes_on=True)
        coming = self.desk.take.remote()
        while not ray.wait([coming], timeout=POLL_S)[0]:
            if self.training.done():
                self.training.result()
                raise AssertionError("the training ended without test metrics")
        report: dict[str, Any] = dict(ray.get(coming))
        self.is_answer_due = True
        if any(name.startswith("test/") for name in report):
            self._answer(goes_on=True)
            self.training.result()
            return {**report, "done": True}
        return report

    def _answer(self, *, goes_on: bool) -> None:
        if self.is_answer_due:
            ray.get(self.desk.answer.remote(goes_on))
        self.is_answer_due = False

    def cleanup(self) -> None:
        """Stop the training, if it still runs, and wait until its workers have ended."""
        self._answer(goes_on=False)
        self.training.exception()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start the next trial in this process."""
        self.cleanup()
        self._start(new_config)
        return True


class Desk:
    """Where a training leaves its reports, and learns after each whether it goes on."""

    def __init__(self) -> None:
        self.reports: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.answers: asyncio.Queue[bool] = asyncio.Queue()

    async def leave(self, report: dict[str, Any]) -> bool:
        """Leave a report; return whether the training goes on, once that is known."""
        await self.reports.put(report)
        return await self.answers.get()

    async def take(self) -> dict[str, Any]:
        """Return the next report."""
        return await self.reports.get()

    async def answer(self, goes_on: bool) -> None:
        """Tell whether the training goes on."""
        await self.answers.put(goes_on)


class EpochReports(UserCallback):
    """Leave each epoch's report at the trial's desk; end the training when Tune stops the trial.

    A report inside an epoch only brings a checkpoint: it has no metrics to forward.
    """

    def __init__(self, desk: Any) -> None:
        self.desk = desk

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None
    ) -> None:
        """Forward the metrics of rank 0: they are global sums already."""
        if "epoch" in metrics[0] and not ray.get(self.desk.leave.remote(metrics[0])):
            end_training(StoppedError())


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
