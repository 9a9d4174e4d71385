"""The first screen of a report: what the recommended trial changes, for somebody with one minute.

Not the choice (fronts/choice.py) nor the users shown (slate_examples.py). The one idea: four
metrics in words, each as a change against w = 0 with its interval, and the slates of typical users
before and after. More is better for each of the four.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from recdiv_core.fronts.choice import Choice
from recdiv_core.fronts.operating import Changed, Paired, changed, table_metrics
from recdiv_core.report import plots
from recdiv_core.report.plots import Plot, finish, new_plot
from recdiv_core.report.slate_examples import TYPICAL, Example
from recdiv_core.report.slate_page import category_colours
from recdiv_core.report.slate_views import CHOSEN, SlateViews
from recdiv_core.wording import title

MEANINGS: Final = {
    "ndcg": "accuracy: what users took next",
    "coverage": "share of the catalogue shown",
    "ild": "difference of the items in a slate",
    "diversity_index": "evenness of categories in a slate",
}
"""Metric of a bar -> its meaning in words; more is better."""
ROLES: Final = {
    "w = 0": "plain model",
    "most accurate": "most accurate trial",
    "chosen point": "recommended",
    "nearest": "nearest trial",
}
"""Role of a run on the page -> its name on the first screen."""
SHOWN_HISTORY: Final = 3


@dataclass(frozen=True)
class Bar:
    """A metric, its meaning in words, and its change."""

    metric: str
    meaning: str
    change: Changed


def first_screen(
    choice: Choice, paired: Paired, views: SlateViews | None
) -> dict[str, object] | None:
    """Return the variables of templates/first_screen.html; None without a trial to show."""
    bars = change_bars(choice, paired)
    if not bars:
        return None
    examples: list[dict[str, object]] = []
    if views is not None and len(views.roles) > 1 and views.roles[1] in CHOSEN:
        typical = [own for own in views.examples if own.rule == TYPICAL]
        examples = [_before_after(own, views.roles) for own in typical]
    return {
        "is_recommended": choice.recommended is not None,
        "plot": bar_plot(bars),
        "has_intervals": all(bar.change.low is not None for bar in bars),
        "examples": examples,
        "num_new": f"{views.k - views.changes.mean_common:.1f}" if views and views.changes else "",
        "k": views.k if views else 0,
        "are_derived": views is not None and views.are_derived,
        "has_queries": views is not None and views.has_queries,
    }


def change_bars(choice: Choice, paired: Paired) -> list[Bar]:
    """Return the four changes of the recommended, else the nearest trial, on test."""
    pick, reference = choice.recommended or choice.nearest, choice.reference
    if pick is None or reference is None:
        return []
    bars: list[Bar] = []
    for metric in table_metrics(choice):
        meaning = MEANINGS.get(metric.partition("_at_")[0])
        change = changed(pick, reference, metric, paired)
        if meaning and change.percent is not None:
            bars.append(Bar(metric, meaning, change))
    return bars


def bar_plot(bars: Sequence[Bar]) -> Plot:
    """Draw horizontal bars: a clear gain, a clear loss, or a change that may be chance."""
    plot = new_plot(44 * len(bars) + 46, {"l": 10, "r": 24, "t": 6, "b": 34}, showlegend=False)
    names = [f"{bar.meaning}<br><b>{title(bar.metric)}</b>" for bar in bars]
    plot.update_xaxes(title_text="change against the plain model, %", ticksuffix=" %")
    plot.update_xaxes(zeroline=True, zerolinecolor=plots.INK, zerolinewidth=1)
    plot.update_yaxes(autorange="reversed", type="category", showgrid=False)
    plot.add_bar(
        x=[bar.change.percent for bar in bars],
        y=names,
        orientation="h",
        width=0.56,
        marker={"color": [_colour(bar.change) for bar in bars]},
        error_x=_interval(bars),
        hovertext=[f"{title(bar.metric)}: {bar.change.note}" for bar in bars],
        hoverinfo="text",
    )
    ends = [max(0.0, bar.change.percent or 0.0, bar.change.high or 0.0) for bar in bars]
    for name, bar, end in zip(names, bars, ends, strict=True):
        note = f"<b>{bar.change.percent:+.1f} %</b>"
        note += (
            f" [{bar.change.low:+.1f}, {bar.change.high:+.1f}]"
            if bar.change.low is not None
            else ""
        )
        plot.add_annotation(x=end, y=name, text=note, xanchor="left", xshift=8, showarrow=False)
    lows = [min(0.0, bar.change.percent or 0.0, bar.change.low or 0.0) for bar in bars]
    span = max(ends) - min(lows) or 1.0
    plot.update_xaxes(range=[min(lows) - 0.04 * span, max(ends) + 0.32 * span])  # room for notes
    return finish(plot)


def _colour(change: Changed) -> str:
    low, high = change.low, change.high
    if low is None or high is None or low <= 0 <= high:
        return plots.GREY
    return plots.BETWEEN if low > 0 else plots.KNEE


def _interval(bars: Sequence[Bar]) -> Mapping[str, Any]:
    """Return error bars; a bar without an interval has none."""

    def reach(end: float | None, bar: Bar) -> float:
        return 0.0 if end is None else abs(end - (bar.change.percent or 0.0))

    return {
        "type": "data",
        "symmetric": False,
        "array": [reach(bar.change.high, bar) for bar in bars],
        "arrayminus": [reach(bar.change.low, bar) for bar in bars],
        "color": plots.INK,
        "thickness": 1.4,
        "width": 4,
    }


def _before_after(example: Example, roles: Sequence[str]) -> dict[str, object]:
    """Return a user's two slates, and what changed in words."""
    before, after = example.slates[:2]
    counts = [len({item.category for item in slate if item.category}) for slate in (before, after)]
    new = {item.index for item in after} - {item.index for item in before}
    changes = f"{len(new)} of {len(after)} items new"
    if any(counts):
        categories = "category" if counts[0] == 1 else "categories"
        changes = f"{counts[0]} {categories} before, {counts[1]} after; {changes}"
    return {
        "user_id": example.user_id,
        "history": [item.title for item in example.history[:SHOWN_HISTORY]],
        "changes": changes,
        "slates": [(ROLES[roles[0]], before), (ROLES[roles[1]], after)],
        "new": ((), new),
        "wanted": example.wanted,
        "colours": category_colours(example),
    }
