"""Metrics of evaluated slates: intervals, exposure, popularity, segments of users.

Not the choice of runs (slate_views.py) nor their plots (slate_page.py). The one idea: each is a
function of `UserResults`; all runs are evaluated on the same users in the same order.

Legend: U evaluated users, V catalogue, S runs, R draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from recdiv_core.evaluation.differences import LEVEL, SEED, difference, resample
from recdiv_core.metrics.bootstrap import interval, resampled_means
from recdiv_core.metrics.fairness import MIN_SIZE
from recdiv_core.metrics.jackknife import UserResults

NUM_DRAWS: Final = 2000
NUM_POINTS: Final = 200
"""Points of an exposure curve at most, in a plot."""
NUM_DECILES: Final = 10
SEGMENT_METRICS: Final = ("ndcg", "ild", "diversity_index")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A metric and its 95 % interval over users."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Histories:
    """What users chose themselves, in the order of their slates.

    `items_UK` has distinct items, the latest first, and -1 behind the end; a cold user has no event
    in the train window.
    """

    items_UK: npt.NDArray[np.int64]
    length_U: npt.NDArray[np.int64]
    is_cold_U: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Band:
    """Items of similar popularity.

    Attributes:
        name: `1` to `10`, the tenth with the fewest train events first; `cold` = no train event.
        num_items: Items in the band.
        events: Fewest and most train events of its items.
    """

    name: str
    num_items: int
    events: tuple[int, int]


@dataclass(frozen=True)
class Segment:
    """Users of one kind; metric of SEGMENT_METRICS -> an estimate for each run."""

    name: str
    num_users: int
    estimates: Mapping[str, tuple[Estimate, ...]]


def estimate(
    judged: Sequence[UserResults],
) -> tuple[tuple[Mapping[str, Estimate], ...], tuple[Mapping[str, Mapping[str, Any]], ...]]:
    """Return each run's metrics with intervals, and how each run differs from the first."""
    if len(judged[0].slates_UK) < 2:  # nothing varies over one user
        alone = [{name: each.value(name) for name in each.users} for each in judged]
        return tuple({n: Estimate(v, v, v) for n, v in own.items()} for own in alone), ()
    samples = resample(judged, NUM_DRAWS)
    estimates: list[Mapping[str, Estimate]] = []
    differences: list[Mapping[str, Mapping[str, Any]]] = []
    for run in range(len(judged)):
        own: dict[str, Estimate] = {}
        against: dict[str, Mapping[str, Any]] = {}
        for column, name in enumerate(samples.names):
            values_S = samples.values_SM[:, column].tolist()
            draws_RS = samples.samples_RSM[:, :, column]
            own[name] = Estimate(values_S[run], *interval(draws_RS[:, run], level=LEVEL))
            against[name] = difference(values_S[0], values_S[run], draws_RS[:, 0], draws_RS[:, run])
        estimates.append(own)
        differences.append(against)
    return tuple(estimates), tuple(differences[1:])


def exposure_curve(exposure_V: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return the Lorenz curve of exposure: (share of items, share of exposure).

    Items are in the order of their exposure, the least shown first. The less even exposure is, the
    further the curve lies below the diagonal; Gini is twice the area between. The curve has at most
    NUM_POINTS + 1 points, both ends included.

    >>> [shares.tolist() for shares in exposure_curve(np.array([3, 0, 1, 0]))]
    [[0.0, 0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.0, 0.25, 1.0]]
    """
    rising_V = np.sort(exposure_V).astype(np.float64)
    shares = np.concatenate([[0.0], rising_V.cumsum() / max(1.0, rising_V.sum())])
    num_items = len(rising_V)
    counts = np.unique(np.linspace(0, num_items, min(num_items, NUM_POINTS) + 1).round())
    return counts / num_items, shares[counts.astype(np.int64)]


def popularity_bands(
    popularity_V: npt.NDArray[np.int64],
) -> tuple[tuple[Band, ...], npt.NDArray[np.int64]]:
    """Cut the warm items into tenths by train events; cold items are a band of their own.

    Ties are cut by item_index. Where there are fewer than ten warm items, each is a band.

    Returns:
        The bands, from few train events to many, cold items last where there are any;
        [V] the band of each item.
    """
    warm = np.flatnonzero(popularity_V > 0)
    parts = np.array_split(
        warm[np.argsort(popularity_V[warm], kind="stable")], min(NUM_DECILES, max(1, len(warm)))
    )
    cold = np.flatnonzero(popularity_V == 0)
    named = [(str(tenth), part) for tenth, part in enumerate(parts, start=1)] + [("cold", cold)]
    band_V = np.zeros(len(popularity_V), dtype=np.int64)
    bands: list[Band] = []
    for name, items in named:
        if len(items):
            band_V[items] = len(bands)
            events = popularity_V[items]
            bands.append(Band(name, len(items), (int(events.min()), int(events.max()))))
    return tuple(bands), band_V


def band_coverage(
    exposure_V: npt.NDArray[np.int64], bands: Sequence[Band], band_V: npt.NDArray[np.int64]
) -> tuple[float, ...]:
    """Return the share of each band's items that are in any slate."""
    shown = np.bincount(band_V[exposure_V > 0], minlength=len(bands))
    return tuple(float(n) / band.num_items for n, band in zip(shown, bands, strict=True))


def user_segments(histories: Histories) -> dict[str, npt.NDArray[np.bool_]]:
    """Return name -> [U]: all, cold and warm users, and thirds by length of history.

    Users with equally long histories stay together, so the thirds may be uneven; the first is `0`
    where a third of the users have no history. Groups of fewer than MIN_SIZE users are left out:
    their metrics are mostly chance.
    """
    length_U, is_cold_U = histories.length_U, histories.is_cold_U
    first, second = (int(edge) for edge in np.quantile(length_U, [1 / 3, 2 / 3], method="lower"))
    groups = {
        "all": np.ones(len(length_U), dtype=np.bool_),
        "cold": is_cold_U,
        "warm": ~is_cold_U,
        f"to {first}" if first else "0": length_U <= first,
        f"{first + 1} to {second}": (length_U > first) & (length_U <= second),
        f"over {second}": length_U > second,
    }
    return {name: is_in_U for name, is_in_U in groups.items() if is_in_U.sum() >= MIN_SIZE}


def segments(judged: Sequence[UserResults], histories: Histories) -> tuple[Segment, ...]:
    """Return the estimates for each group of `user_segments`."""
    found: list[Segment] = []
    for name, is_in_U in user_segments(histories).items():
        estimates = {
            metric: _means(np.stack([each.users[metric][is_in_U] for each in judged]))
            for metric in SEGMENT_METRICS
        }
        found.append(Segment(name, int(is_in_U.sum()), estimates))
    return tuple(found)


def _means(values_SU: Floats) -> tuple[Estimate, ...]:
    draws_RS = resampled_means(values_SU, NUM_DRAWS // 4, seed=SEED)
    return tuple(
        Estimate(float(values_U.mean()), *interval(draws_R, level=LEVEL))
        for values_U, draws_R in zip(values_SU, draws_RS.T, strict=True)
    )
