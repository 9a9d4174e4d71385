# pyright: strict
"""Fit the weights of a blend on users with held-out items, in two steps.

First the softmax of the blended score over a user's candidates shall give much to the held-out
items: a convex problem, so the start does not matter. From there the weights move to a higher NDCG
of the slates. Likelihood counts each held-out item, also those that no weights bring into a slate;
NDCG counts the slate alone.
Shapes: B users, T scores (the learned one first), C candidates of a user, M of them near the top, R
of these whose rank counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import torch
from torch import Tensor

from recdiv_core.models.smooth_ranks import smooth_ranks

STRENGTH: Final = 1e-3
"""L2 penalty of the convex fit, in nats per squared weight: settles weights that no user decides.
"""

STEPS: Final = 50
"""Largest number of L-BFGS iterations; about ten suffice."""

ENOUGH: Final = 1e-9
"""Change of the loss, or of the weights, at which L-BFGS stops. 1e-5, tried with NEAR = 40, takes
half of the steps, but two workers then no longer learned what one does."""

ROUNDS: Final = 3
"""Times that the candidates near the top are chosen anew while NDCG rises."""

NEAR: Final = 60
"""Candidates near the top of a user, at least; others keep out of the smooth NDCG."""

REACH: Final = 3
"""Best candidates of a user, in slate lengths, that count for coverage: a later one is in no slate.
"""

SMOOTH: Final = 0.2
"""Difference of two scores at which their order is smooth, in standard deviations of the scores
near the top. Smaller is closer to NDCG, but at 0.03 the loss has many small valleys: rounding then
decides which of them the fit ends in, and weights jump by 0.03."""

PULL: Final = 0.03
"""L2 penalty that holds the weights near the convex fit, in NDCG per squared weight. To it comes
PULL_OF_FEW / users, because few users tell little."""

PULL_OF_FEW: Final = 1.0
"""See PULL, in NDCG per squared weight times users."""

TINY: Final = 1e-6
"""Least standard deviation that weights are divided by."""


class Choices(NamedTuple):
    """What users with held-out items were offered.

    Attributes:
        scores_BCT: standardised scores of each user's candidates.
        is_target_BC: whether a candidate is held out.
        is_allowed_BC: whether a candidate may be in a slate.
        features_B2: what the weights of a user are linear in, see `features_of` of blend.py.
        num_targets_B: held-out items of a user that may be in a slate, candidates or not.
        items_BC: item_index of the candidates.
    """

    scores_BCT: Tensor
    is_target_BC: Tensor
    is_allowed_BC: Tensor
    features_B2: Tensor
    num_targets_B: Tensor
    items_BC: Tensor

    def that_count(self) -> Choices:
        """Return the users with an allowed target among their candidates."""
        is_target_BC = self.is_target_BC & self.is_allowed_BC
        counts_B = is_target_BC.any(dim=1)
        return Choices(*(part[counts_B] for part in self._replace(is_target_BC=is_target_BC)))

    def blended(self, weight_T2: Tensor) -> Tensor:
        """Return the blended scores, [B, C]; far below all others where not allowed."""
        weight_BT1 = (self.features_B2 @ weight_T2.T)[..., None]
        return (self.scores_BCT @ weight_BT1)[..., 0].masked_fill(~self.is_allowed_BC, -1e9)

    def near_the_top(self, weight_T2: Tensor, size: int) -> Choices:
        """Return the best candidates of each user, [B, M], M <= size."""
        size = min(size, self.scores_BCT.shape[1])
        best_BM = self.blended(weight_T2).topk(size, dim=1).indices
        wide_BMT = best_BM[..., None].expand(-1, -1, self.scores_BCT.shape[2])
        return self._replace(
            scores_BCT=self.scores_BCT.gather(1, wide_BMT),
            is_target_BC=self.is_target_BC.gather(1, best_BM),
            is_allowed_BC=self.is_allowed_BC.gather(1, best_BM),
            items_BC=self.items_BC.gather(1, best_BM),
        )


class Spread(NamedTuple):
    """How much the fit raises coverage beside NDCG.

    Attributes:
        worth: relative loss of NDCG that a relative gain of coverage is worth, >= 0; 0.1 = one per
            cent of NDCG for ten per cent of coverage.
        num_users: users who are shown a slate, such as those of a split.
        num_items: items of the catalogue.
        enough: number of slates after which an item counts as covered, > 0.
    """

    worth: float
    num_users: int
    num_items: int
    enough: float


def fit_weights(
    choices: Choices,
    *,
    k: int,
    prior_T2: Tensor | None = None,
    strength: float = STRENGTH,
    spread: Spread | None = None,
) -> Tensor:
    """Fit the weights of the scores in float64: the convex fit first, then NDCG.

    Args:
        choices: of the users. Users without an allowed target count nothing.
        k: length of the slate, for NDCG@k.
        prior_T2: weights that the L2 penalty of the convex fit pulls to; None = 0.
        strength: of this penalty, in nats per squared weight.
        spread: how much coverage counts; None = nothing.

    Returns:
        weight_T2 float32; without a user that counts, the learned score alone.
    """
    double = choices._replace(
        scores_BCT=choices.scores_BCT.double(), features_B2=choices.features_B2.double()
    ).that_count()
    start_T2 = fit_likelihood(double, prior_T2, strength)
    return raise_ndcg(start_T2, double, k=k, spread=spread).float()


def fit_likelihood(
    choices: Choices, prior_T2: Tensor | None = None, strength: float = STRENGTH
) -> Tensor:
    """Fit the weights by likelihood.

    Minimises `mean_b [-1/n_b sum_(c in targets) log softmax_c(sum_t w_bt s_bct)] + strength |w -
    prior|^2` with `w_b = W f_b`, over the allowed candidates of each user. This is a conditional
    logit model. McFadden, 1974, Conditional Logit Analysis of Qualitative Choice Behavior.

    Args:
        choices: each user has an allowed target.
        prior_T2: see `fit_weights`.
        strength: see `fit_weights`.

    Returns:
        weight_T2; without users the prior, or the learned score alone.
    """
    share_BC = choices.is_target_BC.to(choices.scores_BCT)
    share_BC /= share_BC.sum(dim=1, keepdim=True)
    start_T2 = share_BC.new_zeros(choices.scores_BCT.shape[2], 2)
    start_T2[0, 0] = 1.0
    pulled_T2 = torch.zeros_like(start_T2)
    if prior_T2 is not None:
        start_T2 = pulled_T2 = prior_T2.to(start_T2)
    if not len(share_BC):
        return start_T2

    def loss(weight_T2: Tensor) -> Tensor:
        nats_B = -(choices.blended(weight_T2).log_softmax(dim=1) * share_BC).sum(dim=1)
        return nats_B.mean() + strength * (weight_T2 - pulled_T2).square().sum()

    return _minimise(loss, start_T2)


def raise_ndcg(
    weight_T2: Tensor, choices: Choices, *, k: int, spread: Spread | None = None
) -> Tensor:
    """Move weights to a higher NDCG@k, and hold them near the start.

    Ranks are smooth (smooth_ranks.py), so that NDCG has a gradient. The problem is not convex, and
    a single held-out item says little, hence PULL.

    Args:
        weight_T2: start, of `fit_likelihood`.
        choices: each user has an allowed target.
        k: length of the slate.
        spread: see `fit_weights`.

    Returns:
        weight_T2, of the scale of the start.
    """
    if not len(choices.scores_BCT):
        return weight_T2
    size = max(NEAR, 2 * k)
    scale = _deviation(choices.near_the_top(weight_T2, size), weight_T2)
    start_T2 = weight_T2 / scale
    weight_T2 = start_T2
    for _ in range(ROUNDS):
        near = choices.near_the_top(weight_T2, size)
        weight_T2 = _minimise(smooth_loss(near, start_T2, k, spread), weight_T2)
    return weight_T2 * scale


def _deviation(choices: Choices, weight_T2: Tensor) -> Tensor:
    """Return the standard deviation of the blended scores of a user, the mean over the users."""
    blended_BC, is_allowed_BC = choices.blended(weight_T2), choices.is_allowed_BC
    count_B1 = is_allowed_BC.sum(dim=1, keepdim=True)
    mean_B1 = (blended_BC * is_allowed_BC).sum(dim=1, keepdim=True) / count_B1
    square_BC = (blended_BC - mean_B1).square() * is_allowed_BC
    return (square_BC.sum(dim=1, keepdim=True) / count_B1).sqrt().mean().clamp_min(TINY)


def smooth_loss(
    near: Choices, start_T2: Tensor, k: int, spread: Spread | None = None
) -> Callable[[Tensor], Tensor]:
    """Return the loss of weights: minus the mean smooth NDCG@k, plus the pull to the start.

    With a spread also minus `worth * NDCG_0 * log(coverage / coverage_0)`, where 0 is the start of
    the round. Coverage is the mean over items of `1 - exp(-n_i / enough)`, as in
    losses/aggregate.py; n_i is the expected number of slates with the item.
    """
    discount_K = 1 / torch.log2(torch.arange(k).to(start_T2) + 2.0)
    ideal_B = discount_K.cumsum(0)[near.num_targets_B.clamp(1, k) - 1]
    # NDCG reads the ranks of the targets alone, coverage those of the best candidates too; the
    # candidates are in the order of their scores at the start
    most = int(near.is_target_BC.sum(dim=1).max()) + (0 if spread is None else REACH * k)
    place_BR = near.is_target_BC.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
    is_target_BR, is_allowed_BR, items_BR = (
        part.gather(1, place_BR) for part in (near.is_target_BC, near.is_allowed_BC, near.items_BC)
    )
    reference: list[Tensor] = []

    def loss(weight_T2: Tensor) -> Tensor:
        scores_BM = near.blended(weight_T2)
        rank_BR = smooth_ranks(scores_BM.gather(1, place_BR), scores_BM, SMOOTH)
        is_shown_BR = torch.sigmoid(k + 0.5 - rank_BR)
        gain_BR = is_target_BR * is_shown_BR / torch.log2(1 + rank_BR)
        ndcg = (gain_BR.sum(dim=1) / ideal_B).mean()
        pulled = (PULL + PULL_OF_FEW / len(scores_BM)) * (weight_T2 - start_T2).square().sum()
        if spread is None:
            return pulled - ndcg
        coverage = _smooth_coverage(is_shown_BR * is_allowed_BR, items_BR, spread)
        if not reference:
            reference.extend((ndcg.detach(), coverage.detach()))
        worth = spread.worth * reference[0]
        return pulled - ndcg - worth * torch.log(coverage / reference[1])

    return loss


def _smooth_coverage(is_shown_BR: Tensor, items_BR: Tensor, spread: Spread) -> Tensor:
    """Return the share of the catalogue that is shown often enough, in [0, 1]."""
    shown_V = is_shown_BR.new_zeros(spread.num_items)
    shown_V = shown_V.index_add(0, items_BR.flatten(), is_shown_BR.flatten())
    slates_V = shown_V * (spread.num_users / len(is_shown_BR))
    return -torch.expm1(-slates_V / spread.enough).mean()


def _minimise(loss: Callable[[Tensor], Tensor], start_T2: Tensor) -> Tensor:
    """Return the weights that L-BFGS finds from a start."""
    weight_T2 = start_T2.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight_T2], max_iter=STEPS, tolerance_change=ENOUGH, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(weight_T2)
        value.backward()  # pyright: ignore[reportUnknownMemberType]
        return value

    with torch.enable_grad():
        optimizer.step(closure)  # pyright: ignore[reportUnknownMemberType]
    return weight_T2.detach()
