# pyright: strict
"""What the score of each item lacks to be shown now and then, as part of a trained model.

slates/lifting.py measures it after a training, for any kind of model; `rerank.lift` adds it to the
scores. Shapes: V items.
"""

from __future__ import annotations

import torch
from torch import nn


class Lifts(nn.Module):
    """The lift of every item; fresh ones are not fitted.

    Attributes:
        needed_V: float32, in scores; 0 = the item is shown often enough, -1 = no lift is known.
        unit: float32 scalar, in scores: how far the 100th best item of a typical user is below the
            best one; -1 = not fitted.
    """

    needed_V: torch.Tensor
    unit: torch.Tensor

    def __init__(self, num_items: int) -> None:
        super().__init__()
        self.register_buffer("needed_V", torch.full((num_items,), -1.0))
        self.register_buffer("unit", torch.tensor(-1.0))

    @property
    def are_fitted(self) -> bool:
        """Whether the lifts were measured."""
        return bool(self.unit >= 0)

    def set(self, needed_V: torch.Tensor, unit: torch.Tensor) -> None:
        """Take measured lifts; inf = not known, as no weights may be infinite."""
        self.needed_V.copy_(needed_V.where(needed_V.isfinite(), -1.0))
        self.unit.copy_(unit)

    def bonus(self, most: float) -> torch.Tensor:
        """Return what is added to the scores of each item, [V].

        An item gets all of its lift, or nothing: a part of it would rarely show the item.

        Args:
            most: items that need more than this many units get nothing.

        >>> lifts = Lifts(3)
        >>> lifts.set(torch.tensor([0.0, 1.0, 4.0]), torch.tensor(5.0))
        >>> lifts.bonus(0.2).tolist()
        [0.0, 1.0, 0.0]
        """
        is_within_V = self.needed_V <= most * self.unit
        return self.needed_V.clamp_min(0) * is_within_V
