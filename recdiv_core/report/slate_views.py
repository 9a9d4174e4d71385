"""What the slates of a few runs of a sweep are like: the figures behind a report's lower half.

Not the figures themselves (slate_figures.py), the users shown (slate_examples.py), nor the drawing
(slate_page.py). The one idea: at most MAX_RUNS runs are judged again from their checkpoints, user
by user and on the same users of the test split, so that everything is a view of the same slates.
What was chosen was chosen on validation; nothing is chosen here. Memory: k numbers a user and run,
a few a user, and the catalogue.

Legend: B users of a batch, U judged users, K slate length, V catalogue, S runs, T targets.
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
from recdiv_core.data.plan import read_eval
from recdiv_core.errors import UserError
from recdiv_core.evaluation.groupings import (
    check_kinds,
    item_groups,
    merge,
    user_group_names,
    user_groups,
)
from recdiv_core.evaluation.judged_runs import NamedRun, check_comparable, find_run, judge_runs
from recdiv_core.evaluation.sameness import describe, latest_distinct, look, shelves, starved
from recdiv_core.fronts.trials import Front, Trial, recommended
from recdiv_core.metrics.groups import GroupTally, finish_groups, tally_groups
from recdiv_core.metrics.jackknife import JudgedUsers
from recdiv_core.report.slate_examples import (
    Changes,
    ChosenUser,
    Example,
    choose_users,
    count_changes,
    show,
)
from recdiv_core.report.slate_metrics import (
    Band,
    Estimate,
    Floats,
    Segment,
    band_coverage,
    exposure_curve,
    figures_of,
    popularity_bands,
    segments,
)
from recdiv_core.schema import read_manifest
from recdiv_core.slates.dataset import Dataset, load_dataset
from recdiv_core.slates.scoring import without_seen

logger = logging.getLogger(__name__)

SPLIT: Final = "test"
MAX_RUNS: Final = 3
MAX_SCORES: Final = 3_000_000_000
"""Users x items of a run that are scored without being asked to: some minutes of a CPU core."""


@dataclass(frozen=True, eq=False)
class SlateViews:
    """All that is drawn of the slates; a tuple has an entry a run, in the order of `roles`.

    Attributes:
        roles: why each run is here; the first is what the others are compared with.
        trials: the runs.
        k: slate length.
        num_users: U, users judged.
        figures: metric -> estimate.
        differences: metric -> see `drawn_figures.difference`, of each run but the first.
        exposure: (share of items, share of exposure), rising, from the item shown least.
        bands: of the catalogue by popularity, and ...
        band_coverage: ... the share of each that stands in a slate.
        segments: of users.
        sameness: figures and verdict of each run, see `sameness.describe`.
        starved: how many categories of weight each run starves, see `sameness.starved`.
        slices: group -> `num_users` and metrics, as evaluate reports them, of the first two.
        changes: between the first two runs; None of a single one.
        examples: of the same two, before and after.
        notes: sentences about what is missing.
        seconds: that all of it took.
    """

    roles: tuple[str, ...]
    trials: tuple[Trial, ...]
    k: int
    num_users: int
    figures: tuple[Mapping[str, Estimate], ...]
    differences: tuple[Mapping[str, Mapping[str, Any]], ...]
    exposure: tuple[tuple[Floats, Floats], ...]
    bands: tuple[Band, ...]
    band_coverage: tuple[tuple[float, ...], ...]
    segments: tuple[Segment, ...]
    sameness: tuple[Mapping[str, Any], ...]
    starved: tuple[int, ...]
    slices: tuple[Mapping[str, Mapping[str, float]], ...]
    changes: Changes | None
    examples: tuple[Example, ...]
    notes: tuple[str, ...]
    seconds: float


def choose_runs(front: Front) -> dict[str, Trial]:
    """Return role -> trial: the baseline, the recommended point, the most diverse of the front.

    Without a baseline the most accurate member stands for it. A trial is named once.
    """
    chosen = recommended(front)
    wanted: dict[str, Trial | None] = {
        "w = 0" if front.baseline else "most accurate": front.baseline
        or next(iter(front.members), None),
        "chosen point": chosen,
        "most diverse": front.members[-1] if front.members else None,
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
    """Judge the runs that a front points at, those that are still there, and look at their slates.

    Args:
        front: of the sweep's own pair of axes.
        uri: returns where MLflow keeps the runs.
        settings: dotted key -> value for all runs.
        kinds: of slices, see `groupings`.
        max_scores: users x items of a run that may be scored; None = any number.
        show_ids: name the users of examples by their user_id, which may say who they are; False =
            number them.

    Raises:
        UserError: nothing can be shown, and why.
        OSError: a file cannot be read.
    """
    started = time.monotonic()
    found, notes = _find(choose_runs(front), uri, settings)
    runs = [run for _, run in found.values()]
    check_comparable(runs)
    prepared = Path(runs[0].config.data.prepared)
    manifest = read_manifest(prepared)
    num_scores = manifest.num_examples[SPLIT] * manifest.num_items
    if max_scores is not None and num_scores > max_scores:
        raise UserError(
            f"{manifest.num_examples[SPLIT]:,} users x {manifest.num_items:,} items a run are too "
            "many to be judged unasked; `--slates` asks for it"
        )
    logger.info("judging %d runs on %d users of %s", len(runs), manifest.num_examples[SPLIT], SPLIT)
    judged = judge_runs(runs, SPLIT)
    dataset = load_dataset(prepared)
    pair = judged[:2] if len(judged) > 1 else []
    users = _read_users(
        dataset, runs[0].config, judged[:2], kinds, choose_users(*pair) if pair else []
    )
    figures, differences = figures_of(judged)
    everybody = np.ones(len(users.length_U), dtype=np.bool_)
    sameness = [
        describe(
            look(
                each.slates_UK.astype(np.int64),
                users.latest_UK,
                dataset.traits,
                dataset.text_VH.numpy(),
                each.exposure_V,
            ),
            everybody,
        )
        for each in judged
    ]
    popularity_V = dataset.catalogue.popularity_V
    bands, band_V = popularity_bands(dataset.catalogue.popularity_V)
    seconds = time.monotonic() - started
    logger.info("looked at the slates of %d runs in %.1f s", len(runs), seconds)
    return SlateViews(
        roles=tuple(found),
        trials=tuple(trial for trial, _ in found.values()),
        k=runs[0].config.eval.k,
        num_users=len(judged[0].slates_UK),
        figures=figures,
        differences=differences,
        exposure=tuple(exposure_curve(each.exposure_V) for each in judged),
        bands=bands,
        band_coverage=tuple(band_coverage(each.exposure_V, bands, band_V) for each in judged),
        segments=segments(judged, users.length_U, users.is_cold_U),
        sameness=tuple(sameness),
        starved=tuple(
            len(starved(shelves(each.exposure_V, popularity_V, dataset.categories)))
            for each in judged
        ),
        slices=tuple(finish_groups(tally) for tally in users.groups),
        changes=count_changes(*pair) if pair else None,
        examples=tuple(
            show(user if show_ids else replace(user, user_id=str(number)), pair, dataset.catalogue)
            for number, user in enumerate(users.shown, start=1)
        ),
        notes=tuple(notes),
        seconds=seconds,
    )


def _find(
    wanted: Mapping[str, Trial], uri: Callable[[], str], settings: Mapping[str, object]
) -> tuple[dict[str, tuple[Trial, NamedRun]], list[str]]:
    """Find the runs that are still on disk, and say of each other one why it is not here."""
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


# --------------------------------------------------------------------------- users, read again


@dataclass(frozen=True, eq=False)
class _Users:
    """What the split says of the judged users, in their order, and the slices of each run."""

    length_U: npt.NDArray[np.int64]
    is_cold_U: npt.NDArray[np.bool_]
    latest_UK: npt.NDArray[np.int64]
    groups: list[GroupTally]
    shown: list[ChosenUser]


def _read_users(
    dataset: Dataset,
    config: Config,
    judged: Sequence[JudgedUsers],
    kinds: Sequence[str],
    chosen: Sequence[tuple[int, str]],
) -> _Users:
    """Read the split once more: what is kept of a user does not grow with the history."""
    catalogue = dataset.catalogue
    check_kinds(kinds, catalogue.table.column_names)
    of_items = merge(item_groups(kinds, catalogue), torch.device("cpu"))
    names = [*user_group_names(kinds), *of_items]
    groups = [GroupTally.zeros(names, k=config.eval.k) for _ in judged]
    rules = dict(chosen)
    shown: dict[int, ChosenUser] = {}
    lengths: list[npt.NDArray[np.int64]] = []
    cold: list[npt.NDArray[np.bool_]] = []
    latest: list[npt.NDArray[np.int64]] = []
    start = 0
    for examples in read_eval(
        dataset.prepared, SPLIT, batch_size=config.eval.batch_size, rank=0, world_size=1
    ):
        targets_BT = pad_targets(examples)
        if config.eval.filter_seen:
            packed = pack(examples, max_history=1)
            targets_BT = without_seen(
                targets_BT, packed.seen_user_S, packed.seen_item_S, len(catalogue)
            )
        is_judged_B = (targets_BT >= 0).any(dim=1)
        rows = np.flatnonzero(is_judged_B.numpy())
        of_users = {
            name: mask[is_judged_B]
            for name, mask in merge(user_groups(kinds, examples), torch.device("cpu")).items()
        }
        stop = start + len(rows)
        for place, each in enumerate(judged):
            groups[place] += tally_groups(
                torch.from_numpy(each.slates_UK[start:stop]).long(),
                targets_BT[is_judged_B],
                dataset.traits,
                k=config.eval.k,
                user_groups=of_users,
                item_groups=of_items,
            )
        lengths.append(examples.lengths[rows])
        latest.append(latest_distinct(examples.items, examples.lengths, config.eval.k)[rows])
        cold.append(np.asarray(examples.is_cold, dtype=np.bool_)[rows])
        ends = np.cumsum(examples.lengths)
        for row in sorted(rules.keys() & set(range(start, stop))):
            place = rows[row - start]
            stop_at = int(ends[place])
            shown[row] = ChosenUser(
                row=row,
                rule=rules[row],
                user_id=str(examples.user_ids[place]),
                history=examples.items[stop_at - int(examples.lengths[place]) : stop_at].tolist(),
                targets=[target for target in targets_BT[place].tolist() if target >= 0],
            )
        start = stop
    assert start == len(judged[0].slates_UK), "the users judged are not those of the split"
    return _Users(
        np.concatenate(lengths),
        np.concatenate(cold),
        np.concatenate(latest),
        groups,
        [shown[row] for row, _ in chosen],
    )
