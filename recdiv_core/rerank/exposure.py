# pyright: strict
"""Exposure re-ranker: no item in more slates than its capacity; a batch is solved as a whole.

The only re-ranker that looks across users, and so the only one that controls catalogue coverage.
Users ask for their best items, an item keeps the users for whom it stands out most, and refused
users ask for their next best item until no request is refused. The result does not depend on the
order of the requests.

Legend: B users, W dials, C candidates, K slate length, V catalogue, P requests.
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
    many to many, with users proposing: no user and item prefer each other to their present match. A
    user prefers higher scores. An item prefers users for whom its score is highest in standard
    deviations; ties go to the earlier row. The capacity is N^(1 - d) c^d positions, rounded. It
    falls from N, one position with every user, to c = positions / V rounded up, where all items
    are shown equally often. Positions that only full items could take are filled by score at the
    end of the slate, beyond capacity. Cost: a few dozen rounds over the requests.

    Arguments and result are those of every re-ranker (rerank/__init__.py). The slate of a user
    depends on the other users of the batch.

    Raises:
        ValueError: as every re-ranker, or rules are given: they apply to one slate.
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
    least = -(-num_users * k // candidates.traits.num_items)
    capacities = [round(num_users ** (1 - dial) * least**dial) for dial in dials]
    return torch.stack([_serve(candidates, k, capacity) for capacity in capacities], dim=1)


def _serve(candidates: Candidates, k: int, capacity: int) -> Tensor:
    """Return the slates at one capacity, [B, K]."""
    is_real_BC = candidates.is_real_BC
    worth_BC = standardised(candidates)
    is_refused_BC = ~is_real_BC
    while True:
        is_open_BC = ~is_refused_BC
        user_P, place_P = (is_open_BC & (is_open_BC.cumsum(dim=1) <= k)).nonzero(as_tuple=True)
        items_P = candidates.items_BC[user_P, place_P]
        is_loser_P = _losers(items_P, worth_BC[user_P, place_P], capacity)
        if not is_loser_P.any():
            break
        is_refused_BC[user_P[is_loser_P], place_P[is_loser_P]] = True
    rank_BC = is_refused_BC.byte() + (~is_real_BC).byte()  # kept, refused, padding
    order_BC = rank_BC.argsort(dim=1, stable=True)
    chosen_BK = order_BC.masked_fill(~is_real_BC.gather(1, order_BC), -1)[:, :k]
    return torch.nn.functional.pad(chosen_BK, (0, k - chosen_BK.shape[1]), value=-1)


def _losers(item_P: Tensor, worth_P: Tensor, capacity: int) -> Tensor:
    """Return which requests an item refuses, [P] bool: all but `capacity` of highest worth."""
    order_P = worth_P.argsort(descending=True, stable=True)
    order_P = order_P[item_P[order_P].argsort(stable=True)]  # by item, and by worth inside one
    sorted_P = item_P[order_P]
    place_P = torch.arange(len(item_P), device=item_P.device)
    place_P = place_P - torch.searchsorted(sorted_P, sorted_P)  # inside the item
    is_loser_P = torch.empty_like(order_P, dtype=torch.bool)
    is_loser_P[order_P] = place_P >= capacity
    return is_loser_P
