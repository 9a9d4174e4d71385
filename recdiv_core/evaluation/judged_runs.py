"""Trained runs side by side: found by name, refused when they do not compare, judged by user.

Not the comparison (compare.py). What a RUN may be: the directory of a training run, a checkpoint,
or the id of an MLflow run; behind it, each after a `+`, settings of its own that belong to the
system and not to the measurement: those of the re-ranker, and the dial of a conditioned model.
Every user's slate and metrics are kept, so that whatever is compared is compared in pairs.
B users of a batch, K slate length, T targets.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from recdiv_core.config import Config, check_dial, override
from recdiv_core.data.versions import with_version
from recdiv_core.errors import UserError
from recdiv_core.metrics.jackknife import UserResults, join_users
from recdiv_core.metrics.slate_batch import match_slates
from recdiv_core.metrics.tally import USER_METRICS, UserMetrics
from recdiv_core.schema import Manifest, check_files, check_unchanged, read_manifest
from recdiv_core.settings import parse_overrides
from recdiv_core.slates.checkpoint import (
    check_data,
    check_weights,
    chosen_checkpoint,
    read_config,
    read_fingerprint,
)
from recdiv_core.slates.checkpoint_copies import checkpoint_of_run, local_checkpoint
from recdiv_core.slates.checks import check_rerank
from recdiv_core.slates.dataset import Dataset, load_dataset
from recdiv_core.slates.loading import load_model
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import held_out_of_split
from recdiv_core.storage.given_paths import local_path
from recdiv_core.storage.places import is_uri

logger = logging.getLogger(__name__)

OWN_SETTINGS: Final = ("rerank.", "model.diversity=")
RUN_ID: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, eq=False)
class NamedRun:
    """A trained run.

    Attributes:
        name: as it was given.
        checkpoint: whose weights stand for it, on this machine.
        config: it is judged with.
        place: where the checkpoint lies, path or URI.
    """

    name: str
    checkpoint: Path
    config: Config
    place: str


def find_run(text: str, settings: Mapping[str, object], uri: Callable[[], str]) -> NamedRun:
    """Find what a RUN names.

    Args:
        text: `DIR` or `ID`, with `+key=value` for settings of its own.
        settings: dotted key -> value for all runs; its own come after them.
        uri: returns where MLflow keeps its runs; asked only for an id.

    Raises:
        UserError: nothing of that name, not finished, or a setting that is not a system's own.
    """
    place, *own = re.split(r"\+(?=[a-z_.]+=)", text)
    for setting in own:
        if not setting.startswith(OWN_SETTINGS):
            raise UserError(
                f"{text}: {setting} cannot be of one run alone; allowed behind a + are "
                "rerank.* and model.diversity; give others as arguments, for all runs"
            )
    place = _checkpoint_of(place, uri)
    checkpoint = local_checkpoint(place, "RUN")
    config = override(read_config(checkpoint), settings, parse_overrides(own))
    config = with_version(config, read_fingerprint(checkpoint))
    check_dial(config)
    check_weights(checkpoint)
    return NamedRun(text, checkpoint, config, place)


def _checkpoint_of(named: str, uri: Callable[[], str]) -> str:
    """Return the path or URI of the checkpoint that a RUN names."""
    place = named
    if RUN_ID.fullmatch(named) and not Path(named).is_dir():
        from recdiv_core.tracking.find import run_directory

        place = run_directory(uri(), named)
    if is_uri(place):
        return checkpoint_of_run(place, "RUN")
    directory = local_path(place, "RUN")
    if not directory.is_dir():
        raise UserError(
            f"RUN {named}: there is no directory {directory}; allowed: the directory of a training "
            "run (runs/NAME), a checkpoint, either as a path or a URI, or the id of an MLflow run"
        )
    is_checkpoint = (directory / "checkpoint.json").is_file()
    return str(directory if is_checkpoint else chosen_checkpoint(directory))


def check_comparable(runs: Sequence[NamedRun]) -> None:
    """Refuse runs that are not measured alike: data, split, cut-off, seen items, catalogue.

    Raises:
        UserError: what differs, between which two; or data that do not fit the checkpoints.
    """
    first = runs[0]
    prepared = Path(first.config.data.prepared)
    manifest = read_manifest(prepared)
    wanted = _measured_on(first, manifest)
    for run in runs[1:]:
        found = _measured_on(run, manifest)
        differing = [
            f"{fact}: {found[fact]}, not {wanted[fact]}"
            for fact in wanted
            if found[fact] != wanted[fact]
        ]
        if differing:
            raise UserError(
                f"{run.name} does not compare with {first.name}: it differs in "
                f"{'; '.join(differing)}"
            )
    check_data(first.checkpoint, manifest, prepared)
    check_files(prepared, manifest)
    for run in {repr(run.config.rerank): run for run in runs}.values():  # each warning once
        check_rerank(run.config, prepared)


def _measured_on(run: NamedRun, manifest: Manifest) -> dict[str, object]:
    """Return what must be the same for figures to compare.

    Args:
        run: to be judged.
        manifest: of the first run's data; that of the run's own where it was trained on others.
    """
    fingerprint = read_fingerprint(run.checkpoint)
    if fingerprint != manifest.fingerprint and run.config.data.prepared:
        own = Path(run.config.data.prepared)
        manifest = read_manifest(own) if own.is_dir() else manifest
    return {
        "manifest fingerprint": fingerprint[:12],
        "split.protocol": manifest.split.get("protocol"),
        "items that may be recommended": manifest.num_items,
        "eval.k": run.config.eval.k,
        "eval.filter_seen": run.config.eval.filter_seen,
    }


def judge_runs(
    runs: Sequence[NamedRun],
    split: str,
    more: UserMetrics | None = None,
) -> list[UserResults]:
    """Judge comparable runs on all users of a split, in this process.

    Args:
        runs: see `check_comparable`.
        split: `val` or `test`.
        more: what is asked of each user besides the metrics, by name.
    """
    dataset = load_dataset(Path(runs[0].config.data.prepared))
    use_gpu = runs[0].config.scaling.use_gpu
    if use_gpu and not torch.cuda.is_available():
        raise UserError("scaling.use_gpu=true: torch sees no GPU on this machine")
    torch.set_num_threads(runs[0].config.scaling.threads_per_worker)
    dataset = dataset.to(torch.device("cuda" if use_gpu else "cpu"))
    metrics = {**USER_METRICS, **(more or {})}
    judged: list[UserResults] = []
    for run in runs:
        model = load_model(run.config, dataset, run.checkpoint).to(dataset.text_VH.device)
        policy = slate_policy(run.config, dataset)
        share = held_out_of_split(model, dataset, split, run.config)
        slates = (held_out.slates(dataset, policy) for held_out in share)
        judged.append(judge_users(slates, dataset, metrics, k=policy.k))
        logger.info("%s: judged on %d users", run.name, len(judged[-1].slates_UK))
    check_unchanged(dataset.prepared, dataset.manifest)
    return judged


def judge_users(
    slates: Iterable[tuple[torch.Tensor, torch.Tensor]],
    dataset: Dataset,
    metrics: UserMetrics,
    *,
    k: int,
) -> UserResults:
    """Judge slates, keeping every user apart; users without a target are left out.

    Args:
        slates: batches of slates_BK and targets_BT, see `HeldOut.slates`.
        dataset: the prepared data set.
        metrics: name -> what is measured of each user.
        k: slate length, >= 1; longer slates are cut.
    """
    parts: list[UserResults] = []
    for slates_BK, targets_BT in slates:
        seen = match_slates(slates_BK, targets_BT, dataset.traits, k=k)
        users = {name: metric(seen).double().cpu().numpy() for name, metric in metrics.items()}
        items_BK = seen.items_BK.int().cpu().numpy()
        parts.append(UserResults(users, items_BK, len(dataset.catalogue)))
    return join_users(parts)
