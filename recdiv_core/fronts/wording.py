"""Sentences about a sweep: its headline, its notes, and the table of trials to choose from.

Metrics are of the test set unless a sentence says otherwise. trials.py chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from recdiv_core.fronts.trials import (
    BASE,
    Front,
    Sweep,
    Trial,
    change,
    change_half,
    choices,
    comparable,
    metric_of,
    recommended,
)
from recdiv_core.metrics import pareto
from recdiv_core.wording import few_judged, number, short, title, users_judged

ESCAPED_BAR: Final = r"\|"


def headline(front: Front) -> str:
    """Return one sentence with the result of the sweep, on test."""
    pick = recommended(front)
    if pick is None:
        return "No trial has finished with metrics, so there is no front yet."
    accuracy, diversity = metric_of(front.accuracy), metric_of(front.diversity)
    who = _called(pick)
    if front.baseline is None:
        figures = " and ".join(
            f"{title(metric)} {number(pick.test[metric])}"
            for metric in (accuracy, diversity)
            if metric in pick.test
        )
        return f"Trial {who} is the knee of the front{f': {figures} on test' if figures else ''}."
    if front.points == (front.baseline,):
        return (
            "Only the plain model (w = 0) has finished; there is no trial to compare it with yet."
        )
    if pick is front.baseline:
        return f"No trial beats the plain model (w = 0) on {title(diversity)} within 5 % accuracy."
    gain, loss = change(pick, front.baseline, diversity), change(pick, front.baseline, accuracy)
    if gain is None or loss is None:
        return f"Trial {who} is the knee of the front; it has no test metrics to compare."
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
    """Return a clause about the seeds of a point; empty for a single trial."""
    if not pick.repeats:
        return ""
    return f"; means over {len(pick.repeats)} seeds; this trial is the nearest to them"


def notes(front: Front, sweep: Sweep) -> list[str]:
    """Return warnings that a reader needs before trusting the front."""
    said: list[str] = []
    if len(front.points) < 3:
        said.append(
            f"Only {len(front.points)} finished trial(s), too few for a useful front. "
            "Run more trials before choosing."
        )
    if front.points and front.baseline is None:
        said.append(
            "No baseline: no finished trial has loss.diversity_weight = 0 without re-ranking. "
            "Trials cannot be compared with a plain model."
        )
    if len(front.points) > 1 and front.members == (front.baseline,):
        said.append("The plain model (w = 0) dominates every other trial.")
    said += _set_aside(front, sweep)
    for kind, reference in comparable(front, sweep.references).items():
        beaten = sum(_dominates(reference, member, front) for member in front.members)
        if beaten:
            said.append(
                f"The baseline {kind} dominates {beaten} of the {len(front.members)} members of "
                "the front, on validation."
            )
    if front.members and front.test_hypervolume is None:
        said.append("Some members of the front have no test metrics.")
    if front.points:
        said += few_users(front) or _users_note(front)
        said.append(_seeds_note(front, sweep))
    return said


def few_users(front: Front) -> list[str]:
    """Return a warning if metrics cover few of the users; all trials have the same users."""
    return [f"{said[:1].upper()}{said[1:]}." for said in few_judged(_metrics(front))]


def _users_note(front: Front) -> list[str]:
    counts = [f"{split}: {said}" for split, said in users_judged(_metrics(front)).items()]
    return [f"Users: {', '.join(counts)}."] if counts else []


def _metrics(front: Front) -> dict[str, float]:
    splits = {"val": front.points[0].val, "test": front.points[0].test} if front.points else {}
    return {
        f"{split}/{name}": value for split, own in splits.items() for name, value in own.items()
    }


def _seeds_note(front: Front, sweep: Sweep) -> str:
    """Return a note about the number of training seeds."""
    sizes = sorted({len(point.repeats) or 1 for point in front.points})
    if sizes == [1]:
        return (
            "There is one training seed per trial, so differences of a few per cent may be chance. "
            "Repeat the chosen points with other seeds before you use them."
        )
    counts = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    is_shared = any(trial.name == BASE for trial in sweep.trials)
    base = " Intervals do not cover the training of the shared base model." if is_shared else ""
    return (
        f"Metrics are means over {counts} training seeds per point; bars are 95 % t intervals. "
        f"A point has the name of the trial nearest to its means.{base}"
    )


def _set_aside(front: Front, sweep: Sweep) -> list[str]:
    """Return notes about trials that cannot be on the front."""
    said: list[str] = []
    kind = "points" if any(point.repeats for point in front.points) else "trials"
    broken = sum(bool(point.breaks) for point in front.points)
    if broken:
        asked = ", ".join(f"{name} >= {number(value)}" for name, value in sweep.least.items())
        said.append(
            f"{broken} of {len(front.points)} finished {kind} break a constraint ({asked}). "
            "The tables list them; the front excludes them."
        )
    for status, words in (
        ("FAILED", "failed"),
        ("KILLED", "stopped early or killed"),
        ("RUNNING", "still running"),
    ):
        count = sum(trial.status == status for trial in sweep.trials)
        if count:
            said.append(
                f"{count} of {len(sweep.trials)} trials {words}. "
                "The tables list them; the front excludes them."
            )
    return said


def _dominates(one: Trial, other: Trial, front: Front) -> bool:
    axes = (front.accuracy, front.diversity)
    points = [[trial.val[metric_of(axis)] for axis in axes] for trial in (one, other)]
    return pareto.front(points, [axis.direction for axis in axes]) == [0]


def choice_table(fronts: Sequence[Front]) -> str:
    """Return the trials to choose from as a Markdown table with test metrics."""
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
    return trial.name if trial.label == short(trial.name) else f"{trial.name} ({trial.label})"
