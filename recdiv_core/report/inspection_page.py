"""The page of an inspection: verdicts first, then what they are made of.

Not the figures (inspect_slates.py, sameness.py). One file that needs no network.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any, Final

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from recdiv_core.evaluation.sameness import MANY, NEAR, STARVED, Shelf
from recdiv_core.report.plots import (
    ACCURATE,
    GREY,
    KNEE,
    STYLE,
    card,
    cell,
    new_figure,
    plain,
    table,
)

PAGE: Final = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>$title</title>
<style>
$style</style>
<script>$plotly</script>
</head>
<body>
<main>
<h1>$title</h1>
<p class="meta">$meta</p>
<p class="headline">$headline</p>
$body
</main>
</body>
</html>
""")

FIGURES: Final = {
    "categories": "distinct categories in a slate",
    "ild": "ILD: mean distance of two items of a slate",
    "with_doubles": "slates with near-identical items",
    "same_slate": "users who share their slate with somebody",
    "narrower": "users with fewer categories than they chose themselves",
    "broader": "users with more",
    "coverage": "catalogue coverage",
    "gini": "Gini of exposure",
    "personalisation": "personalisation: how unlike two users' slates are",
}
"""Figure -> what it is; the first six are there for each segment."""
SHARES: Final = ("with_doubles", "same_slate", "narrower", "broader", "coverage")
OF_SEGMENTS: Final = tuple(FIGURES)[:6]
SHOWN_SHELVES: Final = 25


def draw(result: Mapping[str, Any], shelves: Sequence[Shelf], categories: Sequence[str]) -> str:
    """Return the whole page.

    Args:
        result: what `inspect` returns.
        shelves: of all categories, the most demanded first.
        categories: their names.
    """
    parts = [
        "<h2>Kinds of users</h2>"
        '<p class="hint">A verdict names what holds for '
        f"{100 * MANY:.0f} % of a segment or more. Cold: no event in the train window; then thirds "
        "by the number of events. A slate is compared with as many of the latest distinct items of "
        f"the user's history.</p>{_segments(result)}",
        f"<h2>All slates</h2>{_figures(result)}",
        "<h2>Near-identical items in one slate</h2>"
        f'<p class="hint">Clusters of items whose texts have a cosine of {NEAR} or more, by the '
        f"slates that hold two of one cluster.</p>{_clusters(result)}",
        "<h2>Shown and wanted, by category</h2>"
        '<p class="hint">Demand: share of the train events. Starved: less than '
        f"{100 * STARVED:.0f} % of its share.</p>"
        f"{card(_shelf_figure(shelves, categories), '')}{_starved(result)}",
    ]
    return PAGE.substitute(
        title=html.escape(f"Slates of {result['num_users']:,} users"),
        style=STYLE.read_text(encoding="utf-8"),
        meta=html.escape(str(result["slates"])),
        headline=html.escape(str(result["verdict"])),
        body="".join(parts),
        plotly=get_plotlyjs(),
    )


def _said(name: str, value: float) -> str:
    text = f"{100 * value:.1f} %" if name in SHARES else f"{value:.3f}"
    return f'<td class="number">{text}</td>'


def _segments(result: Mapping[str, Any]) -> str:
    heads = ["users", "how many", *(FIGURES[name] for name in OF_SEGMENTS), "verdict"]
    everybody = {
        **result["figures"],
        "num_users": result["num_users"],
        "verdict": result["verdict"],
    }
    rows: list[str] = []
    for name, figures in {"all": everybody, **result["segments"]}.items():
        numbers = "".join(_said(key, figures[key]) for key in OF_SEGMENTS)
        rows.append(
            f'<tr>{cell(name)}<td class="number">{figures["num_users"]:,}</td>{numbers}'
            f'<td style="white-space: normal">{html.escape(figures["verdict"])}</td></tr>'
        )
    return table(heads, rows)


def _figures(result: Mapping[str, Any]) -> str:
    before = result["before"]
    heads = ["figure", "now", *(["before", "change"] if before else [])]
    rows: list[str] = []
    for name, text in FIGURES.items():
        value = result["figures"][name]
        cells = cell(text) + _said(name, value)
        if before:
            change = value - before[name]
            shown = f"{100 * change:+.1f} points" if name in SHARES else f"{change:+.3f}"
            cells += _said(name, before[name]) + f'<td class="number">{shown}</td>'
        rows.append(f"<tr>{cells}</tr>")
    return table(heads, rows)


def _clusters(result: Mapping[str, Any]) -> str:
    if not result["near_identical"]:
        return '<p class="hint">None.</p>'
    rows: list[str] = []
    for cluster in result["near_identical"]:
        more = cluster["num_items"] - len(cluster["titles"])
        titles = "<br>".join(f"<bdi>{html.escape(title)}</bdi>" for title in cluster["titles"])
        titles += f"<br><small>and {more} more</small>" if more else ""
        rows.append(
            f'<tr><td>{titles}</td><td class="number">{cluster["num_items"]:,}</td>'
            f'<td class="number">{cluster["num_slates"]:,}</td></tr>'
        )
    return table(["items", "how many", "slates with two or more"], rows)


def _shelf_figure(shelves: Sequence[Shelf], categories: Sequence[str]) -> go.Figure:
    shown = list(shelves[:SHOWN_SHELVES])[::-1]
    names = [plain(categories[shelf.category]) for shelf in shown]
    figure = new_figure(
        120 + 22 * len(shown),
        barmode="group",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    figure.update_layout(margin_t=36)
    figure.update_xaxes(tickformat=".0%", title_text="share")
    figure.update_yaxes(type="category", tickfont={"size": 10})
    for label, colour, shares in (
        ("demand", GREY, [shelf.demand for shelf in shown]),
        ("exposure", ACCURATE, [shelf.exposure for shelf in shown]),
    ):
        figure.add_bar(x=shares, y=names, orientation="h", name=label, marker={"color": colour})
    return figure


def _starved(result: Mapping[str, Any]) -> str:
    if not result["starved"]:
        return '<p class="hint">No category of weight is starved.</p>'
    rows = [
        f'<tr><td style="color:{KNEE}">{html.escape(shelf["category"])}</td>'
        f'<td class="number">{100 * shelf["demand"]:.1f} %</td>'
        f'<td class="number">{100 * shelf["exposure"]:.1f} %</td></tr>'
        for shelf in result["starved"]
    ]
    return table(["starved", "demand", "exposure"], rows)
