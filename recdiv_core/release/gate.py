"""Decide whether a candidate may replace the champion: floors on its metrics, with intervals.

registry.py stores the models. A floor is a share of the champion's metric. The lower end of the
candidate's 95 % interval must reach the floor, on the same users of the same split. `ndcg.tail` is
the NDCG of the users with a held-out item in the tail, and `ndcg.query` that of requests with a
query. They show whether a better mean harms one part of the shop. The floor of `narrowed` is on the
share of users who are not narrowed. A floor with too few users is reported but does not count.

Legend: B users of a batch, U users, R resamples, S systems.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from recdiv_core.errors import UserError
from recdiv_core.evaluation.differences import difference, resample
from recdiv_core.evaluation.per_user import judge_systems
from recdiv_core.evaluation.systems import NamedRun, check_comparable
from recdiv_core.items.popularity import POPULARITY_GROUPS
from recdiv_core.metrics.bootstrap import resampled_means
from recdiv_core.metrics.fairness import MIN_SIZE
from recdiv_core.metrics.jackknife import UserResults
from recdiv_core.metrics.slate_batch import SlateBatch
from recdiv_core.metrics.tally import (
    EPOCH_METRICS,
    LOWER_IS_BETTER,
    USER_METRICS,
    UserMetrics,
)

NARROWED: Final = "narrowed"
OF_QUERIES: Final = "query"
FLOORS: Final[Mapping[str, float]] = {
    "ndcg": 0.98,
    "coverage": 0.98,
    **{f"ndcg.{group}": 0.95 for group in POPULARITY_GROUPS},
    f"ndcg.{OF_QUERIES}": 0.95,
    NARROWED: 0.95,
}
"""Metric, or metric and group -> share of the champion's to keep. The groups are those of the
held-out item by popularity, and requests with a query."""
NUM_RESAMPLES: Final = 2000
SEED: Final = 0
GROUP: Final = "group of the held-out item"
HAS_QUERY: Final = "request with a query"


def parse_floors(texts: Sequence[str]) -> dict[str, float]:
    """Parse `NAME=SHARE`; each replaces a floor of FLOORS or adds one.

    Raises:
        UserError: unknown metric, or a share that is not a number in [0, 2].
    """
    names = [name for name in EPOCH_METRICS if name not in LOWER_IS_BETTER]
    own = [name for name in names if name in USER_METRICS]
    names.append(NARROWED)
    groups = (*POPULARITY_GROUPS, OF_QUERIES)
    names += [f"{metric}.{group}" for metric in own for group in groups]
    floors = dict(FLOORS)
    for text in texts:
        name, _, share = text.partition("=")
        if name not in names:
            raise UserError(f"--keep {text}: allowed NAME=SHARE with one of {', '.join(names)}")
        try:
            floors[name] = float(share)
        except ValueError:
            raise UserError(f"--keep {text}: {share!r} is not a share such as 0.98") from None
        if not 0 <= floors[name] <= 2:
            raise UserError(f"--keep {text}: a share of the champion's metric lies in [0, 2]")
    return floors


def pass_gate(
    champion: NamedRun, candidate: NamedRun, floors: Mapping[str, float], split: str
) -> list[dict[str, Any]]:
    """Compare a candidate with the champion, floor by floor.

    Returns:
        for each floor `{"name", "floor", "champion", "candidate", "share", "share_low", "passes"}`;
        `passes` is None for a floor with too few users.

    Raises:
        UserError: the runs are not comparable.
    """
    check_comparable([champion, candidate])
    judged = judge_systems([champion, candidate], split, GROUPS)
    groups_U = {name: judged[0].users[name] for name in GROUPS}
    judged = [
        replace(each, users={name: v for name, v in each.users.items() if name not in GROUPS})
        for each in judged
    ]
    samples = resample(judged, NUM_RESAMPLES)
    rows: list[dict[str, Any]] = []
    for name, floor in floors.items():
        metric, _, group = name.partition(".")
        if group == OF_QUERIES:
            is_in_U = groups_U[HAS_QUERY] == 1
            if not is_in_U.any():
                continue  # a shop without search
            entry = _within_group(judged, metric, is_in_U)
        elif group:
            is_in_U = groups_U[GROUP] == POPULARITY_GROUPS.index(group)
            entry = _within_group(judged, metric, is_in_U)
        else:
            column = samples.names.index(metric)
            before, behind = samples.values_SM[:, column].tolist()
            values_RS = samples.samples_RSM[:, :, column]
            if name == NARROWED:
                before, behind, values_RS = 1 - before, 1 - behind, 1 - values_RS
            entry = difference(before, behind, values_RS[:, 0], values_RS[:, 1])
        decided = {"passes": None} if entry is None else verdict(entry, floor)
        rows.append({"name": name, "floor": floor, **decided})
    return rows


def _within_group(
    judged: Sequence[UserResults], metric: str, is_in_U: npt.NDArray[np.bool_]
) -> dict[str, Any] | None:
    """Return the difference of a metric's mean over some users; None = too few users."""
    if is_in_U.sum() < MIN_SIZE:
        return None
    values_SU = np.stack([each.users[metric][is_in_U] for each in judged])
    means_RS = resampled_means(values_SU, NUM_RESAMPLES, seed=SEED)
    before, behind = values_SU.mean(axis=1).tolist()
    return difference(before, behind, means_RS[:, 0], means_RS[:, 1])


def verdict(entry: Mapping[str, Any], floor: float) -> dict[str, Any]:
    """Return whether a difference from the champion keeps a share.

    In `entry`, see `differences.difference`, the champion is the reference.
    """
    values = {"champion": entry["reference"], "candidate": entry["other"]}
    if entry["percent_low"] is None:  # the champion's metric may be 0
        return {**values, "share": None, "share_low": None, "passes": None}
    low = 1 + entry["percent_low"] / 100
    share = 1 + entry["percent"] / 100
    return {**values, "share": share, "share_low": low, "passes": low >= floor}


def failed_floors(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the floors that a candidate fails in a line for people; empty = none.

    Where all shares reach their floors, and only the intervals begin below, the line says so.

    >>> failed_floors([{"name": "ndcg", "floor": 0.98, "share": 1.02, "share_low": 0.947, \
"passes": False}])
    "ndcg 1.020 of the champion's, interval from 0.947, floor 0.98. No share is below its floor, \
but the users are too few to be sure"
    """
    failed = [row for row in rows if row["passes"] is False]
    if not failed:
        return ""
    text = "{name} {share:.3f} of the champion's, interval from {share_low:.3f}, floor {floor:g}"
    said = "; ".join(text.format(**row) for row in failed)
    if any(row["share"] < row["floor"] for row in failed):
        return said
    return f"{said}. No share is below its floor, but the users are too few to be sure"


def _group_of_target(seen: SlateBatch) -> torch.Tensor:
    """Return the popularity group of each user's last held-out item: [B]."""
    return seen.traits.popularity_group_V[seen.targets_BT[:, -1]]


def _has_query(seen: SlateBatch) -> torch.Tensor:
    """Return whether each request has a query: [B]."""
    has_query_B = seen.needed_background.has_query_B
    assert has_query_B is not None
    return has_query_B


GROUPS: Final[UserMetrics] = {GROUP: _group_of_target, HAS_QUERY: _has_query}
"""Groups of users, as metrics of each user."""
