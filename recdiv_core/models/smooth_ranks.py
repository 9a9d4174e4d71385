# pyright: strict
"""Ranks of scores that have a gradient, and whose backward pass is written by hand.

They stand in for ranks in a smooth NDCG, which blend_weights.py raises. With a backward pass by
autograd that fit takes twice as long.
Shapes: B users, M candidates of a user, R of them that get a rank.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function


class _SmoothRanks(Function):
    @staticmethod
    def forward(ctx: Any, own_BR: Tensor, scores_BM: Tensor, smooth: float) -> Tensor:
        scaled_BM, scaled_BR = scores_BM / smooth, own_BR / smooth
        beats_BRM = (scaled_BM[:, None, :] - scaled_BR[:, :, None]).sigmoid_()
        ctx.save_for_backward(beats_BRM)
        ctx.smooth = smooth
        return beats_BRM.sum(dim=2) + 0.5  # a candidate beats itself by one half

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (beats_BRM,) = ctx.saved_tensors
        (grad_BR,) = grad_outputs
        slope_BRM = torch.addcmul(beats_BRM, beats_BRM, beats_BRM, value=-1)
        own_BR = -grad_BR * slope_BRM.sum(dim=2)
        scores_BM = torch.bmm(grad_BR[:, None, :], slope_BRM)[:, 0]
        return own_BR / ctx.smooth, scores_BM / ctx.smooth, None


def smooth_ranks(own_BR: Tensor, scores_BM: Tensor, smooth: float) -> Tensor:
    """Return the rank of some candidates of each user among all of the user, smoothed.

    The rank of c is `1 + sum_(j != c) sigmoid((s_j - s_c) / smooth)`. Qin, Liu and Li, 2010, A
    General Approximation Framework for Direct Optimization of Information Retrieval Measures.

    Args:
        own_BR: scores of candidates that are in `scores_BM` too.
        scores_BM: scores of all candidates, finite.
        smooth: difference of two scores at which their order is smooth, > 0.

    Returns:
        [B, R], between 1 and M, lower is better; differentiable in both arguments.
    """
    return cast(
        "Tensor",
        _SmoothRanks.apply(own_BR, scores_BM, smooth),  # pyright: ignore[reportUnknownMemberType]
    )
