# pyright: strict
"""Which epoch of a run is selected: its weights and metrics stand for the run (`train.select`).

The training loop keeps the weights of the selected epoch. A sweep keeps its metrics, because a
stopped trial counts with them. Both ask the same function.

From one epoch to the next, accuracy hardly moves while coverage does. So epochs about as accurate
as the most accurate one are tied (`train.tie`), and of them the one that shows most of the
catalogue is kept. Only the weights of one epoch are kept at a time, so an epoch that was passed
over does not come back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Selected(NamedTuple):
    """The epoch selected so far.

    Attributes:
        metrics: its validation metrics.
        highest: highest value of the objective in any epoch so far.
    """

    metrics: Mapping[str, float]
    highest: float


def next_selected(
    select: str,
    objective: str,
    metrics: Mapping[str, float],
    before: Selected | None,
    tie: float = 0.0,
) -> Selected:
    """Return the selected epoch after one more epoch; it has `metrics` if that epoch replaces it.

    Args:
        select: `train.select`; `best` = by the objective, higher is better, and the earlier of
            equals; `last` = every epoch replaces the one before.
        objective: name of the objective, `[PREFIX/]METRIC_at_K`.
        metrics: validation metrics of the epoch.
        before: the epoch selected so far; None = there is none yet.
        tie: `train.tie`; metrics need the coverage of the objective's prefix and K if it is above
            0.

    >>> first = next_selected("best", "ndcg", {"ndcg": 0.2}, None)
    >>> next_selected("best", "ndcg", {"ndcg": 0.1}, first).metrics
    {'ndcg': 0.2}
    """
    value = metrics[objective]
    if before is None:
        return Selected(metrics, value)
    highest = max(before.highest, value)  # stays where the value is not a number
    if select == "last":
        return Selected(metrics, highest)
    least = highest - tie * abs(highest)
    if not value >= least:
        return before._replace(highest=highest)
    kept = before.metrics[objective]
    is_better = value > kept
    if tie and kept >= least:
        coverage = coverage_of(objective)
        is_better = (metrics[coverage], value) > (before.metrics[coverage], kept)
    return Selected(metrics if is_better else before.metrics, highest)


def improves(select: str, before: Selected | None, after: Selected) -> bool:
    """Return whether an epoch is better than all before it, so that patience starts anew.

    Args:
        select: `train.select`; with `last` each epoch is.
        before: before the epoch; None = it is the first.
        after: after the epoch, of `next_selected`.
    """
    return select == "last" or before is None or after.highest > before.highest


def coverage_of(objective: str) -> str:
    """Return the name of the coverage beside an objective.

    >>> coverage_of("val/query_ndcg_at_10")
    'val/coverage_at_10'
    """
    prefix = objective[: objective.rfind("/") + 1]
    return f"{prefix}coverage_at_{objective.rpartition('_at_')[2]}"
