# pyright: strict
"""The soft slate: a differentiable stand-in for the top k.

`q` says for each candidate how much it belongs to the slate: in [0, 1], summing to exactly k. As
the temperature falls, q becomes the hard top k. A constant added to a user's scores changes
nothing, and a higher score never has a lower q. The diversity regularisers are functions of q, so
that they act on the items shown and not on the whole catalogue.
Shapes: B users, M candidates, k slate length.
"""

from __future__ import annotations

from typing import Any, Final, cast

import torch
from torch.autograd import Function

BISECTIONS: Final = 40
"""Halvings of the threshold's bracket; enough for the resolution of float32."""

STD_FLOOR: Final = 1e-6
"""Standard deviation below which a user's scores count as equal and are not scaled up."""


class _ThresholdSigmoid(Function):
    @staticmethod
    def forward(ctx: Any, scores_BM: torch.Tensor, k: int, temperature: float) -> torch.Tensor:
        scaled = scores_BM / temperature
        # sigmoid(+-margin) * M brackets any k in [1, M - 1]
        margin = torch.log(torch.tensor(float(scores_BM.shape[1]), dtype=scaled.dtype)) + 20.0
        low = scaled.min(1, keepdim=True).values - margin
        high = scaled.max(1, keepdim=True).values + margin
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            too_many = torch.sigmoid(scaled - middle).sum(1, keepdim=True) > k
            low = torch.where(too_many, middle, low)
            high = torch.where(too_many, high, middle)
        soft = torch.sigmoid(scaled - (low + high) / 2)
        ctx.save_for_backward(soft)
        ctx.temperature = temperature
        return soft

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (soft,) = ctx.saved_tensors
        (grad,) = grad_outputs
        slope = soft * (1 - soft)
        total = slope.sum(1, keepdim=True).clamp_min(torch.finfo(slope.dtype).tiny)
        centred = grad - (slope * grad).sum(1, keepdim=True) / total
        return slope * centred / ctx.temperature, None, None


def soft_topk(scores_BM: torch.Tensor, k: int, temperature: float) -> torch.Tensor:
    """Form soft slates with a threshold sigmoid.

    `q_i = sigmoid((s_i - theta) / t)` with theta, found by bisection, such that `sum_i q_i = k`.
    Backward in closed form: `dq = (v ds - v (v . ds) / sum v) / t`, `v = q (1 - q)`.

    Args:
        scores_BM: [B, M] float32 or wider, finite.
        k: slate length; k >= M gives all ones.
        temperature: > 0; near 0 gives the hard top k.

    Returns:
        q, [B, M], in [0, 1], rows sum to min(k, M). Gradients sum to 0 over a row.
    """
    _check(scores_BM, k, temperature)
    if k >= scores_BM.shape[1]:
        return torch.ones_like(scores_BM) + 0 * scores_BM
    return cast(
        "torch.Tensor",
        _ThresholdSigmoid.apply(  # pyright: ignore[reportUnknownMemberType]
            scores_BM, k, temperature
        ),
    )


def _check(scores_BM: torch.Tensor, k: int, temperature: float) -> None:
    if scores_BM.ndim != 2 or k < 1 or temperature <= 0:
        raise ValueError(
            f"scores {tuple(scores_BM.shape)} must be [B, M], k={k} >= 1, "
            f"temperature={temperature} > 0"
        )


def standardise(scores_BM: torch.Tensor) -> torch.Tensor:
    """Scale each user's candidate scores to mean 0 and standard deviation 1.

    A slate formed from them depends on the order and the gaps, not on the scale. Otherwise a model
    lowers a diversity penalty by flattening its scores, without changing the top k. A user whose
    scores are all equal gets zeros.
    """
    centred = scores_BM - scores_BM.mean(1, keepdim=True)
    spread = centred.square().mean(1, keepdim=True).add(STD_FLOOR**2).sqrt()
    return centred / spread
