"""Launch one training on Ray Train: `pipelines.train` and each trial of a sweep call it.

`run` checks the settings (checks.py), then trains. A run whose name exists continues where it
stopped, if its settings are the same; a finished run returns its result. `launch` is the one call
into Ray Train. Heavy imports happen inside functions: a wrong path is reported without them.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from recdiv_core.config import Config, ScalingConfig, override, to_tree, to_yaml
from recdiv_core.errors import UserError
from recdiv_core.schema import Manifest
from recdiv_core.storage.places import filesystem_of, is_uri, sibling
from recdiv_core.training.checks import check_config, cpus_per_worker
from recdiv_core.training.run_files import (
    claim_run,
    drop_damaged_snapshot,
    existing_result,
    on_own_version,
    place_run,
    write_result,
    write_run_file,
)
from recdiv_core.wording import few_judged, users_judged

if TYPE_CHECKING:
    from ray.train import UserCallback

logger = logging.getLogger(__name__)

METRICS_OF_RAY: Final = "RAY_TRAIN_METRICS_ENABLED"
"""Ray Train's switch of its own metrics, which the dashboard shows."""


@dataclass(frozen=True)
class Outcome:
    """Result of a training.

    Attributes:
        checkpoint: directory or URI of the last checkpoint, which holds the selected weights.
        metrics: metrics of the last report.
    """

    checkpoint: str
    metrics: dict[str, float]


def launch(
    config: Config,
    fingerprint: str,
    *,
    callbacks: Sequence[UserCallback] = (),
    concurrent: int = 1,
) -> Outcome:
    """Train, or fit, with the config; Ray runs and `check_config` has passed.

    Args:
        config: has absolute paths and a run name.
        fingerprint: fingerprint of the data set that was checked; workers refuse another.
        callbacks: callbacks of Ray Train; its controller process calls them.
        concurrent: training runs that share the cluster.

    Raises:
        UserError: a worker has found a mistake, such as data that changed meanwhile.
        DivergedError: the training has diverged.
        KeyboardInterrupt: Ctrl-C; the workers have ended, the last checkpoint is whole.
    """
    import ray
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    from recdiv_core.cluster.failures import NoRetry, told_failure

    is_trained = config.model.kind == "neural"
    alone = {"scaling.num_workers": 1, "scaling.min_workers": 0}
    needed = config if is_trained else override(config, alone)
    cpus = cpus_per_worker(needed, ray.cluster_resources(), concurrent)
    if not config.run.name.isascii():  # Ray 2.60 refuses a label of its metrics that is not ASCII
        os.environ[METRICS_OF_RAY] = "0"
    trainer = TorchTrainer(
        _train if is_trained else _fit,
        train_loop_config={
            "config": to_tree(config),
            "fingerprint": fingerprint,
        },
        torch_config=TorchConfig(backend="nccl" if config.scaling.use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=group_size(needed.scaling),
            use_gpu=config.scaling.use_gpu,
            resources_per_worker={"CPU": cpus, **({"GPU": 1} if config.scaling.use_gpu else {})},
        ),
        run_config=ray.train.RunConfig(
            name=config.run.name,
            **ray_storage(config.run.storage),
            failure_config=ray.train.FailureConfig(max_failures=config.train.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=config.train.keep_checkpoints),
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
            callbacks=[NoRetry(), *callbacks],
        ),
    )
    drop_damaged_snapshot(config)
    try:
        with _interruptible():
            result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        told = told_failure(error)
        if told is None:
            raise
        raise told from None
    assert result.checkpoint is not None
    assert result.metrics is not None
    path = str(result.checkpoint.path)
    place = sibling(config.run.storage, path) if is_uri(config.run.storage) else path
    return Outcome(place, _finite(config, result.metrics))


def group_size(scaling: ScalingConfig) -> int | tuple[int, int]:
    """Return the number of workers as Ray Train takes it: (fewest, most) where it may change."""
    if 0 < scaling.min_workers < scaling.num_workers:
        return scaling.min_workers, scaling.num_workers
    return scaling.num_workers


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt once Ray Train has answered Ctrl-C, and put our handler back."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Ray Train leaves the handler alone: the thread that waits gets the interrupt
        return
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, handler)


def ray_storage(place: str) -> dict[str, Any]:
    """Return the storage as arguments of Ray's RunConfig, that of Train or of Tune."""
    if not is_uri(place):
        return {"storage_path": place}
    filesystem, path = filesystem_of(place, "run.storage")
    return {"storage_path": path, "storage_filesystem": filesystem}


def _finite(config: Config, metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite metrics of a report; JSON has no other numbers."""
    figures = {n: float(value) for n, value in metrics.items() if isinstance(value, int | float)}
    finite = {name: value for name, value in figures.items() if math.isfinite(value)}
    if lost := sorted(figures.keys() - finite.keys()):
        logger.warning("%s: not finite, left out: %s", config.run.name, ", ".join(lost))
    return finite


def _train(settings: dict[str, Any]) -> None:
    from recdiv_core.training.loop import train_loop

    train_loop(settings)


def _fit(settings: dict[str, Any]) -> None:
    from recdiv_core.training.fit import fit_loop

    fit_loop(settings)


def run(config: Config) -> dict[str, Any]:
    """Train one run, tracked in MLflow; resume it if its name exists.

    Returns:
        `{"run", "checkpoint", "mlflow_run_id", "metrics"}`.

    Raises:
        UserError: see `check_config`; no epochs and no weights; or the name exists with other
            settings.
    """
    is_trained = config.model.kind == "neural"
    if is_trained and not config.train.epochs and not config.train.init_from:
        raise UserError("train.epochs=0 needs train.init_from: nothing else can be evaluated")
    config, manifest = check_config(on_own_version(place_run(config, "train")))
    finished = existing_result(config)
    if finished is None:
        with claim_run(config):
            finished = existing_result(config)  # another process may just have finished it
            if finished is None:
                result = _run(config, manifest)
                _tell_users(result["metrics"])
                return result
    logger.info("run.name=%s is finished already", config.run.name)
    _tell_users(finished["metrics"])
    return finished


def _tell_users(metrics: Mapping[str, float]) -> None:
    """Log the number of users behind the metrics."""
    for split, said in users_judged(metrics).items():
        logger.info("%s: %s", split, said)
    for warning in few_judged(metrics):
        logger.warning("%s", warning)


def _run(config: Config, manifest: Manifest) -> dict[str, Any]:
    """Train a run that is not finished, from where it stopped."""
    from recdiv_core.cluster.start import start_ray
    from recdiv_core.data.text_vectors import ensure_vectors
    from recdiv_core.slates.carry import carried_place
    from recdiv_core.tracking.runs import finish_run, machine_watched
    from recdiv_core.tracking.store import tracking_uri
    from recdiv_core.training.callback import TrackingCallback, open_run

    tracking_uri(config)
    start_ray(config, shared_places(config))
    handle = open_run(config, manifest)
    status = "FAILED"
    try:
        ensure_vectors(Path(config.data.prepared), manifest)
        ensure_frozen(config, manifest, config.model.text.trainable_layers)
        if config.train.init_from and config.model.kind == "neural":
            carried_place(config.train.init_from, Path(config.data.prepared), manifest)
        write_run_file(config, "config.yaml", to_yaml(config))
        with machine_watched(handle):
            outcome = launch(config, manifest.fingerprint, callbacks=[TrackingCallback(handle)])
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        finish_run(handle, status)
    result = {
        "run": config.run.name,
        "checkpoint": outcome.checkpoint,
        "mlflow_run_id": handle.run_id,
        "metrics": outcome.metrics,
    }
    write_result(config, result)
    return result


def ensure_frozen(config: Config, manifest: Manifest, num_trained: int) -> None:
    """Store the output of the encoder's frozen layers, if layers above them train; Ray runs."""
    text = config.model.text
    if config.model.kind != "neural" or not text.enabled or not num_trained:
        return
    from recdiv_core.data.layer_states import ensure_states
    from recdiv_core.models.text_encoder import encoder_depth, resolve_encoder

    num_frozen = encoder_depth(resolve_encoder(text.encoder)) - num_trained
    max_gib = config.scaling.layer_cache_gib
    ensure_states(Path(config.data.prepared), manifest, num_frozen, max_gib=max_gib)


def shared_places(config: Config) -> dict[str, str]:
    """Return the places of a run that all nodes must see, by key."""
    manifest = f"{config.data.prepared}/manifest.json"
    return {"data.prepared": manifest, "run.storage": config.run.storage}
