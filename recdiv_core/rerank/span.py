# pyright: strict
"""The distance of each candidate to the span of the chosen items: the core of dpp and ssd.

Not a re-ranker. An incremental Cholesky factor of the similarity kernel S, one row per choice,
gives the squared distance of every candidate to the span, without inverting S. Chen, Zhang & Zhou
2018, Fast greedy MAP inference for determinantal point process.

Legend: B users, W dials, C candidates; R = B W rows; M choices in the span.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

SMALLEST: Final = 1e-6
"""Squared distance below which a candidate counts as in the span; float32 resolves no less."""


class Span:
    """The span of the last choices of each row; the oldest leaves when it is full.

    Attributes:
        left_RC: squared distance of each candidate to the span; may be below 0 by rounding, and
            has no meaning for chosen candidates.
    """

    def __init__(
        self, minus_kernel: Callable[[Tensor], Tensor], left_RC: Tensor, *, size: int, exact: bool
    ) -> None:
        """Start with nothing chosen.

        Args:
            minus_kernel: function from chosen candidates [B, W] to -S of these with all
                candidates, [B, W, C].
            left_RC: diagonal of S. It may differ from `minus_kernel`: a vector of zeros counts as a
                direction of its own.
            size: largest number of choices in the span, >= 1.
            exact: how the oldest choice leaves. True: before the new one is added, so that the span
                is exactly that of the others. False: after the new one is added, only the
                direction that the oldest added itself leaves.
        """
        self.left_RC = left_RC
        self._minus_kernel = minus_kernel
        self._factor_RMC = left_RC.new_empty((len(left_RC), size, left_RC.shape[1]))
        self._chosen: list[Tensor] = []
        self._exact = exact

    def add(self, best_BW: Tensor) -> None:
        """Add a choice of each row."""
        is_full = len(self._chosen) == self._factor_RMC.shape[1]
        if is_full and self._exact:
            self._forget()
        best_R1, count = best_BW.reshape(-1, 1), len(self._chosen)
        row_R1C = self._minus_kernel(best_BW).view(len(best_R1), 1, self.left_RC.shape[1])
        if count:
            factor_RMC = self._factor_RMC[:, :count]
            own_RM1 = factor_RMC.gather(2, best_R1[:, None].expand(-1, count, 1))
            row_R1C = torch.baddbmm(row_R1C, own_RM1.transpose(1, 2), factor_RMC)
        # a choice inside the span adds no direction; dividing by its rounding error would
        left_R1 = self.left_RC.gather(1, best_R1)
        inverse_R1 = left_R1.clamp_min(SMALLEST).rsqrt_().masked_fill_(left_R1 < SMALLEST, 0.0)
        row_RC = row_R1C[:, 0] * inverse_R1
        row_RC.scatter_(1, best_R1, -left_R1 * inverse_R1)
        if is_full and not self._exact:
            self._forget()
        self.left_RC.addcmul_(row_RC, row_RC, value=-1)
        self._factor_RMC[:, len(self._chosen)] = row_RC
        self._chosen.append(best_R1)

    def _forget(self) -> None:
        """Remove the oldest choice; the rows of the others move up by one."""
        oldest_RC = self._factor_RMC[:, 0].clone()
        self._chosen.pop(0)
        if self._exact:
            oldest_RC = self._rotate(oldest_RC)
        else:
            self._factor_RMC[:, :-1] = self._factor_RMC[:, 1:].clone()
        self.left_RC.addcmul_(oldest_RC, oldest_RC)

    def _rotate(self, oldest_RC: Tensor) -> Tensor:
        """Rotate the other rows so that the factor is triangular without the oldest row.

        Givens rotations of the oldest row with each other, as in section 4 of the paper; they keep
        sums of squares.

        Returns:
            the part of the oldest row that no other row takes up.
        """
        for index, chosen_R1 in enumerate(self._chosen):
            row_RC = self._factor_RMC[:, index + 1]
            kept_R1, moved_R1 = row_RC.gather(1, chosen_R1), oldest_RC.gather(1, chosen_R1)
            angle_R1 = torch.atan2(moved_R1, kept_R1)  # 0 where both are: nothing to turn
            cosine_R1, sine_R1 = angle_R1.cos(), angle_R1.sin()
            self._factor_RMC[:, index] = cosine_R1 * row_RC + sine_R1 * oldest_RC
            oldest_RC = cosine_R1 * oldest_RC - sine_R1 * row_RC
        return oldest_RC


def span_size(k: int, window: int) -> int:
    """Return the largest number of choices in the span: k - 1, or the window if smaller."""
    return max(1, min(k - 1, window or k - 1))
