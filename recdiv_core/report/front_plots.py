"""Plots of a sweep: its fronts, the baselines, the hypervolume, settings, training curves.

Not the tables of the page (sweep_page.py) nor the PNG (picture.py). The one idea: a trial has one
number and one colour everywhere: blue (accurate) to orange (diverse) on the front, else grey.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from recdiv_core.config import dial_text
from recdiv_core.fronts.choice import Choice
from recdiv_core.fronts.points import ended_points, points
from recdiv_core.fronts.trials import (
    CURVES,
    Front,
    Sweep,
    Trial,
    comparable,
    hypervolumes,
    metric_of,
)
from recdiv_core.report import plots
from recdiv_core.report.plots import Plot, finish, new_plot, plain
from recdiv_core.report.templates import within
from recdiv_core.search_space import Objective
from recdiv_core.wording import SYMBOLS, number, title, worded

SCALE: Final = [[0.0, plots.ACCURATE], [0.5, plots.BETWEEN], [1.0, plots.DIVERSE]]
CURVE: Final = {"l": 52, "r": 10, "t": 8, "b": 38}
"""Margins of a small plot, in pixels."""
BASELINES: Final = {
    "random": ("x", "top left"),
    "popular": ("triangle-down", "bottom right"),
    "recent_popular": ("triangle-up", "top right"),
    "item_knn": ("square", "bottom left"),
    "ease": ("cross", "top left"),
    "rp3beta": ("diamond", "bottom right"),
    "graph": ("star", "top right"),
    "text": ("pentagon", "bottom left"),
    "buy_again": ("hourglass", "top left"),
    "bm25": ("triangle-left", "bottom right"),
    "text_cosine": ("triangle-right", "top right"),
    "hybrid": ("bowtie", "bottom left"),
    "query_words": ("hexagram", "top left"),
}
"""Kind of baseline -> its marker, and the position of its label."""


@dataclass(frozen=True)
class Shown:
    """How the trials of a sweep are shown.

    Attributes:
        ranked: Finished points, members of the front first, then all other trials, then re-ranked
            models that are not on the front.
        numbers: RUN -> position in `ranked`, from 1.
        colours: RUN of a member of the front, of each of its seeds -> colour.
        recommended: Recommended point; None = there is none.
    """

    ranked: Sequence[Trial]
    numbers: Mapping[str, int]
    colours: Mapping[str, str]
    recommended: Trial | None


def show_trials(sweep: Sweep, choice: Choice) -> Shown:
    """Return the order, numbers and colours of all trials; the front is of all objectives."""
    front = choice.front
    finished = points(sweep)
    merged = {run.run for point in finished for run in point.repeats or (point,)}
    members = {trial.run for trial in front.members}
    accuracy = metric_of(front.accuracy)
    ranked = sorted(
        [*finished, *(trial for trial in sweep.trials if trial.run not in merged)],
        key=lambda t: (
            t.run not in members,
            bool(t.dials),
            -t.val.get(accuracy, -math.inf),
            t.name,
        ),
    )
    count = len(front.members)
    shares = [index / max(count - 1, 1) for index in range(count)]
    colours = sample_colorscale(SCALE, shares) if shares else []
    return Shown(
        ranked=ranked,
        numbers={trial.run: index for index, trial in enumerate(ranked, start=1)},
        colours={
            run.run: str(colour)
            for point, colour in zip(front.members, colours, strict=True)
            for run in point.repeats or (point,)
        },
        recommended=choice.recommended,
    )


def front_plot(front: Front, shown: Shown) -> Plot:
    """Plot accuracy against diversity; a member of the front carries its number."""
    plot = _accuracy_plot(front, 430, legend=plots.LEGEND, margin={"t": 40})
    others, members = off_front(front), front.members
    dot = {"size": 8, "color": plots.GREY}
    _add(plot, front, others, "other trials", mode="markers", marker=dot, **_bars(front, others))
    _add(
        plot,
        front,
        members,
        "front",
        mode="lines+markers+text",
        line={"color": plots.LINE, "width": 1.5},
        marker={"size": 20, "color": [shown.colours.get(t.run, plots.LINE) for t in members]},
        text=[str(shown.numbers[trial.run]) for trial in members],
        textfont={"size": 11, "color": "white"},
        cliponaxis=False,
        **_bars(front, members),
    )
    for trial, name, symbol, colour in (
        (front.baseline, "w = 0", "diamond-open", plots.INK),
        (front.knee, "knee", "circle-open", plots.KNEE),
        (shown.recommended, "recommended", "square-open", plots.DIVERSE),
    ):
        if trial and trial in front.points:
            ring = {"size": 30, "symbol": symbol, "color": colour, "line": {"width": 2}}
            _add(plot, front, [trial], name, mode="markers", marker=ring)
    x, y = title(metric_of(front.diversity)), title(metric_of(front.accuracy))
    return finish(plot, f"{x} against {y}: hypervolume {number(front.hypervolume)}")


def baseline_plots(fronts: Iterable[Front], references: Mapping[str, Trial]) -> list[Plot]:
    """Plot each front among the baselines that have its metrics; they lie too far off for it."""
    found: list[Plot] = []
    for front in fronts:
        runs = comparable(front, references)
        if not runs:
            continue
        plot = _accuracy_plot(front, 340, showlegend=False)
        line = {"color": plots.BETWEEN, "width": 1.5}
        _add(plot, front, front.members, "front", mode="lines+markers", line=line)
        for kind, run in runs.items():
            symbol, position = BASELINES[kind]
            _add(
                plot,
                front,
                [run],
                kind,
                mode="markers+text",
                marker={"size": 10, "symbol": symbol, "color": plots.INK},
                text=[kind],
                textposition=position,
                cliponaxis=False,
            )
        found.append(finish(plot))
    return found


def off_front(front: Front) -> list[Trial]:
    """Return the finished points that are not members of the front."""
    members = {trial.run for trial in front.members}
    return [trial for trial in front.points if trial.run not in members]


def axis_title(objective: Objective, split: str) -> str:
    """Return the title of an axis: the metric, the split, and where lower is better that too."""
    lower = ", lower is better" if objective.direction == "min" else ""
    return f"{title(metric_of(objective))}, {split}{lower}"


def error_bars(front: Front, trials: Sequence[Trial]) -> list[list[float]] | None:
    """Return half the intervals of diversity and of accuracy; None without several seeds."""
    if not any(trial.repeats for trial in trials):
        return None
    metrics = metric_of(front.diversity), metric_of(front.accuracy)
    return [[trial.val_half.get(metric, 0.0) for trial in trials] for metric in metrics]


def _accuracy_plot(front: Front, height: int, **layout: Any) -> go.Figure:
    plot = new_plot(height, hovermode="closest", **layout)
    plot.update_xaxes(title_text=axis_title(front.diversity, "validation"))
    plot.update_yaxes(title_text=axis_title(front.accuracy, "validation"))
    return plot


def _add(plot: go.Figure, front: Front, trials: Sequence[Trial], name: str, **style: Any) -> None:
    x, y = metric_of(front.diversity), metric_of(front.accuracy)
    plot.add_scatter(
        x=[trial.val[x] for trial in trials],
        y=[trial.val[y] for trial in trials],
        name=name,
        hovertext=[_hover(trial, (y, x)) for trial in trials],
        hoverinfo="text",
        **style,
    )


def _bars(front: Front, trials: Sequence[Trial]) -> dict[str, Any]:
    halves = error_bars(front, trials)
    style = {"type": "data", "color": plots.LINE, "thickness": 1, "width": 3}
    axes = zip(("error_x", "error_y"), halves or (), strict=False)
    return {axis: {"array": own, **style} for axis, own in axes}


def _hover(trial: Trial, metrics: Sequence[str]) -> str:
    lines = [f"<b>{plain(trial.name)}</b>"]
    if trial.repeats:
        lines += [f"means over {len(trial.repeats)} seeds; this trial is the nearest to them"]
    lines += [f"{plain(key)} = {plain(worded(value))}" for key, value in trial.settings.items()]
    lines += [f"re-ranked by {dial_text(trial.dials)}"] if trial.dials else []
    lines += [
        f"{title(m)}: {within(trial.val.get(m), trial.val_half.get(m))} validation, "
        f"{within(trial.test.get(m), trial.test_half.get(m))} test"
        for m in metrics
    ]
    return "<br>".join(lines)


def course_plot(sweep: Sweep, shown: Shown) -> Plot:
    """Plot the hypervolume of the declared objectives after each point that ended."""
    steps = hypervolumes(ended_points(sweep), sweep.objectives)
    plot = new_plot(240, CURVE, showlegend=False, hovermode="closest")
    ended = "points of which all seeds ended" if sweep.seeds else "trials that ended"
    plot.update_xaxes(title_text=ended, range=[0, len(steps) + 1])
    plot.update_yaxes(title_text="hypervolume", rangemode="tozero")
    plot.add_scatter(
        x=list(range(1, len(steps) + 1)),
        y=[volume for _, volume in steps],
        mode="lines+markers",
        line={"color": plots.LINE, "width": 1.5, "shape": "hv"},
        marker={"size": 7, "color": [shown.colours.get(t.run, plots.GREY) for t, _ in steps]},
        hovertext=[f"{plain(trial.name)}<br>{number(volume)}" for trial, volume in steps],
        hoverinfo="text",
    )
    return finish(plot)


def parallel_plot(fronts: Sequence[Front]) -> Plot:
    """Plot every finished point as a line through its settings and validation metrics."""
    metrics = metrics_of(fronts)
    accuracy = metrics[0]
    trials = [t for t in fronts[0].points if all(metric in t.val for metric in metrics)]
    keys = list(trials[0].settings) if trials else []
    dimensions = [_dimension(SYMBOLS.get(k, k), [t.params.get(k) for t in trials]) for k in keys]
    if any(trial.dials for trial in trials):
        dimensions += [_dimension("re-ranking", [rerank_text(trial) for trial in trials])]
    dimensions += [_dimension(title(m), [t.val[m] for t in trials]) for m in metrics]
    values = [trial.val[accuracy] for trial in trials]
    line = {
        "color": values,
        "colorscale": [[1 - share, colour] for share, colour in reversed(SCALE)],
        "showscale": len(set(values)) > 1,
        "colorbar": {"title": title(accuracy), "thickness": 10, "outlinewidth": 0},
    }
    plot = new_plot(340, {"l": 130, "r": 60, "t": 56, "b": 28})
    faint = {"line": {"opacity": 0.08}}
    plot.add_parcoords(dimensions=dimensions, line=line, labelfont={"size": 12}, unselected=faint)
    return finish(plot)


def rerank_text(trial: Trial) -> str:
    """Return the re-ranking after training in a few words; a dash if there is none."""
    return dial_text(trial.dials) if trial.dials else "-"


def metrics_of(fronts: Sequence[Front]) -> list[str]:
    """Return accuracy and the diversity of each front."""
    return [metric_of(fronts[0].accuracy), *(metric_of(front.diversity) for front in fronts)]


def _dimension(label: str, values: Sequence[object]) -> dict[str, Any]:
    """Return an axis of a parallel plot: numbers, their decades, or texts in their order."""
    label = label if len(label) <= 22 else f"..{label[-20:]}"
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < len(values):
        texts = sorted({worded(value) for value in values})
        return {
            "label": label,
            "values": [texts.index(worded(value)) for value in values],
            "tickvals": list(range(len(texts))),
            "ticktext": [text if len(text) <= 20 else f"{text[:18]}.." for text in texts],
            "range": [-0.5, len(texts) - 0.5],
        }
    low, high = min(numbers), max(numbers)
    if low > 0 and high / low >= 100:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        return {
            "label": label,
            "values": [math.log10(value) for value in numbers],
            "tickvals": list(decades),
            "ticktext": [f"1e{decade}" for decade in decades],
        }
    pad = 0.0 if high > low else abs(high) * 0.1 or 0.1
    return {"label": label, "values": numbers, "range": [low - pad, high + pad]}


def curve_plots(sweep: Sweep, fronts: Sequence[Front], shown: Shown) -> list[Plot]:
    """Plot each metric of training over the epochs, a line for each trial."""
    found: list[Plot] = []
    # members of the front last, so that they lie on top
    trials = sorted(sweep.trials, key=lambda trial: trial.run in shown.colours)
    objectives = [fronts[0].accuracy, *(front.diversity for front in fronts)]
    for metric in [*(objective.metric for objective in objectives), *CURVES]:
        if not any(trial.curves.get(metric) for trial in trials):
            continue
        plot = new_plot(240, CURVE, showlegend=False, hovermode="closest")
        plot.update_xaxes(title_text="epoch")
        for trial in trials:
            curve = trial.curves.get(metric, ())
            colour = shown.colours.get(trial.run)
            plot.add_scatter(
                x=[step for step, _ in curve],
                y=[value for _, value in curve],
                mode="lines" if len(curve) > 1 else "markers",
                line={"color": colour or "#d3d8df", "width": 1.8 if colour else 1},
                hovertemplate=f"{plain(trial.name)}<br>epoch %{{x}}: %{{y:.4g}}<extra></extra>",
            )
        split, _, name = metric.partition("/")
        found.append(finish(plot, f"{title(name)}, {'validation' if split == 'val' else split}"))
    return found
