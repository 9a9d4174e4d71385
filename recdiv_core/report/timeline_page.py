"""The page over time: metrics of successive days, their trends, and a verdict in one sentence.

`recdiv update` writes it after each day (updating/timeline.py), and benchmarks/month.py for two
arms side by side. The one idea: diversity metrics are tested for a trend, and the headline tells
whether slates narrow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from recdiv_core.metrics.trend import FEWEST, Slope, slope
from recdiv_core.report import plots
from recdiv_core.report.plots import Plot, finish, new_plot, plain
from recdiv_core.report.templates import Cell, Table, cell, render

HEIGHT: Final = 280
FEW_DAYS: Final = 6
"""Most days that an axis names one by one."""
NEVER: Final = math.nan
"""Value of a day without a metric."""


class Metric(NamedTuple):
    """A metric of the page: its words, and the direction that is better.

    `better` is 1 where higher is better, -1 where lower is, 0 for neither.
    """

    words: str
    better: int
    tells_narrowing: bool = False


METRICS: Final[Mapping[str, Metric]] = {
    "coverage": Metric("coverage: share of the items in any slate", 1, True),
    "ild": Metric("ILD: mean distance of two items of a slate", 1, True),
    "diversity_index": Metric("diversity index: evenness of categories in a slate", 1, True),
    "narrowed": Metric("narrowed: users shown fewer categories than they chose", -1, True),
    "ndcg": Metric("NDCG on the clicks of the newest window", 1),
    "old_ndcg": Metric("NDCG on the clicks of the first window: a fall is forgetting", 1),
    "true_ndcg": Metric("NDCG against the planted tastes", 1),
    "true_tastes": Metric("share of the planted tastes that the slates serve", 1),
    "clicks": Metric("clicks per visit", 1),
    "new_items": Metric("share of places with new items", 0),
    "gini": Metric("Gini: inequality of exposure, 0 = all items equally often", -1),
}
"""Metrics in the order of the page; a page shows those that its arms have."""


@dataclass(frozen=True)
class Arm:
    """One curve of each plot.

    Attributes:
        name: text of the legend.
        colour: CSS colour.
        values: metric -> one value a day; NaN = none.
        is_points: whether days stand alone, as for a yardstick of some days; then no trend is
            tested.
    """

    name: str
    colour: str
    values: Mapping[str, Sequence[float]]
    is_points: bool = False


def timeline_page(
    days: Sequence[str], arms: Sequence[Arm], *, title: str, meta: str, notes: Sequence[str] = ()
) -> str:
    """Return the whole page."""
    shown = [name for name in METRICS if any(_exists(arm, name) for arm in arms)]
    tested = [arm for arm in arms if not arm.is_points]
    trends = [
        _trend_row(name, arm, len(tested) > 1)
        for name in shown
        for arm in tested
        if _exists(arm, name)
    ]
    heads = ["metric", *(["arm"] if len(tested) > 1 else [])]
    heads += ["first 7 days", "last 7 days", "change per day", "95 % interval", "finding"]
    return render(
        "timeline.html",
        title=title,
        meta=meta,
        headline=_headline(tested),
        notes=notes,
        curves=[_curve(name, days, arms) for name in shown],
        trends=Table(heads, trends),
    )


def _headline(arms: Sequence[Arm]) -> str:
    """Return the verdict, with the names of the arms if there are several."""
    if len(arms) == 1:
        return verdict(arms[0])
    said = [f"{arm.name}: {verdict(arm)}" for arm in arms]
    return " ".join(each[0].upper() + each[1:] for each in said)


def verdict(arm: Arm) -> str:
    """Return one sentence: whether the slates of an arm narrow.

    >>> verdict(
    ...     Arm("champion", "", {"coverage": [0.5] * 9, "ild": [0.9 - 0.01 * d for d in range(9)]})
    ... )
    'Slates narrow: ILD falls by 0.01 a day.'
    """
    named = [name for name, metric in METRICS.items() if metric.tells_narrowing]
    trends = {name: slope(arm.values.get(name, ())) for name in named}
    found = {name: trend for name, trend in trends.items() if trend is not None}
    if not found:
        return f"Too early for a trend: fewer than {FEWEST} days have metrics."
    worse = {name: trend for name, trend in found.items() if _worsens(name, trend)}
    if not worse:
        words = [short_name(name) for name in found]
        return f"Slates do not narrow: {_listed(words)} hold or improve."
    said = [
        f"{short_name(name)} {trend.direction} by {abs(trend.per_day):.2g} a day"
        for name, trend in worse.items()
    ]
    return f"Slates narrow: {_listed(said)}."


def short_name(metric: str) -> str:
    """Return the name of a metric without its meaning."""
    return METRICS[metric].words.partition(":")[0]


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _worsens(name: str, trend: Slope) -> bool:
    return {"falls": -1, "rises": 1, "steady": 0}[trend.direction] == -METRICS[name].better != 0


def _exists(arm: Arm, name: str) -> bool:
    return any(map(math.isfinite, arm.values.get(name, ())))


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else None


def _trend_row(name: str, arm: Arm, names_arm: bool) -> list[Cell]:
    values = arm.values[name]
    trend = slope(values)
    row = [Cell(METRICS[name].words, kind="prose"), *([cell(arm.name)] if names_arm else [])]
    row += [cell(_mean(values[:7])), cell(_mean(values[-7:]))]
    if trend is None:
        return [*row, cell(None), cell(None), cell("too early")]
    interval = Cell(f"{trend.low:+.2g} to {trend.high:+.2g}", kind="number")
    kind = "starved" if _worsens(name, trend) else ""
    per_day = Cell(f"{trend.per_day:+.2g}", sort=trend.per_day, kind="number")
    return [*row, per_day, interval, Cell(trend.direction, kind=kind)]


def _curve(name: str, days: Sequence[str], arms: Sequence[Arm]) -> Plot:
    plot = new_plot(HEIGHT, {"l": 48, "t": 30, "b": 34}, legend=plots.LEGEND, showlegend=True)
    for arm in arms:
        if not _exists(arm, name):
            continue
        pairs = zip(days, arm.values[name], strict=True)
        x, y = zip(*((day, value) for day, value in pairs if math.isfinite(value)), strict=True)
        style = {"marker": {"size": 9, "symbol": "diamond"}} if arm.is_points else {}
        plot.add_scatter(
            x=x,
            y=y,
            mode="markers" if arm.is_points else "lines+markers",
            name=plain(arm.name),
            line={"color": arm.colour, "width": 2},
            **({"marker": {"size": 4, "color": arm.colour}} | style),
        )
    # between few days plotly would write hours, and around a single value negative numbers
    plot.update_xaxes(nticks=6, type="category" if len(days) <= FEW_DAYS else None)
    plot.update_yaxes(nticks=5, rangemode="nonnegative")
    return finish(plot, METRICS[name].words)
