# pyright: strict
"""Diverse beam search: slates decoded category by category, each group pushed off the last ones.

Not a search over whole slates. The one idea: a place is decoded as category, then item; a group of
beams pays for a category as often as earlier groups have taken it, and not at all for its own.

Legend: B users, W dials, C candidates, L labels an item.
"""

from __future__ import annotations

from torch import Tensor

from recdiv_core.rerank.candidates import Candidates, Options, shares_of
from recdiv_core.rerank.fading import label_finder
from recdiv_core.rerank.greedy import Novelty
from recdiv_core.rerank.relevance import standardised


def beam(candidates: Candidates, k: int, num_dials: int, options: Options) -> Novelty:
    """Novelty = -n_c, n_c items of i's category that earlier groups have chosen, <= 0.

    Vijayakumar et al. 2018, Diverse beam search, over the tree category -> item, with the Hamming
    penalty on the category: groups of `options.beam_width` beams one after another, each the best
    that are left by log p(c) + log p(i | c) - lambda n_c = log p(i) - lambda n_c. The first level
    is searched whole, so that nothing is pruned away: lambda = 0 is plain beam search, which is the
    model's order. lambda = d / (1 - d), in standard deviations of the user's scores a repeat. With
    one beam a group (the default) every place pays for all before it; with k beams there is one
    group, and nothing to pay. An item of several categories takes an equal part of a place in each,
    and pays the mean of theirs; one without any pays nothing. Cost: k C L^2 a user.
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
