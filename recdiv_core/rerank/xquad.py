# pyright: strict
"""xQuAD: the categories that the user is known to wish for, each as often as it is still wished.

Not diversity for its own sake: a category that is not in the history adds nothing. The one idea: a
wish fades with each item that meets it.

Legend: B users, W dials, C candidates, L labels an item.
"""

from __future__ import annotations

from recdiv_core.rerank.candidates import Candidates, Options, shares_of
from recdiv_core.rerank.fading import fading
from recdiv_core.rerank.greedy import Novelty
from recdiv_core.rerank.relevance import zero_to_one


def xquad(candidates: Candidates, k: int, num_dials: int, options: Options) -> Novelty:
    """Novelty = sum_g P(g|u) P(i|g) prod_{j in S} (1 - alpha P(j|g)), in [0, 1].

    Santos, Macdonald & Ounis 2010, Exploiting query reformulations for web search result
    diversification. P(g|u) is the share of category g in the history, P(i|g) is 1 over the
    categories of i, or 0; with `options.alpha` = 1 an item of one category meets the wish for it
    once and for all, as in the paper. Relevance is scaled to [0, 1]. The first choice counts as the
    others do. No history, or no category: novelty 0, the model's order. Cost: k C L^2 a user.
    """
    labels_BCL = candidates.labels_BCL("category")
    shares_BCL = shares_of(labels_BCL)
    first_BWC, after = fading(
        candidates.wishes_BCL() * shares_BCL, labels_BCL, options.alpha * shares_BCL, num_dials
    )
    return Novelty(zero_to_one(candidates), first_BWC, after)
