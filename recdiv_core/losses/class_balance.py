# pyright: strict
"""Class balance: weights that keep frequent categories from dominating the relevance loss.

The weights are constants, computed once from the train split; `weights_N` of the relevance losses
carries them. Not a regulariser of slates. Shapes: G categories, V catalogue, N labels.
"""

from __future__ import annotations

import torch

from recdiv_core.items.labels import Labels


def effective_number_weights(counts_G: torch.Tensor, beta: float) -> torch.Tensor:
    """Weigh categories by the inverse of their effective number of events.

    `w = (1 - beta) / (1 - beta^n)`, scaled to mean 1 over the categories: each further event adds
    only beta times as much as the one before. Cui et al., 2019, Class-Balanced Loss Based on
    Effective Number of Samples. Multiply the weights of positions by them and divide the loss by
    the sum of these weights; otherwise the effective learning rate changes.

    Args:
        counts_G: [G] events of each category; less than 1 counts as 1.
        beta: in [0, 1); 0 = all weights are 1, near 1 = proportional to 1 / n.

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
    weights = -1 / torch.expm1(counts * log_beta)  # scaling to mean 1 cancels the constant 1 - beta
    return (weights / weights.mean()).float()


def item_weights(weights_G: torch.Tensor, categories: Labels) -> torch.Tensor:
    """Return the mean weight of each item's categories; 1 for an item without a category.

    Args:
        weights_G: [G] weights of categories.
        categories: category indices of every item.

    Returns:
        [V], in the dtype of the weights.
    """
    item_V = torch.arange(len(categories), device=weights_G.device)
    row_N, label_N, part_N = categories.spread(item_V, weights_G.dtype)
    padded = torch.cat([weights_G, weights_G.new_zeros(1)])  # an entry without a label has 0
    means_V = padded.new_zeros(len(item_V)).index_add_(0, row_N, padded[label_N] * part_N)
    return means_V.where(categories.has_any_V, 1.0)
