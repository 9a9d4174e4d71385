"""Sentences about a sweep: its headline and its notes.

Metrics are of the test set unless a sentence says otherwise. choice.py chooses, operating.py has
the table.
"""

from __future__ import annotations

from collections.abc import Sequence

from recdiv_core.fronts.choice import Choice, accuracy_kept, gain
from recdiv_core.fronts.operating import called
from recdiv_core.fronts.trials import (
    BASE,
    Front,
    Sweep,
    Trial,
    change,
    change_half,
    comparable,
    metric_of,
)
from recdiv_core.metrics import pareto
from recdiv_core.wording import DERIVED_CATEGORIES, counted, few_judged, number, title, users_judged


def headline(choice: Choice) -> str:
    """Return one or two sentences with the result of the sweep, on test."""
    front, reference = choice.front, choice.reference
    if reference is None:
        return "No trial has finished with metrics, so there is no front yet."
    if front.points == (reference,):
        if front.baseline is None:
            return f"Only trial {called(reference)} has finished; there is nothing to compare."
        return (
            "Only the plain model (w = 0) has finished; there is no trial to compare it with yet."
        )
    pick = choice.recommended
    if pick is None:
        return _nothing_admissible(choice)
    accuracy = metric_of(choice.accuracy)
    metrics = [metric_of(objective) for objective in choice.diversities]
    gains = {metric: change(pick, reference, metric) for metric in (*metrics, accuracy)}
    if any(gain is None for gain in gains.values()):
        return f"Trial {called(pick)} is recommended; it has no test metrics to compare."
    more = _joined([_gained(pick, reference, metric) for metric in metrics])
    loss, sure = gains[accuracy] or 0.0, _sure(pick, reference, accuracy)
    cost = (
        f"for {-100 * loss:.1f} %{sure} less" if loss < 0 else f"with {100 * loss:.1f} %{sure} more"
    )
    return (
        f"Trial {called(pick)}: {more} {cost} {title(accuracy)} than {_named(choice)}, on test"
        f"{_meant(pick)}."
    )


def _named(choice: Choice) -> str:
    """Return the reference in words."""
    if choice.front.baseline is not None or choice.reference is None:
        return "the plain model (w = 0)"
    return f"the most accurate trial, {called(choice.reference)}"


def _gained(pick: Trial, reference: Trial, metric: str) -> str:
    gain = change(pick, reference, metric) or 0.0
    return f"{100 * gain:+.1f} %{_sure(pick, reference, metric)} {title(metric)}"


def _joined(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def _nothing_admissible(choice: Choice) -> str:
    """Say that no trial is admissible, which comes nearest, and what it lacks, on validation."""
    accuracy, nearest, reference = choice.accuracy, choice.nearest, choice.reference
    name, share = title(metric_of(accuracy)), f"{100 * choice.keep:.4g} %"
    if nearest is None or reference is None:
        return f"No trial beside {_named(choice)} keeps the constraints."
    kept = accuracy_kept(nearest, reference, accuracy)
    if kept < choice.keep:
        return (
            f"No trial keeps {share} of the {name} of {_named(choice)}. The nearest is "
            f"{called(nearest)} with {100 * kept:.1f} %, on validation."
        )
    lost = [
        f"{100 * gain(nearest, reference, objective):+.1f} % {title(metric_of(objective))}"
        for objective in choice.failing
    ]
    return (
        f"No trial that keeps {share} of the {name} of {_named(choice)} keeps every kind of "
        f"diversity. The nearest is {called(nearest)}; it fails on {_joined(lost)}, on validation."
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
    num_trials = len({point.training for point in front.points})
    if num_trials < 3:
        said.append(
            f"Only {counted(num_trials, 'finished trial')}, too few for a useful front. "
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
    if sweep.facts.get("categories from") == "texts":
        said.append(DERIVED_CATEGORIES)
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
    kind = "points" if any(point.repeats or point.dials for point in front.points) else "trials"
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
    axes = front.objectives
    points = [[trial.val[metric_of(axis)] for axis in axes] for trial in (one, other)]
    return pareto.front(points, [axis.direction for axis in axes]) == [0]
