# pyright: strict
"""Relevance losses: how far the model's scores are from the next items that users chose.

Both return the weighted *sum* over positions, in nats: the caller divides once by the global
weight, so that the number does not depend on how many workers or accumulation parts computed it.
Lower is better. Shapes: N positions, V catalogue, D dims, S shared negatives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, cast

import torch
from torch.autograd import Function

CHUNK_ELEMENTS: Final = 16_000_000
"""Logits held at once: 64 MB in float32, whatever the batch and the catalogue."""


class _ChunkedCrossEntropy(Function):
    """Cross-entropy of h E^T / temperature whose logits exist one chunk of positions at a time.

    The gradients are formed in the forward pass, while a chunk's probabilities are at hand: three
    matrix products in all, as with the plain loss, and no [N, V] tensor.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        items_VD: torch.Tensor,
        targets_N: torch.Tensor,
        weights_N: torch.Tensor,
        temperature: float,
        chunk: int,
    ) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64, device=hidden_ND.device)
        grad_hidden = torch.empty_like(hidden_ND)
        grad_items = torch.zeros_like(items_VD)
        wide = torch.promote_types(hidden_ND.dtype, torch.float32)
        for start in range(0, hidden_ND.shape[0], chunk):
            rows = slice(start, start + chunk)
            hidden = hidden_ND[rows] / temperature
            logits = (hidden @ items_VD.T).to(wide)
            targets = targets_N[rows, None]
            weights = weights_N[rows, None].to(wide)
            log_norm = logits.logsumexp(1, keepdim=True)
            total += ((log_norm - logits.gather(1, targets)) * weights).sum(dtype=torch.float64)
            # in place: logits -> (softmax - one-hot) * weight
            grad = logits.sub_(log_norm).exp_()
            grad.scatter_add_(1, targets, torch.full_like(weights, -1.0))
            grad.mul_(weights)
            grad = grad.to(hidden.dtype)
            grad_hidden[rows] = ((grad @ items_VD) / temperature).to(grad_hidden.dtype)
            grad_items += grad.T @ hidden
        ctx.save_for_backward(grad_hidden, grad_items)
        return total.to(wide)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_hidden, grad_items = ctx.saved_tensors
        (scale,) = grad_outputs
        return grad_hidden * scale, grad_items * scale, None, None, None, None


def softmax(
    hidden_ND: torch.Tensor,
    items_VD: torch.Tensor,
    targets_N: torch.Tensor,
    weights_N: torch.Tensor,
    *,
    temperature: float = 1.0,
    chunk: int | None = None,
) -> torch.Tensor:
    """Sum the exact softmax cross-entropy over the whole catalogue.

    `sum_n w_n * (logsumexp_v(h_n . e_v / t) - h_n . e_target / t)`, in [0, inf) nats.
    Klenitskiy & Vasilev, 2023, Turning Dross Into Gold Loss: is BERT4Rec really better than SASRec?

    Args:
        hidden_ND: [N, D] session states. N = 0 gives 0.
        items_VD: [V, D] item vectors.
        targets_N: [N] int64 item_index of the next item.
        weights_N: [N] weight of each position, >= 0.
        temperature: scores are divided by it, > 0.
        chunk: positions at once; None = what keeps CHUNK_ELEMENTS logits.

    Raises:
        ValueError: shapes that do not fit together.
    """
    _check_shapes(hidden_ND, items_VD, targets_N, weights_N)
    rows = chunk or max(1, CHUNK_ELEMENTS // max(1, items_VD.shape[0]))
    return cast(
        "torch.Tensor",
        _ChunkedCrossEntropy.apply(  # pyright: ignore[reportUnknownMemberType]
            hidden_ND, items_VD, targets_N, weights_N, temperature, rows
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
) -> torch.Tensor:
    """Sum the cross-entropy against negatives that all positions share.

    A negative's score is lowered by `alpha * log(S / V)`, the log of how often uniform sampling is
    expected to draw it, so that at alpha = 1 the normaliser estimates the exact one without bias.
    The target stands in its own sample with certainty and is not corrected. A
    negative that equals the target is masked. Bengio & Senecal, 2008, Adaptive Importance Sampling;
    Yi et al., 2019, Sampling-Bias-Corrected Neural Modeling.

    Args:
        hidden_ND: [N, D] session states.
        items_VD: [V, D] item vectors.
        targets_N: [N] int64 item_index of the next item.
        weights_N: [N] weight of each position, >= 0.
        negatives_S: [S] int64 item_index drawn uniformly from the catalogue, S >= 1.
        temperature: scores are divided by it, > 0.
        logq_alpha: strength of the correction in [0, 1]; 0 favours the long tail less.

    Raises:
        ValueError: shapes that do not fit together.
    """
    _check_shapes(hidden_ND, items_VD, targets_N, weights_N)
    hidden = hidden_ND / temperature
    wide = torch.promote_types(hidden_ND.dtype, torch.float32)
    positive = (hidden * items_VD[targets_N]).sum(1, keepdim=True).to(wide)
    negative = (hidden @ items_VD[negatives_S].T).to(wide)
    expected = negatives_S.shape[0] / items_VD.shape[0]
    negative = negative - logq_alpha * math.log(expected)
    negative = negative.masked_fill(negatives_S[None, :] == targets_N[:, None], -torch.inf)
    log_norm = torch.cat([positive, negative], 1).logsumexp(1)
    return ((log_norm - positive[:, 0]) * weights_N).sum()


RELEVANCE: Final[dict[str, Callable[..., torch.Tensor]]] = {
    "softmax": softmax,
    "sampled_softmax": sampled_softmax,
}


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
