"""The trials of a sweep as plain data, and what is chosen of them.

Not the reading of them from MLflow (report.py), their drawing (report_page.py) nor what is said of
them (trials_text.py). The one idea: everything is chosen on validation figures of a trial's
selected epoch; test figures are only looked up for what was chosen, so that the test set picks
nothing. What is judged is a point, which may be of several trials that differ by seed alone
(points.py makes one of them).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from recdiv_core.metrics import pareto
from recdiv_core.metrics.repeats import half_width
from recdiv_core.search_space import Objective
from recdiv_core.wording import SYMBOLS, dial, short, title

BASE: Final = "base"
"""Name of the run that all trials of a sweep with a warm start go on from."""
DIVERSITY_METRICS: Final = ("coverage", "ild", "diversity_index")
BUDGETS: Final = (0.99, 0.95, 0.90)
"""Shares of the best accuracy that an operating point may be asked to keep."""

CURVES: Final = ("train/loss", "train/relevance", "train/penalty")
"""Metrics of training that a page draws over the epochs."""

Curve = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Trial:
    """One child run, or the point that it stands for, with the means over its seeds.

    Metric names are without their `val/` or `test/`, e.g. `ndcg_at_10`.

    Attributes:
        params: the swept keys and their values.
        val, test: figures of the selected epoch; empty when the trial did not get that far.
        curves: metric with its split, e.g. `val/ndcg_at_10` -> (epoch, value) pairs.
        is_plain: trained with w = 0 and not re-ranked.
        breaks: constrained metrics that it keeps too little of.
        ended_ms: when it ended, of a point the last of its trials.
        point: settings that trials of one point share; empty = it is a point of its own.
        repeats: of a point of several seeds its trials; the run named here is one of them.
        val_half, test_half: of such a point half the width of the 95 % t interval of each mean.
    """

    run_id: str
    name: str
    status: str
    params: Mapping[str, object]
    val: Mapping[str, float]
    test: Mapping[str, float]
    curves: Mapping[str, Curve]
    best_epoch: int | None
    duration_s: float | None
    is_plain: bool
    breaks: tuple[str, ...] = ()
    ended_ms: int | None = None
    point: str = ""
    repeats: tuple[Trial, ...] = ()
    val_half: Mapping[str, float] = field(default_factory=dict[str, float])
    test_half: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def seed(self) -> object:
        """Return the training seed, where seeds were swept."""
        return self.params.get("seed")

    @property
    def settings(self) -> dict[str, object]:
        """Return the swept keys and their values but for the seed, which is none of a point."""
        return {key: value for key, value in self.params.items() if key != "seed"}

    @property
    def label(self) -> str:
        """Say the swept dials in a few characters; the name where there is nothing to say."""
        settings = self.settings
        keys = [key for key in settings if key in SYMBOLS or len(settings) <= 3]
        if settings.get("loss.diversity_weight") == 0:  # then the mix changes nothing
            keys = [key for key in keys if key != "loss.diversity"]
        return " ".join(dial(key, settings[key]) for key in keys) or short(self.name)


@dataclass(frozen=True)
class Sweep:
    """One parent run and its trials, the oldest first.

    Attributes:
        objectives: as the space declares them, with their `val/`; the first is accuracy.
        facts: of the prepared data set, by name.
        references: kind of baseline -> a run of it on the same data, of no sweep or another one.
        least: constrained metric -> what a trial must reach of it.
        seeds: that each point is trained with; none = one, that of the config.
    """

    run_id: str
    name: str
    experiment: str
    status: str
    space: str
    started_ms: int
    objectives: tuple[Objective, ...]
    parameters: tuple[str, ...]
    trials: tuple[Trial, ...]
    facts: Mapping[str, object]
    provenance: Mapping[str, str]
    references: Mapping[str, Trial] = field(default_factory=dict[str, Trial])
    least: Mapping[str, float] = field(default_factory=dict[str, float])
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Front:
    """What stands out on one pair of axes.

    Attributes:
        judged: points that finished with both figures.
        members: the non-dominated ones of those that keep the constraints, the most accurate first.
        hypervolume: of the members' validation figures, from the fixed reference point.
        test_hypervolume: of the same members' test figures; None when one has none.
        attained: budget -> the most diverse trial that keeps this share of the best accuracy.
    """

    accuracy: Objective
    diversity: Objective
    judged: tuple[Trial, ...]
    members: tuple[Trial, ...]
    knee: Trial | None
    baseline: Trial | None
    hypervolume: float
    test_hypervolume: float | None
    attained: Mapping[float, Trial]


def metric_of(objective: Objective) -> str:
    """Return the metric's name without its split: `val/ild_at_10` -> `ild_at_10`."""
    return objective.metric.rpartition("/")[2]


def axes(sweep: Sweep) -> tuple[tuple[Objective, Objective], ...]:
    """Return the pairs (accuracy, diversity) to draw, the declared ones first."""
    accuracy, *diversities = sweep.objectives
    declared = {metric_of(objective) for objective in diversities}
    cut_off = metric_of(accuracy).rpartition("_at_")[2]
    for name in DIVERSITY_METRICS:
        metric = f"{name}_at_{cut_off}"
        if metric not in declared and any(metric in trial.val for trial in sweep.trials):
            diversities.append(Objective(f"val/{metric}", "max", 0.0))
    return tuple((accuracy, diversity) for diversity in diversities)


def judge(trials: Sequence[Trial], accuracy: Objective, diversity: Objective) -> Front:
    """Find the front of finished trials on one pair of axes, and what to pick from it.

    What breaks a constraint is judged, but neither on the front nor of its hypervolume.
    """
    names = (metric_of(accuracy), metric_of(diversity))
    judged = tuple(
        trial
        for trial in trials
        if trial.status == "FINISHED" and all(name in trial.val for name in names)
    )
    directions = (accuracy.direction, diversity.direction)
    reference = (accuracy.reference, diversity.reference)

    def points(some: Sequence[Trial], figures: str) -> list[list[float]]:
        return [[getattr(trial, figures)[name] for name in names] for trial in some]

    kept = [trial for trial in judged if not trial.breaks]
    val = points(kept, "val")
    members = tuple(kept[i] for i in pareto.front(val, directions))
    has_test = bool(members) and all(name in t.test for t in members for name in names)
    plain = [trial for trial in judged if trial.is_plain]
    return Front(
        accuracy=accuracy,
        diversity=diversity,
        judged=judged,
        members=members,
        knee=kept[pareto.knee(val, directions)] if members else None,
        baseline=max(plain, key=lambda trial: trial.val[names[0]]) if plain else None,
        hypervolume=pareto.hypervolume(val, reference, directions),
        test_hypervolume=pareto.hypervolume(points(members, "test"), reference, directions)
        if has_test
        else None,
        attained=_attained(members, accuracy, diversity),
    )


def course(
    trials: Sequence[Trial], objectives: Sequence[Objective]
) -> tuple[tuple[Trial, float], ...]:
    """Return each finished trial and the hypervolume after it, in the order in which they ended.

    Of all these objectives, from their references; what breaks a constraint adds nothing.
    """
    names = [metric_of(objective) for objective in objectives]
    judged = [t for t in trials if t.status == "FINISHED" and all(name in t.val for name in names)]
    ended = sorted(judged, key=lambda trial: (trial.ended_ms or 0, trial.name))
    reached = pareto.volumes(
        [[math.nan if trial.breaks else trial.val[name] for name in names] for trial in ended],
        [objective.reference for objective in objectives],
        [objective.direction for objective in objectives],
    )
    return tuple(zip(ended, reached, strict=True))


def recommended(front: Front) -> Trial | None:
    """Return the knee, or, where that is the baseline, the best point at a 5 % budget."""
    if front.knee is None or front.knee is not front.baseline:
        return front.knee
    return front.attained.get(0.95)


def choices(fronts: Sequence[Front]) -> dict[str, Trial]:
    """Return what there is to choose from, by what it is chosen for.

    The plain model, and of each pair of axes the knee and the most diverse trial at each share of
    the best accuracy; of several reasons for one trial the first.
    """
    named: dict[str, Trial] = {}

    def add(reason: str, trial: Trial | None) -> None:
        if trial is not None and all(trial.run_id != other.run_id for other in named.values()):
            named[reason] = trial

    add("w = 0", fronts[0].baseline)
    for front in fronts:
        of = title(metric_of(front.diversity))
        add(f"knee, {of}", front.knee)
        for budget, trial in front.attained.items():
            kept = f"{100 * budget:.0f} % of the best {title(metric_of(front.accuracy))}"
            add(f"most {of} at {kept}", trial)
    return named


def change(trial: Trial, baseline: Trial, metric: str) -> float | None:
    """Return the relative change of a test figure against the baseline; None when unknown."""
    now, before = trial.test.get(metric), baseline.test.get(metric)
    if now is None or not before:
        return None
    return now / before - 1.0


def change_half(trial: Trial, baseline: Trial, metric: str) -> float | None:
    """Return half the width of the 95 % t interval of that change; None without two seeds of both.

    Within a seed both start alike and see the data in the same order: the interval is of the
    differences seed by seed, as shares of the baseline's mean.
    """
    before = {own.seed: own.test[metric] for own in baseline.repeats if metric in own.test}
    gains = [
        own.test[metric] - before[own.seed]
        for own in trial.repeats
        if metric in own.test and own.seed in before
    ]
    mean = baseline.test.get(metric)
    return half_width(gains) / abs(mean) if len(gains) > 1 and mean else None


def referred(front: Front, references: Mapping[str, Trial]) -> dict[str, Trial]:
    """Return the references that have both figures of a front, by kind."""
    names = (metric_of(front.accuracy), metric_of(front.diversity))
    return {kind: run for kind, run in references.items() if all(name in run.val for name in names)}


def _attained(
    members: Sequence[Trial], accuracy: Objective, diversity: Objective
) -> dict[float, Trial]:
    """Return for each budget the member that attains it, for an accuracy that grows."""
    if not members or accuracy.direction == "min":
        return {}
    sign = 1.0 if diversity.direction == "max" else -1.0
    pairs = [
        (trial.val[metric_of(accuracy)], sign * trial.val[metric_of(diversity)])
        for trial in members
    ]
    reached = pareto.attainment(pairs, pairs[0][0], BUDGETS)  # the first is the most accurate
    by_diversity = {pair[1]: trial for pair, trial in zip(pairs, members, strict=True)}
    return {budget: by_diversity[value] for budget, value in reached.items() if value is not None}
