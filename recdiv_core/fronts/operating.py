"""The table of operating points: one trial per share of accuracy, with all its metrics on test.

choice.py chooses the trials on validation. Every metric of a row is of the same trial, so a gain on
one metric stands beside its price on the others. An interval of a change is over seeds if the sweep
has several, else over the users whose slates a report makes again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from recdiv_core.fronts.choice import Choice
from recdiv_core.fronts.trials import Trial, change, change_half, metric_of
from recdiv_core.wording import number, short, title

METRICS: Final = ("ndcg", "coverage", "ild", "diversity_index", "gini", "f1", "narrowed")
"""Metrics of the table; further objectives follow."""

ESCAPED_BAR: Final = r"\|"

Paired = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""RUN of a point -> metric without cut-off -> `differences.difference` from the reference."""


@dataclass(frozen=True)
class Changed:
    """A metric on test and its relative change against the reference, in per cent.

    Attributes:
        value: the metric; None = not measured.
        percent: the change; None = unknown, or the reference itself.
        low: lower end of the change's 95 % interval; None = unknown.
        high: upper end of the change's 95 % interval; None = unknown.
    """

    value: float | None
    percent: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def note(self) -> str:
        """The change and its interval as text; empty if unknown.

        >>> Changed(0.5, 1.25, 0.5, 2.0).note
        '+1.2 % [+0.5, +2.0]'
        """
        if self.percent is None:
            return ""
        within = "" if self.low is None else f" [{self.low:+.1f}, {self.high:+.1f}]"
        return f"{self.percent:+.1f} %{within}"


@dataclass(frozen=True)
class Row:
    """A row of the table.

    `keeps` is the share of the reference's accuracy that was asked for; None = the reference.
    """

    keeps: float | None
    trial: Trial
    metrics: Mapping[str, Changed]


def operating_rows(choice: Choice, paired: Paired | None = None) -> list[Row]:
    """Return the reference, then the operating points from little to much diversity."""
    reference = choice.reference
    if reference is None:
        return []
    names = table_metrics(choice)
    trials = [(None, reference), *choice.operating.items()]
    return [
        Row(keeps, trial, {name: changed(trial, reference, name, paired or {}) for name in names})
        for keeps, trial in trials
    ]


def table_metrics(choice: Choice) -> list[str]:
    """Return the metrics of the table, with their cut-off."""
    objectives = [metric_of(objective) for objective in choice.front.objectives]
    cut_off = objectives[0].rpartition("_at_")[2]
    return list(dict.fromkeys([*(f"{name}_at_{cut_off}" for name in METRICS), *objectives]))


def changed(trial: Trial, reference: Trial, metric: str, paired: Paired) -> Changed:
    """Return a metric of a trial with its change against the reference."""
    value = trial.test.get(metric)
    by = change(trial, reference, metric)
    if trial is reference or by is None:
        return Changed(value)
    half = change_half(trial, reference, metric)
    if half is not None:
        return Changed(value, 100 * by, 100 * (by - half), 100 * (by + half))
    entry = paired.get(trial.run, {}).get(metric.rpartition("_at_")[0], {})
    return Changed(value, 100 * by, entry.get("percent_low"), entry.get("percent_high"))


def kept_text(row: Row, choice: Choice) -> str:
    """Return the first cell of a row."""
    if row.keeps is None:
        return "w = 0" if choice.front.baseline else "most accurate"
    mark = " (recommended)" if row.trial is choice.recommended and row.keeps == choice.keep else ""
    return f"{100 * row.keeps:.4g} %{mark}"


def markdown_table(choice: Choice, paired: Paired | None = None) -> str:
    """Return the table as Markdown, for MLflow's description."""
    names = table_metrics(choice)
    head = [f"{title(names[0])} kept", "trial", *map(title, names)]
    rows = [
        [kept_text(row, choice), called(row.trial), *(_cell(own) for own in row.metrics.values())]
        for row in operating_rows(choice, paired)
    ]
    return "\n".join(_line(cells) for cells in (head, ["---"] * len(head), *rows))


def _cell(own: Changed) -> str:
    return f"{number(own.value)} ({own.note})" if own.note else number(own.value)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', ESCAPED_BAR) for cell in cells)} |"


def called(trial: Trial) -> str:
    """Return a trial's name, with its settings if the name does not hold them."""
    return trial.name if trial.label == short(trial.name) else f"{trial.name} ({trial.label})"
