# pyright: strict
"""Adversarial training: noise on embedding outputs, or on weights, that raises a loss the most.

Noise is an extra input of the model, added to the session tower's input vectors [R, W, D] or to the
token embeddings [U, L, E]; its gradient is the gradient of the embeddings. No parameter is
overwritten, except by `awp`, which restores saved copies. The noise ascends the scalar that the
caller backpropagates to it: the relevance loss (He et al., 2018), the diversity penalty, or the
trained sum of both. Not the model (models/) and not the whole step (training/step.py). Shapes: P
positions (any leading shape), D dims, N examples. A group number per position names its example;
-1 = padding.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Final

import torch

SHARES: Final[dict[str, Callable[[int], tuple[float, ...]]]] = {
    "none": lambda num_steps: (1.0,),
    "fgm": lambda num_steps: (0.5, 0.5),
    "fgsm": lambda num_steps: (0.5, 0.5),
    "pgd": lambda num_steps: (0.5, *[0.0] * (num_steps - 1), 0.5),
    "freelb": lambda num_steps: (1 / num_steps,) * num_steps,
    "awp": lambda num_steps: (1.0,),
}
"""Kind -> share of each pass in the parameters' gradient, for K ascent steps.

Shares sum to 1, so that the learning rate and clipping keep their meaning. A pass of share 0 only
moves the noise. The cost is in forward and backward passes of plain training.

| kind   | passes                                              | cost  |
|--------|-----------------------------------------------------|-------|
| none   | clean                                               | 1     |
| fgm    | clean, noisy                                        | 2     |
| fgsm   | clean, noisy                                        | 2     |
| pgd    | clean, K - 1 that move only the noise, noisy        | K + 1 |
| freelb | K noisy, all of which train                         | K     |
| awp    | clean; the step runs all parts twice, see `awp`     | 2     |

Passes of pgd that move only the noise compute no parameter gradients and cost less than one pass.
"""


def fgm(
    grad_PD: torch.Tensor, group_P: torch.Tensor, num_groups: int, *, epsilon: float
) -> torch.Tensor:
    """Make noise of length epsilon along each example's gradient.

    `r = epsilon * g / |g|_2`, with the norm over all positions of an example: the worst noise of
    that length for a linearised loss. Miyato, Dai & Goodfellow, 2017, Adversarial Training Methods
    for Semi-Supervised Text Classification. The noise does not depend on the scale of the loss, so
    neither loss scaling nor the split of a batch into parts changes it.

    Args:
        grad_PD: [..., D] gradient at the noise, of any floating type; scaled or not.
        group_P: [...] int64 example of each position, in [0, num_groups); -1 = padding.
        num_groups: N.
        epsilon: length of an example's noise, >= 0, in the unit of the embeddings.

    Returns:
        [..., D] float32 or wider; 0 at padding, and for examples whose gradient is 0 or not finite.

    Raises:
        ValueError: shapes do not match, or epsilon is negative.
    """
    _check_length("epsilon", epsilon)
    return epsilon * _directions(grad_PD, group_P, num_groups)


def fgsm(
    grad_PD: torch.Tensor, group_P: torch.Tensor, num_groups: int, *, epsilon: float
) -> torch.Tensor:
    """Make noise of size epsilon per coordinate, with the gradient's signs.

    `r = epsilon * sign(g)`: the worst noise within epsilon per coordinate for a linearised loss.
    Goodfellow, Shlens & Szegedy, 2015, Explaining and Harnessing Adversarial Examples. Arguments,
    result and degenerate cases as in `fgm`.
    """
    _check_length("epsilon", epsilon)
    usable, _ = _usable(grad_PD, group_P, num_groups)
    return epsilon * usable.sign()


def pgd_step(
    noise_PD: torch.Tensor,
    grad_PD: torch.Tensor,
    group_P: torch.Tensor,
    num_groups: int,
    *,
    epsilon: float,
    step_size: float,
) -> torch.Tensor:
    """Ascend by one step and project back onto the ball.

    `r <- project(r + step_size * g / |g|_2)`, where project shortens an example's noise to epsilon
    if it is longer. Madry et al., 2018, Towards Deep Learning Models Resistant to Adversarial
    Attacks, in the L2 norm. A gradient that is 0 or not finite does not move its example's noise.
    From 0 and with step_size = epsilon, this is `fgm`.

    Args:
        noise_PD: [..., D] noise so far.
        grad_PD: [..., D] gradient at that noise.
        group_P: see `fgm`.
        num_groups: N.
        epsilon: radius of the ball, >= 0.
        step_size: length of the step, >= 0; K steps reach the edge where K * step_size >= epsilon.

    Returns:
        [..., D] float32 or wider, 0 at padding.

    Raises:
        ValueError: shapes do not match, or a length is negative.
    """
    _check_length("epsilon", epsilon)
    _check_length("step_size", step_size)
    directions = _directions(grad_PD, group_P, num_groups)
    moved, bin_P = _usable(noise_PD + step_size * directions, group_P, num_groups)
    norm_P = _norms(moved, bin_P, num_groups)[bin_P].view(group_P.shape)
    return moved * (epsilon / norm_P.clamp_min(_tiny(moved))).clamp_max(1.0)[..., None]


def freelb_start(
    draws_PD: torch.Tensor, group_P: torch.Tensor, num_groups: int, *, epsilon: float
) -> torch.Tensor:
    """Start FreeLB at random noise inside the ball.

    `r = epsilon / sqrt(n) * u`, u uniform in [-1, 1), n coordinates in the example: always shorter
    than epsilon, typically epsilon / sqrt(3). Zhu et al., 2020, FreeLB: Enhanced Adversarial
    Training for Natural Language Understanding. Its ascent step is `pgd_step`.

    Args:
        draws_PD: [..., D] uniform draws in [0, 1), such as `torch.rand(..., generator=generator)`.
            Sample one table per step, equal on all ranks, and index it by the item and position:
            then the noise does not depend on the split over ranks and parts.
        group_P: see `fgm`.
        num_groups: N.
        epsilon: radius of the ball, >= 0.

    Raises:
        ValueError: shapes do not match, or epsilon is negative.
    """
    _check_length("epsilon", epsilon)
    usable, bin_P = _usable(2 * draws_PD - 1, group_P, num_groups)
    size_N = torch.zeros(num_groups + 1, dtype=torch.int64, device=bin_P.device)
    size_N = size_N.index_add_(0, bin_P, torch.ones_like(bin_P)) * draws_PD.shape[-1]
    scale_P = epsilon / size_N[bin_P].to(usable.dtype).sqrt()
    return usable * scale_P.view(group_P.shape)[..., None]


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass over a part.

    Attributes:
        noise_PD: noise to pass to the model; a leaf, with requires_grad where a gradient is needed.
        share: factor of this pass's loss in the parameters' gradient; 0 = only the noise moves.
        is_first: whether losses and slates are recorded in this pass (clean, except in freelb).
        is_last: whether this is the last pass of the part.
    """

    noise_PD: torch.Tensor
    share: float
    is_first: bool
    is_last: bool


def passes(
    kind: str,
    start_PD: torch.Tensor,
    group_P: torch.Tensor,
    num_groups: int,
    *,
    epsilon: float,
    step_size: float,
    num_steps: int,
) -> Generator[Pass]:
    """Yield the passes over one part, each with noise computed from the last pass's gradient.

    Before it asks for the next pass, the caller runs the model with `noise_PD`, adds `share` times
    the loss to the parameters' gradients, and stores the ascended scalar's gradient in
    `noise_PD.grad` (not needed on the last pass). `backpropagate` does both:

        for part in parts:
            for attack in passes(kind, start_PD, ...):
                is_end = part is last and attack.is_last
                with nullcontext() if is_end else model.no_sync():
                    loss = scaler.scale(objective(model(part, noise=attack.noise_PD)))
                    backpropagate(attack, loss)

    A step that needs separate gradients of two objectives (mgda, pcgrad) computes each with
    `torch.autograd.grad` at the parameters and the noise, and sets `noise_PD.grad` itself.

    Under DDP only the last pass of a step's last part synchronises. All other passes run forward
    *and* backward inside `no_sync`, including those of share 0. DDP arms its reducer in a
    synchronised forward, and waits for ever if the backward does not reach every parameter. A
    gradient at the noise alone never touches the reducer. All ranks make the same number of passes
    per part. Every pass samples its own dropout.

    Where the loss is a sum over examples, the noise of an example depends only on the gradient of
    that example, so parts and ranks do not change it.

    Args:
        kind: a key of SHARES.
        start_PD: [..., D] noise of the first pass: zeros, or `freelb_start` for freelb. All noise
            has its dtype.
        group_P: see `fgm`.
        num_groups: N.
        epsilon: length of the noise (fgsm: size per coordinate), >= 0.
        step_size: length of an ascent step (pgd, freelb), >= 0.
        num_steps: K ascent steps (pgd, freelb), >= 1.

    Raises:
        ValueError: unknown kind, num_steps < 1, or no gradient reached the noise.
    """
    if kind not in SHARES or num_steps < 1:
        raise ValueError(
            f"loss.adversarial={kind} with {num_steps} steps: allowed are {', '.join(SHARES)}, "
            "with at least 1 step"
        )
    shares = SHARES[kind](num_steps)
    noise = start_PD
    for index, share in enumerate(shares):
        is_last = index == len(shares) - 1
        leaf = noise.detach().to(start_PD.dtype).requires_grad_(not is_last)
        yield Pass(leaf, share, is_first=index == 0, is_last=is_last)
        if is_last:
            return
        if leaf.grad is None:
            raise ValueError(
                "the gradient did not reach the noise: was the noise passed to the model?"
            )
        if kind == "fgm":
            noise = fgm(leaf.grad, group_P, num_groups, epsilon=epsilon)
        elif kind == "fgsm":
            noise = fgsm(leaf.grad, group_P, num_groups, epsilon=epsilon)
        else:
            noise = pgd_step(
                leaf.detach(), leaf.grad, group_P, num_groups, epsilon=epsilon, step_size=step_size
            )


def backpropagate(attack: Pass, loss: torch.Tensor, ascent: torch.Tensor | None = None) -> None:
    """Backpropagate a pass to the parameters, to the noise, or to both.

    Args:
        attack: from `passes`.
        loss: scalar that is trained, multiplied by the loss scale if there is one.
        ascent: scalar that the noise ascends, from the same forward and with the same scale; None =
            the loss, whose gradient at the noise is free. Another scalar (relevance alone, or the
            penalty alone) costs its own backward.
    """
    noise, trains = attack.noise_PD, attack.share > 0
    if ascent is None and not trains:
        torch.autograd.backward(loss, inputs=[noise])
    elif ascent is None or not noise.requires_grad:
        torch.autograd.backward(loss * attack.share)
    else:
        (grad,) = torch.autograd.grad(ascent, noise, retain_graph=trains, allow_unused=True)
        if trains:
            torch.autograd.backward(loss * attack.share)
        noise.grad = grad


@contextlib.contextmanager
def awp(
    parameters: Mapping[str, torch.Tensor], gradients: Mapping[str, torch.Tensor], *, gamma: float
) -> Generator[None]:
    """Move weight matrices in the direction of a higher loss, inside the context.

    `w <- w + gamma * |w|_F * g / |g|_F` for each matrix separately, so that the move is relative to
    its size. Wu, Xia & Wang, 2020, Adversarial Weight Perturbation Helps Robust Generalization. A
    step runs all its parts twice: once clean, to get the gradients, and once inside this context,
    with zeroed gradients. Then it leaves the context and updates the restored weights with the
    gradients at the moved weights. Under DDP each run over the parts synchronises once; the
    gradients given here are the reduced ones, so that all ranks move alike.

    Args:
        parameters: name -> parameter, such as `dict(model.named_parameters())`. Parameters with
            fewer than two dimensions (biases, norms) or without a gradient do not move.
        gradients: name -> gradient, scaled or not; read only on entry. A gradient that is 0 or not
            finite moves nothing.
        gamma: relative length of the move, >= 0.

    Raises:
        ValueError: negative gamma, or a name that no parameter has.
    """
    _check_length("gamma", gamma)
    unknown = gradients.keys() - parameters.keys()
    if unknown:
        raise ValueError(f"gradients of {', '.join(sorted(unknown))}, which are no parameters")
    moved = {name: grad for name, grad in gradients.items() if parameters[name].ndim >= 2}
    saved = {name: parameters[name].detach().clone() for name in moved}
    try:
        with torch.no_grad():
            for name, grad in moved.items():
                weight = parameters[name]
                one = torch.zeros(grad.shape[0], dtype=torch.int64, device=grad.device)
                direction = _directions(grad.flatten(1), one, 1).view_as(weight)
                length = gamma * weight.to(direction.dtype).square().sum().sqrt()
                weight.add_((length * direction).to(weight.dtype))
        yield
    finally:
        with torch.no_grad():
            for name, original in saved.items():
                parameters[name].copy_(original)


def _directions(grad_PD: torch.Tensor, group_P: torch.Tensor, num_groups: int) -> torch.Tensor:
    """Scale each example's gradient to length 1; unusable gradients to 0."""
    grad, bin_P = _usable(grad_PD, group_P, num_groups)
    peak_N = grad.new_zeros(num_groups + 1)
    peak_N = peak_N.scatter_reduce(0, bin_P, grad.abs().amax(-1).flatten(), "amax")
    # divide by the largest coordinate first: squares of scaled or tiny gradients overflow float32
    grad = grad / peak_N[bin_P].view(group_P.shape)[..., None].clamp_min(_tiny(grad))
    norm_P = _norms(grad, bin_P, num_groups)[bin_P].view(group_P.shape)
    return grad / norm_P[..., None].clamp_min(_tiny(grad))


def _usable(
    grad_PD: torch.Tensor, group_P: torch.Tensor, num_groups: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return usable gradients in float32 or wider, and the bin of each position, flat.

    Gradients are 0 at padding and for examples that are not finite. Bins are the examples and one
    more for padding.
    """
    if grad_PD.shape[:-1] != group_P.shape or grad_PD.ndim < 1:
        raise ValueError(
            f"gradient {tuple(grad_PD.shape)} and groups {tuple(group_P.shape)} must be "
            "[..., D], [...]"
        )
    grad = grad_PD.to(torch.promote_types(grad_PD.dtype, torch.float32))
    bin_P = torch.where(group_P < 0, num_groups, group_P).flatten()
    is_broken_P = (~grad.isfinite()).any(-1).flatten()
    broken_N = grad.new_zeros(num_groups + 1).index_add(0, bin_P, is_broken_P.to(grad.dtype))
    is_usable_P = (broken_N[bin_P] == 0) & (bin_P < num_groups)
    return grad.where(is_usable_P.view(group_P.shape)[..., None], 0.0), bin_P


def _norms(rows_PD: torch.Tensor, bin_P: torch.Tensor, num_groups: int) -> torch.Tensor:
    """Return the L2 norm over all positions of each bin."""
    squares_P = rows_PD.square().sum(-1).flatten()
    return rows_PD.new_zeros(num_groups + 1).index_add(0, bin_P, squares_P).sqrt()


def _tiny(like: torch.Tensor) -> float:
    return torch.finfo(like.dtype).tiny


def _check_length(name: str, length: float) -> None:
    if not (length >= 0 and math.isfinite(length)):
        raise ValueError(f"{name}={length} must be finite and at least 0")
