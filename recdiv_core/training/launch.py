"""Launch one training run on Ray Train: the path that `pipelines.train` and every trial share.

Everything that can be wrong is checked in the driver first: the data, the checkpoint to start from,
the resources. A run of a name that exists goes on where it stopped, if its settings are the same;
a finished one answers with its result. `launch` is the one call into Ray Train. What trains is
imported where it runs, in the workers, not by a driver that may only have a wrong path to tell of.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow.parquet as pq
import yaml

from recdiv_core.config import Config, check_dial, flatten, override, to_yaml
from recdiv_core.data.plan import track_readers_here
from recdiv_core.data.versions import open_version
from recdiv_core.errors import UserError
from recdiv_core.idle import idle_in_training
from recdiv_core.schema import Manifest, check_files, read_manifest
from recdiv_core.slates.checks import check_rerank
from recdiv_core.storage.places import filesystem_of, is_uri, sibling
from recdiv_core.training.kinds import check_size, idle_keys
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

LEFT_TO_OTHERS: Final = 0.2
"""Share of the CPUs that workers leave, unless the user says, to what else runs on a cluster:
texts of another sweep that are encoded, `evaluate`, `recommend`."""

ATTRIBUTES: Final = {"brand_entropy": "brand", "colour_entropy": "colour", "price_entropy": "price"}
"""Regulariser -> column of the catalogue that it needs."""

MEASURED: Final = (
    "ndcg",
    "recall",
    "precision",
    "f1",
    "hit",
    "mrr",
    "map",
    "ild",
    "diversity_index",
    "coverage",
    "category_coverage",
    "novelty",
)
"""Metrics that may be an objective, higher is better."""

SHAPE_KEYS: Final = (
    "model.kind",
    "model.dim",
    "model.num_layers",
    "model.num_heads",
    "model.max_history",
    "model.text.enabled",
    "model.text.trainable_layers",
    "model.text.lora_rank",
)
"""Keys that decide the shapes of the weights."""


@dataclass(frozen=True)
class Outcome:
    """How a training run ended.

    Attributes:
        checkpoint: directory or URI of the last checkpoint, which holds the best weights.
        metrics: figures of the last report.
    """

    checkpoint: str
    metrics: dict[str, float]


def check_config(config: Config, *, swept: Collection[str] = ()) -> tuple[Config, Manifest]:
    """Check what a training run needs before Ray starts, and make its paths absolute.

    Raises:
        UserError: no whole prepared data set, one of another text encoder or without an attribute
            that is asked for, a checkpoint that does not fit, an objective that is not measured.
    """
    config = place_run(config, "train")
    prepared, manifest = check_prepared(config)
    config = with_data_settings(config, manifest)
    check_rerank(config, prepared, swept=swept)
    changes: dict[str, object] = {"data.prepared": str(prepared)}
    if config.model.kind == "neural":
        changes |= _check_training(config, prepared, manifest)
    else:
        check_size(config, manifest)
    if config.eval.objective not in MEASURED:
        raise UserError(
            f"eval.objective={config.eval.objective} is not measured; allowed: "
            f"{', '.join(MEASURED)}"
        )
    from recdiv_core.data.text_vectors import check_vectors

    check_vectors(prepared, manifest)
    _warn_no_effect(config, manifest.num_items, swept)
    return override(config, changes), manifest


def with_data_settings(config: Config, manifest: Manifest) -> Config:
    """Return the config with the `data.*` and `split.*` that the data set was prepared with.

    They are what MLflow shows of a run; those of its own command line did nothing.
    """
    known = flatten(config)
    made = {
        key: value
        for key, value in manifest.settings.items()
        if key.startswith(("data.", "split.")) and key in known
    }
    try:
        return override(config, {**made, "data.name": manifest.name})
    except UserError as error:  # of an earlier version, with values that are none any more
        logger.warning("settings of data.prepared=%s: %s", config.data.prepared, error)
        return config


def check_prepared(config: Config) -> tuple[Path, Manifest]:
    """Return where the prepared data set is, and what it holds.

    Raises:
        UserError: there is none, it is not whole, or it has no train example.
    """
    if not config.data.prepared:
        raise UserError("data.prepared is not set: give the directory that pipelines.prepare wrote")
    prepared = open_version(config.data.prepared)
    manifest = read_manifest(prepared)
    check_files(prepared, manifest)
    if not manifest.num_examples.get("train"):
        raise UserError(f"data.prepared={prepared} holds no train example")
    empty = [split for split in ("val", "test") if not manifest.num_examples.get(split)]
    if empty:
        protocol = manifest.split.get("protocol")
        change = (
            "give each user three events or more, or split.protocol=temporal"
            if protocol == "leave_last_out"
            else "move split.val_from and split.test_from, or raise split.val_share and "
            "split.test_share"
        )
        raise UserError(
            f"data.prepared={prepared} holds no {' and no '.join(empty)} example, so there is "
            f"nothing to measure: its split ({protocol}) leaves nobody there. Prepare it again: "
            f"{change}"
        )
    return prepared, manifest


def _check_training(config: Config, prepared: Path, manifest: Manifest) -> dict[str, object]:
    """Check what only a trained model needs; return the keys that get absolute paths."""
    text = config.model.text
    if text.enabled and text.encoder != manifest.encoder.name:
        raise UserError(
            f"model.text.encoder={text.encoder}, but data.prepared={prepared} was prepared with "
            f"model.text.encoder={manifest.encoder.name}: give that, or prepare again"
        )
    if text.enabled and text.trainable_layers:
        from recdiv_core.data.text_vectors import checked_encoder
        from recdiv_core.models.text_encoder import encoder_depth, resolve_encoder

        depth = encoder_depth(resolve_encoder(text.encoder))
        if text.trainable_layers > depth:
            raise UserError(
                f"model.text.trainable_layers={text.trainable_layers}: the encoder {text.encoder} "
                f"has {depth} layers"
            )
        checked_encoder(manifest)
    _check_attributes(config, prepared)
    check_dial(config)
    if not config.train.init_from:
        return {}
    from recdiv_core.slates.checkpoint import check_data, check_weights, read_config
    from recdiv_core.slates.checkpoint_copies import local_checkpoint

    start = local_checkpoint(config.train.init_from, "train.init_from")
    _check_shape(config, read_config(start))
    check_data(start, manifest)
    check_weights(start)
    return {} if is_uri(config.train.init_from) else {"train.init_from": str(start)}


def measured_names(k: int) -> list[str]:
    """Return the metrics of a slate of k items that are better when higher."""
    return [f"{name}_at_{k}" for name in MEASURED]


def cpus_per_worker(config: Config, cluster: Mapping[str, float], concurrent: int = 1) -> float:
    """Return the CPUs to reserve a worker: what the user says, or at most one, so that all fit.

    Raises:
        UserError: the request cannot be met on this cluster, with the numbers.
    """
    workers = config.scaling.num_workers * concurrent
    cpus, gpus = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
    if config.scaling.use_gpu and gpus < workers and config.scaling.address == "local":
        raise UserError(
            f"scaling.num_workers={config.scaling.num_workers} with scaling.use_gpu=true needs "
            f"{workers} GPUs, Ray has {gpus:.0f}"
        )
    asked = config.scaling.cpus_per_worker
    if asked * workers > cpus and config.scaling.address == "local":
        raise UserError(
            f"scaling.cpus_per_worker={asked} times {workers} workers is more than Ray's "
            f"{cpus:.0f} CPUs"
        )
    if not cpus and config.scaling.address != "local":
        logger.info(
            "the cluster has no CPU yet: asking for %g a worker (scaling.cpus_per_worker)",
            asked or 1.0,
        )
        return asked or 1.0
    share = int(100 * cpus * (1 - LEFT_TO_OTHERS) / workers) / 100
    return asked or max(0.01, min(1.0, share))


def launch(
    config: Config,
    fingerprint: str,
    *,
    callbacks: Sequence[UserCallback] = (),
    concurrent: int = 1,
) -> Outcome:
    """Train, or fit, with the config; Ray runs already, `check_config` has been called.

    Args:
        config: with absolute paths and a run name.
        fingerprint: of the data set that was checked; workers refuse another.
        callbacks: Ray Train's, called in this process.
        concurrent: training runs that share the cluster.

    Raises:
        UserError: the data set was changed while it was read.
        DivergedError: the training has diverged.
        KeyboardInterrupt: Ctrl-C; the workers are gone, the last checkpoint is whole.
        SystemExit: Tune has stopped this trial; the workers are gone.
    """
    import ray
    import ray.train
    from ray.train.torch import TorchConfig

    from recdiv_core.cluster.failures import told_failure
    from recdiv_core.training.trainer import PlannedTrainer

    is_trained = config.model.kind == "neural"
    num_workers = config.scaling.num_workers if is_trained else 1
    needed = override(config, {"scaling.num_workers": num_workers})
    cpus = cpus_per_worker(needed, ray.cluster_resources(), concurrent)
    trainer = PlannedTrainer(
        _train if is_trained else _fit,
        train_loop_config={
            "config": yaml.safe_load(to_yaml(config)),
            "fingerprint": fingerprint,
        },
        torch_config=TorchConfig(backend="nccl" if config.scaling.use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=num_workers,
            use_gpu=config.scaling.use_gpu,
            resources_per_worker={"CPU": cpus, **({"GPU": 1} if config.scaling.use_gpu else {})},
        ),
        run_config=ray.train.RunConfig(
            name=config.run.name,
            **ray_storage(config.run.storage),
            failure_config=ray.train.FailureConfig(max_failures=config.train.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=config.train.keep_checkpoints),
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
            callbacks=list(callbacks),
        ),
    )
    drop_damaged_snapshot(config)
    try:
        result = trainer.fit()
    except ray.train.WorkerGroupError as error:
        told = told_failure(error)
        if told is None:
            raise
        raise told from None
    assert result.checkpoint is not None
    assert result.metrics is not None
    path = str(result.checkpoint.path)
    place = sibling(config.run.storage, path) if is_uri(config.run.storage) else path
    return Outcome(place, _finite(config, result.metrics))


def ray_storage(place: str) -> dict[str, Any]:
    """Return where Ray is to write, as the arguments of its RunConfigs (Train's and Tune's)."""
    if not is_uri(place):
        return {"storage_path": place}
    filesystem, path = filesystem_of(place, "run.storage")
    return {"storage_path": path, "storage_filesystem": filesystem}


def _finite(config: Config, metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite figures of a report; JSON knows no others."""
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
    """Train one run, tracked in MLflow; resume it when its name exists.

    Returns:
        `{"run", "checkpoint", "mlflow_run_id", "metrics"}`.

    Raises:
        UserError: see `check_config`; no epochs and no weights; or the name exists with other
            settings.
    """
    is_trained = config.model.kind == "neural"
    if is_trained and not config.train.epochs and not config.train.init_from:
        raise UserError("train.epochs=0 needs train.init_from: there is nothing else to judge")
    config, manifest = check_config(on_own_version(place_run(config, "train")))
    finished = existing_result(config)
    if finished is None:
        with claim_run(config):
            finished = existing_result(config)  # another process may just have ended
            if finished is None:
                result = _run(config, manifest)
                _tell_users(result["metrics"])
                return result
    logger.info("run.name=%s is finished already", config.run.name)
    _tell_users(finished["metrics"])
    return finished


def _tell_users(metrics: Mapping[str, float]) -> None:
    """Log of how many users the metrics are."""
    for split, said in users_judged(metrics).items():
        logger.info("%s: %s", split, said)
    for warning in few_judged(metrics):
        logger.warning("%s", warning)


def _run(config: Config, manifest: Manifest) -> dict[str, Any]:
    """Train a run that is not finished, from where it stopped."""
    # imported here: a wrong path has been answered before this takes its seconds
    from recdiv_core.cluster.start import start_ray
    from recdiv_core.data.text_vectors import ensure_vectors
    from recdiv_core.tracking.runs import finish_run, machine_watched
    from recdiv_core.tracking.store import tracking_uri
    from recdiv_core.training.callback import TrackingCallback, open_run

    tracking_uri(config)
    start_ray(config, shared_places(config))
    track_readers_here()
    handle = open_run(config, manifest)
    status = "FAILED"
    try:
        ensure_vectors(Path(config.data.prepared), manifest)
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


def shared_places(config: Config) -> dict[str, str]:
    """Return what all nodes must see of a run, by its key."""
    manifest = f"{config.data.prepared}/manifest.json"
    return {"data.prepared": manifest, "run.storage": config.run.storage}


def _check_shape(config: Config, start: Config) -> None:
    """Refuse to start from weights of another shape."""
    now, then = flatten(config), flatten(start)
    for key in SHAPE_KEYS:
        if now[key] != then[key]:
            raise UserError(
                f"train.init_from={config.train.init_from} was trained with {key}={then[key]!r}, "
                f"this run has {key}={now[key]!r}: the weights do not fit"
            )
    if start.loss.conditioned and not config.loss.conditioned:
        raise UserError(
            f"train.init_from={config.train.init_from} was trained with loss.conditioned=true, "
            "this run has false: its dial would be lost"
        )


def _check_attributes(config: Config, prepared: Path) -> None:
    """Refuse regularisers of attributes that the catalogue does not have."""
    mix = config.loss.diversity.items() if config.loss.diversity_weight else ()
    wanted = {name: weight for name, weight in mix if weight and name in ATTRIBUTES}
    if not wanted:
        return
    columns = pq.read_schema(prepared / "catalogue.parquet").names
    for name, weight in wanted.items():
        if ATTRIBUTES[name] not in columns:
            raise UserError(
                f"loss.diversity.{name}={weight}: the catalogue of data.prepared={prepared} has "
                f"no column {ATTRIBUTES[name]!r}; it has {', '.join(columns)}"
            )


def _warn_no_effect(config: Config, num_items: int, swept: Collection[str]) -> None:
    """Name settings that change nothing in this run, or cost more than they gain."""
    idle = idle_keys(config)
    if idle:
        logger.warning("%s: no effect with model.kind=%s", ", ".join(idle), config.model.kind)
    if config.model.kind != "neural":
        return
    for message in idle_in_training(config, num_items, swept=swept):
        logger.warning("%s", message)
    if config.train.precision != "fp32" and not config.scaling.use_gpu:
        logger.warning(
            "train.precision=%s on the CPU is slower than fp32 and gains nothing; it is meant for "
            "scaling.use_gpu=true",
            config.train.precision,
        )
    if config.train.compile and not config.scaling.use_gpu:
        logger.warning(
            "train.compile=true on the CPU takes a minute at the start of a run and gains little; "
            "it is meant for scaling.use_gpu=true"
        )
