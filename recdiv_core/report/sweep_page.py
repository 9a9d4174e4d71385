"""The page of a sweep: plain rows of its tables for templates/report.html.

Not the choice of trials (fronts/trials.py), nor the plots (front_plots.py), nor the slates
(slate_page.py), nor where the page goes (report.py).
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence

from recdiv_core.fronts.choice import MARGIN, SLACK, Choice
from recdiv_core.fronts.operating import Paired, kept_text, operating_rows, table_metrics
from recdiv_core.fronts.trials import (
    BUDGETS,
    Front,
    Sweep,
    Trial,
    change,
    change_half,
    metric_of,
)
from recdiv_core.report.front_plots import (
    Shown,
    baseline_plots,
    course_plot,
    curve_plots,
    front_plot,
    metrics_of,
    parallel_plot,
    rerank_text,
    show_trials,
)
from recdiv_core.report.templates import Cell, Table, cell, render
from recdiv_core.wording import SYMBOLS, number, title, worded


def sweep_page(
    sweep: Sweep,
    choice: Choice,
    fronts: Sequence[Front],
    headline: str,
    notes: Sequence[str],
    slates: Mapping[str, object] | None,
    paired: Paired,
    first: Mapping[str, object] | None,
) -> str:
    """Return the whole page.

    `fronts` has the declared kinds of diversity first; without `slates` the page has no section on
    them.
    """
    main = choice.front
    shown = show_trials(sweep, choice)
    plots = [front_plot(front, shown) for front in fronts]
    return render(
        "report.html",
        title=f"{sweep.name}: accuracy and diversity",
        meta=_meta(sweep),
        headline=headline,
        notes=notes,
        tiles=_tiles(sweep, choice),
        symbols=[f"{SYMBOLS[key]} = {key}" for key in sweep.parameters if key in SYMBOLS],
        main_plot=plots[0],
        other_plots=plots[1:],
        baseline_plots=baseline_plots(fronts, sweep.references),
        baselines=_baselines(sweep, fronts) if sweep.references else None,
        operating_points=_operating_table(choice, shown, paired) if choice.reference else None,
        keep=f"{100 * choice.keep:.4g} %",
        slack=f"{100 * SLACK:.0f} %",
        margin=f"{MARGIN:g}",
        attained=[_attained(front, shown) for front in fronts if front.attained],
        objectives=", ".join(title(metric_of(objective)) for objective in sweep.objectives),
        course_plot=course_plot(sweep, shown) if main.points else None,
        parallel_plot=parallel_plot(fronts) if main.points else None,
        curve_plots=curve_plots(sweep, fronts, shown),
        slates=slates,
        first=first,
        trials=_trials(sweep, choice, fronts, shown),
        metrics=[
            (title(metric), metric.partition("_at_")[0])
            for metric in sorted({name for trial in sweep.trials for name in trial.val})
        ],
        facts={name: _fact(value) for name, value in sweep.facts.items()},
        provenance=sweep.provenance,
    )


def _meta(sweep: Sweep) -> str:
    started = datetime.datetime.fromtimestamp(sweep.started_ms / 1000, tz=datetime.UTC)
    return " \u00b7 ".join(
        (
            f"data set {sweep.experiment}",
            f"search space {sweep.space}",
            f"started {started:%Y-%m-%d %H:%M} UTC",
            sweep.status.lower(),
            f"MLflow run {sweep.run_id}",
        )
    )


def _tiles(sweep: Sweep, choice: Choice) -> dict[str, str]:
    main, pick = choice.front, choice.recommended
    metrics = [metric_of(objective) for objective in main.objectives]
    accuracy = metrics[0]
    best = max((t.val[accuracy] for t in main.points), default=None)
    finished = sum(trial.status == "FINISHED" for trial in sweep.trials)
    test = pick.test if pick else {}
    return {
        "trials finished": f"{finished} of {len(sweep.trials)}",
        **({"training seeds per point": str(len(sweep.seeds))} if sweep.seeds else {}),
        "trials and re-rankings on the front": f"{len(main.members)} of {len(main.points)}",
        "hypervolume": f"{number(main.hypervolume)} (test {number(main.test_hypervolume)})",
        f"best {title(accuracy)}, validation": number(best),
        f"recommended trial: {', '.join(map(title, metrics))}, test": (
            ", ".join(number(test.get(metric)) for metric in metrics) if pick else "-"
        ),
    }


def _metric_heads(metrics: Sequence[str]) -> list[str]:
    return [f"{title(metric)} {split}" for metric in metrics for split in ("validation", "test")]


def _baselines(sweep: Sweep, fronts: Sequence[Front]) -> Table:
    metrics = metrics_of(fronts)
    rows = [
        [cell(kind), cell(run.name)]
        + [cell(split.get(metric)) for metric in metrics for split in (run.val, run.test)]
        for kind, run in sweep.references.items()
    ]
    return Table(["baseline", "run", *_metric_heads(metrics)], rows)


def _operating_table(choice: Choice, shown: Shown, paired: Paired) -> Table:
    """Return the reference and the operating points, all metrics of one trial in a row."""
    names = table_metrics(choice)
    rows = [
        [
            cell(kept_text(row, choice)),
            cell(shown.numbers[row.trial.run]),
            cell(row.trial.name),
            Cell(row.trial.label, kind="prose"),
            *(cell(own.value, note=own.note) for own in row.metrics.values()),
        ]
        for row in operating_rows(choice, paired)
    ]
    heads = [f"{title(names[0])} kept", "#", "trial", "settings"]
    return Table([*heads, *(f"{title(name)} test" for name in names)], rows)


def _attained(front: Front, shown: Shown) -> tuple[str, Table]:
    """Return the kind of diversity, and the most diverse trial at each share of the accuracy."""
    metrics = metric_of(front.accuracy), metric_of(front.diversity)
    rows: list[list[Cell]] = []
    for budget in BUDGETS:
        trial = front.attained.get(budget)
        if trial is None:
            continue
        row = [cell(f"{100 * budget:.0f} %"), cell(shown.numbers[trial.run])]
        row += [cell(trial.name), Cell(trial.label, kind="prose")]
        for metric in metrics:
            note = "" if trial is front.baseline else _change(trial, front.baseline, metric)
            row.append(cell(trial.val[metric], trial.val_half.get(metric)))
            row.append(cell(trial.test.get(metric), trial.test_half.get(metric), note=note))
        rows.append(row)
    keeps = f"share of the best {title(metrics[0])} kept"
    return title(metrics[1]), Table(
        [keeps, "#", "trial", "settings", *_metric_heads(metrics)], rows
    )


def _change(trial: Trial, baseline: Trial | None, metric: str) -> str:
    """Return the change of a test metric from the baseline, with its interval over seeds."""
    by = None if baseline is None else change(trial, baseline, metric)
    if baseline is None or by is None:
        return ""
    half = change_half(trial, baseline, metric)
    within = "" if half is None else f" \u00b1 {100 * half:.1f}"
    return f"{100 * by:+.1f}{within} %"


def _trials(
    sweep: Sweep, choice: Choice, fronts: Sequence[Front], shown: Shown
) -> dict[str, object]:
    """Return the table of trials: heads, in parts, and rows with CSS class, colour and badges.

    Of the re-ranked models it has those on a front and the chosen ones.
    """
    main, metrics = choice.front, metrics_of(fronts)
    settings = [key for key in sweep.parameters if key != "seed"]
    has_seeds = "seed" in sweep.parameters
    told = {trial.run for front in (main, *fronts) for trial in front.members}
    told |= {trial.run for trial in (*choice.operating.values(), choice.nearest) if trial}
    ranked = [trial for trial in shown.ranked if not trial.dials or trial.run in told]
    has_dials = any(trial.dials for trial in shown.ranked)
    members = {trial.run for trial in main.members}
    named = {"recommended": choice.recommended, "knee": main.knee, "w = 0": main.baseline}
    badges = [(trial.run, name) for name, trial in named.items() if trial]
    rows: list[dict[str, object]] = []
    for trial in ranked:
        status = trial.status.lower() + (", breaks a constraint" if trial.breaks else "")
        cells = [cell(status), *(_setting(trial.params.get(key)) for key in settings)]
        cells += [cell(rerank_text(trial))] if has_dials else []
        cells += [_seeds(trial)] if has_seeds else []
        cells += [cell(trial.best_epoch)]
        splits = ((trial.val, trial.val_half), (trial.test, trial.test_half))
        cells += [cell(of.get(m), halves.get(m)) for m in metrics for of, halves in splits]
        cells += [cell(None if trial.duration_s is None else round(trial.duration_s / 60, 1))]
        rows.append(
            {
                "kind": "member" if trial.run in members else trial.status.lower(),
                "colour": shown.colours.get(trial.run, "transparent"),
                "number": shown.numbers[trial.run],
                "trial": trial,
                "badges": [name for run, name in badges if run == trial.run],
                "cells": cells,
            }
        )
    seeds = ["seeds"] if has_seeds else []
    dials = ["re-ranking"] if has_dials else []
    heads = ["#", "trial", "status", *settings, *dials, *seeds, "best epoch"]
    heads += _metric_heads(metrics)
    # a browser may break a long key behind each dot and underscore
    parts = [re.findall(r"[^._]*[._]?", head)[:-1] for head in (*heads, "minutes")]
    return {"heads": parts, "rows": rows, "num_left_out": len(shown.ranked) - len(ranked)}


def _setting(value: object) -> Cell:
    return cell(worded(value) if isinstance(value, Mapping) else value)


def _seeds(trial: Trial) -> Cell:
    """Return how many seeds a point has had, its runs as a hint; for a single run its seed."""
    if not trial.repeats:
        return cell(f"seed {trial.seed}")
    runs = ", ".join(f"seed {run.seed}: {run.name}" for run in trial.repeats)
    return cell(len(trial.repeats), hint=runs)


def _fact(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_fact(inner)}" for key, inner in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)
