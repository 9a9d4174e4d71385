"""The trials of a sweep as plain data, and what can be said about them.

Not the reading of them from MLflow (report.py) nor their drawing (report_page.py). The one idea:
everything is chosen on validation figures of a trial's selected epoch; test figures are only looked
up for what was chosen, so that the test set picks nothing. What is judged is a point, which
may be of several trials that differ by seed alone (points.py makes one of them).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from recdiv_core import pareto
from recdiv_core.metrics.repeats import half_width
from recdiv_core.search_space import Objective

BASE: Final = "base"
"""Name of the run that all trials of a sweep with a warm start go on from."""
DIVERSITY_METRICS: Final = ("coverage", "ild", "diversity_index")
BUDGETS: Final = (0.99, 0.95, 0.90)
"""Shares of the best accuracy that an operating point may be asked to keep."""
SYMBOLS: Final = {
    "loss.diversity_weight": "w",
    "loss.slate_temperature": "t",
    "model.diversity": "d",
    "rerank.diversity": "r",
}
"""Short names of the dials, for labels in a plot."""

ESCAPED_BAR: Final = r"\|"

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
        return " ".join(dial(key, settings[key]) for key in keys) or _short(self.name)


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


def choice_table(fronts: Sequence[Front]) -> str:
    """Lay the choices out in Markdown, with their test figures."""
    metrics = [metric_of(fronts[0].accuracy), *(metric_of(front.diversity) for front in fronts)]
    head = ["chosen for", "trial", *(title(metric) for metric in metrics)]
    rows = [
        [reason, _called(trial), *(number(trial.test.get(metric)) for metric in metrics)]
        for reason, trial in choices(fronts).items()
    ]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', ESCAPED_BAR) for cell in cells)} |" for cells in lines
    )


def _called(trial: Trial) -> str:
    return trial.name if trial.label == _short(trial.name) else f"{trial.name} ({trial.label})"


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


def headline(front: Front) -> str:
    """Say in one sentence what the sweep found, on test figures."""
    pick = recommended(front)
    if pick is None:
        return "No trial finished with figures: there is no front to show yet."
    accuracy, diversity = metric_of(front.accuracy), metric_of(front.diversity)
    who = _called(pick)
    if front.baseline is None:
        figures = " and ".join(
            f"{title(metric)} {number(pick.test[metric])}"
            for metric in (accuracy, diversity)
            if metric in pick.test
        )
        return f"Trial {who} is the knee of the front{f': {figures} on test' if figures else ''}."
    if front.judged == (front.baseline,):
        return "Only the plain model (w = 0) finished: there is nothing to compare it with yet."
    if pick is front.baseline:
        return f"No trial beats the plain model (w = 0) on {title(diversity)} within 5 % accuracy."
    gain, loss = change(pick, front.baseline, diversity), change(pick, front.baseline, accuracy)
    if gain is None or loss is None:
        return f"Trial {who} is the knee of the front; it has no test figures to compare."
    more, less = (_sure(pick, front.baseline, metric) for metric in (diversity, accuracy))
    cost = (
        f"for {-100 * loss:.1f} %{less} less" if loss < 0 else f"with {100 * loss:.1f} %{less} more"
    )
    return (
        f"Trial {who}: {100 * gain:+.1f} %{more} {title(diversity)} {cost} {title(accuracy)} "
        f"than the plain model (w = 0), on test{_meant(pick)}."
    )


def _sure(pick: Trial, baseline: Trial, metric: str) -> str:
    half = change_half(pick, baseline, metric)
    return "" if half is None else f" (\u00b1 {100 * half:.1f})"


def _meant(pick: Trial) -> str:
    """Say of a point of several seeds what its figures are."""
    if not pick.repeats:
        return ""
    return f"; means over {len(pick.repeats)} seeds, of which this trial is the nearest to them"


def notes(front: Front, sweep: Sweep) -> list[str]:
    """Say what a reader must not overlook before believing the front."""
    said: list[str] = []
    if len(front.judged) < 3:
        said.append(
            f"Only {len(front.judged)} finished trial(s): a front of so few says little; "
            "run more before choosing."
        )
    if front.judged and front.baseline is None:
        said.append(
            "No baseline: no finished trial has loss.diversity_weight = 0 without re-ranking, "
            "so gains cannot be stated against the plain model."
        )
    if len(front.judged) > 1 and front.members == (front.baseline,):
        said.append("The plain model (w = 0) dominates every other trial.")
    said += _set_aside(front, sweep)
    for kind, reference in referred(front, sweep.references).items():
        beaten = sum(_dominates(reference, member, front) for member in front.members)
        if beaten:
            said.append(
                f"The baseline {kind} dominates {beaten} of the {len(front.members)} members of "
                "the front, on validation."
            )
    if front.members and front.test_hypervolume is None:
        said.append("Some members of the front have no test figures.")
    if front.judged:
        said.append(_seeds_note(front, sweep))
    return said


def _seeds_note(front: Front, sweep: Sweep) -> str:
    """Say how many seeds the figures are of."""
    sizes = sorted({len(point.repeats) or 1 for point in front.judged})
    if sizes == [1]:
        return (
            "One training seed a trial: differences of a few per cent may be chance. "
            "Repeat the chosen points with other seeds before acting on them."
        )
    counts = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    is_shared = any(trial.name == BASE for trial in sweep.trials)
    base = " All went on from one base model: they say nothing of another." if is_shared else ""
    return (
        f"Figures are means over {counts} training seeds a point, bars their 95 % t intervals; "
        f"of each point the trial nearest to its means is named.{base}"
    )


def _set_aside(front: Front, sweep: Sweep) -> list[str]:
    """Say which trials are not on the front whatever their figures."""
    said: list[str] = []
    kind = "points" if any(trial.repeats for trial in front.judged) else "trials"
    broken = sum(bool(trial.breaks) for trial in front.judged)
    if broken:
        asked = ", ".join(f"{name} >= {number(value)}" for name, value in sweep.least.items())
        said.append(
            f"{broken} of {len(front.judged)} finished {kind} break a constraint ({asked}): "
            "listed, not on the front."
        )
    for status, words in (
        ("FAILED", "failed"),
        ("KILLED", "stopped early or killed"),
        ("RUNNING", "still running"),
    ):
        count = sum(trial.status == status for trial in sweep.trials)
        if count:
            said.append(f"{count} of {len(sweep.trials)} trials {words}: listed, not judged.")
    return said


def referred(front: Front, references: Mapping[str, Trial]) -> dict[str, Trial]:
    """Return the references that have both figures of a front, by kind."""
    names = (metric_of(front.accuracy), metric_of(front.diversity))
    return {kind: run for kind, run in references.items() if all(name in run.val for name in names)}


def _dominates(one: Trial, other: Trial, front: Front) -> bool:
    axes = (front.accuracy, front.diversity)
    points = [[trial.val[metric_of(axis)] for axis in axes] for trial in (one, other)]
    return pareto.front(points, [axis.direction for axis in axes]) == [0]


def title(metric: str) -> str:
    """Return a metric's name for people: `ndcg_at_10` -> `NDCG@10`."""
    name, at, cut_off = metric.partition("_at_")
    acronyms = {"ndcg": "NDCG", "ild": "ILD", "map": "MAP", "mrr": "MRR", "f1": "F1"}
    return f"{acronyms.get(name, name.replace('_', ' '))}{'@' if at else ''}{cut_off}"


def number(value: float | None) -> str:
    """Return a figure with four significant digits, a dash for none.

    >>> number(0.012345), number(None)
    ('0.01235', '-')
    """
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.4g}"


def worded(value: object) -> str:
    """Say a setting: of a mix its names, with their weights where they are several.

    >>> worded({"ild": 1.0, "coverage": 3.0}), worded({"ild": 1.0}), worded(0.0612345)
    ('ild 1 + coverage 3', 'ild', '0.0612')
    """
    if isinstance(value, Mapping):
        return " + ".join(
            f"{name} {_short(weight)}" if len(value) > 1 else name for name, weight in value.items()
        )
    return _short(value)


def dial(key: str, value: object) -> str:
    """Say a dial and its value in a few characters."""
    if isinstance(value, Mapping):
        return worded(value)
    return f"{SYMBOLS.get(key, key.rpartition('.')[2])}={worded(value)}"


def _short(value: object) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 24 else f"{text[:22]}.."


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
