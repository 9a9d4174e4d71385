"""Choose operating points on all kinds of diversity together.

trials.py has the fronts on one pair of axes, wording.py the sentences. A point that is chosen for
one kind of diversity often loses another. So a trial is admissible only if no declared kind of
diversity lies below w = 0 by more than its interval. Kinds of diversity move at unlike prices, so
each has a goal. Of the admissible trials that keep enough accuracy, the one with the largest
product of gains, each as a share of its goal, is chosen: the volume that the trial reaches between
w = 0 and the goals. A gain far beyond its goal counts no more, so it makes up for no other. A trial
that narrows more slates than w = 0 is chosen only if all do. Validation chooses; test metrics are
looked up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from recdiv_core.errors import UserError
from recdiv_core.fronts.trials import Front, Trial, front_of, metric_of
from recdiv_core.metrics.repeats import half_width
from recdiv_core.search_space import Objective

KEEP: Final = 0.97
"""Share of the accuracy of w = 0 that the recommended trial keeps, by default."""
OPERATING: Final = (0.99, 0.97, 0.95, 0.90)
"""Shares of the accuracy of w = 0 in the table of operating points."""
SLACK: Final = 0.01
"""Relative loss that counts as noise where intervals are unknown."""
GOAL: Final = 0.10
"""Relative gain that is the goal of a kind of diversity."""
COVERAGE_GOAL: Final = 0.20
"""Relative gain that is the goal of coverage, unless half of what is missing is less."""
MISSING_GOAL: Final = 0.5
"""Share of what coverage lacks to the most that can be shown; it is the goal if it is less."""
MARGIN: Final = 1.2
"""Share of its goal up to which a gain counts: what validation chose gains a little less on test.
"""
NARROWED: Final = "narrowed"
"""Share of users whose slates are narrower than their histories, at `eval.k`; lower is better."""
FEWEST_SEEDS: Final = 3
"""Fewest training seeds whose interval replaces SLACK; with two it admits nearly everything."""


@dataclass(frozen=True)
class Choice:
    """The chosen trials of a sweep.

    Attributes:
        front: front on all objectives of the sweep.
        keep: share of the reference's accuracy that the recommended trial keeps.
        reference: the baseline at w = 0; without one the most accurate member of the front.
        recommended: admissible point with the most progress; None = there is none.
        nearest: without a recommended point, the point that comes nearest to it.
        operating: share of the reference's accuracy -> point chosen in the same way.
    """

    front: Front
    keep: float
    reference: Trial | None
    recommended: Trial | None
    nearest: Trial | None
    operating: Mapping[float, Trial]

    @property
    def accuracy(self) -> Objective:
        """The objective of accuracy."""
        return self.front.objectives[0]

    @property
    def diversities(self) -> tuple[Objective, ...]:
        """All other objectives."""
        return self.front.objectives[1:]

    @property
    def failing(self) -> list[Objective]:
        """The kinds of diversity on which the nearest point is not admissible."""
        if self.nearest is None or self.reference is None:
            return []
        return losses(self.nearest, self.reference, self.diversities)


def check_keep(keep: float) -> None:
    """Refuse a share of the accuracy outside of (0, 1].

    Raises:
        UserError: the share is not allowed.
    """
    if not 0 < keep <= 1:
        raise UserError(f"--keep {keep}: allowed is a share of the accuracy above 0, up to 1")


def choose(
    trials: Sequence[Trial],
    objectives: Sequence[Objective],
    *,
    keep: float = KEEP,
    num_items: int = 0,
) -> Choice:
    """Choose the operating points of a sweep.

    Args:
        trials: points of the sweep.
        objectives: declared objectives, accuracy first.
        keep: share of the reference's accuracy that the recommended trial keeps, in (0, 1].
        num_items: items of the catalogue; 0 = unknown, then coverage could reach 1.
    """
    front = front_of(trials, *objectives)
    kept = [point for point in front.points if not point.breaks]
    reference = front.baseline or next(iter(front.members), None)
    if reference is None:
        return Choice(front, keep, None, None, None, {})
    goals = {each: goal(reference, each, num_items) for each in objectives[1:]}
    shares = sorted({keep, *OPERATING}, reverse=True)
    found = {share: _best(kept, reference, objectives[0], goals, share) for share in shares}
    recommended = found[keep]
    return Choice(
        front=front,
        keep=keep,
        reference=reference,
        recommended=recommended,
        nearest=None if recommended else _nearest(kept, reference, objectives[0], goals, keep),
        operating={share: point for share, point in found.items() if point is not None},
    )


def gain_of(trial: Trial, objective: Objective) -> float:
    """Return a validation metric turned so that more is better."""
    value = trial.val[metric_of(objective)]
    return value if objective.direction == "max" else -value


def gain(trial: Trial, reference: Trial, objective: Objective) -> float:
    """Return the relative gain on validation; positive is better, whatever the direction.

    Without a value of the reference to relate to, the absolute gain.
    """
    before, after = gain_of(reference, objective), gain_of(trial, objective)
    return (after - before) / (abs(before) or 1.0)


def goal(reference: Trial, objective: Objective, num_items: int) -> float:
    """Return the relative gain that is asked of a kind of diversity, > 0.

    For coverage it is the smaller of COVERAGE_GOAL and MISSING_GOAL of what is missing to the most
    that can be shown, and at least SLACK; for every other kind GOAL.
    """
    name = metric_of(objective)
    before = reference.val[name]
    if not name.startswith("coverage_at_") or before <= 0:
        return GOAL
    missing = most_coverage(reference, name, num_items) - before
    return max(SLACK, min(COVERAGE_GOAL, MISSING_GOAL * missing / before))


def most_coverage(reference: Trial, name: str, num_items: int) -> float:
    """Return the most coverage that the users of the validation split can be shown, in (0, 1].

    min(1, users x k / items); 1 if one of them is unknown.
    """
    num_users, k = reference.val.get("num_judged", 0.0), int(name.rpartition("_")[2])
    return min(1.0, num_users * k / num_items) if num_users and num_items else 1.0


def slack(trial: Trial, reference: Trial, objective: Objective) -> float:
    """Return the relative loss that cannot be told from 0.

    Half the width of the 95 % interval of the difference over seeds, if both have FEWEST_SEEDS
    seeds in common; else SLACK.
    """
    name = metric_of(objective)
    before = {own.seed: own.val[name] for own in reference.repeats if name in own.val}
    gains = [
        own.val[name] - before[own.seed]
        for own in trial.repeats
        if name in own.val and own.seed in before
    ]
    mean = abs(reference.val[name])
    return half_width(gains) / mean if len(gains) >= FEWEST_SEEDS and mean else SLACK


def losses(trial: Trial, reference: Trial, diversities: Sequence[Objective]) -> list[Objective]:
    """Return the kinds of diversity that lie below the reference by more than their interval."""
    return [
        objective
        for objective in diversities
        if gain(trial, reference, objective) < -slack(trial, reference, objective)
    ]


def accuracy_kept(trial: Trial, reference: Trial, accuracy: Objective) -> float:
    """Return the share of the reference's accuracy on validation; 1 = equal."""
    return 1 + gain(trial, reference, accuracy)


def progress(trial: Trial, reference: Trial, goals: Mapping[Objective, float]) -> float:
    """Return the product of all gains as shares of their goals, each at most MARGIN.

    If a kind of diversity gains nothing: the smallest share, which is 0 or less.
    """
    shares = [gain(trial, reference, objective) / asked for objective, asked in goals.items()]
    least = min(shares)
    return math.prod(min(share, MARGIN) for share in shares) if least > 0 else least


def narrows(trial: Trial, reference: Trial) -> bool:
    """Return whether a trial narrows more slates than the reference, by more than SLACK."""
    name = next((name for name in trial.val if name.startswith(f"{NARROWED}_at_")), None)
    return name is not None and trial.val[name] > (1 + SLACK) * reference.val.get(name, math.inf)


def _others(
    points: Sequence[Trial], reference: Trial, accuracy: Objective, share: float
) -> list[Trial]:
    """Return the points beside the reference that keep a share of its accuracy."""
    least = share - 1e-12  # equal up to rounding keeps it
    return [
        point
        for point in points
        if point is not reference and accuracy_kept(point, reference, accuracy) >= least
    ]


def _best(
    points: Sequence[Trial],
    reference: Trial,
    accuracy: Objective,
    goals: Mapping[Objective, float],
    share: float,
) -> Trial | None:
    admissible = [
        point
        for point in _others(points, reference, accuracy, share)
        if not losses(point, reference, tuple(goals))
    ]
    return max(admissible, key=_key(reference, accuracy, goals), default=None)


def _key(
    reference: Trial, accuracy: Objective, goals: Mapping[Objective, float]
) -> Callable[[Trial], tuple[bool, float, float]]:
    """Return what points are compared by: no narrower slates, progress, then accuracy."""
    return lambda point: (
        not narrows(point, reference),
        progress(point, reference, goals),
        gain_of(point, accuracy),
    )


def _nearest(
    points: Sequence[Trial],
    reference: Trial,
    accuracy: Objective,
    goals: Mapping[Objective, float],
    share: float,
) -> Trial | None:
    """Return the point with the most progress, or the most accurate one."""
    able = _others(points, reference, accuracy, share)
    if able:
        return max(able, key=_key(reference, accuracy, goals))
    others = [point for point in points if point is not reference]
    return max(others, key=lambda point: gain_of(point, accuracy), default=None)
