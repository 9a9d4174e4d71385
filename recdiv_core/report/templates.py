"""Fill the HTML templates of the pages.

Not the content of a page (sweep_page.py, slate_page.py, inspection_page.py). The one idea: Python
computes plain rows, a template lays them out, and Jinja2 escapes every value, because names and
titles come from users. Only the style sheet and the plots enter a page as HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from recdiv_core.wording import number

TEMPLATES: Final = Path(__file__).with_name("templates")
STYLE: Final = Path(__file__).with_name("style.css")


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: What is shown.
        sort: Value that a click on the column's head sorts by.
        note: Smaller text behind the value, in brackets.
        hint: Text that a mouse over the cell shows.
        kind: CSS classes.
    """

    text: str
    sort: object = ""
    note: str = ""
    hint: str = ""
    kind: str = ""


class Table(NamedTuple):
    """A table: its heads and its rows, as long as the heads."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def cell(value: object, half: float | None = None, **more: str) -> Cell:
    """Return a cell: a float with four digits, a whole number with commas, text, a dash for None.

    `half` is half the width of the number's interval; `more` are other attributes of the cell.

    >>> cell(0.123456).text, cell(1200).text, cell(None).text, cell("ild").text
    ('0.1235', '1,200', '-', 'ild')
    """
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        return Cell(str(value), sort=str(value), **more)
    text = f"{value:,}" if isinstance(value, int) else within(value, half)
    return Cell(text, sort="" if value is None else value, **{"kind": "number"} | more)


def percent(share: float) -> Cell:
    """Return a cell with a share in per cent."""
    return Cell(f"{100 * share:.1f} %", sort=share, kind="number")


def within(value: float | None, half: float | None = None) -> str:
    """Return a number, with half the width of its interval where that is known."""
    return number(value) + ("" if half is None else f" \u00b1 {half:.2g}")


def render(name: str, **values: object) -> str:
    """Return a page."""
    style = Markup(STYLE.read_text(encoding="utf-8"))
    plotly = Markup(get_plotlyjs())
    return environment().get_template(name).render(style=style, plotly=plotly, **values)


@cache
def environment() -> Environment:
    """Return the templates; a variable that a template misses is an error."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
