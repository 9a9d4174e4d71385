# pyright: strict
"""What the score of each item lacks to be shown now and then, as part of a trained model.

slates/lifting.py measures it after a training, for any kind of model; `rerank.lift` adds it to the
scores. Shapes: V items.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import nn

from recdiv_core.errors import UserError

LIFTS: Final = "lifts."
"""Start of the names of a model's lifts in a checkpoint."""


MARGIN: Final = 0.01
"""How far a lift goes beyond what is needed, in units. Without it a lifted item would have the very
score of the item whose place it takes, and of others that the same user likes most: rounding would
order them, and a batch of another size another way."""


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

    def set(self, needed_V: torch.Tensor, unit: torch.Tensor) -> None:
        """Take measured lifts; inf = not known, as no weights may be infinite."""
        self.needed_V.copy_(needed_V.where(needed_V.isfinite(), -1.0))
        self.unit.copy_(unit)

    def bonus(self, most: float) -> torch.Tensor:
        """Return what is added to the scores of each item, [V].

        An item gets all of its lift and a margin, or nothing: a part would rarely show the item.
        The margin falls as the lift rises, from 2 MARGIN to MARGIN. So items that are lifted to the
        same place keep their order.

        Args:
            most: items that need more than this many units get nothing.

        >>> lifts = Lifts(4)
        >>> lifts.set(torch.tensor([0.0, 1.0, 2.0, 4.0]), torch.tensor(5.0))
        >>> lifts.bonus(0.4)
        tensor([0.0000, 1.0900, 2.0800, 0.0000])
        """
        is_lifted_V = (self.needed_V > 0) & (self.needed_V <= most * self.unit)
        margin_V = MARGIN * (2 * self.unit - self.needed_V)
        return (self.needed_V + margin_V) * is_lifted_V


def check_lifts(state: Mapping[str, torch.Tensor], lift: float) -> None:
    """Refuse `rerank.lift` for the tensors of a model that has no lifts.

    Raises:
        UserError: says what to do.
    """
    if lift and state.get(f"{LIFTS}unit", torch.tensor(-1.0)) < 0:
        raise UserError(
            f"rerank.lift={lift:g}: the model has no lifts, because an earlier version trained it; "
            "train it again, or give rerank.lift=0"
        )
