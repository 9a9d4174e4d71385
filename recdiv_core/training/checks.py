"""Check a training run in the driver, before Ray starts: the data, the checkpoint, the settings.

Not the launch itself (launch.py). A mistake found here costs milliseconds; one found in a worker
costs the start of a cluster. Warnings name settings that have no effect in this run.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq

from recdiv_core.config import Config, check_dial, flatten, override
from recdiv_core.data.versions import open_version
from recdiv_core.errors import UserError
from recdiv_core.idle import idle_in_training
from recdiv_core.schema import Manifest, check_files, read_manifest
from recdiv_core.slates.checks import check_eligible, check_rerank, tell_sample, warn_of_few_items
from recdiv_core.slates.eligibility import with_whole_paths
from recdiv_core.slates.matrix_size import check_size
from recdiv_core.training.kinds import idle_keys
from recdiv_core.training.run_files import (
    place_run,
)

logger = logging.getLogger(__name__)

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
"""Metrics that can be an objective; higher is better."""

OF_QUERIES: Final = tuple(
    f"query_{name}" for name in ("ndcg", "recall", "hit", "mrr", "ild", "category_coverage")
)
"""Metrics of requests with a query that can be an objective, where the log has queries."""


TELLS_OF_PREEMPTION: Final = (2, 59)
"""First version of Ray that tells training workers of a coming preemption."""

SHAPE_KEYS: Final = (
    "model.kind",
    "model.dim",
    "model.num_layers",
    "model.num_heads",
    "model.max_history",
    "model.text.enabled",
)
"""Keys that determine the shapes of the weights."""
ENCODER_KEYS: Final = ("model.text.trainable_layers", "model.text.lora_rank")
"""The same, of a trained encoder. One that was frozen may be trained from then on."""


def check_config(config: Config, *, swept: Collection[str] = ()) -> tuple[Config, Manifest]:
    """Check a training before Ray starts, and make its paths absolute.

    Raises:
        UserError: no whole prepared data set; another text encoder; a missing attribute; a
            checkpoint that does not fit; an objective that is not measured.
    """
    config = place_run(config, "train")
    prepared, manifest = check_prepared(config)
    config = with_whole_paths(with_data_settings(config, manifest))
    check_rerank(config, prepared, swept=swept)
    check_eligible(config, prepared)
    warn_of_few_items(config.eval.k, manifest.num_items)
    tell_sample(config, manifest, ["val", "test"])
    changes: dict[str, object] = {"data.prepared": str(prepared)}
    if config.model.kind == "neural":
        changes |= _check_training(config, prepared, manifest)
    check_size(config, manifest)
    if config.eval.objective not in (*MEASURED, *OF_QUERIES):
        raise UserError(
            f"eval.objective={config.eval.objective} is not measured; allowed: "
            f"{', '.join((*MEASURED, *OF_QUERIES))}"
        )
    check_queries(prepared, config.eval.objective, f"eval.objective={config.eval.objective}")
    from recdiv_core.data.text_vectors import check_vectors

    check_vectors(prepared, manifest)
    _warn_no_effect(config, manifest.num_items, swept)
    return override(config, changes), manifest


def with_data_settings(config: Config, manifest: Manifest) -> Config:
    """Return the config with the `data.*` and `split.*` that the data set was prepared with.

    MLflow shows them. The values on the command line of a training have no effect.
    """
    known = flatten(config)
    made = {
        key: value
        for key, value in manifest.settings.items()
        if key.startswith(("data.", "split.")) and key in known
    }
    try:
        return override(config, {**made, "data.name": manifest.name})
    except UserError as error:  # an earlier version wrote values that are not allowed any more
        logger.warning("settings of data.prepared=%s: %s", config.data.prepared, error)
        return config


def check_prepared(config: Config) -> tuple[Path, Manifest]:
    """Return the directory of the prepared data set, and its manifest.

    Raises:
        UserError: it does not exist, is not whole, or has no train, val or test example.
    """
    if not config.data.prepared:
        raise UserError("data.prepared is not set: give the directory that `recdiv prepare` wrote")
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
            f"nothing to measure: its split ({protocol}) leaves no user there. Prepare it again: "
            f"{change}"
        )
    return prepared, manifest


def _check_training(config: Config, prepared: Path, manifest: Manifest) -> dict[str, object]:
    """Check the settings of a trained model; return keys with their absolute paths."""
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
    check_ray(config, importlib.metadata.version("ray"))
    if not config.train.init_from:
        return {}
    from recdiv_core.slates.checkpoint import check_weights, read_config
    from recdiv_core.slates.checkpoint_copies import given_checkpoint, local_checkpoint
    from recdiv_core.slates.lineage import check_lineage

    place = given_checkpoint(config.train.init_from, "train.init_from")
    start = local_checkpoint(place, "train.init_from")
    _check_shape(config, read_config(start))
    check_lineage(start, manifest)
    check_weights(start)
    return {"train.init_from": place}


def measured_names(k: int) -> list[str]:
    """Return the metrics of a slate of k items for which higher is better."""
    return [f"{name}_at_{k}" for name in (*MEASURED, *OF_QUERIES)]


def check_queries(prepared: Path, metric: str, what: str) -> None:
    """Refuse a metric of requests with a query if no validation request has one.

    Args:
        prepared: the data set.
        metric: name, with or without cut-off.
        what: where it stands, for the message.

    Raises:
        UserError: names the metric and the data set.
    """
    from recdiv_core.data.queries import count_requests

    if metric.startswith("query_") and not count_requests(prepared, "val"):
        raise UserError(
            f"{what} is measured on requests with a query, and data.prepared={prepared} has none "
            "in its validation split; prepare a log with the column data.columns.query"
        )


def check_ray(config: Config, version: str) -> None:
    """Refuse what the installed Ray cannot do."""
    major, minor = (int(part) for part in version.split(".")[:2])
    if config.scaling.preemptible and (major, minor) < TELLS_OF_PREEMPTION:
        wanted = ".".join(map(str, TELLS_OF_PREEMPTION))
        raise UserError(
            f"scaling.preemptible=true needs ray {wanted} or later, installed is {version}"
        )


def _check_shape(config: Config, start: Config) -> None:
    """Refuse a checkpoint whose weights have another shape."""
    now, then = flatten(config), flatten(start)
    was_trained = start.model.text.trainable_layers > 0
    for key in (*SHAPE_KEYS, *ENCODER_KEYS) if was_trained else SHAPE_KEYS:
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
    """Refuse regularisers of attributes that the catalogue lacks."""
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
    """Warn of settings that have no effect in this run, or cost more than they gain."""
    idle = idle_keys(config)
    if idle and "model.kind" not in swept:
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


LEFT_TO_OTHERS: Final = 0.2
"""Share of the CPUs that workers leave to other work on the cluster, unless the user sets
scaling.cpus_per_worker."""


def cpus_per_worker(config: Config, cluster: Mapping[str, float], concurrent: int = 1) -> float:
    """Return the CPUs to reserve per worker: the user's value, or a share of at most one.

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
