# pyright: strict
"""Balance of classes: weights and priors that keep frequent items from drowning the others.

Constants computed once from the train split; `weights_N` or `logit_bias_V` of the relevance losses
carry them. Not a regulariser of slates. Shapes: G categories, V catalogue, N labels.
"""

from __future__ import annotations

import torch

from recdiv_core.items.labels import Labels


def effective_number_weights(counts_G: torch.Tensor, beta: float) -> torch.Tensor:
    """Weigh categories by the inverse of their effective number of events.

    `w = (1 - beta) / (1 - beta^n)`, scaled to mean 1 over the categories: an event that is like
    those before it adds only beta of what they added. Cui et al., 2019, Class-Balanced Loss Based
    on Effective Number of Samples. Multiply them into the weights of positions, and divide the loss
    by the sum of those as ever, or the learning rate changes in effect.

    Args:
        counts_G: [G] events of each category; fewer than 1 counts as 1.
        beta: in [0, 1); 0 = all weights 1, towards 1 = in proportion to 1 / n.

    Returns:
        [G] float32, > 0, larger for rarer categories.

    Raises:
        ValueError: beta outside [0, 1).

    >>> effective_number_weights(torch.tensor([1, 3]), 0.5)
    tensor([1.2727, 0.7273])
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta {beta} must be in [0, 1)")
    counts = counts_G.double().clamp_min(1.0)
    log_beta = torch.tensor(beta, dtype=torch.float64, device=counts.device).log()
    weights = -1 / torch.expm1(counts * log_beta)  # the constant 1 - beta is lost in the scaling
    return (weights / weights.mean()).float()


def item_weights(weights_G: torch.Tensor, categories: Labels) -> torch.Tensor:
    """Give each item the mean weight of its categories, and 1 to an item without any.

    Args:
        weights_G: [G] weights of categories.
        categories: category indices of every item.

    Returns:
        [V], of the dtype of the weights.
    """
    item_V = torch.arange(len(categories), device=weights_G.device)
    row_N, label_N, part_N = categories.spread(item_V, weights_G.dtype)
    padded = torch.cat([weights_G, weights_G.new_zeros(1)])  # an entry without a label has 0
    means_V = padded.new_zeros(len(item_V)).index_add_(0, row_N, padded[label_N] * part_N)
    return means_V.where(categories.has_any_V, 1.0)
