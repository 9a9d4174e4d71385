# pyright: strict
"""Alpha re-ranker: several attributes at once; a value is worth less each time it is shown.

Not personal: the user's history has no effect. As in alpha-nDCG, the gain of a value falls by the
factor 1 - alpha with each chosen item that has this value.

Legend: B users, W dials, C candidates, L labels of an item.
"""

from __future__ import annotations

import torch

from recdiv_core.rerank.candidates import Candidates, Options, shares_of
from recdiv_core.rerank.fading import fading
from recdiv_core.rerank.greedy import Novelty
from recdiv_core.rerank.relevance import zero_to_one


def alpha(candidates: Candidates, k: int, num_dials: int, options: Options) -> Novelty:
    """Novelty = sum_a w_a mean_{v of i} (1 - alpha)^{n_av}, in [0, 1].

    n_av is the number of items chosen so far with value v of attribute a; w are the weights in
    `options.attributes`, scaled to sum to 1. This is the gain of alpha-nDCG without its discount
    (Clarke et al. 2008, Novelty and diversity in information retrieval evaluation). An unknown
    value has novelty 0. Relevance is scaled to [0, 1]. The dial also acts on the first position.
    Cost per user: k C L^2, with L the labels of all attributes together.
    """
    names = options.attributes or dict.fromkeys(("category", *candidates.traits.attributes), 1.0)
    total = sum(names.values())
    labels, weights = list[torch.Tensor](), list[torch.Tensor]()
    for index, (name, weight) in enumerate(names.items()):
        own_BCL = candidates.labels_BCL(name)
        weights.append(weight / total * shares_of(own_BCL))
        labels.append(torch.where(own_BCL < 0, -1, own_BCL * len(names) + index))
    labels_BCL = torch.cat(labels, dim=2)
    met_BCL = torch.full_like(labels_BCL, options.alpha, dtype=torch.float32)
    first_BWC, after = fading(torch.cat(weights, dim=2), labels_BCL, met_BCL, num_dials)
    return Novelty(zero_to_one(candidates), first_BWC, after)
