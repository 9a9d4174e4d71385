# pyright: strict
"""Relevance losses: how far the model's scores are from the next items that users chose.

Each returns the weighted *sum* over positions, in nats. The caller divides once by the global
weight, so that the value does not depend on the number of workers or accumulation parts. Lower is
better. `softmax` uses the whole catalogue, `sampled_softmax` negatives that all positions share
(negatives.py). Scores are computed for one chunk of positions at a time. Gradients reach hidden
states and item vectors.
Shapes: N positions, V catalogue, D dims, S shared negatives, R positions of a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, cast

import torch
from torch.autograd import Function

CHUNK_ELEMENTS: Final = 16_000_000
"""Logits in memory at once: 64 MB in float32 for any batch and catalogue."""

CACHED_ELEMENTS: Final = 1_000_000
"""Logits in memory at once on a CPU; passes over more than the cache cost as much as the matrix
products."""

CACHED_ROWS: Final = 64
"""Smallest number of positions in a chunk on a CPU; each chunk also adds to the gradient of all
items."""


class _ChunkedCrossEntropy(Function):
    """Cross-entropy of h E^T / temperature, with the logits of one chunk in memory at a time.

    The forward pass computes the gradients from a chunk's probabilities: three matrix products, as
    in the plain loss, and no [N, V] tensor. Only first derivatives: the gradients are constants
    to autograd.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        items_VD: torch.Tensor,
        targets_N: torch.Tensor,
        weights_N: torch.Tensor,
        left_out_X: torch.Tensor | None,
        temperature: float,
        chunk: int,
    ) -> torch.Tensor:
        wide = torch.promote_types(hidden_ND.dtype, torch.float32)
        total = torch.zeros((), dtype=torch.float64, device=hidden_ND.device)
        grad_hidden = torch.empty_like(hidden_ND)
        grad_items = torch.zeros_like(items_VD, dtype=torch.promote_types(items_VD.dtype, wide))
        for start in range(0, hidden_ND.shape[0], chunk):
            rows = slice(start, start + chunk)
            hidden = hidden_ND[rows] / temperature
            logits = (hidden @ items_VD.T).to(wide)
            targets = targets_N[rows, None]
            weights = weights_N[rows, None].to(wide)
            of_targets = logits.gather(1, targets)
            if left_out_X is not None:
                logits.index_fill_(1, left_out_X, -torch.inf).scatter_(1, targets, of_targets)
            largest = logits.amax(1, keepdim=True)
            behind = largest - of_targets
            # in place, to save passes: logits -> odds -> (softmax - one-hot) * weight
            odds = logits.sub_(largest).exp_()
            norm = odds.sum(1, keepdim=True)
            losses = norm.log() + behind
            total += (losses * weights).sum(dtype=torch.float64)
            grad = odds.scatter_add_(1, targets, -norm).mul_(weights / norm).to(hidden.dtype)
            grad_hidden[rows] = ((grad @ items_VD) / temperature).to(grad_hidden.dtype)
            grad_items += grad.T @ hidden
        ctx.save_for_backward(grad_hidden, grad_items.to(items_VD.dtype))
        return total.to(wide)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_hidden, grad_items = ctx.saved_tensors
        (scale,) = grad_outputs
        return grad_hidden * scale, grad_items * scale, *(None,) * 5


class _ChunkedSampled(Function):
    """Cross-entropy of each target against shared negatives, computed as above."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        positives_ND: torch.Tensor,
        negatives_SD: torch.Tensor,
        targets_N: torch.Tensor,
        negatives_S: torch.Tensor,
        weights_N: torch.Tensor,
        shift_S: torch.Tensor,
        temperature: float,
        chunk: int,
    ) -> torch.Tensor:
        wide = torch.promote_types(hidden_ND.dtype, torch.float32)
        total = torch.zeros((), dtype=torch.float64, device=hidden_ND.device)
        grad_hidden, grad_positives = torch.empty_like(hidden_ND), torch.empty_like(positives_ND)
        grad_negatives = torch.zeros_like(negatives_SD, dtype=wide)
        for start in range(0, hidden_ND.shape[0], chunk):
            rows = slice(start, start + chunk)
            hidden = hidden_ND[rows] / temperature
            positives, weights = positives_ND[rows], weights_N[rows, None].to(wide)
            of_targets = (hidden.to(wide) * positives.to(wide)).sum(1, keepdim=True)
            logits = (hidden @ negatives_SD.T).to(wide).add_(shift_S.to(wide))
            logits.masked_fill_(negatives_S == targets_N[rows, None], -torch.inf)
            highest = logits.amax(1, keepdim=True) if len(negatives_S) else of_targets
            largest = torch.maximum(highest, of_targets)
            odds, own = logits.sub_(largest).exp_(), (of_targets - largest).exp()
            others = odds.sum(1, keepdim=True)
            norm = others + own
            # log(norm / own), exact where the negatives have next to no share
            losses = torch.where(
                of_targets < largest, norm.log() + largest - of_targets, others.log1p()
            )
            total += (losses * weights).sum(dtype=torch.float64)
            grad = odds.mul_(weights / norm).to(hidden.dtype)
            to_own = (weights * others / norm).to(hidden.dtype)
            grad_hidden[rows] = (grad @ negatives_SD - to_own * positives) / temperature
            grad_positives[rows] = -to_own * hidden
            grad_negatives += grad.T @ hidden
        ctx.save_for_backward(grad_hidden, grad_positives, grad_negatives.to(negatives_SD.dtype))
        return total.to(wide)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (scale,) = grad_outputs
        return *(grad * scale for grad in ctx.saved_tensors), *(None,) * 6


def softmax(
    hidden_ND: torch.Tensor,
    items_VD: torch.Tensor,
    targets_N: torch.Tensor,
    weights_N: torch.Tensor,
    *,
    temperature: float = 1.0,
    left_out_X: torch.Tensor | None = None,
    chunk: int | None = None,
) -> torch.Tensor:
    """Sum the exact softmax cross-entropy over the whole catalogue.

    `sum_n w_n (-log p_n)`, in [0, inf) nats, where `p_n = softmax_v(h_n . e_v / t)` at the target.
    Klenitskiy & Vasilev, 2023, Turning Dross Into Gold Loss: is BERT4Rec really better than SASRec?

    Args:
        hidden_ND: [N, D] session states. N = 0 gives 0.
        items_VD: [V, D] item vectors.
        targets_N: [N] int64 item_index of the next item.
        weights_N: [N] weight of each position, >= 0.
        temperature: scores are divided by it, > 0.
        left_out_X: [X] int64 item_index of items that are no negatives, such as items without
            train events; the softmax leaves them out, except at positions whose target they are.
            None = none.
        chunk: positions at once; None = as many as fit CHUNK_ELEMENTS logits, or CACHED_ELEMENTS
            on a CPU.

    Raises:
        ValueError: shapes do not match.
    """
    _check_shapes(hidden_ND, items_VD, targets_N, weights_N)
    return cast(
        "torch.Tensor",
        _ChunkedCrossEntropy.apply(  # pyright: ignore[reportUnknownMemberType]
            hidden_ND,
            items_VD,
            targets_N,
            weights_N,
            left_out_X,
            temperature,
            chunk or _rows_at_once(items_VD),
        ),
    )


def sampled_softmax(
    hidden_ND: torch.Tensor,
    items_VD: torch.Tensor,
    targets_N: torch.Tensor,
    weights_N: torch.Tensor,
    negatives_S: torch.Tensor,
    *,
    temperature: float = 1.0,
    logq_alpha: float = 1.0,
    log_count_S: torch.Tensor | None = None,
    log_expected_S: torch.Tensor | None = None,
    chunk: int | None = None,
) -> torch.Tensor:
    """Sum the cross-entropy against negatives that all positions share.

    `-log(exp s+ / (exp s+ + sum_j c_j / E[c_j]^alpha exp s_j))`, in [0, inf) nats: negative j was
    sampled c_j times and E[c_j] times were expected. At alpha = 1 the sum is an unbiased estimate
    of the exact sum over the catalogue without the target, for any sampler that can sample every
    item; with many samples the log-normaliser approaches the exact one. The target is always in its
    own sample and is not corrected; a negative equal to the target is masked. A
    position without negatives has loss 0.
    Bengio & Senecal, 2008, Adaptive Importance Sampling; Yi et al., 2019, Sampling-Bias-Corrected
    Neural Modeling.

    In-batch and mixed negatives are sampled by popularity. alpha sets how much of that is
    corrected: the gradient on an item as a negative is proportional to `E[c]^(1 - alpha)`. At 0
    popular items are pushed down as often as they are sampled, which favours the long tail: more
    coverage, less accuracy. At 1 they are pushed as the exact softmax does. Uniform negatives all
    have the same expected count; there alpha only sets the weight of negatives against the target.

    Args:
        hidden_ND: [N, D] session states.
        items_VD: [V, D] item vectors.
        targets_N: [N] int64 item_index of the next item.
        weights_N: [N] weight of each position, >= 0.
        negatives_S: [S] int64 item_index.
        temperature: scores are divided by it, > 0.
        logq_alpha: strength of the correction in [0, 1].
        log_count_S: [S] log of the number of samples of each; None = one each.
        log_expected_S: [S] log of the expected number of samples, finite; None = S uniform samples,
            log(S / V).
        chunk: positions at once; None = as many as fit CHUNK_ELEMENTS logits, or CACHED_ELEMENTS
            on a CPU.

    Raises:
        ValueError: shapes do not match.
    """
    _check_shapes(hidden_ND, items_VD, targets_N, weights_N)
    _check_negatives(negatives_S, log_count_S, log_expected_S)
    num_negatives = negatives_S.shape[0]
    if log_expected_S is None:
        uniform = math.log(max(1, num_negatives) / max(1, items_VD.shape[0]))
        log_expected_S = torch.full_like(negatives_S, uniform, dtype=torch.float64)
    shift_S = -logq_alpha * log_expected_S
    if log_count_S is not None:
        shift_S = shift_S + log_count_S
    negatives_SD = items_VD[negatives_S]
    return cast(
        "torch.Tensor",
        _ChunkedSampled.apply(  # pyright: ignore[reportUnknownMemberType]
            hidden_ND,
            items_VD[targets_N],
            negatives_SD,
            targets_N,
            negatives_S,
            weights_N,
            shift_S,
            temperature,
            chunk or _rows_at_once(negatives_SD),
        ),
    )


RELEVANCE: Final[dict[str, Callable[..., torch.Tensor]]] = {
    "softmax": softmax,
    "sampled_softmax": sampled_softmax,
}


def _rows_at_once(items_VD: torch.Tensor) -> int:
    num_items = max(1, items_VD.shape[0])
    most = max(1, CHUNK_ELEMENTS // num_items)
    if items_VD.device.type != "cpu":
        return most
    return min(most, max(CACHED_ROWS, CACHED_ELEMENTS // num_items))


def _check_negatives(negatives_S: torch.Tensor, *of_each: torch.Tensor | None) -> None:
    if negatives_S.ndim != 1:
        raise ValueError(f"negatives {tuple(negatives_S.shape)} must be [S]")
    for values in of_each:
        if values is not None and values.shape != negatives_S.shape:
            raise ValueError(
                f"counts of negatives {tuple(values.shape)} must be [S] = [{len(negatives_S)}]"
            )


def _check_shapes(
    hidden_ND: torch.Tensor,
    items_VD: torch.Tensor,
    targets_N: torch.Tensor,
    weights_N: torch.Tensor,
) -> None:
    if hidden_ND.ndim != 2 or items_VD.ndim != 2 or hidden_ND.shape[1] != items_VD.shape[1]:
        raise ValueError(
            f"hidden {tuple(hidden_ND.shape)} and items {tuple(items_VD.shape)} "
            "must be [N, D], [V, D]"
        )
    if not targets_N.shape == weights_N.shape == hidden_ND.shape[:1]:
        raise ValueError(
            f"targets {tuple(targets_N.shape)} and weights {tuple(weights_N.shape)} must be "
            f"[{hidden_ND.shape[0]}]"
        )
