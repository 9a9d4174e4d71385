# pyright: strict
"""Which epoch of a run is selected: its weights and metrics stand for the run (`train.select`).

The training loop keeps the weights of the selected epoch. A sweep keeps its metrics, because a
stopped trial counts with them. Both ask the same function.
"""

from __future__ import annotations

from collections.abc import Mapping


def is_selected(
    select: str, objective: str, metrics: Mapping[str, float], before: Mapping[str, float] | None
) -> bool:
    """Return whether an epoch replaces the epoch selected so far.

    Args:
        select: `train.select`; `best` = by the objective, higher is better, and the earlier of
            equals; `last` = every epoch replaces the one before.
        objective: name of the objective in both mappings.
        metrics: validation metrics of the epoch.
        before: validation metrics of the selected epoch; None or empty = there is none yet.

    >>> is_selected("best", "ndcg", {"ndcg": 0.2}, {"ndcg": 0.2})
    False
    """
    return not before or select == "last" or metrics[objective] > before[objective]
