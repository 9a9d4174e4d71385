"""What the slates of a few runs of a sweep are like: the figures behind a report's lower half.

Not the choosing of runs (trials.py), of users shown (slate_examples.py), nor the drawing
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from recdiv_core.data.batches import pack, pad_targets
from recdiv_core.data.plan import read_eval
from recdiv_core.drawn_figures import LEVEL, SEED, difference, draw
from recdiv_core.groupings import check_kinds, item_groups, merge, user_group_names, user_groups
from recdiv_core.held_out import without_seen
from recdiv_core.judged_runs import NamedRun, check_comparable, find_run, judge_runs
from recdiv_core.metrics.bootstrap import interval, resampled_means
from recdiv_core.metrics.fairness import MIN_SIZE
from recdiv_core.metrics.groups import GroupTally, finish_groups, tally_groups
from recdiv_core.metrics.jackknife import JudgedUsers
from recdiv_core.schema import read_manifest
from recdiv_core.slate_examples import (
    Changes,
    ChosenUser,
    Example,
    choose_users,
    count_changes,
    show,
)
from recdiv_core.training.build import Dataset, load_dataset
from recdiv_core.trials import Front, Trial, recommended

logger = logging.getLogger(__name__)

SPLIT: Final = "test"
MAX_RUNS: Final = 3
MAX_SCORES: Final = 3_000_000_000
"""Users x items of a run that are scored without being asked to: some minutes of a CPU core."""
NUM_DRAWS: Final = 2000
NUM_POINTS: Final = 200
"""Of an exposure curve, as it is drawn."""
NUM_DECILES: Final = 10
SEGMENT_METRICS: Final = ("ndcg", "ild", "diversity_index")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval over users."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Band:
    """Items of like popularity.

    Attributes:
        name: `1` is the tenth of the warm items with fewest train events, `cold` has none.
        num_items: in it.
        events: fewest and most train events of an item.
    """

    name: str
    num_items: int
    events: tuple[int, int]


@dataclass(frozen=True)
class Segment:
    """Users of a kind, and each metric of SEGMENT_METRICS of each run on them."""

    name: str
    num_users: int
    figures: Mapping[str, tuple[Estimate, ...]]


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
        slices: group -> `num_users` and metrics, as evaluate reports them.
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
    overrides: Sequence[str],
    *,
    kinds: Sequence[str],
    max_scores: int | None,
) -> SlateViews:
    """Judge the runs that a front points at, those that are still there, and look at their slates.

    Args:
        front: of the sweep's own pair of axes.
        uri: returns where MLflow keeps the runs.
        overrides: `key=value` for all runs.
        kinds: of slices, see `groupings`.
        max_scores: users x items of a run that may be scored; None = any number.

    Raises:
        ValueError: nothing can be shown, and why.
        OSError: a file cannot be read.
    """
    started = time.monotonic()
    found, notes = _find(choose_runs(front), uri, overrides)
    runs = [run for _, run in found.values()]
    check_comparable(runs)
    prepared = Path(runs[0].config.data.prepared).absolute()
    manifest = read_manifest(prepared)
    num_scores = manifest.num_examples[SPLIT] * manifest.num_items
    if max_scores is not None and num_scores > max_scores:
        raise ValueError(
            f"{manifest.num_examples[SPLIT]:,} users x {manifest.num_items:,} items a run are too "
            "many to be judged unasked; `--slates` asks for it"
        )
    logger.info("judging %d runs on %d users of %s", len(runs), manifest.num_examples[SPLIT], SPLIT)
    judged = judge_runs(runs, SPLIT)
    dataset = load_dataset(prepared)
    pair = judged[:2] if len(judged) > 1 else []
    users = _read_users(dataset, runs, judged, kinds, choose_users(*pair) if pair else [])
    figures, differences = _figures(judged)
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
        band_coverage=tuple(_band_coverage(each.exposure_V, bands, band_V) for each in judged),
        segments=segments(judged, users.length_U, users.is_cold_U),
        slices=tuple(finish_groups(tally) for tally in users.groups),
        changes=count_changes(*pair) if pair else None,
        examples=tuple(show(user, pair, dataset.catalogue) for user in users.shown),
        notes=tuple(notes),
        seconds=seconds,
    )


def _find(
    wanted: Mapping[str, Trial], uri: Callable[[], str], overrides: Sequence[str]
) -> tuple[dict[str, tuple[Trial, NamedRun]], list[str]]:
    """Find the runs that are still on disk, and say of each other one why it is not here."""
    found: dict[str, tuple[Trial, NamedRun]] = {}
    notes: list[str] = []
    reason = ""
    if not torch.cuda.is_available():
        overrides = [*overrides, "scaling.use_gpu=false"]
    for role, trial in list(wanted.items())[:MAX_RUNS]:
        try:
            found[role] = (trial, find_run(trial.run_id, overrides, uri))
        except (ValueError, OSError) as error:
            reason = str(error).partition(";")[0]
            notes.append(f"{role} ({trial.name}) is left out: {reason}.")
    if not wanted:
        raise ValueError("there is no front yet")
    if not found:
        names = ", ".join(trial.name for trial in wanted.values())
        raise ValueError(f"no checkpoint of {names} can be used: {reason}")
    return found, notes


def _figures(
    judged: Sequence[JudgedUsers],
) -> tuple[tuple[Mapping[str, Estimate], ...], tuple[Mapping[str, Mapping[str, Any]], ...]]:
    """Return each run's figures with intervals, and how each differs from the first."""
    if len(judged[0].slates_UK) < 2:  # nothing varies over one user
        alone = [{name: each.figure(name) for name in each.users} for each in judged]
        return tuple({n: Estimate(v, v, v) for n, v in own.items()} for own in alone), ()
    drawn = draw(judged, NUM_DRAWS)
    figures: list[Mapping[str, Estimate]] = []
    differences: list[Mapping[str, Mapping[str, Any]]] = []
    for place in range(len(judged)):
        own: dict[str, Estimate] = {}
        against: dict[str, Mapping[str, Any]] = {}
        for column, name in enumerate(drawn.names):
            values_S, draws_RS = drawn.figures_SM[:, column], drawn.draws_RSM[:, :, column]
            low, high = interval(draws_RS[:, place], level=LEVEL)
            own[name] = Estimate(float(values_S[place]), low, high)
            against[name] = difference(
                float(values_S[0]), float(values_S[place]), draws_RS[:, 0], draws_RS[:, place]
            )
        figures.append(own)
        differences.append(against)
    return tuple(figures), tuple(differences[1:])


def exposure_curve(exposure_V: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return the Lorenz curve of exposure: (share of items, share of exposure).

    From the item shown least to that shown most; it lies the further below the diagonal the less
    even exposure is (Gini is twice the area between). At most NUM_POINTS + 1 points, ends included.

    >>> [shares.tolist() for shares in exposure_curve(np.array([3, 0, 1, 0]))]
    [[0.0, 0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.0, 0.25, 1.0]]
    """
    rising_V = np.sort(exposure_V).astype(np.float64)
    shares = np.concatenate([[0.0], rising_V.cumsum() / max(1.0, rising_V.sum())])
    num_items = len(rising_V)
    places = np.unique(np.linspace(0, num_items, min(num_items, NUM_POINTS) + 1).round())
    return places / num_items, shares[places.astype(np.int64)]


def popularity_bands(
    popularity_V: npt.NDArray[np.int64],
) -> tuple[tuple[Band, ...], npt.NDArray[np.int64]]:
    """Cut the warm items into tenths by train events, cold items apart.

    Ties are cut by item_index. Of fewer than ten warm items each is a band.

    Returns:
        the bands, from few train events to many, cold items last where there are any;
        [V] the band of each item.
    """
    warm = np.flatnonzero(popularity_V > 0)
    parts = np.array_split(
        warm[np.argsort(popularity_V[warm], kind="stable")], min(NUM_DECILES, max(1, len(warm)))
    )
    cold = np.flatnonzero(popularity_V == 0)
    named = [(str(place + 1), part) for place, part in enumerate(parts)] + [("cold", cold)]
    band_V = np.zeros(len(popularity_V), dtype=np.int64)
    bands: list[Band] = []
    for name, items in named:
        if len(items):
            band_V[items] = len(bands)
            events = popularity_V[items]
            bands.append(Band(name, len(items), (int(events.min()), int(events.max()))))
    return tuple(bands), band_V


def _band_coverage(
    exposure_V: npt.NDArray[np.int64], bands: Sequence[Band], band_V: npt.NDArray[np.int64]
) -> tuple[float, ...]:
    shown = np.bincount(band_V[exposure_V > 0], minlength=len(bands))
    return tuple(float(n) / band.num_items for n, band in zip(shown, bands, strict=True))


def segments(
    judged: Sequence[JudgedUsers],
    length_U: npt.NDArray[np.int64],
    is_cold_U: npt.NDArray[np.bool_],
) -> tuple[Segment, ...]:
    """Return the figures of cold and warm users, and of thirds by length of history.

    Users of equal length stay together, so that the thirds may be uneven. Groups of fewer than
    MIN_SIZE users are left out: their figures are mostly chance.
    """
    first, second = (int(edge) for edge in np.quantile(length_U, [1 / 3, 2 / 3], method="lower"))
    groups = {
        "all": np.ones(len(length_U), dtype=np.bool_),
        "cold": is_cold_U,
        "warm": ~is_cold_U,
        f"to {first}": length_U <= first,
        f"{first + 1} to {second}": (length_U > first) & (length_U <= second),
        f"over {second}": length_U > second,
    }
    found: list[Segment] = []
    for name, is_in_U in groups.items():
        if is_in_U.sum() >= MIN_SIZE:
            figures = {
                metric: _means(np.stack([each.users[metric][is_in_U] for each in judged]))
                for metric in SEGMENT_METRICS
            }
            found.append(Segment(name, int(is_in_U.sum()), figures))
    return tuple(found)


def _means(values_SU: Floats) -> tuple[Estimate, ...]:
    draws_RS = resampled_means(values_SU, NUM_DRAWS // 4, seed=SEED)
    return tuple(
        Estimate(float(values_U.mean()), *interval(draws_R, level=LEVEL))
        for values_U, draws_R in zip(values_SU, draws_RS.T, strict=True)
    )


# --------------------------------------------------------------------------- users, read again


@dataclass(frozen=True, eq=False)
class _Users:
    """What the split says of the judged users, in their order, and the slices of each run."""

    length_U: npt.NDArray[np.int64]
    is_cold_U: npt.NDArray[np.bool_]
    groups: list[GroupTally]
    shown: list[ChosenUser]


def _read_users(
    dataset: Dataset,
    runs: Sequence[NamedRun],
    judged: Sequence[JudgedUsers],
    kinds: Sequence[str],
    chosen: Sequence[tuple[int, str]],
) -> _Users:
    """Read the split once more: what is kept of a user does not grow with the history."""
    catalogue, config = dataset.catalogue, runs[0].config
    check_kinds(kinds, catalogue.table.column_names)
    of_items = merge(item_groups(kinds, catalogue), torch.device("cpu"))
    names = [*user_group_names(kinds), *of_items]
    groups = [GroupTally.zeros(names, k=config.eval.k) for _ in runs]
    rules = dict(chosen)
    shown: dict[int, ChosenUser] = {}
    lengths: list[npt.NDArray[np.int64]] = []
    cold: list[npt.NDArray[np.bool_]] = []
    start = 0
    for examples in read_eval(
        dataset.prepared, SPLIT, batch_size=config.eval.batch_size, rank=0, world_size=1
    ):
        targets_BT = pad_targets(examples)
        if config.eval.filter_seen:
            targets_BT = without_seen(targets_BT, pack(examples, max_history=1), len(catalogue))
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
                dataset.facts,
                k=config.eval.k,
                user_groups=of_users,
                item_groups=of_items,
            )
        lengths.append(examples.lengths[rows])
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
        np.concatenate(lengths), np.concatenate(cold), groups, [shown[row] for row, _ in chosen]
    )
