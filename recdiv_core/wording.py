"""Names of metrics, settings and values in text for people: plots, tables, logs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

SYMBOLS: Final = {
    "loss.diversity_weight": "w",
    "loss.slate_temperature": "t",
    "model.diversity": "d",
    "rerank.diversity": "r",
}
"""Symbols of the dials, for labels in a plot."""

FEW_JUDGED: Final = 0.5
"""Share of judged users below which metrics hardly represent the shop."""

DERIVED_CATEGORIES: Final = (
    "The shop gives no categories. Categories here are derived from texts: clusters of items with "
    "alike texts, named by the words of their titles. Metrics of categories count these clusters."
)
"""Note on a page about a data set whose manifest has `categories_from` = texts."""


def title(metric: str) -> str:
    """Return a metric's name for people: `ndcg_at_10` -> `NDCG@10`."""
    name, at, cut_off = metric.partition("_at_")
    acronyms = {"ndcg": "NDCG", "ild": "ILD", "map": "MAP", "mrr": "MRR", "f1": "F1"}
    return f"{acronyms.get(name, name.replace('_', ' '))}{'@' if at else ''}{cut_off}"


def users_judged(metrics: Mapping[str, float]) -> dict[str, str]:
    """Return the number of judged users by split, as text; empty where it is not known.

    >>> users_judged({"test/num_judged": 6.0, "test/num_held_out": 60.0})
    {'test': '6 of 60 users judged'}
    """
    return {
        split: f"{metrics[f'{split}/num_judged']:,.0f} of {metrics[f'{split}/num_held_out']:,.0f} "
        "users judged"
        for split in ("val", "test")
        if f"{split}/num_judged" in metrics
    }


def few_judged(metrics: Mapping[str, float]) -> list[str]:
    """Return a warning per split with fewer than FEW_JUDGED of its users judged."""
    return [
        f"{split}: only {said}. The others have no held-out item outside their history, and "
        "eval.filter_seen=true removes the history from slates. If customers buy the same items "
        "again, set eval.filter_seen=false"
        for split, said in users_judged(metrics).items()
        if metrics[f"{split}/num_judged"] < FEW_JUDGED * metrics[f"{split}/num_held_out"]
    ]


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun.

    Args:
        count: number of things.
        noun: the thing in the singular.
        plural: the noun for any count but 1; empty = the noun with an `s`.

    >>> counted(1, "user"), counted(2013, "user"), counted(0, "category", "categories")
    ('1 user', '2,013 users', '0 categories')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def number(value: float | None) -> str:
    """Return a number with four significant digits, or a dash for None.

    >>> number(0.012345), number(None)
    ('0.01235', '-')
    """
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.4g}"


def worded(value: object) -> str:
    """Return a setting as text; a mix shows its names, with weights if there are several.

    >>> worded({"ild": 1.0, "coverage": 3.0}), worded({"ild": 1.0}), worded(0.0612345)
    ('ild 1 + coverage 3', 'ild', '0.0612')
    """
    if isinstance(value, Mapping):
        return " + ".join(
            f"{name} {short(weight)}" if len(value) > 1 else name for name, weight in value.items()
        )
    return short(value)


def dial(key: str, value: object) -> str:
    """Return a dial and its value in a few characters."""
    if isinstance(value, Mapping):
        return worded(value)
    return f"{SYMBOLS.get(key, key.rpartition('.')[2])}={worded(value)}"


def short(value: object) -> str:
    """Return a value in at most 24 characters, a float with three significant digits."""
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 24 else f"{text[:22]}.."
