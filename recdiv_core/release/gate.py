"""May a candidate take the champion's place? Floors under its figures, with intervals.

Not the registry (registry.py). A floor is a share of the champion's figure, and the lower end of
the candidate's 95 % interval has to reach it, user by user on the same split. `ndcg.tail`
is NDCG of the users whose held-out item is of the tail, so that no part of the shop pays for the
mean. A floor that too few users speak for is reported, and does not decide.

Legend: B users of a batch, U users, R draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch

from recdiv_core.errors import UserError
from recdiv_core.evaluation.compare import LOWER_IS_BETTER
from recdiv_core.evaluation.differences import difference, draw
from recdiv_core.evaluation.judged_runs import NamedRun, check_comparable, judge_runs
from recdiv_core.items.popularity import POPULARITY_GROUPS
from recdiv_core.metrics.bootstrap import resampled_means
from recdiv_core.metrics.fairness import MIN_SIZE
from recdiv_core.metrics.slate_batch import SlateBatch
from recdiv_core.metrics.tally import SYSTEM_METRICS, USER_METRICS

FLOORS: Final[Mapping[str, float]] = {
    "ndcg": 0.98,
    "coverage": 0.98,
    **{f"ndcg.{group}": 0.95 for group in POPULARITY_GROUPS},
}
NUM_RESAMPLES: Final = 2000
SEED: Final = 0
GROUP: Final = "group of the held-out item"


def parse_floors(texts: Sequence[str]) -> dict[str, float]:
    """Parse `NAME=SHARE`, each instead of or besides those of FLOORS.

    Raises:
        UserError: no such figure, or no share.
    """
    names = [name for name in (*USER_METRICS, *SYSTEM_METRICS) if name not in LOWER_IS_BETTER]
    own = [name for name in names if name in USER_METRICS]
    names += [f"{metric}.{group}" for metric in own for group in POPULARITY_GROUPS]
    floors = dict(FLOORS)
    for text in texts:
        name, _, share = text.partition("=")
        if name not in names:
            raise UserError(f"--keep {text}: allowed NAME=SHARE with one of {', '.join(names)}")
        try:
            floors[name] = float(share)
        except ValueError:
            raise UserError(f"--keep {text}: {share!r} is no share such as 0.98") from None
        if not 0 <= floors[name] <= 2:
            raise UserError(f"--keep {text}: a share of the champion's figure lies in [0, 2]")
    return floors


def pass_gate(
    champion: NamedRun, candidate: NamedRun, floors: Mapping[str, float], split: str
) -> list[dict[str, Any]]:
    """Hold a candidate against the champion.

    Returns:
        for each floor `{"name", "floor", "champion", "candidate", "share", "share_low", "passes"}`;
        `passes` is None where there are too few users to say anything.

    Raises:
        UserError: runs that do not compare.
    """
    check_comparable([champion, candidate])
    judged = judge_runs([champion, candidate], split, {GROUP: _group_of_target})
    group_U = judged[0].users[GROUP]
    whole = [
        replace(each, users={name: v for name, v in each.users.items() if name != GROUP})
        for each in judged
    ]
    drawn = draw(whole, NUM_RESAMPLES)
    rows: list[dict[str, Any]] = []
    for name, floor in floors.items():
        metric, _, group = name.partition(".")
        if group:
            is_in_U = group_U == POPULARITY_GROUPS.index(group)
            if is_in_U.sum() < MIN_SIZE:
                rows.append({"name": name, "floor": floor, "passes": None})
                continue
            values = np.stack([each.users[metric][is_in_U] for each in whole])
            draws = resampled_means(values, NUM_RESAMPLES, seed=SEED)
            before, behind = values.mean(axis=1).tolist()
        else:
            place = drawn.names.index(metric)
            before, behind = drawn.figures_SM[:, place].tolist()
            draws = drawn.draws_RSM[:, :, place]
        entry = difference(before, behind, draws[:, 0], draws[:, 1])
        rows.append({"name": name, "floor": floor, **verdict(entry, floor)})
    return rows


def verdict(entry: Mapping[str, Any], floor: float) -> dict[str, Any]:
    """Say whether a difference from the champion (of `drawn_figures.difference`) keeps a share."""
    figures = {"champion": entry["reference"], "candidate": entry["other"]}
    if entry["percent_low"] is None:  # the champion's figure is 0, or may be
        return {**figures, "share": None, "share_low": None, "passes": None}
    low = 1 + entry["percent_low"] / 100
    share = 1 + entry["percent"] / 100
    return {**figures, "share": share, "share_low": low, "passes": low >= floor}


def _group_of_target(seen: SlateBatch) -> torch.Tensor:
    """Return the popularity group of each user's held-out item (of several, one): [B]."""
    return seen.traits.popularity_group_V[seen.targets_BT[:, -1]]
