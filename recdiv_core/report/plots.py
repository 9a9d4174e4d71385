"""How the figures of a report look: colours, an empty figure, a card around it, a table's cell.

Not what is drawn (report_page.py, slate_page.py). The one idea: text comes from users, and is
escaped here, in one place each for HTML and for plots.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import plotly.graph_objects as go

from recdiv_core.wording import number

STYLE: Final = Path(__file__).with_name("style.css")
"""Of every page."""

INK: Final = "#1f2937"
GREY: Final = "#b4bcc8"
LINE: Final = "#64748b"
KNEE: Final = "#c2410c"
ACCURATE: Final = "#1d4ed8"
BETWEEN: Final = "#0d9488"
DIVERSE: Final = "#ea8a0c"
"""From accurate to diverse, wherever trials are coloured."""


def plain(text: object) -> str:
    """Escape for plotly, which reads a little HTML in texts."""
    return html.escape(str(text), quote=False)


def new_figure(height: int, **layout: Any) -> go.Figure:
    """Return an empty figure in the page's style, `height` in pixels."""
    figure = go.Figure()
    figure.update_layout(
        height=height,
        margin={"l": 60, "r": 16, "t": 12, "b": 48},
        paper_bgcolor="white",
        plot_bgcolor="white",
        font={"family": "system-ui, -apple-system, Segoe UI, sans-serif", "color": INK, "size": 12},
        hoverlabel={"align": "left", "bgcolor": "white", "font": {"color": INK}},
        **layout,
    )
    grid = {"gridcolor": "#eef0f3", "zeroline": False, "linecolor": "#cbd5e1", "automargin": True}
    figure.update_xaxes(**grid)
    figure.update_yaxes(**grid)
    return figure


def card(figure: go.Figure, heading: str) -> str:
    """Return the HTML of a figure below a heading, which may be empty."""
    config = {"displaylogo": False, "responsive": True, "displayModeBar": False}
    plot = figure.to_html(full_html=False, include_plotlyjs=False, config=config)
    top = f"<h3>{html.escape(heading)}</h3>" if heading else ""
    return f'<div class="card">{top}{plot}</div>'


def cell(value: object) -> str:
    """Return a cell of a table: a number with four digits, text, a dash for None."""
    if value is None:
        return '<td class="number" data-value="">-</td>'
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f'<td class="number" data-value="{value}">{number(float(value))}</td>'
    text = html.escape(str(value))
    return f'<td data-value="{text}">{text}</td>'


def table(heads: Sequence[str], rows: Iterable[str]) -> str:
    """Return a table whose first column is text; rows are `<tr>...</tr>`."""
    first, *others = (html.escape(text) for text in heads)
    head = f"<th>{first}</th>" + "".join(f'<th class="number">{text}</th>' for text in others)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
