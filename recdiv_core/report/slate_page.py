"""The section of a report on slates: plain rows and plots for templates/slates.html.

Not the metrics (slate_views.py) nor the choice of users (slate_examples.py). The one idea: a run
keeps its colour in all plots, and everything is of the test split, where nothing was chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import plotly.graph_objects as go

from recdiv_core.evaluation.sameness import NEAR, STARVED
from recdiv_core.fronts.trials import Front, Trial, metric_of
from recdiv_core.metrics.fairness import MIN_SIZE
from recdiv_core.report import plots
from recdiv_core.report.front_plots import axis_title
from recdiv_core.report.inspection_page import METRICS
from recdiv_core.report.plots import Plot, finish, new_plot, plain
from recdiv_core.report.slate_examples import (
    GAINS,
    NUM_TYPICAL,
    WORST_SHARE,
    Changes,
    Example,
)
from recdiv_core.report.slate_metrics import SEGMENT_METRICS, Estimate
from recdiv_core.report.slate_views import SlateViews
from recdiv_core.report.templates import Cell, Table, cell, percent
from recdiv_core.wording import number, title

COLOURS: Final = (plots.ACCURATE, plots.BETWEEN, plots.DIVERSE)
SLICE_METRICS: Final = ("ndcg", "recall", "ild", "diversity_index")
COMPARED: Final = (
    *SLICE_METRICS,
    "narrowed",
    "between_diversity",
    "hit",
    "coverage",
    "gini",
    "attention_gini",
    "novelty",
)
SAMENESS: Final = ("with_doubles", "same_slate", "narrowed", "broadened")


def unseen(reason: str) -> dict[str, object]:
    """Return the section of a report that shows no slates, and why."""
    return {"reason": reason}


def section(views: SlateViews, fronts: Sequence[Front]) -> dict[str, object]:
    """Return the variables of the template."""
    return {
        "reason": "",
        "k": views.k,
        "num_users": f"{views.num_users:,}",
        "roles": [
            {"name": role, "trial": _named(trial), "colour": colour}
            for role, trial, colour in zip(views.roles, views.trials, COLOURS, strict=False)
        ],
        "notes": views.notes,
        "are_derived": views.are_derived,
        "has_queries": views.has_queries,
        "test_plots": [plot for front in fronts for plot in _test_front(front, views)],
        "differences": _differences(views) if views.differences else None,
        "exposure_plot": _exposure_plot(views),
        "band_plot": _band_plot(views),
        "near": NEAR,
        "sameness": _sameness(views),
        "segment_plots": [_segment_plot(views, m) for m in SEGMENT_METRICS if views.segments],
        "min_size": MIN_SIZE,
        "slices": _slices(views) if views.slices[0] else None,
        "changes": views.changes and _changes(views.changes, views.roles[:2]),
        "examples": [_example(example) for example in views.examples],
    }


def _named(trial: Trial) -> str:
    return trial.name if trial.label in trial.name else f"{trial.name} ({trial.label})"


# --------------------------------------------------------------------------- tables


def _differences(views: SlateViews) -> Table:
    """Return the metrics of each run, and their change against the first."""
    first, *others = views.roles
    heads = ["metric", first]
    for role in others:
        heads += [role, f"change against {first}", "95 % interval"]
    rows: list[list[Cell]] = []
    for name in COMPARED:
        row = [cell(title(f"{name}_at_{views.k}")), cell(views.estimates[0][name].value)]
        for run, changes in zip(views.estimates[1:], views.differences, strict=True):
            row += [cell(run[name].value), *_change(changes[name])]
        rows.append(row)
    return Table(heads, rows)


def _change(entry: Mapping[str, Any]) -> list[Cell]:
    low, high = entry["low"], entry["high"]
    is_clear = low is not None and (low > 0 or high < 0)
    change, interval = cell(None), cell(None)
    if entry["percent"] is not None:
        change = Cell(f"{entry['percent']:+.1f} %", kind=f"number{' clear' if is_clear else ''}")
    if entry["percent_low"] is not None:
        text = f"{entry['percent_low']:+.1f} to {entry['percent_high']:+.1f} %"
        interval = Cell(text, kind="number")
    return [change, interval]


def _sameness(views: SlateViews) -> Table:
    rows = [
        [cell(METRICS[name]), *(percent(run[name]) for run in views.sameness)] for name in SAMENESS
    ]
    starved = f"categories with less than {100 * STARVED:.0f} % of their share of exposure"
    return Table(["", *views.roles], [*rows, [cell(starved), *map(cell, views.starved)]])


def _slices(views: SlateViews) -> Table:
    """Return the slices of the first two runs side by side."""
    pair, roles = views.slices[:2], views.roles[:2]
    metrics = [f"{name}_at_{views.k}" for name in SLICE_METRICS]
    rows = [
        [cell(group), cell(int(first["num_users"]))]
        + [cell(run[group][metric]) for metric in metrics for run in pair]
        for group, first in pair[0].items()
    ]
    heads = [f"{title(metric)}, {role}" for metric in metrics for role in roles]
    return Table(["part of the shop", "users", *heads], rows)


# --------------------------------------------------------------------------- plots


def _test_front(front: Front, views: SlateViews) -> list[Plot]:
    """Plot a front by test metrics; nothing for a metric that no slate has, such as a loss."""
    metrics = [metric_of(front.diversity), metric_of(front.accuracy)]
    keys = [metric.removesuffix(f"_at_{views.k}") for metric in metrics]
    if not all(key in run for key in keys for run in views.estimates):
        return []
    seen = {trial.run for trial in views.trials}
    others = [
        trial
        for trial in front.members
        if trial.run not in seen and all(metric in trial.test for metric in metrics)
    ]
    plot = new_plot(340, {"t": 36}, legend=plots.LEGEND, hovermode="closest")
    plot.update_xaxes(title_text=axis_title(front.diversity, "test"))
    plot.update_yaxes(title_text=axis_title(front.accuracy, "test"))
    plot.add_scatter(
        x=[trial.test[metrics[0]] for trial in others],
        y=[trial.test[metrics[1]] for trial in others],
        mode="markers",
        marker={"size": 8, "color": plots.GREY},
        hovertext=[plain(trial.name) for trial in others],
        hoverinfo="text",
        showlegend=False,
    )
    for role, run, colour in zip(views.roles, views.estimates, COLOURS, strict=False):
        x, y = (run[key] for key in keys)
        plot.add_scatter(
            x=[x.value],
            y=[y.value],
            error_x=_bars([x], colour),
            error_y=_bars([y], colour),
            mode="markers",
            marker={"size": 10, "color": colour},
            name=plain(role),
            hovertext=[f"{plain(role)}<br>{_said(metrics[0], x)}<br>{_said(metrics[1], y)}"],
            hoverinfo="text",
        )
    return [finish(plot, f"{title(metrics[0])} against {title(metrics[1])}, test")]


def _said(metric: str, estimate: Estimate) -> str:
    low, high = number(estimate.low), number(estimate.high)
    return f"{title(metric)} {number(estimate.value)}, 95 % interval {low} to {high}"


def _bars(estimates: Sequence[Estimate], colour: str = "#475569") -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [each.high - each.value for each in estimates],
        "arrayminus": [each.value - each.low for each in estimates],
        "color": colour,
        "thickness": 1.2,
        "width": 3,
    }


def _exposure_plot(views: SlateViews) -> Plot:
    plot = new_plot(340, legend={"x": 0.02, "y": 0.98, "bgcolor": "rgba(255,255,255,0.8)"})
    scale = {"tickformat": ".0%", "range": [0, 1.01], "dtick": 0.2}
    plot.update_xaxes(title_text="share of items, the least shown first", **scale)
    plot.update_yaxes(title_text="share of exposure", **scale)
    even = {"line": {"color": plots.GREY, "width": 1, "dash": "dot"}, "hoverinfo": "skip"}
    plot.add_scatter(x=[0, 1], y=[0, 1], mode="lines", name="all items equally often", **even)
    for index, (role, (items, exposure)) in enumerate(
        zip(views.roles, views.exposure, strict=True)
    ):
        plot.add_scatter(
            x=items.round(5).tolist(),
            y=exposure.round(5).tolist(),
            mode="lines",
            line={"color": COLOURS[index], "width": 2},
            name=f"{plain(role)}, Gini {number(views.estimates[index]['gini'].value)}",
            hovertemplate="%{x:.1%} of the items have %{y:.1%} of the exposure<extra></extra>",
        )
    return finish(plot, "Which items are shown: exposure over the catalogue")


def _band_plot(views: SlateViews) -> Plot:
    plot = _bar_plot(
        views,
        340,
        [band.name for band in views.bands],
        lambda index: {
            "y": list(views.band_coverage[index]),
            "hovertext": [
                f"{band.num_items:,} items with {band.events[0]:,} to {band.events[1]:,} train "
                f"events<br>{plain(views.roles[index])}: {100 * share:.1f} % in a slate"
                for band, share in zip(views.bands, views.band_coverage[index], strict=True)
            ],
        },
        margin={"t": 36},
        legend=plots.LEGEND,
    )
    plot.update_xaxes(title_text="tenth of the catalogue, from few train events to many")
    plot.update_yaxes(title_text="share of items in any slate", tickformat=".0%")
    return finish(plot, "Coverage by popularity")


def _segment_plot(views: SlateViews, name: str) -> Plot:
    metric = f"{name}_at_{views.k}"

    def of_run(index: int) -> dict[str, Any]:
        estimates = [segment.estimates[name][index] for segment in views.segments]
        return {
            "y": [each.value for each in estimates],
            "error_y": _bars(estimates),
            "hovertext": [
                f"{segment.name}: {segment.num_users:,} users<br>{plain(views.roles[index])}<br>"
                f"{_said(metric, each)}"
                for segment, each in zip(views.segments, estimates, strict=True)
            ],
        }

    names = [f"{segment.name}<br>({segment.num_users:,})" for segment in views.segments]
    margin = {"l": 48, "r": 10, "t": 8, "b": 44}
    plot = _bar_plot(views, 270, names, of_run, margin=margin, showlegend=False)
    plot.update_xaxes(tickangle=0, tickfont={"size": 10})
    return finish(plot, title(metric))


def _bar_plot(
    views: SlateViews,
    height: int,
    names: Sequence[str],
    of_run: Callable[[int], dict[str, Any]],
    **layout: Any,
) -> go.Figure:
    """Return bars side by side, a colour for each run."""
    plot = new_plot(height, barmode="group", bargap=0.25, bargroupgap=0.05, **layout)
    plot.update_xaxes(type="category")
    plot.update_yaxes(rangemode="tozero")
    for index, role in enumerate(views.roles):
        style = {
            "marker": {"color": COLOURS[index]},
            "hoverinfo": "text",
            "name": plain(role),
        }
        plot.add_bar(x=list(names), **style, **of_run(index))
    return plot


# --------------------------------------------------------------------------- examples


def _changes(changes: Changes, roles: Sequence[str]) -> dict[str, object]:
    more, fewer = (
        f"{count:,} ({100 * count / changes.num_users:.1f} %)"
        for count in (changes.num_more, changes.num_fewer)
    )
    return {
        "roles": roles,
        "gains": ", ".join(map(title, GAINS)),
        "num_typical": NUM_TYPICAL,
        "worst": f"{100 * WORST_SHARE:.0f} %",
        "num_users": f"{changes.num_users:,}",
        "more": more,
        "fewer": fewer,
        "common": f"{changes.mean_common:.1f}",
    }


def category_colours(example: Example) -> dict[str, str]:
    """Return a colour for each category of a user's slates and history; grey for none."""
    shown = [item for items in (*example.slates, example.history) for item in items]
    categories = list(dict.fromkeys(item.category for item in shown if item.category))
    colours = {
        category: f"hsl({int(137.5 * index) % 360} 55% {62 if index % 2 else 48}%)"
        for index, category in enumerate(categories)
    }
    return colours | {"": plots.GREY}


def _example(example: Example) -> dict[str, object]:
    """Return an example, its colours, and for each slate the other one and a caption."""
    captions: list[str] = []
    for index, slate in enumerate(example.slates):
        num_categories = len({item.category for item in slate if item.category})
        metrics = [f"{title(name)} {number(pair[index])}" for name, pair in example.metrics.items()]
        captions.append(", ".join([f"categories {num_categories}", *metrics]))
    others = [{item.index for item in slate} for slate in reversed(example.slates)]
    return {
        "user": example,
        "captions": captions,
        "others": others,
        "colours": category_colours(example),
    }
