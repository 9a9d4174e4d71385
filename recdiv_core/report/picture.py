"""The fronts of a sweep as one PNG, for places that show no HTML.

Not the plots of the page (front_plots.py), whose numbers and colours it shares.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from recdiv_core.fronts.trials import Front, Sweep, Trial, metric_of, referred
from recdiv_core.report.front_plots import (
    BASELINES,
    Shown,
    axis_title,
    error_bars,
    off_front,
    show_trials,
)
from recdiv_core.report.plots import BETWEEN, GREY, INK, KNEE, LINE

MARKERS: Final = {
    "random": "x",
    "popular": "v",
    "recent_popular": "^",
    "item_knn": "s",
    "ease": "P",
}
"""Kind of baseline -> its marker, the same shape as on the page."""
LETTERS: Final = 88
"""Width of the legend of settings below each plot, in letters."""


def draw_png(sweep: Sweep, fronts: Sequence[Front], path: Path) -> None:
    """Draw all fronts side by side, baselines in a row below, and save them as a PNG."""
    shown = show_trials(sweep, fronts[0])
    rows, columns = 1 + bool(sweep.references), len(fronts)
    picture = Figure(figsize=(5.2 * columns, 4.4 * rows + 0.3), dpi=140, layout="constrained")
    FigureCanvasAgg(picture)
    for index, front in enumerate(fronts, start=1):
        _draw_front(picture.add_subplot(rows, columns, index), front, shown)
        if sweep.references:
            axes = picture.add_subplot(rows, columns, columns + index)
            _draw_baselines(axes, front, sweep.references)
    trials = {trial.run_id: trial for front in fronts for trial in front.members}
    numbered = sorted((shown.numbers[run_id], trial.label) for run_id, trial in trials.items())
    said = ";  ".join(f"{number}: {label}" for number, label in numbered)
    said = textwrap.fill(said.encode("ascii", "replace").decode(), LETTERS * columns)
    picture.supxlabel(said, fontsize=7, parse_math=False)
    picture.savefig(path)


def _draw_front(axes: Axes, front: Front, shown: Shown) -> None:
    _prepare(axes, front)
    for trials, colour in ((off_front(front), GREY), (front.members, LINE)):
        halves = error_bars(front, trials)
        if halves:
            style = {"fmt": "none", "ecolor": colour, "elinewidth": 0.8, "capsize": 2}
            axes.errorbar(*_xy(front, trials), xerr=halves[0], yerr=halves[1], **style)
    axes.scatter(*_xy(front, off_front(front)), s=22, color=GREY, label="other trials")
    axes.plot(*_xy(front, front.members), "-o", color=BETWEEN, markersize=11, label="front")
    for trial, x, y in zip(front.members, *_xy(front, front.members), strict=True):
        number = str(shown.numbers[trial.run_id])
        axes.annotate(number, (x, y), color="white", fontsize=7, ha="center", va="center")
    for trial, name, marker, colour in (
        (front.baseline, "w = 0", "D", INK),
        (front.knee, "knee", "o", KNEE),
    ):
        if trial:
            ring: dict[str, Any] = {"marker": marker, "facecolors": "none", "edgecolors": colour}
            axes.scatter(*_xy(front, [trial]), s=300, linewidths=1.5, **ring)
            axes.scatter([], [], s=40, label=name, **ring)
    if front.judged:
        axes.legend(frameon=False, fontsize=8)


def _draw_baselines(axes: Axes, front: Front, references: Mapping[str, Trial]) -> None:
    """Draw the front small, among the baselines: they lie too far off for its own plot."""
    _prepare(axes, front)
    if front.members:
        axes.plot(*_xy(front, front.members), "-o", color=BETWEEN, markersize=4, label="front")
        axes.legend(frameon=False, fontsize=8)
    for kind, run in referred(front, references).items():
        position = BASELINES[kind][1]
        is_above, is_right = "top" in position, "right" in position
        xs, ys = _xy(front, [run])
        axes.scatter(xs, ys, s=40, marker=MARKERS[kind], color=INK)
        axes.annotate(
            kind,
            (xs[0], ys[0]),
            xytext=(6 if is_right else -6, 5 if is_above else -11),
            textcoords="offset points",
            ha="left" if is_right else "right",
            fontsize=7,
        )


def _prepare(axes: Axes, front: Front) -> None:
    axes.set_xlabel(axis_title(front.diversity, "validation"))
    axes.set_ylabel(axis_title(front.accuracy, "validation"))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e5e7eb", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(0.1)


def _xy(front: Front, trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
    x, y = metric_of(front.diversity), metric_of(front.accuracy)
    return [trial.val[x] for trial in trials], [trial.val[y] for trial in trials]
