# pyright: strict
"""Diverse beam search: each group of items is penalised for the categories of earlier groups.

Not a search over whole slates. A position is decoded as a category and then an item. A group pays
for a category as often as earlier groups have used it, and nothing for its own items.

Legend: B users, W dials, C candidates, L labels of an item.
"""

from __future__ import annotations

from torch import Tensor

from recdiv_core.rerank.candidates import Candidates, Options, shares_of
from recdiv_core.rerank.fading import label_finder
from recdiv_core.rerank.greedy import Novelty
from recdiv_core.rerank.relevance import standardised


def beam(candidates: Candidates, k: int, num_dials: int, options: Options) -> Novelty:
    """Novelty = -n_c, where n_c items of i's category were chosen by earlier groups; <= 0.

    Vijayakumar et al. 2018, Diverse beam search, over the tree category -> item with the Hamming
    penalty on the category. Groups of `options.beam_width` beams are decoded one after another.
    Each group takes the best remaining items by log p(c) + log p(i | c) - lambda n_c
    = log p(i) - lambda n_c. The first level is searched completely, so nothing is pruned, and
    lambda = 0 gives the model's order. lambda = d / (1 - d), in standard deviations of the user's
    scores per repetition. With one beam per group (the default) every position pays for all earlier
    ones; with k beams there is one group and no penalty. An item of several categories counts in
    equal parts for each and pays their mean; an item without a category pays nothing.
    Cost per user: k C L^2.
    """
    labels_BCL = candidates.labels_BCL("category")
    shares_BCL = shares_of(labels_BCL).float()
    shares_B1LC = shares_BCL.transpose(1, 2)[:, None].contiguous()
    taken_BWLC = shares_B1LC.new_zeros(shares_B1LC.shape).repeat(1, num_dials, 1, 1)
    shares_of_choice = label_finder(labels_BCL, shares_BCL, default=0.0)
    group: list[Tensor] = []
    novelty_BWC = taken_BWLC.sum(dim=2)

    def after(best_BW: Tensor) -> Tensor:
        group.append(best_BW)
        if len(group) == options.beam_width:
            for chosen_BW in group:
                taken_BWLC.add_(shares_of_choice(chosen_BW))
            group.clear()
            novelty_BWC.copy_(-(taken_BWLC * shares_B1LC).sum(dim=2))
        return novelty_BWC

    return Novelty(standardised(candidates), None, after)
