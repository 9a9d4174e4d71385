"""The page of an inspection: plain rows and one plot for templates/inspection.html.

Not the metrics (inspection.py, evaluation/sameness.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from recdiv_core.evaluation.sameness import MANY, NEAR, STARVED, VARIED, WORTH_NAMING, Shelf
from recdiv_core.report import plots
from recdiv_core.report.plots import Plot, finish, new_plot, plain
from recdiv_core.report.templates import Cell, Table, cell, percent, render
from recdiv_core.wording import counted

METRICS: Final = {
    "categories": "distinct categories in a slate",
    "ild": "ILD: mean distance of two items of a slate",
    "with_doubles": "slates with near-identical items",
    "same_slate": "slates with the same items as another slate",
    "narrowed": "slates with fewer categories than as many of the latest items of the history",
    "broadened": "slates with more categories than as many of the latest items of the history",
    "coverage": "coverage: share of the catalogue in any slate",
    "gini": "Gini: inequality of exposure, 0 = all items equally often",
    "personalisation": "personalisation: how much the slates of two users differ",
}
"""Metric -> meaning; segments have the first six."""
SHARES: Final = ("with_doubles", "same_slate", "narrowed", "broadened", "coverage")
OF_SEGMENTS: Final = tuple(METRICS)[:6]
SHOWN_SHELVES: Final = 25


def inspection_page(
    result: Mapping[str, Any], shelves: Sequence[Shelf], categories: Sequence[str], note: str = ""
) -> str:
    """Return the whole page."""
    clusters = [
        {
            "titles": cluster["titles"],
            "num_more": cluster["num_items"] - len(cluster["titles"]),
            "num_items": cell(cluster["num_items"]),
            "num_slates": cell(cluster["num_slates"]),
        }
        for cluster in result["near_identical"]
    ]
    starved = [
        [
            Cell(shelf["category"], kind="starved"),
            *map(percent, (shelf["demand"], shelf["exposure"])),
        ]
        for shelf in result["starved"]
    ]
    return render(
        "inspection.html",
        title=f"Slates of {counted(result['num_users'], result['of'][:-1])}",
        meta=result["slates"],
        headline=_headline(result),
        of=result["of"],
        many=f"{100 * MANY:.0f} %",
        near=NEAR,
        note=note,
        starved_share=f"{100 * STARVED:.0f} %",
        worth_naming=f"{100 * WORTH_NAMING:.1f} %",
        segments=_segments(result),
        metrics=_metrics(result),
        clusters=clusters,
        shelf_plot=_shelf_plot(shelves[:SHOWN_SHELVES], categories),
        starved=Table(["category", "demand", "exposure"], starved),
    )


def _headline(result: Mapping[str, Any]) -> str:
    if result["verdict"] != VARIED:
        return str(result["verdict"])
    return f"Varied: no finding holds for {100 * MANY:.0f} % of the {result['of']} or more"


def _value(name: str, value: float) -> Cell:
    return percent(value) if name in SHARES else Cell(f"{value:.3f}", kind="number")


def _segments(result: Mapping[str, Any]) -> Table:
    everybody = {**result["figures"], "num_users": result["num_users"]}
    everybody["verdict"] = result["verdict"]
    rows = [
        [
            cell(name if name in ("all", "cold", "warm") else f"{name} events"),
            cell(metrics["num_users"]),
            *(_value(key, metrics[key]) for key in OF_SEGMENTS),
            Cell(metrics["verdict"], kind="prose"),
        ]
        for name, metrics in {"all": everybody, **result["segments"]}.items()
    ]
    heads = [result["of"], "number", *(METRICS[name] for name in OF_SEGMENTS), "finding"]
    return Table(heads, rows)


def _metrics(result: Mapping[str, Any]) -> Table:
    before = result["before"]
    rows: list[list[Cell]] = []
    for name, meaning in METRICS.items():
        value = result["figures"][name]
        row = [cell(meaning), _value(name, value)]
        if before:
            change = value - before[name]
            text = f"{100 * change:+.1f} points" if name in SHARES else f"{change:+.3f}"
            row += [_value(name, before[name]), Cell(text, kind="number")]
        rows.append(row)
    return Table(["metric", "now", *(["before", "change"] if before else [])], rows)


def _shelf_plot(shelves: Sequence[Shelf], categories: Sequence[str]) -> Plot:
    shown = shelves[::-1]  # plotly begins at the bottom
    names = [plain(categories[shelf.category]) for shelf in shown]
    plot = new_plot(120 + 22 * len(shown), {"t": 36}, barmode="group", legend=plots.LEGEND)
    plot.update_xaxes(tickformat=".0%", title_text="share")
    plot.update_yaxes(type="category", tickfont={"size": 10})
    for label, colour, shares in (
        ("demand", plots.GREY, [shelf.demand for shelf in shown]),
        ("exposure", plots.ACCURATE, [shelf.exposure for shelf in shown]),
    ):
        plot.add_bar(x=shares, y=names, orientation="h", name=label, marker={"color": colour})
    return finish(plot)
