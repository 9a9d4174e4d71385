"""Colours and common parts of the plots of all pages.

Not the plots themselves (front_plots.py, slate_plots.py). The one idea: plotly reads a little HTML
in texts, so that every text of a user goes through `plain`.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import plotly.graph_objects as go
from markupsafe import Markup

INK: Final = "#1f2937"
GREY: Final = "#b4bcc8"
LINE: Final = "#64748b"
KNEE: Final = "#c2410c"
ACCURATE: Final = "#1d4ed8"
BETWEEN: Final = "#0d9488"
DIVERSE: Final = "#c56a00"
"""The scale from accurate to diverse; white text is legible on each."""
LEGEND: Final = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
FONT: Final = "system-ui, -apple-system, Segoe UI, sans-serif"


class Plot(NamedTuple):
    """A plot as HTML, and its heading, which may be empty."""

    heading: str
    html: Markup


def plain(text: object) -> str:
    """Escape for plotly, which reads a little HTML in texts."""
    return html.escape(str(text), quote=False)


def new_plot(height: int, margin: Mapping[str, int] | None = None, **layout: Any) -> go.Figure:
    """Return an empty plot in the style of the pages.

    `margin` has the margins in pixels that differ from the usual ones, `layout` other parts of
    plotly's layout.
    """
    plot = go.Figure()
    plot.update_layout(
        height=height,
        margin={"l": 60, "r": 16, "t": 12, "b": 48} | dict(margin or {}),
        paper_bgcolor="white",
        plot_bgcolor="white",
        font={"family": FONT, "color": INK, "size": 12},
        hoverlabel={"align": "left", "bgcolor": "white", "font": {"color": INK}},
        **layout,
    )
    grid = {"gridcolor": "#eef0f3", "zeroline": False, "linecolor": "#cbd5e1", "automargin": True}
    plot.update_xaxes(**grid)
    plot.update_yaxes(**grid)
    return plot


def finish(plot: go.Figure, heading: str = "") -> Plot:
    """Return a plot as HTML; plotly escapes the texts in its script."""
    config = {"displaylogo": False, "responsive": True, "displayModeBar": False}
    return Plot(
        heading, Markup(plot.to_html(full_html=False, include_plotlyjs=False, config=config))
    )
