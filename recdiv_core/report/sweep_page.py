"""The pictures of a sweep: one HTML page that needs no network, and a PNG of its fronts.

Not the choosing (trials.py), nor what its slates are like (slate_page.py), nor where the files go
(report.py). The one idea: a trial has the same colour everywhere, from blue (accurate) to orange
(diverse) along the front, grey when dominated. Names and values come from users: they are escaped.
"""

from __future__ import annotations

import datetime
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any, Final

import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from plotly.colors import sample_colorscale
from plotly.offline import get_plotlyjs

from recdiv_core.fronts.points import ended_points, points
from recdiv_core.fronts.trials import (
    BUDGETS,
    CURVES,
    Front,
    Sweep,
    Trial,
    change,
    change_half,
    course,
    metric_of,
    recommended,
    referred,
)
from recdiv_core.report.plots import (
    ACCURATE,
    BETWEEN,
    DIVERSE,
    GREY,
    INK,
    KNEE,
    LINE,
    STYLE,
    card,
    cell,
    new_figure,
    plain,
)
from recdiv_core.wording import SYMBOLS, number, title, worded

TEMPLATE: Final = Path(__file__).with_name("templates") / "report.html"
SCALE: Final = [[0.0, ACCURATE], [0.5, BETWEEN], [1.0, DIVERSE]]
LABEL_ROOM: Final = (0.3, 0.055)
"""Room that a label takes, as shares of the width and height over which the trials spread."""
LABEL_PIXELS: Final = 6
"""Width of a letter of a label in the HTML page."""
NOTHING: Final = '<p class="hint">Nothing to show yet.</p>'
MARKS: Final = {
    "random": ("x", "x", "top left"),
    "popular": ("v", "triangle-down", "bottom right"),
    "recent_popular": ("^", "triangle-up", "top right"),
    "item_knn": ("s", "square", "bottom left"),
    "ease": ("P", "cross", "top left"),
}
"""Kind of baseline -> its marker in matplotlib and in plotly, and where its label stands."""

MEANINGS: Final = {
    "ndcg": ("0 to 1", "higher", "gain of the held-out items, discounted by their place"),
    "recall": ("0 to 1", "higher", "share of the held-out items that are in the slate"),
    "precision": ("0 to 1", "higher", "share of the slate that is held-out items"),
    "f1": ("0 to 1", "higher", "harmonic mean of precision and recall, per user"),
    "hit": ("0 to 1", "higher", "share of users with a held-out item in the slate"),
    "mrr": ("0 to 1", "higher", "1 / place of the first held-out item"),
    "map": ("0 to 1", "higher", "precision at each held-out item, averaged"),
    "coverage": (
        "0 to 1",
        "higher",
        "share of the catalogue in at least one slate; grows with users",
    ),
    "category_coverage": ("0 to 1", "higher", "distinct categories in a slate / most possible"),
    "ild": ("0 to 2", "higher", "mean pairwise (1 - cosine) of the items in a slate"),
    "diversity_index": ("0 to 1", "higher", "evenness of a slate's categories; 1 perfectly even"),
    "homogeneity": ("0 to log k", "lower", "log(slate length / distinct categories in the slate)"),
    "gini": ("0 to 1", "lower", "inequality of exposure over the catalogue; 0 all items alike"),
    "novelty": ("0 and up", "higher", "mean -log2(train events of an item / users), in bits"),
}
"""Metric -> range, better direction, meaning."""


def render(
    sweep: Sweep,
    fronts: Sequence[Front],
    headline: str,
    notes: Sequence[str],
    slates: str = "",
) -> str:
    """Return the whole page.

    Args:
        sweep: its trials.
        fronts: the first is of the pair that the sweep declares.
        headline: a sentence.
        notes: sentences.
        slates: the section of slate_page, or nothing.
    """
    main = fronts[0]
    colours = _colours(main)
    plots = [
        card(_front_figure(front, colours, width=450 if place else 1050), _axes_title(front))
        for place, front in enumerate(fronts)
    ]
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=html.escape(f"{sweep.name}: accuracy and diversity"),
        style=STYLE.read_text(encoding="utf-8"),
        name=html.escape(sweep.name),
        meta=_meta(sweep),
        headline=html.escape(headline),
        notes="".join(f"<li>{html.escape(note)}</li>" for note in notes),
        tiles=_tiles(sweep, main),
        symbols=_symbols(sweep),
        main_front=plots[0],
        other_fronts="".join(plots[1:]),
        references=_reference_section(sweep, fronts),
        budgets="".join(_budgets(front) for front in fronts if front.attained) or NOTHING,
        objectives=html.escape(", ".join(title(metric_of(o)) for o in sweep.objectives)),
        course=card(_course_figure(sweep, colours), "") if main.judged else NOTHING,
        parallel=card(_parallel_figure(main, fronts), "") if main.judged else NOTHING,
        curves="".join(_curve_cards(sweep, fronts, colours)) or NOTHING,
        slates=slates,
        trials=_trial_table(sweep, fronts, colours),
        meanings=_meanings(sweep),
        facts=_definitions(sweep.facts),
        provenance=_definitions(sweep.provenance),
        plotly=get_plotlyjs(),
    )


def draw_png(fronts: Sequence[Front], path: Path, references: Mapping[str, Trial]) -> None:
    """Draw every front beside each other, baselines in a row below, and save them as a PNG."""
    rows, columns = 1 + bool(references), len(fronts)
    figure = Figure(figsize=(5.2 * columns, 4.4 * rows), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    for index, front in enumerate(fronts):
        _draw_front(figure.add_subplot(rows, columns, index + 1), front)
        if references:
            axis = figure.add_subplot(rows, columns, columns + index + 1)
            _draw_references(axis, front, references)
    figure.savefig(path)


def _draw_references(axis: Axes, front: Front, references: Mapping[str, Trial]) -> None:
    """Draw the front small, among the baselines: they lie too far off for its own picture."""
    x_name, y_name = metric_of(front.diversity), metric_of(front.accuracy)
    axis.set_xlabel(f"{title(x_name)} (validation)")
    axis.set_ylabel(f"{title(y_name)} (validation)")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="#e5e7eb", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.margins(0.12)
    points = [(trial.val[x_name], trial.val[y_name]) for trial in front.members]
    if points:
        axis.plot(*zip(*points, strict=True), "-o", color=BETWEEN, markersize=4, label="front")
        axis.legend(frameon=False, fontsize=8)
    for kind, run in referred(front, references).items():
        marker, _, place = MARKS[kind]
        point = (run.val[x_name], run.val[y_name])
        axis.scatter(*point, s=40, marker=marker, color=INK)
        up, right = "top" in place, "right" in place
        axis.annotate(
            kind,
            point,
            xytext=(6 if right else -6, 5 if up else -11),
            textcoords="offset points",
            ha="left" if right else "right",
            fontsize=7,
        )


def _draw_front(axis: Axes, front: Front) -> None:
    x_name, y_name = metric_of(front.diversity), metric_of(front.accuracy)
    axis.set_xlabel(f"{title(x_name)} (validation)")
    axis.set_ylabel(f"{title(y_name)} (validation)")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="#e5e7eb", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.set_xlim(*_limits(front, x_name, LABEL_ROOM[0]))
    axis.set_ylim(*_limits(front, y_name, 0.1))

    def xy(trials: Iterable[Trial]) -> tuple[list[float], list[float]]:
        chosen = list(trials)
        return [t.val[x_name] for t in chosen], [t.val[y_name] for t in chosen]

    for some, colour in ((set_aside(front), GREY), (front.members, LINE)):
        x_bars, y_bars = _bars(some, x_name), _bars(some, y_name)
        if x_bars and y_bars:
            style = {"fmt": "none", "ecolor": colour, "elinewidth": 0.8, "capsize": 2}
            axis.errorbar(*xy(some), xerr=x_bars, yerr=y_bars, **style)
    axis.scatter(*xy(set_aside(front)), s=22, color=GREY, label="dominated")
    axis.plot(*xy(front.members), "-o", color=BETWEEN, markersize=5, label="front")
    if front.baseline:
        axis.scatter(*xy([front.baseline]), s=95, marker="D", facecolors="none", edgecolors=INK)
        axis.scatter([], [], s=40, marker="D", facecolors="none", edgecolors=INK, label="w = 0")
    if front.knee:
        axis.scatter(*xy([front.knee]), s=170, marker="*", color=KNEE, zorder=3, label="knee")
    for trial in _labelled(front):
        text = trial.label.encode("ascii", "replace").decode()
        point = (trial.val[x_name], trial.val[y_name])
        axis.annotate(
            text, point, xytext=(5, 5), textcoords="offset points", fontsize=7, parse_math=False
        )
    if front.judged:
        axis.legend(frameon=False, fontsize=8)


def set_aside(front: Front) -> list[Trial]:
    """Return the judged trials that are not members of the front."""
    ids = {trial.run_id for trial in front.members}
    return [trial for trial in front.judged if trial.run_id not in ids]


def _labelled(front: Front) -> list[Trial]:
    """Return the members to label: the knee, the ends, then what has room beside those."""
    x_name, y_name = metric_of(front.diversity), metric_of(front.accuracy)
    width, height = _span(front, x_name), _span(front, y_name)
    chosen: list[Trial] = []
    ends = [front.knee, *front.members[:1], *front.members[-1:]]
    for trial in (*(end for end in ends if end), *front.members):
        has_room = all(
            abs(trial.val[x_name] - other.val[x_name]) > LABEL_ROOM[0] * width
            or abs(trial.val[y_name] - other.val[y_name]) > LABEL_ROOM[1] * height
            for other in chosen
        )
        if has_room:
            chosen.append(trial)
    return chosen


def _span(front: Front, metric: str) -> float:
    values = [trial.val[metric] for trial in front.judged] or [0.0]
    return max(values) - min(values) or 0.1 * abs(values[0]) or 1.0


def _limits(front: Front, metric: str, room_above: float) -> list[float]:
    """Return the limits of an axis, with room for bars, and for labels at its upper end."""
    reached = [
        trial.val[metric] + sign * trial.val_half.get(metric, 0.0)
        for trial in front.judged
        for sign in (-1, 1)
    ] or [0.0]
    span = max(_span(front, metric), max(reached) - min(reached))
    return [min(reached) - 0.08 * span, max(reached) + room_above * span]


def _colours(front: Front) -> dict[str, str]:
    count = len(front.members)
    shares = [i / max(count - 1, 1) for i in range(count)]
    colours = sample_colorscale(SCALE, shares) if shares else []
    return {
        run.run_id: str(colour)
        for point, colour in zip(front.members, colours, strict=True)
        for run in point.repeats or (point,)
    }


def _hover(trial: Trial, metrics: Sequence[str]) -> str:
    rows = [f"<b>{plain(trial.name)}</b>"]
    if trial.repeats:
        rows += [f"means over {len(trial.repeats)} seeds; this trial is the nearest to them"]
    rows += [f"{plain(key)} = {plain(_setting(value))}" for key, value in trial.settings.items()]
    rows += [
        f"{title(m)}: {_within(trial.val.get(m), trial.val_half.get(m))} val, "
        f"{_within(trial.test.get(m), trial.test_half.get(m))} test"
        for m in metrics
    ]
    return "<br>".join(rows)


def _within(value: float | None, half: float | None) -> str:
    """Say a figure, of several seeds with half the width of its interval."""
    return number(value) + ("" if half is None else f" \u00b1 {half:.2g}")


def _bars(some: Sequence[Trial], metric: str) -> list[float] | None:
    """Return the halves of the error bars; None where no point has any."""
    if not any(trial.repeats for trial in some):
        return None
    return [trial.val_half.get(metric, 0.0) for trial in some]


def _label_room(front: Front, width: int) -> float:
    """Return the room that the longest label needs at the right end, as a share of the span."""
    longest = max((len(trial.label) for trial in _labelled(front)), default=0)
    share = min(0.5, (LABEL_PIXELS * longest + 24) / width)
    return share / (1 - share)


def _axes_title(front: Front) -> str:
    x, y = title(metric_of(front.diversity)), title(metric_of(front.accuracy))
    return f"{x} against {y}: hypervolume {number(front.hypervolume)}"


def _front_figure(front: Front, colours: Mapping[str, str], *, width: int) -> go.Figure:
    """Draw a front; `width` is that of the plot on a wide screen, in pixels."""
    x, y = metric_of(front.diversity), metric_of(front.accuracy)
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    figure = new_figure(430, legend=legend, hovermode="closest")
    figure.update_layout(margin_t=40)
    figure.update_xaxes(
        title_text=f"{title(x)}, validation", range=_limits(front, x, _label_room(front, width))
    )
    figure.update_yaxes(title_text=f"{title(y)}, validation", range=_limits(front, y, 0.1))

    def add(trials: Sequence[Trial], name: str, **style: Any) -> None:
        figure.add_scatter(
            x=[trial.val[x] for trial in trials],
            y=[trial.val[y] for trial in trials],
            name=name,
            hovertext=[_hover(trial, (y, x)) for trial in trials],
            hoverinfo="text",
            **style,
        )

    def bars(trials: Sequence[Trial], colour: str) -> dict[str, Any]:
        style = {"type": "data", "color": colour, "thickness": 1, "width": 3}
        halves = {"error_x": _bars(trials, x), "error_y": _bars(trials, y)}
        return {axis: {"array": own, **style} for axis, own in halves.items() if own}

    marker = {"size": 8, "color": GREY}
    behind = set_aside(front)
    add(behind, "dominated", mode="markers", marker=marker, **bars(behind, GREY))
    labelled = {trial.run_id for trial in _labelled(front)}
    add(
        front.members,
        "front",
        mode="lines+markers+text",
        line={"color": LINE, "width": 1.5},
        marker={"size": 10, "color": [colours.get(t.run_id, LINE) for t in front.members]},
        text=[plain(t.label) if t.run_id in labelled else "" for t in front.members],
        textposition="top right",
        textfont={"size": 11},
        cliponaxis=False,
        **bars(front.members, LINE),
    )
    if front.baseline:
        ring = {"size": 17, "symbol": "diamond-open", "color": INK, "line": {"width": 1.5}}
        add([front.baseline], "w = 0", mode="markers", marker=ring)
    if front.knee:
        add(
            [front.knee],
            "knee",
            mode="markers",
            marker={"size": 17, "symbol": "star", "color": KNEE},
        )
    return figure


def _reference_section(sweep: Sweep, fronts: Sequence[Front]) -> str:
    """Return the fronts among the baselines, and a table of these; nothing without any."""
    if not sweep.references:
        return ""
    metrics = [metric_of(fronts[0].accuracy), *(metric_of(front.diversity) for front in fronts)]
    rows: list[str] = []
    for kind, run in sweep.references.items():
        cells = [cell(kind), cell(run.name)]
        cells += [cell(split.get(m)) for m in metrics for split in (run.val, run.test)]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    heads = ["baseline", "run"]
    heads += [f"{title(m)} {split}" for m in metrics for split in ("val", "test")]
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    plots = [card(_reference_figure(front, sweep.references), "") for front in fronts]
    return (
        "<h2>Against baselines</h2><p class='hint'>The most accurate run of each baseline "
        "(model.kind) on the same data, on validation, that is in this experiment.</p>"
        f"<div class='pair'>{''.join(plots)}</div><h3></h3><div class='scroll'><table>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _reference_figure(front: Front, references: Mapping[str, Trial]) -> go.Figure:
    x, y = metric_of(front.diversity), metric_of(front.accuracy)
    figure = new_figure(340, showlegend=False, hovermode="closest")
    figure.update_xaxes(title_text=f"{title(x)}, validation")
    figure.update_yaxes(title_text=f"{title(y)}, validation")
    figure.add_scatter(
        x=[trial.val[x] for trial in front.members],
        y=[trial.val[y] for trial in front.members],
        mode="lines+markers",
        line={"color": BETWEEN, "width": 1.5},
        hovertext=[_hover(trial, (y, x)) for trial in front.members],
        hoverinfo="text",
    )
    for kind, run in referred(front, references).items():
        _, symbol, place = MARKS[kind]
        figure.add_scatter(
            x=[run.val[x]],
            y=[run.val[y]],
            mode="markers+text",
            marker={"size": 10, "symbol": symbol, "color": INK},
            text=[kind],
            textposition=place,
            hovertext=[_hover(run, (y, x))],
            hoverinfo="text",
            cliponaxis=False,
        )
    return figure


def _course_figure(sweep: Sweep, colours: Mapping[str, str]) -> go.Figure:
    """Draw the hypervolume of the declared objectives after each point that ended."""
    steps = course(ended_points(sweep), sweep.objectives)
    figure = new_figure(240, showlegend=False, hovermode="closest")
    figure.update_layout(margin={"l": 52, "r": 10, "t": 8, "b": 38})
    ended = "points of which all seeds ended" if sweep.seeds else "trials that ended"
    figure.update_xaxes(title_text=ended, range=[0, len(steps) + 1])
    figure.update_yaxes(title_text="hypervolume", rangemode="tozero")
    figure.add_scatter(
        x=list(range(1, len(steps) + 1)),
        y=[volume for _, volume in steps],
        mode="lines+markers",
        line={"color": LINE, "width": 1.5, "shape": "hv"},
        marker={"size": 7, "color": [colours.get(trial.run_id, GREY) for trial, _ in steps]},
        hovertext=[f"{plain(trial.name)}<br>{number(volume)}" for trial, volume in steps],
        hoverinfo="text",
    )
    return figure


def _parallel_figure(main: Front, fronts: Sequence[Front]) -> go.Figure:
    """Draw every judged trial as a line through its parameters and validation figures."""
    trials = [t for t in main.judged if all(metric_of(f.diversity) in t.val for f in fronts)]
    accuracy = metric_of(main.accuracy)
    keys = list(trials[0].settings) if trials else []
    dimensions = [_dimension(SYMBOLS.get(k, k), [t.params.get(k) for t in trials]) for k in keys]
    metrics = [accuracy, *(metric_of(front.diversity) for front in fronts)]
    dimensions += [_dimension(title(m), [t.val[m] for t in trials]) for m in metrics]
    values = [trial.val[accuracy] for trial in trials]
    colour_bar = {"title": title(accuracy), "thickness": 10, "outlinewidth": 0}
    line = {"color": values, "colorscale": [[1 - s, c] for s, c in reversed(SCALE)]}
    figure = new_figure(340)
    figure.update_layout(margin={"l": 130, "r": 60, "t": 56, "b": 28})
    figure.add_parcoords(
        dimensions=dimensions,
        line=line | {"showscale": len(set(values)) > 1, "colorbar": colour_bar},
        labelfont={"size": 12},
        unselected={"line": {"opacity": 0.08}},
    )
    return figure


def _dimension(label: str, values: Sequence[object]) -> dict[str, Any]:
    """Return a plotly dimension: numbers as they are or in decades, other values by place."""
    short = label if len(label) <= 22 else f"..{label[-20:]}"
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < len(values):
        texts = sorted({worded(value) for value in values})
        ticks = list(range(len(texts)))
        return {
            "label": short,
            "values": [texts.index(worded(value)) for value in values],
            "tickvals": ticks,
            "ticktext": [text if len(text) <= 20 else f"{text[:18]}.." for text in texts],
            "range": [-0.5, len(texts) - 0.5],
        }
    low, high = min(numbers), max(numbers)
    if low > 0 and high / low >= 100:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        return {
            "label": short,
            "values": [math.log10(value) for value in numbers],
            "tickvals": list(decades),
            "ticktext": [f"1e{decade}" for decade in decades],
        }
    pad = 0.0 if high > low else abs(high) * 0.1 or 0.1
    return {"label": short, "values": numbers, "range": [low - pad, high + pad]}


def _curve_cards(
    sweep: Sweep, fronts: Sequence[Front], colours: Mapping[str, str]
) -> Iterable[str]:
    metrics = [fronts[0].accuracy.metric, *(front.diversity.metric for front in fronts), *CURVES]
    for metric in metrics:
        figure = new_figure(240, showlegend=False, hovermode="closest")
        figure.update_layout(margin={"l": 52, "r": 10, "t": 8, "b": 38})
        figure.update_xaxes(title_text="epoch")
        # members of the front last, so that they lie on top
        for trial in sorted(sweep.trials, key=lambda t: t.run_id in colours):
            curve = trial.curves.get(metric, ())
            is_member = trial.run_id in colours
            figure.add_scatter(
                x=[step for step, _ in curve],
                y=[value for _, value in curve],
                mode="lines" if len(curve) > 1 else "markers",
                line={
                    "color": colours.get(trial.run_id, "#d3d8df"),
                    "width": 1.8 if is_member else 1,
                },
                hovertemplate=f"{plain(trial.name)}<br>epoch %{{x}}: %{{y:.4g}}<extra></extra>",
            )
        if any(trial.curves.get(metric) for trial in sweep.trials):
            split, _, name = metric.partition("/")
            yield card(figure, f"{title(name)}, {'validation' if split == 'val' else split}")


def _symbols(sweep: Sweep) -> str:
    known = [f"{SYMBOLS[key]} = {key}" for key in sweep.parameters if key in SYMBOLS]
    return html.escape(f"In labels {', '.join(known)}." if known else "")


def _tiles(sweep: Sweep, main: Front) -> str:
    pick = recommended(main)
    accuracy, diversity = metric_of(main.accuracy), metric_of(main.diversity)
    best = max((t.val[accuracy] for t in main.judged), default=None)
    finished = sum(trial.status == "FINISHED" for trial in sweep.trials)
    figures = {
        "trials finished": f"{finished} of {len(sweep.trials)}",
        **({"seeds a point": str(len(sweep.seeds))} if sweep.seeds else {}),
        "on the front": str(len(main.members)),
        "hypervolume": f"{number(main.hypervolume)} (test {number(main.test_hypervolume)})",
        f"best {title(accuracy)}, validation": number(best),
        f"recommended: {title(accuracy)} / {title(diversity)}, test": (
            f"{number(pick.test.get(accuracy))} / {number(pick.test.get(diversity))}"
            if pick
            else "-"
        ),
    }
    return "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd></div>"
        for name, text in figures.items()
    )


def _budgets(front: Front) -> str:
    accuracy, diversity = metric_of(front.accuracy), metric_of(front.diversity)
    rows: list[str] = []
    for budget in BUDGETS:
        trial = front.attained.get(budget)
        if trial is None:
            continue
        cells = [f"&ge; {100 * budget:.0f} %", html.escape(trial.name), html.escape(trial.label)]
        for metric in (accuracy, diversity):
            other = front.baseline if trial is not front.baseline else None
            against = f" <small>({_change(trial, other, metric)})</small>" if other else ""
            cells.append(_within(trial.val[metric], trial.val_half.get(metric)))
            cells.append(_within(trial.test.get(metric), trial.test_half.get(metric)) + against)
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    heads = [f"keeps of best {title(accuracy)}", "trial", "settings"]
    heads += [f"{title(m)} {split}" for m in (accuracy, diversity) for split in ("val", "test")]
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    return (
        f"<h3>{html.escape(title(diversity))}</h3><div class='scroll'><table>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _change(trial: Trial, baseline: Trial, metric: str) -> str:
    """Say the change of a test figure against the baseline, with its interval over seeds."""
    by, half = change(trial, baseline, metric), change_half(trial, baseline, metric)
    if by is None:
        return "-"
    within = "" if half is None else f" \u00b1 {100 * half:.1f}"
    return f"{100 * by:+.1f}{within} %"


def _trial_table(sweep: Sweep, fronts: Sequence[Front], colours: Mapping[str, str]) -> str:
    main = fronts[0]
    metrics = [metric_of(main.accuracy), *(metric_of(front.diversity) for front in fronts)]
    settings = [key for key in sweep.parameters if key != "seed"]
    of_seeds = ["seeds"] if "seed" in sweep.parameters else []
    heads = ["trial", "status", *settings, *of_seeds, "best epoch"]
    heads += [f"{title(m)} {split}" for m in metrics for split in ("val", "test")] + ["minutes"]
    members = {trial.run_id for trial in main.members}
    rows: list[str] = []
    judged = points(sweep)
    runs = {run.run_id for point in judged for run in point.repeats or (point,)}
    ranked = sorted(
        [*judged, *(trial for trial in sweep.trials if trial.run_id not in runs)],
        key=lambda t: (t.run_id not in members, -t.val.get(metrics[0], -math.inf), t.name),
    )
    for trial in ranked:
        status = trial.status.lower() + (", breaks a constraint" if trial.breaks else "")
        cells = [_name_cell(trial, main, colours), cell(status)]
        cells += [cell(_setting(trial.params.get(key))) for key in settings]
        cells += [_seeds_cell(trial)] if of_seeds else []
        cells += [cell(trial.best_epoch)]
        splits = ((trial.val, trial.val_half), (trial.test, trial.test_half))
        cells += [_figure_cell(s.get(m), halves.get(m)) for m in metrics for s, halves in splits]
        cells += [cell(None if trial.duration_s is None else round(trial.duration_s / 60, 1))]
        kind = "member" if trial.run_id in members else trial.status.lower()
        rows.append(f'<tr class="{kind}">{"".join(cells)}</tr>')
    # a place to break long keys at
    heads = [html.escape(head).replace(".", ".<wbr>").replace("_", "_<wbr>") for head in heads]
    head = "".join(f'<th tabindex="0">{text}</th>' for text in heads)
    return (
        f'<table id="trials"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def _seeds_cell(trial: Trial) -> str:
    """Return how many seeds a point has had, with their runs for who asks; of one its seed."""
    if not trial.repeats:
        return cell(f"seed {trial.seed}")
    runs = ", ".join(f"seed {run.seed}: {run.name}" for run in trial.repeats)
    return (
        f'<td class="number" data-value="{len(trial.repeats)}" title="{html.escape(runs)}">'
        f"{len(trial.repeats)}</td>"
    )


def _figure_cell(value: float | None, half: float | None) -> str:
    if value is None or half is None:
        return cell(value)
    return f'<td class="number" data-value="{value}">{_within(value, half)}</td>'


def _setting(value: object) -> object:
    return worded(value) if isinstance(value, Mapping) else value


def _name_cell(trial: Trial, front: Front, colours: Mapping[str, str]) -> str:
    named = {"knee": front.knee, "w = 0": front.baseline}
    badges = {name: own is not None and own.run_id == trial.run_id for name, own in named.items()}
    marks = "".join(f"<em>{name}</em>" for name, is_so in badges.items() if is_so)
    colour = colours.get(trial.run_id, "transparent")
    name = html.escape(trial.name)
    return (
        f'<td data-value="{name}" title="{name}, run {html.escape(trial.run_id)}">'
        f'<i style="background:{colour}"></i>{name}{marks}</td>'
    )


def _meanings(sweep: Sweep) -> str:
    present = sorted({name for trial in sweep.trials for name in trial.val})
    rows: list[str] = []
    for metric in present:
        known = MEANINGS.get(metric.partition("_at_")[0])
        if known is not None:
            cells = (title(metric), *known)
            rows.append("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in cells) + "</tr>")
    head = "<tr><th>figure</th><th>range</th><th>better</th><th>what it is</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _definitions(values: Mapping[str, object]) -> str:
    def text(value: object) -> str:
        if isinstance(value, Mapping):
            return ", ".join(f"{key} {text(inner)}" for key, inner in value.items())
        return f"{value:,}" if isinstance(value, int) else str(value)

    return "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(text(value))}</dd></div>"
        for name, value in values.items()
    )


def _meta(sweep: Sweep) -> str:
    started = datetime.datetime.fromtimestamp(sweep.started_ms / 1000, tz=datetime.UTC)
    parts = (
        f"data set {sweep.experiment}",
        f"space {sweep.space}",
        f"{started:%Y-%m-%d %H:%M} UTC",
        f"run {sweep.run_id}",
        sweep.status.lower(),
    )
    return html.escape(" \u00b7 ".join(parts))
