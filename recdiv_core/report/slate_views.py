"""Metrics and examples of the slates of a few runs of a sweep.

Not the metrics themselves (slate_metrics.py), the users shown (slate_examples.py), nor the page
(slate_page.py). The one idea: the operating points make their slates again from their checkpoints,
for the same users of the test split. The page shows the first MAX_RUNS of them; of the others only
the changes against the first are kept. Validation chose the runs; nothing is chosen here. Memory: K
numbers for each user and run, and the catalogue.

Legend: B users of a batch, U evaluated users, K slate length, V catalogue, T targets.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from recdiv_core.config import Config
from recdiv_core.data.arrays import Examples
from recdiv_core.data.batches import pack, pad_targets
from recdiv_core.data.reading import read_eval
from recdiv_core.errors import UserError
from recdiv_core.evaluation import groupings
from recdiv_core.evaluation.per_user import judge_systems
from recdiv_core.evaluation.sameness import describe, latest_distinct, look, shelves, starved
from recdiv_core.evaluation.systems import NamedRun, check_comparable, find_run
from recdiv_core.fronts.choice import Choice
from recdiv_core.fronts.operating import Paired, called
from recdiv_core.fronts.trials import Trial, metric_of
from recdiv_core.metrics.groups import GroupTally, finish_groups, tally_groups
from recdiv_core.metrics.jackknife import UserResults
from recdiv_core.metrics.slate_batch import Background
from recdiv_core.report import slate_examples, slate_metrics
from recdiv_core.report.slate_metrics import Floats, Histories
from recdiv_core.schema import NO_QUERY, read_manifest
from recdiv_core.slates.dataset import Dataset, load_dataset
from recdiv_core.slates.scoring import without_seen
from recdiv_core.wording import counted, title

logger = logging.getLogger(__name__)

SPLIT: Final = "test"
MAX_RUNS: Final = 3
"""Runs whose slates the page shows."""
MAX_SCORES: Final = 3_000_000_000
"""Users x items of a run above which `--slates` must ask for it: some minutes of a CPU core."""

CHOSEN: Final = ("chosen point", "nearest")
"""Roles of the run that the choice puts forward: recommended, or nearest to it."""

Slices = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, eq=False)
class SlateViews:
    """All that a page shows of slates; a tuple has an entry for each run, in the order of `roles`.

    Attributes:
        roles: Reason why each run is here; the others are compared with the first.
        differences: Metric -> see `differences.difference`, of each run but the first.
        exposure: (share of items, share of exposure), the least shown item first.
        bands: Bands of the catalogue by popularity.
        band_coverage: Share of each band's items that are in any slate.
        sameness: Metrics and verdict of each run, see `sameness.describe`.
        starved: Number of starved categories of each run, see `sameness.starved`.
        slices: Group -> `num_users` and metrics as in evaluate, of the first two runs.
        changes: Differences between the first two runs; None with a single run.
        examples: Slates of some users, of the first two runs.
        are_derived: Whether categories are derived from texts (`categories_from`).
        has_queries: Whether events of the shop have queries.
        paired: RUN -> metric -> difference from the first run, also of runs that are not shown.
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
    slices: tuple[Slices, ...]
    changes: slate_examples.Changes | None
    examples: tuple[slate_examples.Example, ...]
    notes: tuple[str, ...]
    are_derived: bool
    has_queries: bool
    paired: Paired


def choose_runs(choice: Choice) -> dict[str, Trial]:
    """Return role -> trial: the baseline, the recommended trial, the other operating points.

    Without a baseline the most accurate member stands for it, and without a recommended trial the
    nearest. The more diverse operating points come first; if they leave room on the page, the least
    accurate member of the front follows. Each trial has one role.
    """
    accuracy = title(metric_of(choice.accuracy))
    wanted: dict[str, Trial | None] = {
        "w = 0" if choice.front.baseline else "most accurate": choice.reference,
        CHOSEN[0 if choice.recommended else 1]: choice.recommended or choice.nearest,
    }
    for share in sorted(choice.operating):
        wanted[f"at {100 * share:.4g} % of {accuracy}"] = choice.operating[share]
    runs: dict[str, Trial] = {}
    for role, trial in wanted.items():
        if trial is not None and trial.run not in {other.run for other in runs.values()}:
            runs[role] = trial
    last = next(reversed(choice.front.members), None)
    if len(runs) < MAX_RUNS and last and last.run not in {run.run for run in runs.values()}:
        runs["most diverse"] = last
    return runs


def view_slates(
    choice: Choice,
    uri: Callable[[], str],
    settings: Mapping[str, object],
    *,
    kinds: Sequence[str],
    max_scores: int | None,
    show_ids: bool = False,
) -> SlateViews:
    """Make the slates of the runs of `choose_runs` that still have a checkpoint, and look at them.

    Args:
        choice: Chosen trials of the sweep.
        uri: Returns where MLflow keeps the runs.
        settings: Dotted key -> value for all runs.
        kinds: Kinds of slices, see `groupings`.
        max_scores: Most users x items that may be scored for a run; None = any number.
        show_ids: Show user_ids, which may say who somebody is; False = number the users.

    Raises:
        UserError: nothing can be shown, and why.
        OSError: a file cannot be read.
    """
    found, notes = _find(choose_runs(choice), uri, settings)
    runs = [run for _, run in found.values()]
    config = runs[0].config
    check_comparable(runs)
    _check_size(Path(config.data.prepared), max_scores)
    dataset = load_dataset(Path(config.data.prepared))
    groupings.check_kinds(kinds, dataset.catalogue.table.column_names)
    logger.info("evaluating %s on the %s split", counted(len(runs), "run"), SPLIT)
    judged = judge_systems(runs, SPLIT)
    estimates, differences = slate_metrics.estimate(judged)
    paired = {
        trial.run: changes
        for (trial, _), changes in zip(list(found.values())[1:], differences, strict=False)
    }
    found = dict(list(found.items())[:MAX_RUNS])
    judged = judged[:MAX_RUNS]
    pair, k = judged[:2], config.eval.k
    histories = _histories(_batches(dataset, config), k)
    assert len(histories.length_U) == len(pair[0].slates_UK), "runs and split differ in their users"
    popularity_V = dataset.catalogue.popularity_V
    bands, band_V = slate_metrics.popularity_bands(popularity_V)
    return SlateViews(
        roles=tuple(found),
        trials=tuple(trial for trial, _ in found.values()),
        k=k,
        num_users=len(judged[0].slates_UK),
        estimates=estimates[:MAX_RUNS],
        differences=differences[: MAX_RUNS - 1],
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
        slices=_slices(_batches(dataset, config), dataset, pair, kinds, k),
        changes=slate_examples.count_changes(*pair) if len(pair) > 1 else None,
        examples=_examples(
            _batches(dataset, config),
            dataset,
            pair,
            _may_be_shown(histories, _batches(dataset, config)),
            show_ids=show_ids,
        ),
        notes=tuple(notes),
        are_derived=dataset.manifest.categories_from == "texts",
        has_queries=dataset.queries_QH is not None,
        paired=paired,
    )


def _check_size(prepared: Path, max_scores: int | None) -> None:
    manifest = read_manifest(prepared)
    num_users, num_items = manifest.num_examples[SPLIT], manifest.num_items
    if max_scores is not None and num_users * num_items > max_scores:
        raise UserError(
            f"{num_users:,} users x {num_items:,} items are more than {max_scores:,} scores for "
            "each run; ask for them with `--slates`"
        )


def _sameness(judged: UserResults, histories: Histories, dataset: Dataset) -> Mapping[str, Any]:
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
    for role, trial in wanted.items():
        try:
            run = find_run(trial.run, settings, uri)
            found[role] = (trial, replace(run, name=called(trial)))
        except (UserError, OSError) as error:
            reason = str(error).partition(";")[0]
            notes.append(f"{role} ({trial.name}) is left out: {reason}.")
    if not wanted:
        raise UserError("there is no front yet")
    if not found:
        names = ", ".join(trial.name for trial in wanted.values())
        raise UserError(f"no checkpoint of {names} can be used: {reason}")
    return found, notes


class _Batch(NamedTuple):
    """A batch of the split, without the users who have no target.

    `users` are places among the evaluated users, `rows` those of `examples`; `targets_UT` is padded
    with -1.
    """

    users: slice
    examples: Examples
    rows: npt.NDArray[np.int64]
    targets_UT: torch.Tensor


def _batches(dataset: Dataset, config: Config) -> Iterator[_Batch]:
    """Read the split again, for all that is not in the slates."""
    start = 0
    for examples in read_eval(
        dataset.prepared,
        SPLIT,
        batch_size=config.eval.batch_size,
        rank=0,
        world_size=1,
        most=config.eval.max_users,
    ):
        targets_BT = pad_targets(examples)
        if config.eval.filter_seen:
            packed = pack(examples, max_history=1)
            seen = packed.seen_user_S, packed.seen_item_S
            targets_BT = without_seen(targets_BT, *seen, len(dataset.catalogue))
        rows = np.flatnonzero((targets_BT >= 0).any(dim=1).numpy())
        users = slice(start, start + len(rows))
        yield _Batch(users, examples, rows, targets_BT[rows])
        start = users.stop


def _histories(batches: Iterable[_Batch], k: int) -> Histories:
    """Return the histories of the evaluated users, cut to k distinct items."""
    parts = [
        (
            latest_distinct(examples.items, examples.lengths, k)[rows],
            examples.lengths[rows],
            np.asarray(examples.is_cold, dtype=np.bool_)[rows],
        )
        for _, examples, rows, _ in batches
    ]
    return Histories(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _slices(
    batches: Iterable[_Batch],
    dataset: Dataset,
    judged: Sequence[UserResults],
    kinds: Sequence[str],
    k: int,
) -> tuple[Slices, ...]:
    """Return the metrics of parts of the shop for each run, as evaluate reports them."""
    cpu = torch.device("cpu")
    of_items = groupings.merge(groupings.item_groups(kinds, dataset.catalogue), cpu)
    names = [*groupings.user_group_names(kinds), *of_items]
    groups = [GroupTally.zeros(names, k=k) for _ in judged]
    groups_Q = groupings.query_groups(kinds, dataset)
    for users, examples, rows, targets_UT in batches:
        of_users = groupings.merge(groupings.user_groups(kinds, examples, groups_Q), cpu)
        histories = _histories_of_rows(examples, rows)
        for run, each in enumerate(judged):
            groups[run] += tally_groups(
                torch.from_numpy(each.slates_UK[users]).long(),
                targets_UT,
                dataset.traits,
                k=k,
                user_groups={name: mask[rows] for name, mask in of_users.items()},
                item_groups=of_items,
                background=histories,
            )
    return tuple(finish_groups(tally) for tally in groups)


def _histories_of_rows(examples: Examples, rows: npt.NDArray[np.int64]) -> Background:
    """Return the histories of some users of a batch, numbered in their order."""
    number_B = np.full(len(examples.lengths), -1, dtype=np.int64)
    number_B[rows] = np.arange(len(rows))
    user_S = np.repeat(number_B, examples.lengths)
    is_kept_S = user_S >= 0
    return Background(
        torch.from_numpy(user_S[is_kept_S]), torch.from_numpy(examples.items[is_kept_S]).long()
    )


def _may_be_shown(histories: Histories, batches: Iterable[_Batch]) -> npt.NDArray[np.bool_]:
    """Return the users who can be typical: with a history, and without a query if there are some.

    The slate of a query should hold what was asked for, so it hardly changes.
    """
    has_history_U = histories.length_U > 0
    queries_U = np.concatenate([examples.queries[rows] for _, examples, rows, _ in batches])
    is_free_U = has_history_U & (queries_U == NO_QUERY)
    return is_free_U if is_free_U.any() else has_history_U


def _examples(
    batches: Iterable[_Batch],
    dataset: Dataset,
    pair: Sequence[UserResults],
    may_be_shown_U: npt.NDArray[np.bool_],
    *,
    show_ids: bool,
) -> tuple[slate_examples.Example, ...]:
    """Return the users that a rule chooses, with their slates before and after."""
    chosen = slate_examples.choose_users(pair[0], pair[1], may_be_shown_U) if len(pair) > 1 else []
    shown: dict[int, slate_examples.Example] = {}
    for users, examples, rows, targets_UT in batches:
        for number, (user, rule) in enumerate(chosen, start=1):
            if users.start <= user < users.stop:
                row, targets_T = int(rows[user - users.start]), targets_UT[user - users.start]
                end = int(examples.lengths[: row + 1].sum())
                shown[number] = slate_examples.show(
                    user,
                    pair,
                    dataset.catalogue,
                    rule=rule,
                    user_id=str(examples.user_ids[row]) if show_ids else str(number),
                    history=examples.items[end - int(examples.lengths[row]) : end].tolist(),
                    targets=targets_T[targets_T >= 0].tolist(),
                )
    return tuple(shown[number] for number in sorted(shown))
