# pyright: strict
"""xQuAD: the categories of the user's history, each as far as it is not yet covered.

Not diversity for its own sake: a category outside the history adds nothing. The demand for a
category falls with each chosen item of it.

Legend: B users, W dials, C candidates, L labels of an item.
"""

from __future__ import annotations

from recdiv_core.rerank.candidates import Candidates, Options, shares_of
from recdiv_core.rerank.fading import fading
from recdiv_core.rerank.greedy import Novelty
from recdiv_core.rerank.relevance import zero_to_one


def xquad(candidates: Candidates, k: int, num_dials: int, options: Options) -> Novelty:
    """Novelty = sum_g P(g|u) P(i|g) prod_{j in S} (1 - alpha P(j|g)), in [0, 1].

    Santos, Macdonald & Ounis 2010, Exploiting query reformulations for web search result
    diversification. P(g|u) is the share of category g in the history; P(i|g) is 1 / the number of
    categories of i, or 0. With `options.alpha` = 1 an item of one category satisfies the demand
    for it completely, as in the paper. Relevance is scaled to [0, 1]. The dial also acts on the
    first position. Without a history or a category the novelty is 0 and the order is the model's.
    Cost per user: k C L^2.
    """
    labels_BCL = candidates.labels_BCL("category")
    shares_BCL = shares_of(labels_BCL)
    first_BWC, after = fading(
        candidates.wishes_BCL() * shares_BCL, labels_BCL, options.alpha * shares_BCL, num_dials
    )
    return Novelty(zero_to_one(candidates), first_BWC, after)
