# pyright: strict
"""Negatives that all positions of a batch share: the items, and their expected counts.

A list of distinct items with the count that each was sampled and the count that was expected.
`sampled_softmax` weighs a negative by the ratio of both, so its normaliser is unbiased for any
sampler. The loop samples the uniform negatives with its own random seeds. Shapes: N positions, V
catalogue, U uniform samples, S distinct negatives.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch


class Negatives(NamedTuple):
    """The arguments `negatives_S`, `log_count_S` and `log_expected_S` of `sampled_softmax`.

    Attributes:
        items_S: item_index, distinct, ascending.
        log_count_S: log of the number of times that each was sampled, >= 0.
        log_expected_S: log of the expected number of times, finite.
    """

    items_S: torch.Tensor
    log_count_S: torch.Tensor
    log_expected_S: torch.Tensor


def mixed_negatives(
    targets_N: torch.Tensor,
    uniform_U: torch.Tensor,
    log_share_V: torch.Tensor,
    *,
    num_items: int | None = None,
) -> Negatives:
    """Join the targets of a batch and uniform samples into one list of negatives.

    Either may be empty. With targets alone, items without train events are never sampled, and the
    normaliser leaves them out.

    `E[c_j] = (N - 1) share_j + U / num_items`: a position has the other N - 1 targets as negatives;
    the loss masks its own. Expected counts come from the whole train split, not from this batch.
    With the counts of the batch every ratio c / E[c] would be 1, and a rare item in the sample
    would not stand for the other rare items. Yi et al., 2019, Sampling-Bias-Corrected Neural
    Modeling; Yang et al., 2020, Mixed Negative Sampling.

    Args:
        targets_N: [N] int64 targets of the *global* batch, so that the loss does not depend on the
            number of workers.
        uniform_U: [U] int64 items sampled uniformly from `num_items` items, with replacement.
        log_share_V: [V] log of each item's share of all targets; `popularity.log_prior`.
        num_items: items that `uniform_U` is sampled from, >= 1; None = V.

    Returns:
        The distinct items of both; S = 0 where both are empty.
    """
    drawn = torch.cat([targets_N, uniform_U])
    items_S, counts_S = cast(
        "tuple[torch.Tensor, torch.Tensor]",
        drawn.unique(return_counts=True),  # pyright: ignore[reportUnknownMemberType]
    )
    others = max(0, targets_N.shape[0] - 1)
    uniform = uniform_U.shape[0] / (num_items or log_share_V.shape[0])
    expected_S = others * log_share_V[items_S].exp() + uniform
    # the expected count is 0 where the only target is the only negative, which the loss masks
    tiny = torch.finfo(expected_S.dtype).tiny
    return Negatives(items_S, counts_S.to(expected_S).log(), expected_S.clamp_min(tiny).log())
