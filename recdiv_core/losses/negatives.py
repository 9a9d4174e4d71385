# pyright: strict
"""Negatives that all positions of a batch share: which items, and how often they were expected.

The one idea: a list of distinct items, each with the count it was drawn and the count it was
expected to be drawn. The ratio of both is what `sampled_softmax` weighs a negative by, so that its
normaliser is unbiased whatever the sampler. Not the drawing of uniform ones, which belongs to the
loop and its seeds. Shapes: N positions, V catalogue, U uniform draws, S distinct negatives.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch


class Negatives(NamedTuple):
    """What `sampled_softmax` takes as `negatives_S`, `log_count_S` and `log_expected_S`.

    Attributes:
        items_S: item_index, distinct, ascending.
        log_count_S: log of how often each was drawn, >= 0.
        log_expected_S: log of how often each was expected to be drawn, finite.
    """

    items_S: torch.Tensor
    log_count_S: torch.Tensor
    log_expected_S: torch.Tensor


def mixed_negatives(
    targets_N: torch.Tensor, uniform_U: torch.Tensor, log_share_V: torch.Tensor
) -> Negatives:
    """Join the targets of a batch and uniform draws into one list of negatives.

    Either may be empty. Of targets alone: items without train events are never drawn, so that the
    normaliser is that of the others.

    `E[c_j] = (N - 1) share_j + U / V`: a position has the other N - 1 targets for negatives, its
    own is masked by the loss. Expected counts come from the whole of train, not from this batch:
    with the batch's own counts for expected ones, every ratio c / E[c] would be 1, and a rare item
    that happens to be drawn would count for itself alone instead of for all its like. Yi et al.,
    2019, Sampling-Bias-Corrected Neural Modeling; Yang et al., 2020, Mixed Negative Sampling.

    Args:
        targets_N: [N] int64 targets of the *global* batch: else the loss would depend on how many
            workers share it.
        uniform_U: [U] int64 drawn uniformly from the catalogue, with replacement.
        log_share_V: [V] log of each item's share of all targets; `popularity.log_prior`.

    Returns:
        The distinct items of both; S = 0 where both are empty.
    """
    drawn = torch.cat([targets_N, uniform_U])
    items_S, counts_S = cast(
        "tuple[torch.Tensor, torch.Tensor]",
        drawn.unique(return_counts=True),  # pyright: ignore[reportUnknownMemberType]
    )
    others = max(0, targets_N.shape[0] - 1)
    expected_S = others * log_share_V[items_S].exp() + uniform_U.shape[0] / log_share_V.shape[0]
    # nothing was expected where the only target is the only negative, which the loss masks
    tiny = torch.finfo(expected_S.dtype).tiny
    return Negatives(items_S, counts_S.to(expected_S).log(), expected_S.clamp_min(tiny).log())
