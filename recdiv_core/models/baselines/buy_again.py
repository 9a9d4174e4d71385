# pyright: strict
"""Buy again: items of the user's own history, often and recently bought ones first.

Only useful with `eval.filter_seen=false`. Other items have their popularity scores. Shapes:
B users, V catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from recdiv_core.models.baselines.histories import (
    HalfLife,
    Histories,
    halving_weights,
    join_repeats,
    read_half_life,
)
from recdiv_core.models.baselines.popularity import FALLBACK, fit_popular


def fit_buy_again(
    counts_V: NDArray[np.int64], *, half_life: float, has_times: bool
) -> dict[str, Tensor]:
    """Return the weights of a baseline of personal purchases.

    Args:
        counts_V: train events of each item, for the fallback.
        half_life: days, or later events for a log without times; see `halving_weights`.
        has_times: whether the log has times.

    Returns:
        half_life, popular_V.
    """
    halving = HalfLife(half_life, in_days=has_times)
    return {"half_life": halving.tensor, **fit_popular(counts_V)}


def score_by_own_events(weights: Mapping[str, Tensor], histories: Histories) -> Tensor:
    """Return the square root of the sum of the halving weights of the user's events with each item.

    The order is that of the sums; the root keeps a blend from following the one item that a user
    buys every week.
    """
    popular_V = weights["popular_V"]
    weight_S = halving_weights(histories, read_half_life(weights))
    pairs = join_repeats(histories, weight_S, len(popular_V), "sum")
    user_P, item_P, weight_P = pairs
    scores_BV = (FALLBACK * popular_V).repeat(histories.num_users, 1)
    scores_BV[user_P, item_P] += weight_P.sqrt()
    return scores_BV
