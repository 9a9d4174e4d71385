"""The lower half of a report: what the slates of the judged runs are like, as HTML.

Not the figures (slate_views.py) nor the users that are shown (slate_examples.py). The one idea: a
run keeps its colour in all plots, blue, green and orange from accurate to diverse as on the front
above, and whatever is shown is of the test split, where nothing was chosen.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any, Final

import plotly.graph_objects as go

from recdiv_core.fronts.trials import Front, Trial, metric_of
from recdiv_core.metrics.fairness import MIN_SIZE
from recdiv_core.report.plots import (
    ACCURATE,
    BETWEEN,
    DIVERSE,
    GREY,
    card,
    cell,
    new_figure,
    plain,
    table,
)
from recdiv_core.report.slate_examples import RULES, Example, Item
from recdiv_core.report.slate_metrics import SEGMENT_METRICS, Estimate
from recdiv_core.report.slate_views import SlateViews
from recdiv_core.wording import number, title

COLOURS: Final = (ACCURATE, BETWEEN, DIVERSE)
COMPARED: Final = (
    "ndcg",
    "recall",
    "hit",
    "coverage",
    "gini",
    "ild",
    "diversity_index",
    "novelty",
)
SLICE_METRICS: Final = ("ndcg", "recall", "ild", "diversity_index")
SAMENESS: Final = {
    "with_doubles": "slates with near-identical items",
    "same_slate": "users who share their slate with somebody",
    "narrower": "users with fewer categories than they chose themselves",
    "broader": "users with more",
}
LEGEND: Final = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
BAR: Final = {"color": "#475569", "thickness": 1.2, "width": 4}
"""Of errors."""


def unseen(reason: str) -> str:
    """Return the section of a report whose runs could not be judged again."""
    return f'<h2>What the slates are like</h2><p class="hint">Not shown: {html.escape(reason)}</p>'


def section(views: SlateViews, fronts: Sequence[Front]) -> str:
    """Return the whole section."""
    roles = [
        f'<span><i style="background:{colour}"></i>{html.escape(role)}: '
        f"{html.escape(_named(trial))}</span>"
        for role, trial, colour in zip(views.roles, views.trials, COLOURS, strict=False)
    ]
    notes = "".join(f'<p class="hint">{html.escape(note)}</p>' for note in views.notes)
    tests = "".join(
        card(figure, _against(front))
        for front in fronts
        if (figure := _test_front(front, views)) is not None
    )
    return (
        "<h2>What the slates are like</h2>"
        f'<p class="hint">{len(views.roles)} run(s) judged again, from their checkpoints, on all '
        f"{views.num_users:,} users of the test split, slates of {views.k}. They were chosen on "
        "validation; nothing below was used to choose. All intervals are 95 %, over users: they "
        "say what other users would do to the figures, not what another training seed would.</p>"
        f'<p class="roles">{"".join(roles)}</p>{notes}'
        '<h3 class="part">The front on test</h3>'
        '<p class="hint">The members of the front at their test figures; grey: not judged again. '
        "The bars are of each figure alone; two runs on the same users differ more surely than "
        "their bars suggest: see the table.</p>"
        f'<div class="curves">{tests}</div>'
        f"{_differences(views)}"
        '<div class="pair">'
        f"{card(_exposure_figure(views), 'Who gets shown: exposure over the catalogue')}"
        f"{card(_band_figure(views), 'Coverage by popularity')}</div>"
        '<p class="hint">Left: the items from least to most shown; the further a curve lies below '
        "the diagonal, the more of the exposure goes to few items. Right: of each tenth of the "
        "catalogue by train events, the share that stands in any slate; cold items have no train "
        "event.</p>"
        f"{_sameness_section(views)}{_segment_section(views)}{_slice_section(views)}{_example_section(views)}"
    )


def _named(trial: Trial) -> str:
    return trial.name if trial.label in trial.name else f"{trial.name} ({trial.label})"


def _against(front: Front) -> str:
    return f"{title(metric_of(front.diversity))} against {title(metric_of(front.accuracy))}, test"


def _test_front(front: Front, views: SlateViews) -> go.Figure | None:
    """Draw a front at its test figures, with intervals where runs were judged again."""
    names = [metric_of(front.diversity), metric_of(front.accuracy)]
    keys = [name.removesuffix(f"_at_{views.k}") for name in names]
    if not all(key in own for key in keys for own in views.figures):
        return None  # an objective of another cut-off, or a loss
    seen = {trial.run_id for trial in views.trials}
    others = [
        trial
        for trial in front.members
        if trial.run_id not in seen and all(name in trial.test for name in names)
    ]
    figure = new_figure(340, legend=LEGEND, hovermode="closest")
    figure.update_layout(margin_t=36)
    figure.update_xaxes(title_text=f"{title(names[0])}, test")
    figure.update_yaxes(title_text=f"{title(names[1])}, test")
    figure.add_scatter(
        x=[trial.test[names[0]] for trial in others],
        y=[trial.test[names[1]] for trial in others],
        mode="markers",
        marker={"size": 8, "color": GREY},
        hovertext=[plain(trial.name) for trial in others],
        hoverinfo="text",
        showlegend=False,
    )
    for place, role in enumerate(views.roles):
        x, y = (views.figures[place][key] for key in keys)
        figure.add_scatter(
            x=[x.value],
            y=[y.value],
            error_x=_error([x]) | {"color": COLOURS[place]},
            error_y=_error([y]) | {"color": COLOURS[place]},
            mode="markers",
            marker={"size": 10, "color": COLOURS[place]},
            name=plain(role),
            hovertext=[
                f"{plain(role)}<br>{_said(names[0], x)}<br>{_said(names[1], y)}",
            ],
            hoverinfo="text",
        )
    return figure


def _said(metric: str, estimate: Estimate) -> str:
    low, high = number(estimate.low), number(estimate.high)
    return f"{title(metric)} {number(estimate.value)}, 95 %: {low} to {high}"


def _error(estimates: Sequence[Estimate]) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [each.high - each.value for each in estimates],
        "arrayminus": [each.value - each.low for each in estimates],
        **BAR,
    }


def _differences(views: SlateViews) -> str:
    """Return the table of figures, each run against the first."""
    if not views.differences:
        return ""
    first, *others = views.roles
    heads = ["figure", first]
    for role in others:
        heads += [role, f"change against {first}", "95 % interval"]
    rows: list[str] = []
    for name in COMPARED:
        cells = [cell(title(f"{name}_at_{views.k}")), cell(views.figures[0][name].value)]
        for place, of_run in enumerate(views.differences, start=1):
            cells += [cell(views.figures[place][name].value), *_change(of_run[name])]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<h3 class="part">Against {html.escape(first)}, on the same users</h3>'
        f"{table(heads, rows)}"
        '<p class="hint">Shaded: the interval of the difference leaves out 0. Of so many figures '
        "one in twenty would do that by chance; pipelines.compare corrects for what is claimed.</p>"
    )


def _change(entry: Mapping[str, Any]) -> list[str]:
    low, high = entry["low"], entry["high"]
    is_clear = low is not None and (low > 0 or high < 0)
    percent, span = "-", "-"
    if entry["percent"] is not None:
        percent = f"{entry['percent']:+.1f} %"
    if entry["percent_low"] is not None:
        span = f"{entry['percent_low']:+.1f} to {entry['percent_high']:+.1f} %"
    kind = "number clear" if is_clear else "number"
    return [f'<td class="{kind}">{percent}</td>', f'<td class="number">{span}</td>']


def _exposure_figure(views: SlateViews) -> go.Figure:
    figure = new_figure(340, legend={"x": 0.02, "y": 0.98, "bgcolor": "rgba(255,255,255,0.8)"})
    percent = {"tickformat": ".0%", "range": [0, 1.01], "dtick": 0.2}
    figure.update_xaxes(title_text="share of items, the least shown first", **percent)
    figure.update_yaxes(title_text="share of exposure", **percent)
    figure.add_scatter(
        x=[0, 1],
        y=[0, 1],
        mode="lines",
        line={"color": GREY, "width": 1, "dash": "dot"},
        name="all items alike",
        hoverinfo="skip",
    )
    for place, role in enumerate(views.roles):
        items, exposure = views.exposure[place]
        figure.add_scatter(
            x=items.round(5).tolist(),
            y=exposure.round(5).tolist(),
            mode="lines",
            line={"color": COLOURS[place], "width": 2},
            name=f"{plain(role)}, Gini {number(views.figures[place]['gini'].value)}",
            hovertemplate="%{x:.1%} of the items have %{y:.1%}<extra></extra>",
        )
    return figure


def _band_figure(views: SlateViews) -> go.Figure:
    figure = new_figure(340, legend=LEGEND, barmode="group", bargap=0.25, bargroupgap=0.05)
    figure.update_layout(margin_t=36)
    figure.update_xaxes(
        title_text="tenth of the catalogue, from few train events to many", type="category"
    )
    figure.update_yaxes(title_text="share in any slate", tickformat=".0%", rangemode="tozero")
    for place, role in enumerate(views.roles):
        figure.add_bar(
            x=[band.name for band in views.bands],
            y=list(views.band_coverage[place]),
            name=plain(role),
            marker={"color": COLOURS[place]},
            hovertext=[
                f"{band.num_items:,} items with {band.events[0]:,} to {band.events[1]:,} train "
                f"events<br>{plain(role)}: {100 * share:.1f} % in a slate"
                for band, share in zip(views.bands, views.band_coverage[place], strict=True)
            ],
            hoverinfo="text",
        )
    return figure


def _sameness_section(views: SlateViews) -> str:
    rows = [
        f"<tr>{cell(text)}"
        + "".join(f'<td class="number">{100 * own[name]:.1f} %</td>' for own in views.sameness)
        + "</tr>"
        for name, text in SAMENESS.items()
    ]
    counts = "".join(f'<td class="number">{count}</td>' for count in views.starved)
    rows.append(
        f"<tr>{cell('categories with less than half their share of exposure')}{counts}</tr>"
    )
    return (
        '<h3 class="part">Is it always the same?</h3>'
        '<p class="hint">As pipelines.inspect looks at slates: near-identical are two items whose '
        "texts have a cosine of 0.95 or more; a slate is compared with as many of the latest items "
        f"of the history.</p>{table(['', *views.roles], rows)}"
    )


def _segment_section(views: SlateViews) -> str:
    if not views.segments:
        return ""
    cards = "".join(
        card(_segment_figure(views, metric), title(f"{metric}_at_{views.k}"))
        for metric in SEGMENT_METRICS
    )
    return (
        '<h3 class="part">By kind of user</h3>'
        '<p class="hint">With the number of users. Cold: no event in the train window. On the '
        "right, thirds by the number of events in the history; users of equal length stay "
        f"together. Groups of fewer than {MIN_SIZE} users are left out.</p>"
        f'<div class="curves">{cards}</div>'
    )


def _segment_figure(views: SlateViews, metric: str) -> go.Figure:
    figure = new_figure(270, showlegend=False, barmode="group", bargap=0.25, bargroupgap=0.05)
    figure.update_layout(margin={"l": 48, "r": 10, "t": 8, "b": 44})
    figure.update_xaxes(type="category", tickangle=0, tickfont={"size": 10})
    figure.update_yaxes(rangemode="tozero")
    for place, role in enumerate(views.roles):
        estimates = [segment.figures[metric][place] for segment in views.segments]
        figure.add_bar(
            x=[f"{segment.name}<br>({segment.num_users:,})" for segment in views.segments],
            y=[each.value for each in estimates],
            error_y=_error(estimates) | {"width": 2},
            marker={"color": COLOURS[place]},
            hovertext=[
                f"{segment.name}: {segment.num_users:,} users<br>{plain(role)}<br>"
                f"{_said(f'{metric}_at_{views.k}', each)}"
                for segment, each in zip(views.segments, estimates, strict=True)
            ],
            hoverinfo="text",
        )
    return figure


def _slice_section(views: SlateViews) -> str:
    """Return the slices of the first two runs side by side."""
    pair = views.slices[:2]
    if not pair[0]:
        return ""
    names = [f"{name}_at_{views.k}" for name in SLICE_METRICS]
    roles = views.roles[:2]
    heads = ["part of the shop", "users"]
    heads += [f"{title(name)}, {role}" for name in names for role in roles]
    rows: list[str] = []
    for group, figures in pair[0].items():
        cells = [cell(group), f'<td class="number">{figures["num_users"]:,}</td>']
        cells += [cell(own[group][name]) for name in names for own in pair]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        '<h3 class="part">Parts of the shop</h3>'
        '<p class="hint">As pipelines.evaluate reports them (eval.slices). A part named after '
        "items (popularity, category, a column) holds the users who wanted such an item, judged by "
        f"those items alone.</p>{table(heads, rows)}"
    )


# --------------------------------------------------------------------------- examples


def _example_section(views: SlateViews) -> str:
    changes = views.changes
    if changes is None or not views.examples:
        return ""
    before, after = (html.escape(role) for role in views.roles[:2])
    rules = html.escape("; ".join(f"{count} {rule}" for rule, count in RULES))
    more, fewer = (
        f"{count:,} ({100 * count / changes.num_users:.1f} %)"
        for count in (changes.num_more, changes.num_fewer)
    )
    return (
        f"<h2>Slates of real users: {before} and {after}</h2>"
        f'<p class="hint">Chosen by rule, none by eye: all users are ordered by how many items '
        f"their two slates have in common, the most changed first, ties in the order of the data; "
        f"taken are {rules}. Of all {changes.num_users:,} users, {more} get more of what they took "
        f"next from the {after}, {fewer} fewer; on average {changes.mean_common:.1f} of "
        f"{views.k} items are in both slates.</p>"
        '<p class="hint">A tick marks an item that the user did take next; bold, an item that the '
        "other slate does not have. Equal colours are equal categories.</p>"
        + "".join(_example(example, views.roles[:2]) for example in views.examples)
    )


def _example(example: Example, roles: Sequence[str]) -> str:
    hues = _hues(example)
    none = frozenset[int]()
    columns = [
        _column(
            f"History of {example.num_history}, the latest first",
            [_line(item, hues, wanted=none, own=none) for item in example.history],
            "" if example.history else "no event before",
        )
    ]
    sets = [frozenset(item.index for item in slate) for slate in example.slates]
    for place, (role, slate) in enumerate(zip(roles, example.slates, strict=True)):
        own = sets[place] - sets[1 - place]
        figures = [f"{title(name)} {number(pair[place])}" for name, pair in example.figures.items()]
        num_categories = len({item.category for item in slate if item.category})
        columns.append(
            _column(
                role,
                [_line(item, hues, wanted=example.wanted, own=own) for item in slate],
                ", ".join([f"categories {num_categories}", *figures]),
            )
        )
    num_more = example.num_targets - len(example.targets)
    wanted = "; ".join(f"<bdi>{html.escape(item.title)}</bdi>" for item in example.targets)
    wanted += f" and {num_more} more" if num_more else ""
    return (
        f'<div class="card example"><h3>User <bdi>{html.escape(example.user_id)}</bdi>'
        f"<small>{html.escape(example.rule)}</small></h3>"
        f'<p class="hint">Took next: {wanted}</p><div class="slates">{"".join(columns)}</div></div>'
    )


def _column(head: str, lines: Sequence[str], below: str) -> str:
    return (
        f"<div><h4>{html.escape(head)}</h4><ol>{''.join(lines)}</ol>"
        f'<p class="hint">{html.escape(below)}</p></div>'
    )


def _line(
    item: Item, hues: Mapping[str, str], *, wanted: frozenset[int], own: frozenset[int]
) -> str:
    """Return an item of a list; a hit where the user wanted it, bold where no other has it."""
    marks = {"own": item.index in own, "hit": item.index in wanted}
    below = " \u00b7 ".join(
        f"<bdi>{html.escape(text)}</bdi>" for text in (item.category, item.brand) if text
    )
    name = html.escape(item.title)
    return (
        f'<li class="{" ".join(mark for mark, holds in marks.items() if holds)}" '
        f'style="border-color:{hues[item.category]}"><bdi title="{name}">{name}</bdi>'
        f"<small>{below}</small></li>"
    )


def _hues(example: Example) -> dict[str, str]:
    """Give each category of an example a colour of its own, in order of appearance."""
    shown = [item for items in (*example.slates, example.history) for item in items]
    categories = list(dict.fromkeys(item.category for item in shown))
    hues = {
        category: f"hsl({int(137.5 * place) % 360} 55% {62 if place % 2 else 48}%)"
        for place, category in enumerate(categories)
    }
    return hues | {"": GREY}
