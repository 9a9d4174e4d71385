# pyright: strict
"""Exposure: no item in more slates than its capacity; the users of a batch are served together.

The only re-ranker that looks across users, and the only one that controls catalogue coverage. The
one idea: users ask for what they like best, an item keeps those to whom it matters most, and who is
turned away asks for the next best, until nobody is. What comes out does not depend on the order of
asking.

Legend: B users, W dials, C candidates, K slate length, V catalogue, P places asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recdiv_core.rerank.candidates import Candidates, Options, check_candidates
from recdiv_core.rerank.relevance import standardised


def exposure(candidates: Candidates, k: int, dials: Sequence[float], options: Options) -> Tensor:
    """Choose for all users the best slates that keep every item within its capacity.

    Deferred acceptance (Gale & Shapley 1962, College admissions and the stability of marriage),
    many to many, users asking: no user and item want each other and are kept apart. A user prefers
    higher scores; an item prefers users for whom it stands out, by the score in standard
    deviations (of equal ones the earlier row). The capacity is N^(1 - d) c^d places, rounded: from
    N, one place with every user, to c = places / V rounded up, where all items are shown alike; N
    users and their places are counted from the start of the pass (`exposure_V`). Places that only
    full items could fill are filled by the scores, at the end of the slate, over capacity. Cost: a
    few dozen rounds over the places asked for.

    Arguments and result are those of every re-ranker (rerank/__init__.py); the same user may be
    served otherwise in another batch.

    Raises:
        ValueError: as every re-ranker, and of rules, which look at one slate.
    """
    check_candidates(candidates, k, dials, options)
    if options.rules:
        raise ValueError(
            "rerank.rules do not go with rerank.method=exposure, which serves all users together; "
            "allowed is any other method"
        )
    num_users = len(candidates.scores_BC)
    if not num_users or not dials:
        return candidates.items_BC.new_zeros((num_users, len(dials), k))
    num_places = int(candidates.exposure_V.sum()) + num_users * k
    most, least = -(-num_places // k), -(-num_places // len(candidates.exposure_V))
    capacities = [round(most ** (1 - dial) * least**dial) for dial in dials]
    return torch.stack([_serve(candidates, k, capacity) for capacity in capacities], dim=1)


def _serve(candidates: Candidates, k: int, capacity: int) -> Tensor:
    """Return the slates at one capacity, [B, K]."""
    is_real_BC = candidates.is_real_BC
    worth_BC = standardised(candidates)
    free_V = (capacity - candidates.exposure_V).clamp_min(0)
    is_refused_BC = ~is_real_BC
    while True:
        is_open_BC = ~is_refused_BC
        user_P, place_P = (is_open_BC & (is_open_BC.cumsum(dim=1) <= k)).nonzero(as_tuple=True)
        is_loser_P = _losers(
            candidates.items_BC[user_P, place_P], worth_BC[user_P, place_P], free_V
        )
        if not is_loser_P.any():
            break
        is_refused_BC[user_P[is_loser_P], place_P[is_loser_P]] = True
    rank_BC = is_refused_BC.byte() + (~is_real_BC).byte()  # kept, refused, padding
    order_BC = rank_BC.argsort(dim=1, stable=True)
    chosen_BK = order_BC.masked_fill(~is_real_BC.gather(1, order_BC), -1)[:, :k]
    return torch.nn.functional.pad(chosen_BK, (0, k - chosen_BK.shape[1]), value=-1)


def _losers(item_P: Tensor, worth_P: Tensor, free_V: Tensor) -> Tensor:
    """Tell which askers an item turns away, [P] bool: all but the `free` of the highest worth."""
    order_P = worth_P.argsort(descending=True, stable=True)
    order_P = order_P[item_P[order_P].argsort(stable=True)]  # by item, and by worth inside one
    sorted_P = item_P[order_P]
    place_P = torch.arange(len(item_P), device=item_P.device)
    place_P = place_P - torch.searchsorted(sorted_P, sorted_P)  # inside the item
    is_loser_P = torch.empty_like(order_P, dtype=torch.bool)
    is_loser_P[order_P] = place_P >= free_V[sorted_P]
    return is_loser_P
