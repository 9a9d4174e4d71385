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
from recdiv_core.items.lifts import bonus

LIFTS: Final = "lifts."
"""Start of the names of a model's lifts in a checkpoint."""


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
        """Return what is added to the scores of each item, [V]; see items/lifts.py."""
        return bonus(self.needed_V, self.unit, most)


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
