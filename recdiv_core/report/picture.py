"""The fronts of a sweep as one PNG, for places that show no HTML.

Not the plots of the page (front_plots.py), whose numbers it shares. Baselines are on the page only:
they lie too far off.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from recdiv_core.fronts.choice import Choice
from recdiv_core.fronts.trials import Front, Sweep, Trial, metric_of
from recdiv_core.report import plots
from recdiv_core.report.front_plots import (
    Shown,
    axis_title,
    error_bars,
    off_front,
    show_trials,
)

LETTERS: Final = 88
"""Letters in a line of settings below each plot."""


def draw_png(sweep: Sweep, choice: Choice, fronts: Sequence[Front], path: Path) -> None:
    """Draw all fronts side by side, with the settings of their members, and save them as a PNG."""
    shown = show_trials(sweep, choice)
    picture = Figure(figsize=(5.2 * len(fronts), 4.7), dpi=140, layout="constrained")
    FigureCanvasAgg(picture)
    for index, front in enumerate(fronts, start=1):
        _draw_front(picture.add_subplot(1, len(fronts), index), front, shown)
    trials = {trial.run: trial for front in fronts for trial in front.members}
    numbered = sorted((shown.numbers[run], trial.label) for run, trial in trials.items())
    said = ";  ".join(f"{number}: {label}" for number, label in numbered)
    said = textwrap.fill(said.encode("ascii", "replace").decode(), LETTERS * len(fronts))
    picture.supxlabel(said, fontsize=7, parse_math=False)
    picture.savefig(path)


def _draw_front(axes: Axes, front: Front, shown: Shown) -> None:
    axes.set_xlabel(axis_title(front.diversity, "validation"))
    axes.set_ylabel(axis_title(front.accuracy, "validation"))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e5e7eb", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(0.1)
    for trials, colour in ((off_front(front), plots.GREY), (front.members, plots.LINE)):
        halves = error_bars(front, trials)
        if halves:
            style = {"fmt": "none", "ecolor": colour, "elinewidth": 0.8, "capsize": 2}
            axes.errorbar(*_xy(front, trials), xerr=halves[0], yerr=halves[1], **style)
    axes.scatter(*_xy(front, off_front(front)), s=22, color=plots.GREY, label="other trials")
    axes.plot(*_xy(front, front.members), "-o", color=plots.BETWEEN, markersize=11, label="front")
    for trial, x, y in zip(front.members, *_xy(front, front.members), strict=True):
        number = str(shown.numbers[trial.run])
        axes.annotate(number, (x, y), color="white", fontsize=7, ha="center", va="center")
    for trial, name, marker, colour in (
        (front.baseline, "w = 0", "D", plots.INK),
        (front.knee, "knee", "o", plots.KNEE),
        (shown.recommended, "recommended", "s", plots.DIVERSE),
    ):
        if trial and trial in front.points:
            ring: dict[str, Any] = {"marker": marker, "facecolors": "none", "edgecolors": colour}
            axes.scatter(*_xy(front, [trial]), s=300, linewidths=1.5, **ring)
            axes.scatter([], [], s=40, label=name, **ring)
    if front.points:
        axes.legend(frameon=False, fontsize=8)


def _xy(front: Front, trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
    x, y = metric_of(front.diversity), metric_of(front.accuracy)
    return [trial.val[x] for trial in trials], [trial.val[y] for trial in trials]
