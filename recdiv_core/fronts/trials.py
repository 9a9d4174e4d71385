"""The trials of a sweep as plain data, and the choice between them.

reading.py reads them from MLflow, points.py merges the seeds of a point, wording.py describes them.
The one idea: every choice uses validation metrics of a trial's selected epoch. Test metrics are
only looked up for a chosen trial, so the test set chooses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from recdiv_core.config import dial_text
from recdiv_core.metrics import pareto
from recdiv_core.metrics.repeats import half_width
from recdiv_core.search_space import Objective
from recdiv_core.wording import SYMBOLS, dial, short

BASE: Final = "base"
"""Name of the base model's run, which all trials of a sweep with a warm start begin from."""
DIVERSITY_METRICS: Final = ("coverage", "ild", "diversity_index")
BUDGETS: Final = (0.99, 0.95, 0.90)
"""Shares of the best accuracy that a chosen trial keeps."""

CURVES: Final = ("train/loss", "train/relevance", "train/penalty")
"""Training metrics that a page draws over the epochs."""

Curve = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Trial:
    """One child run of a sweep, or a point of several seeds with their means.

    Metric names have no `val/` or `test/`, e.g. `ndcg_at_10`.

    Attributes:
        params: swept key -> value.
        val: validation metrics of the selected epoch; empty = no epoch was evaluated.
        test: test metrics of the selected epoch; empty = not measured.
        curves: metric with its split, e.g. `val/ndcg_at_10` -> (epoch, value) pairs.
        best_epoch: selected epoch.
        is_plain: whether it is a baseline: trained with w = 0 and not re-ranked.
        breaks: metrics whose constraints it breaks.
        ended_ms: end in milliseconds since 1970; the last end of a point.
        point: settings that trials of one point share; empty = the trial is a point of its own.
        repeats: trials of a point of several seeds; the run named here is one of them.
        val_half: half widths of the means' 95 % t intervals, on validation.
        test_half: half widths of the means' 95 % t intervals, on test.
        dials: re-ranking settings of a trained model that was re-ranked after training, by their
            dotted keys; empty = as it was trained.
        reranked: the same model under each entry of `eval.dials`.
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
    dials: Mapping[str, object] = field(default_factory=dict[str, object])
    reranked: tuple[Trial, ...] = ()

    @property
    def run(self) -> str:
        """Return the RUN that `recdiv register` and `recdiv compare` take: id and re-ranking.

        No two points of a sweep share it.
        """
        return "+".join([self.run_id, *(f"{key}={value}" for key, value in self.dials.items())])

    @property
    def training(self) -> str:
        """Return a text that all points of the same training share, whatever their re-ranking."""
        return self.point or self.run_id

    @property
    def seed(self) -> object:
        """Return the training seed, if the sweep has several."""
        return self.params.get("seed")

    @property
    def settings(self) -> dict[str, object]:
        """Return the swept keys and their values without the seed."""
        return {key: value for key, value in self.params.items() if key != "seed"}

    @property
    def label(self) -> str:
        """Return the swept settings in a few characters; the name if there are none."""
        settings = self.settings
        keys = [key for key in settings if key in SYMBOLS or len(settings) <= 3]
        if settings.get("loss.diversity_weight") == 0:  # the mix has no effect then
            keys = [key for key in keys if key != "loss.diversity"]
        words = [dial(key, settings[key]) for key in keys]
        words += [dial_text(self.dials)] if self.dials else []
        return " ".join(words) or short(self.name)


@dataclass(frozen=True)
class Sweep:
    """One parent run and its trials, the oldest first.

    Attributes:
        objectives: objectives of the space, with `val/`; the first is accuracy.
        facts: counts of the prepared data set, by name.
        references: kind of baseline -> its most accurate run on the same data, outside this sweep.
        least: constrained metric -> lowest value that keeps the constraint.
        seeds: training seeds of each point; empty = the config's seed.
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

    @property
    def num_items(self) -> int:
        """Items of the catalogue; 0 = unknown."""
        found = self.facts.get("items")
        return found if isinstance(found, int) else 0


@dataclass(frozen=True)
class Front:
    """The front of a sweep's points on accuracy and one kind of diversity, or several.

    Attributes:
        objectives: axes; the first is accuracy.
        points: points that finished with all these metrics.
        members: non-dominated points that keep the constraints, the most accurate first.
        knee: member with the best balance of all metrics.
        baseline: most accurate point with w = 0 and without re-ranking.
        hypervolume: hypervolume of the members on validation, from the fixed reference point.
        test_hypervolume: hypervolume of the same members on test; None if one has no test metrics.
        attained: share of the best accuracy -> member with most of the first kind of diversity that
            keeps it.
    """

    objectives: tuple[Objective, ...]
    points: tuple[Trial, ...]
    members: tuple[Trial, ...]
    knee: Trial | None
    baseline: Trial | None
    hypervolume: float
    test_hypervolume: float | None
    attained: Mapping[float, Trial]

    @property
    def accuracy(self) -> Objective:
        """The axis of accuracy."""
        return self.objectives[0]

    @property
    def diversity(self) -> Objective:
        """The first axis of diversity."""
        return self.objectives[1]


def metric_of(objective: Objective) -> str:
    """Return the name of a metric without its split: `val/ild_at_10` -> `ild_at_10`."""
    return _bare(objective.metric)


def broken(val: Mapping[str, float], least: Mapping[str, float]) -> tuple[str, ...]:
    """Return the constrained metrics, with `val/`, that lie below their lowest value."""
    return tuple(name for name, value in least.items() if val.get(_bare(name), value) < value)


def _bare(metric: str) -> str:
    return metric.rpartition("/")[2]


def axes(sweep: Sweep) -> tuple[tuple[Objective, Objective], ...]:
    """Return the pairs (accuracy, diversity) of fronts, the declared ones first."""
    accuracy, *diversities = sweep.objectives
    declared = {metric_of(objective) for objective in diversities}
    cut_off = metric_of(accuracy).rpartition("_at_")[2]
    for name in DIVERSITY_METRICS:
        metric = f"{name}_at_{cut_off}"
        if metric not in declared and any(metric in trial.val for trial in sweep.trials):
            diversities.append(Objective(f"val/{metric}", "max", 0.0))
    return tuple((accuracy, diversity) for diversity in diversities)


def front_of(trials: Sequence[Trial], *objectives: Objective) -> Front:
    """Return the front of the finished trials on accuracy and at least one kind of diversity.

    A point that breaks a constraint is neither on the front nor part of its hypervolume.
    """
    names = [metric_of(objective) for objective in objectives]
    points = _finished(trials, names)
    directions: list[pareto.Direction] = [objective.direction for objective in objectives]
    reference = [objective.reference for objective in objectives]

    kept = [point for point in points if not point.breaks]
    val = [[point.val[name] for name in names] for point in kept]
    members = tuple(kept[i] for i in pareto.front(val, directions))
    test = [[point.test.get(name, math.nan) for name in names] for point in members]
    has_test = bool(test) and all(math.isfinite(value) for values in test for value in values)
    plain = [point for point in points if point.is_plain]
    return Front(
        objectives=objectives,
        points=points,
        members=members,
        knee=kept[pareto.knee(val, directions)] if members else None,
        baseline=max(plain, key=lambda point: point.val[names[0]], default=None),
        hypervolume=pareto.hypervolume(val, reference, directions),
        test_hypervolume=pareto.hypervolume(test, reference, directions) if has_test else None,
        attained=_attained(members, objectives[0], objectives[1]),
    )


def hypervolumes(
    trials: Sequence[Trial], objectives: Sequence[Objective]
) -> tuple[tuple[Trial, float], ...]:
    """Return each finished training and the hypervolume after it, in the order of their ends.

    The hypervolume is of all these objectives, from their references. All points of a training
    count at its end. A point that breaks a constraint adds nothing.
    """
    names = [metric_of(objective) for objective in objectives]
    ended = sorted(_finished(trials, names), key=lambda trial: (trial.ended_ms or 0, trial.name))
    reached = pareto.volumes(
        [[math.nan if trial.breaks else trial.val[name] for name in names] for trial in ended],
        [objective.reference for objective in objectives],
        [objective.direction for objective in objectives],
    )
    last = {point.training: volume for point, volume in zip(ended, reached, strict=True)}
    first = {point.training: point for point in reversed(ended)}
    return tuple((first[training], volume) for training, volume in last.items())


def change(trial: Trial, baseline: Trial, metric: str) -> float | None:
    """Return the relative change of a test metric against the baseline; None if unknown."""
    now, before = trial.test.get(metric), baseline.test.get(metric)
    if now is None or not before:
        return None
    return now / before - 1.0


def change_half(trial: Trial, baseline: Trial, metric: str) -> float | None:
    """Return the half width of that change's 95 % t interval; None without two shared seeds.

    Runs of one seed start alike and see the data in the same order. So the interval is of the
    differences within seeds, as shares of the baseline's mean.
    """
    before = {own.seed: own.test[metric] for own in baseline.repeats if metric in own.test}
    gains = [
        own.test[metric] - before[own.seed]
        for own in trial.repeats
        if metric in own.test and own.seed in before
    ]
    mean = baseline.test.get(metric)
    return half_width(gains) / abs(mean) if len(gains) > 1 and mean else None


def comparable(front: Front, references: Mapping[str, Trial]) -> dict[str, Trial]:
    """Return the references that have all metrics of a front, by kind."""
    names = [metric_of(objective) for objective in front.objectives]
    return {kind: run for kind, run in references.items() if all(name in run.val for name in names)}


def _finished(trials: Sequence[Trial], names: Sequence[str]) -> tuple[Trial, ...]:
    """Return the trials that finished with all these metrics."""
    return tuple(
        trial
        for trial in trials
        if trial.status == "FINISHED" and all(name in trial.val for name in names)
    )


def _attained(
    members: Sequence[Trial], accuracy: Objective, diversity: Objective
) -> dict[float, Trial]:
    """Return share of the best accuracy -> most diverse member; accuracy must be maximised."""
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
