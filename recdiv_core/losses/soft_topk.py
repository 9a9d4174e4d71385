# pyright: strict
"""The soft slate: a differentiable stand-in for the top k, in three forms of one signature.

`q` holds for each candidate how much it belongs to the slate: in [0, 1], summing to exactly k.
As the temperature falls it becomes the hard top k; a constant added to a user's scores changes
nothing. Diversity regularisers are functions of q, so that they act on what is shown rather than
on the whole catalogue. `soft_topk` alone never ranks a lower score above a higher one; the others
share places out in k rounds, so that an item between two close neighbours may take from both.
Shapes: B users, M candidates, k slate length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

import torch
from torch.autograd import Function

BISECTIONS: Final = 40
"""Halvings of the threshold's bracket: beyond float32's resolution of it."""

STD_FLOOR: Final = 1e-6
"""Spread below which a user's scores count as all equal: then nothing is to be scaled up."""


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
        temperature: > 0; to 0 the hard top k.

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


def iterated_softmax(scores_BM: torch.Tensor, k: int, temperature: float) -> torch.Tensor:
    """Form soft slates by drawing softly, k times, without putting back.

    `a_1 = s; p_j = softmax(a_j / t); a_{j+1} = a_j + log(1 - p_j); q = sum_{j <= k} p_j`, without
    noise. Xie & Ermon, "Reparameterizable subset sampling via continuous relaxations", 2019. The
    temperature divides anew each round: with `s / t` once, at the start, a drawn item falls back to
    the height of the next one only, and no temperature gives the hard top k. An item may be drawn
    more than once, q is therefore brought back to at most 1; see _cap. O(k M).

    Args:
        scores_BM: [B, M] float32 or wider, finite.
        k: slate length; k >= M gives all ones.
        temperature: > 0; to 0 the hard top k.

    Returns:
        q, [B, M], in [0, 1], rows sum to min(k, M). Gradients sum to 0 over a row.
    """
    _check(scores_BM, k, temperature)
    if k >= scores_BM.shape[1]:
        return torch.ones_like(scores_BM) + 0 * scores_BM
    left = scores_BM
    drawn = torch.zeros_like(scores_BM)
    for _ in range(k):
        share = (left / temperature).softmax(1)
        drawn = drawn + share
        left = left + _log_not_drawn(left / temperature, share)
    return _cap(drawn, k)


def softsort(scores_BM: torch.Tensor, k: int, temperature: float) -> torch.Tensor:
    """Form soft slates of the first k rows of a soft sorting.

    `q_i = sum_{j <= k} softmax_i(-|s_(j) - s_i| / t)` with s_(j) the j-th largest score. Prillo &
    Eisenschlos, "SoftSort: a continuous relaxation for the argsort operator", 2020. An item near
    several of the best scores may hold parts of several places, more than one in all; q is
    therefore brought back to at most 1; see _cap. O(k M) time and memory.

    Args:
        scores_BM: [B, M] float32 or wider, finite.
        k: slate length; k >= M gives all ones.
        temperature: > 0; to 0 the hard top k.

    Returns:
        q, [B, M], in [0, 1], rows sum to min(k, M). Gradients sum to 0 over a row.
    """
    _check(scores_BM, k, temperature)
    if k >= scores_BM.shape[1]:
        return torch.ones_like(scores_BM) + 0 * scores_BM
    best_BK = scores_BM.topk(k, dim=1).values
    distance = (best_BK[:, :, None] - scores_BM[:, None, :]).abs()
    return _cap((-distance / temperature).softmax(2).sum(1), k)


SoftSlate = Callable[[torch.Tensor, int, float], torch.Tensor]

SOFT_SLATES: Final[dict[str, SoftSlate]] = {
    "threshold": soft_topk,
    "iterated_softmax": iterated_softmax,
    "softsort": softsort,
}


def _check(scores_BM: torch.Tensor, k: int, temperature: float) -> None:
    if scores_BM.ndim != 2 or k < 1 or temperature <= 0:
        raise ValueError(
            f"scores {tuple(scores_BM.shape)} must be [B, M], k={k} >= 1, "
            f"temperature={temperature} > 0"
        )


def _log_not_drawn(logits: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Return log(1 - softmax(logits)), exact where the largest share rounds to 1."""
    is_best = torch.zeros_like(logits, dtype=torch.bool).scatter(
        1, logits.argmax(1, keepdim=True), value=True
    )
    others = logits.masked_fill(is_best, -torch.inf).logsumexp(1, keepdim=True)
    of_best = others - logits.logsumexp(1, keepdim=True)
    return torch.where(is_best, of_best, torch.log1p(-share.masked_fill(is_best, 0.0)))


def _cap(places_BM: torch.Tensor, k: int) -> torch.Tensor:
    """Bring places that sum to k to at most 1 each: `min(1, c q)` with c such that they sum to k.

    Of all memberships the nearest in relative entropy. Warmuth & Kuzmin, "Randomized online PCA
    algorithms with regret bounds that are logarithmic in the dimension", 2008. k < M.
    """
    falling, order = places_BM.detach().sort(dim=1, descending=True, stable=True)
    rest = falling.flip(1).cumsum(1).flip(1)  # what an item and all below it hold
    num_full = torch.arange(places_BM.shape[1], device=places_BM.device)
    # the fewest full items that leave nobody else above 1; k of them always do
    fits = falling * (k - num_full) <= rest
    is_full = num_full < fits.int().argmax(1, keepdim=True)
    is_full = torch.zeros_like(is_full).scatter(1, order, is_full)
    others = places_BM.masked_fill(is_full, 0.0)
    room = k - is_full.sum(1, keepdim=True)
    tiny = torch.finfo(others.dtype).tiny
    scaled = others * (room / others.sum(1, keepdim=True).clamp_min(tiny))
    return torch.where(is_full, torch.ones_like(scaled), scaled.clamp_max(1.0))


def standardise(scores_BM: torch.Tensor) -> torch.Tensor:
    """Scale each user's candidate scores to mean 0 and standard deviation 1.

    A slate formed from these depends on the order and the gaps, never on the scale: otherwise a
    model meets a diversity penalty by flattening its scores and leaves the top k where it was.
    A user whose scores are all equal gets zeros.
    """
    centred = scores_BM - scores_BM.mean(1, keepdim=True)
    spread = centred.square().mean(1, keepdim=True).add(STD_FLOOR**2).sqrt()
    return centred / spread
