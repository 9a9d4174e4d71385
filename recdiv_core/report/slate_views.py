"""Metrics and examples of the slates of a few runs of a sweep.

Not the metrics themselves (slate_metrics.py), the users shown (slate_examples.py), nor the page
(slate_page.py). The one idea: at most MAX_RUNS runs make their slates again from their checkpoints,
for the same users of the test split, and everything is computed from those slates. Validation chose
the runs; nothing is chosen here. Memory: K numbers for each user and run, and the catalogue.

Legend: B users of a batch, U evaluated users, K slate length, V catalogue, T targets.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from recdiv_core.config import Config
from recdiv_core.data.batches import pack, pad_targets
from recdiv_core.data.reading import read_eval
from recdiv_core.errors import UserError
from recdiv_core.evaluation import groupings
from recdiv_core.evaluation.judged_runs import NamedRun, check_comparable, find_run, judge_runs
from recdiv_core.evaluation.sameness import describe, latest_distinct, look, shelves, starved
from recdiv_core.fronts.trials import Front, Trial, recommended
from recdiv_core.metrics.groups import GroupTally, finish_groups, tally_groups
from recdiv_core.metrics.jackknife import JudgedUsers
from recdiv_core.report import slate_examples, slate_metrics
from recdiv_core.report.slate_metrics import Floats, Histories
from recdiv_core.schema import read_manifest
from recdiv_core.slates.dataset import Dataset, load_dataset
from recdiv_core.slates.scoring import without_seen

logger = logging.getLogger(__name__)

SPLIT: Final = "test"
MAX_RUNS: Final = 3
MAX_SCORES: Final = 3_000_000_000
"""Users x items of a run above which `--slates` must ask for it: some minutes of a CPU core."""


@dataclass(frozen=True, eq=False)
class SlateViews:
    """All that a page shows of slates; a tuple has an entry for each run, in the order of `roles`.

    Attributes:
        roles: Reason why each run is here; the others are compared with the first.
        trials: The runs.
        k: Slate length.
        num_users: Evaluated users.
        estimates: Metric -> estimate.
        differences: Metric -> see `differences.difference`, of each run but the first.
        exposure: (share of items, share of exposure), the least shown item first.
        bands: Bands of the catalogue by popularity.
        band_coverage: Share of each band's items that are in any slate.
        segments: Kinds of users.
        sameness: Metrics and verdict of each run, see `sameness.describe`.
        starved: Number of starved categories of each run, see `sameness.starved`.
        slices: Group -> `num_users` and metrics as in evaluate, of the first two runs.
        changes: Differences between the first two runs; None with a single run.
        examples: Slates of some users, of the first two runs.
        notes: Sentences about what is missing.
    """

    roles: tuple[str, ...]
    trials: tuple[Trial, ...]
    k: int
    num_users: int
    estimates: tuple[Mapping[str, slate_metrics.Estimate], ...]
    differences: tuple[Mapping[str, Mapping[str, Any]], ...]
    exposure: tuple[tuple[Floats, Floats], ...]
    bands: tuple[slate_metrics.Band, ...]
    band_coverage: tuple[tuple[float, ...], ...]
    segments: tuple[slate_metrics.Segment, ...]
    sameness: tuple[Mapping[str, Any], ...]
    starved: tuple[int, ...]
    slices: tuple[Mapping[str, Mapping[str, float]], ...]
    changes: slate_examples.Changes | None
    examples: tuple[slate_examples.Example, ...]
    notes: tuple[str, ...]


def choose_runs(front: Front) -> dict[str, Trial]:
    """Return role -> trial: the baseline, the recommended point, the most diverse of the front.

    Without a baseline the most accurate member stands for it. Each trial has one role.
    """
    members = front.members
    first = "w = 0" if front.baseline else "most accurate"
    wanted: dict[str, Trial | None] = {
        first: front.baseline or next(iter(members), None),
        "chosen point": recommended(front),
        "most diverse": next(reversed(members), None),
    }
    runs: dict[str, Trial] = {}
    for role, trial in wanted.items():
        if trial is not None and trial.run_id not in {other.run_id for other in runs.values()}:
            runs[role] = trial
    return runs


def view_slates(
    front: Front,
    uri: Callable[[], str],
    settings: Mapping[str, object],
    *,
    kinds: Sequence[str],
    max_scores: int | None,
    show_ids: bool = False,
) -> SlateViews:
    """Make the slates of the runs of `choose_runs` that still have a checkpoint, and look at them.

    Args:
        front: Front of the sweep's own objectives.
        uri: Returns where MLflow keeps the runs.
        settings: Dotted key -> value for all runs.
        kinds: Kinds of slices, see `groupings`.
        max_scores: Most users x items that may be scored for a run; None = any number.
        show_ids: Show user_ids, which may say who somebody is; False = number the users.

    Raises:
        UserError: nothing can be shown, and why.
        OSError: a file cannot be read.
    """
    started = time.monotonic()
    found, notes = _find(choose_runs(front), uri, settings)
    runs = [run for _, run in found.values()]
    config = runs[0].config
    check_comparable(runs)
    _check_size(Path(config.data.prepared), max_scores)
    logger.info("evaluating %d runs on the %s split", len(runs), SPLIT)
    judged = judge_runs(runs, SPLIT)
    dataset = load_dataset(Path(config.data.prepared))
    histories, slices, examples = _read_users(dataset, config, judged[:2], kinds, show_ids)
    estimates, differences = slate_metrics.estimate(judged)
    popularity_V = dataset.catalogue.popularity_V
    bands, band_V = slate_metrics.popularity_bands(popularity_V)
    views = SlateViews(
        roles=tuple(found),
        trials=tuple(trial for trial, _ in found.values()),
        k=config.eval.k,
        num_users=len(judged[0].slates_UK),
        estimates=estimates,
        differences=differences,
        exposure=tuple(slate_metrics.exposure_curve(each.exposure_V) for each in judged),
        bands=bands,
        band_coverage=tuple(
            slate_metrics.band_coverage(each.exposure_V, bands, band_V) for each in judged
        ),
        segments=slate_metrics.segments(judged, histories),
        sameness=tuple(_sameness(each, histories, dataset) for each in judged),
        starved=tuple(
            len(starved(shelves(each.exposure_V, popularity_V, dataset.categories)))
            for each in judged
        ),
        slices=slices,
        changes=slate_examples.count_changes(*judged[:2]) if len(judged) > 1 else None,
        examples=examples,
        notes=tuple(notes),
    )
    logger.info("slates of %d runs: %.1f s", len(runs), time.monotonic() - started)
    return views


def _check_size(prepared: Path, max_scores: int | None) -> None:
    manifest = read_manifest(prepared)
    num_users, num_items = manifest.num_examples[SPLIT], manifest.num_items
    if max_scores is not None and num_users * num_items > max_scores:
        raise UserError(
            f"{num_users:,} users x {num_items:,} items are more than {max_scores:,} scores for "
            "each run; ask for them with `--slates`"
        )


def _sameness(judged: JudgedUsers, histories: Histories, dataset: Dataset) -> Mapping[str, Any]:
    slates_UK, vectors_VH = judged.slates_UK.astype(np.int64), dataset.text_VH.numpy()
    found = look(slates_UK, histories.items_UK, dataset.traits, vectors_VH, judged.exposure_V)
    return describe(found, np.ones(len(slates_UK), dtype=np.bool_))


def _find(
    wanted: Mapping[str, Trial], uri: Callable[[], str], settings: Mapping[str, object]
) -> tuple[dict[str, tuple[Trial, NamedRun]], list[str]]:
    """Return the runs that still have a checkpoint, and a sentence about each other run."""
    found: dict[str, tuple[Trial, NamedRun]] = {}
    notes: list[str] = []
    reason = ""
    if not torch.cuda.is_available():
        settings = {**settings, "scaling.use_gpu": False}
    for role, trial in list(wanted.items())[:MAX_RUNS]:
        try:
            run = find_run(trial.run_id, settings, uri)
            found[role] = (trial, replace(run, name=trial.name))
        except (UserError, OSError) as error:
            reason = str(error).partition(";")[0]
            notes.append(f"{role} ({trial.name}) is left out: {reason}.")
    if not wanted:
        raise UserError("there is no front yet")
    if not found:
        names = ", ".join(trial.name for trial in wanted.values())
        raise UserError(f"no checkpoint of {names} can be used: {reason}")
    return found, notes


def _read_users(
    dataset: Dataset,
    config: Config,
    judged: Sequence[JudgedUsers],
    kinds: Sequence[str],
    show_ids: bool,
) -> tuple[
    Histories, tuple[Mapping[str, Mapping[str, float]], ...], tuple[slate_examples.Example, ...]
]:
    """Read the split once more, for all that is not in the slates.

    What is kept of a user does not grow with the history.

    Returns:
        Histories of the evaluated users; slices of each run; examples, with two runs.
    """
    catalogue, cpu = dataset.catalogue, torch.device("cpu")
    groupings.check_kinds(kinds, catalogue.table.column_names)
    of_items = groupings.merge(groupings.item_groups(kinds, catalogue), cpu)
    names = [*groupings.user_group_names(kinds), *of_items]
    groups = [GroupTally.zeros(names, k=config.eval.k) for _ in judged]
    chosen = slate_examples.choose_users(*judged) if len(judged) > 1 else []
    shown: dict[int, slate_examples.Example] = {}
    parts: list[tuple[npt.NDArray[Any], ...]] = []
    start = 0
    for examples in read_eval(
        dataset.prepared, SPLIT, batch_size=config.eval.batch_size, rank=0, world_size=1
    ):
        targets_BT = pad_targets(examples)
        if config.eval.filter_seen:
            packed = pack(examples, max_history=1)
            seen = packed.seen_user_S, packed.seen_item_S
            targets_BT = without_seen(targets_BT, *seen, len(catalogue))
        is_judged_B = (targets_BT >= 0).any(dim=1)
        rows = np.flatnonzero(is_judged_B.numpy())
        of_users = groupings.merge(groupings.user_groups(kinds, examples), cpu)
        stop = start + len(rows)
        for run, each in enumerate(judged):
            groups[run] += tally_groups(
                torch.from_numpy(each.slates_UK[start:stop]).long(),
                targets_BT[is_judged_B],
                dataset.traits,
                k=config.eval.k,
                user_groups={name: mask[is_judged_B] for name, mask in of_users.items()},
                item_groups=of_items,
            )
        latest = latest_distinct(examples.items, examples.lengths, config.eval.k)
        is_cold = np.asarray(examples.is_cold, dtype=np.bool_)
        parts.append((latest[rows], examples.lengths[rows], is_cold[rows]))
        for number, (user, rule) in enumerate(chosen, start=1):
            if start <= user < stop:
                row = rows[user - start]
                end = int(examples.lengths[: row + 1].sum())
                shown[number] = slate_examples.show(
                    user,
                    judged,
                    catalogue,
                    rule=rule,
                    user_id=str(examples.user_ids[row]) if show_ids else str(number),
                    history=examples.items[end - int(examples.lengths[row]) : end].tolist(),
                    targets=[target for target in targets_BT[row].tolist() if target >= 0],
                )
        start = stop
    assert start == len(judged[0].slates_UK), "the evaluated users are not those of the split"
    histories = Histories(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    slices = tuple(finish_groups(tally) for tally in groups)
    return histories, slices, tuple(shown[number] for number in sorted(shown))
