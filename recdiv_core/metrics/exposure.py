# pyright: strict
"""Who gets shown: how the slates of all users together spread over the catalogue.

Not diversity inside one slate (diversity.py). The one idea: these are statistics of a set, so only
exposures add up over batches and workers; the ratio is taken once, at the end. A mean of each
worker's own coverage is another, much lower number. Novelty, a mean over users, is the exception.

Legend: B users, V catalogue.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recdiv_core.metrics.judged import JudgedSlates


def coverage(exposure_V: Tensor) -> float:
    """Return the share of the catalogue with exposure > 0.

    In [0, 1], higher is broader. The catalogue is all V items, cold ones included. Grows with the
    number of users: compare at equal numbers.

    >>> coverage(torch.tensor([3, 0, 1, 0]))
    0.5
    """
    return float((exposure_V > 0).double().mean())


def gini(exposure_V: Tensor) -> float:
    """Return the Gini coefficient of exposure: sum_i (2i - V - 1) x_(i) / (V sum x), x ascending.

    In [0, (V - 1) / V], LOWER is more even: 0 when all items are shown equally often. Items that
    are never shown count; no exposure at all: 0.

    >>> gini(torch.tensor([0, 0, 0, 8]))
    0.75
    """
    num_items, total = exposure_V.numel(), float(exposure_V.sum())
    if not total:
        return 0.0
    ascending_V = exposure_V.double().sort().values
    ranks_V = torch.arange(1, num_items + 1, dtype=torch.float64, device=exposure_V.device)
    return float(((2 * ranks_V - num_items - 1) * ascending_V).sum()) / (num_items * total)


def novelty(slates: JudgedSlates) -> Tensor:
    """Return the mean self-information of a slate's items, -log2(n_i / U), in bits.

    In [0, log2 U], higher is more novel: n_i train events of the item, U train users (Zhou et al.
    2010, Solving the apparent diversity-accuracy dilemma of recommender systems). n_i is taken as 1
    at least (items unseen in training) and U at most (items bought repeatedly). Empty slate: 0.
    """
    bits_BK = slates.facts.self_information_V[slates.items_BK]
    return bits_BK.sum(dim=1) / slates.length_B.clamp(min=1)
