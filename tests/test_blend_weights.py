"""The fit of a blend's weights (models/blend_weights.py)."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import torch

from recdiv_core.models.blend import gate_features
from recdiv_core.models.blend_weights import (
    PULL,
    PULL_OF_FEW,
    SMOOTH,
    STRENGTH,
    Choices,
    Spread,
    fit_likelihood,
    fit_weights,
    raise_ndcg,
    smooth_loss,
)
from recdiv_core.models.smooth_ranks import smooth_ranks


def made_users(num_users: int = 60, num_candidates: int = 30) -> Choices:
    """Return users that choose by the sum of two of three scores."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(num_users, num_candidates, 3))
    odds = np.exp(scores @ [1.0, 0.8, 0.0] + rng.gumbel(size=scores.shape[:2]))
    is_target = odds >= np.sort(odds, axis=1)[:, -2:-1]
    is_allowed = rng.random(odds.shape) < 0.9
    lengths = torch.as_tensor(rng.integers(1, 40, num_users)).float()
    return Choices(
        torch.as_tensor(scores, dtype=torch.float32),
        torch.as_tensor(is_target),
        torch.as_tensor(is_allowed),
        gate_features(lengths),
        torch.as_tensor((is_target & is_allowed).sum(axis=1)),
        torch.arange(num_candidates).expand(num_users, -1),
    )


def test_the_fit_is_the_minimum_that_scipy_finds():
    scores, is_target, is_allowed, features, *_ = (each.numpy() for each in made_users())

    def loss(weights: np.ndarray) -> float:
        total, num_users = 0.0, 0
        for row in range(len(scores)):
            keep = is_allowed[row]
            targets = is_target[row][keep]
            if targets.any():
                logits = scores[row][keep] @ (weights.reshape(3, 2) @ features[row])
                top = logits.max()
                log_share = logits - top - np.log(np.exp(logits - top).sum())
                total -= log_share[targets].mean()
                num_users += 1
        return total / num_users + STRENGTH * (weights**2).sum()

    best = scipy.optimize.minimize(loss, np.zeros(6), method="BFGS")
    fitted = fit_likelihood(made_users().that_count()).numpy()
    np.testing.assert_allclose(fitted, best.x.reshape(3, 2), atol=2e-3)


def test_a_score_without_information_gets_little_weight():
    weight_T2 = fit_weights(made_users(600), k=5)
    assert weight_T2[0, 0] > 0.5
    assert weight_T2[1, 0] > 0.4
    assert weight_T2[2].abs().max() < 0.2


@pytest.mark.parametrize("kept", ["targets", "allowed"])
def test_without_a_target_the_learned_score_stands_alone(kept: str):
    users = made_users(3)
    empty = torch.zeros_like(users.is_target_BC)
    gone = {"is_target_BC" if kept == "allowed" else "is_allowed_BC": empty}
    weight_T2 = fit_weights(users._replace(**gone), k=5)
    assert weight_T2.tolist() == [[1, 0], [0, 0], [0, 0]]


def shoppers() -> Choices:
    """Return users with one regular purchase and many chance purchases.

    The first score knows the regular purchase and is noise otherwise. The second one says a little
    about the chance purchases, and nothing about the regular one.
    """
    rng = np.random.default_rng(1)
    num_users, num_candidates = 40, 40
    scores = rng.normal(size=(num_users, num_candidates, 2))
    scores[..., 0] = rng.uniform(-1, 1, scores.shape[:2])
    is_target = (scores[..., 1] > 0) & (rng.random(scores.shape[:2]) < 0.5)
    scores[:, 0, 0], is_target[:, 0] = 5.0, True
    return Choices(
        torch.as_tensor(scores, dtype=torch.float32),
        torch.as_tensor(is_target),
        torch.ones(num_users, num_candidates, dtype=torch.bool),
        gate_features(torch.full((num_users,), 8.0)),
        torch.as_tensor(is_target.sum(axis=1)),
        torch.arange(num_candidates).expand(num_users, -1),
    )


def ndcg(choices: Choices, weight_T2: torch.Tensor, k: int) -> float:
    """Return the mean NDCG@k, user by user."""
    found: list[float] = []
    for row, scores in enumerate(choices.blended(weight_T2)):
        top = scores.argsort(descending=True)[:k].tolist()
        gains = [float(choices.is_target_BC[row, item]) for item in top]
        ideal = min(int(choices.num_targets_B[row]), k)
        discounts = [1 / np.log2(rank + 2) for rank in range(k)]
        found.append(np.dot(gains, discounts) / sum(discounts[:ideal]))
    return float(np.mean(found))


def test_the_second_step_raises_ndcg():
    choices = shoppers()
    start_T2 = fit_likelihood(choices)
    raised_T2 = raise_ndcg(start_T2, choices, k=1)
    assert ndcg(choices, raised_T2, 1) > ndcg(choices, start_T2, 1) + 0.02


def test_smooth_ndcg_is_its_formula():
    users, k = made_users(5, 12).that_count(), 3
    start_T2, weight_T2 = torch.zeros(3, 2), torch.tensor([[0.3, 0.1], [0.5, -0.1], [0.1, 0.0]])
    total = 0.0
    for row, scores in enumerate(users.blended(weight_T2).double().numpy()):
        ideal = sum(1 / np.log2(rank + 2) for rank in range(min(k, users.num_targets_B[row])))
        for item in np.flatnonzero(users.is_target_BC[row]):
            others = np.delete(scores, item)
            with np.errstate(over="ignore"):
                rank = 1 + (1 / (1 + np.exp((scores[item] - others) / SMOOTH))).sum()
            total += 1 / (1 + np.exp(rank - k - 0.5)) / np.log2(1 + rank) / ideal
    num_users = len(users.scores_BCT)
    pull = PULL + PULL_OF_FEW / num_users
    want = pull * float(weight_T2.square().sum()) - total / num_users
    assert float(smooth_loss(users, start_T2, k)(weight_T2)) == pytest.approx(want, abs=1e-5)


def narrow_shop() -> Choices:
    """Return users of whom a popular score and a personal one say about the same.

    The popular score puts the same items before all users, the personal one others before each.
    """
    rng = np.random.default_rng(2)
    num_users, num_items = 80, 60
    likes = rng.normal(size=(num_users, num_items))
    popular = np.broadcast_to(rng.normal(size=num_items), likes.shape)
    odds = likes + 1.2 * popular + rng.gumbel(size=likes.shape)
    is_target = odds >= np.sort(odds, axis=1)[:, -2:-1]
    return Choices(
        torch.as_tensor(np.stack([likes, popular], axis=2), dtype=torch.float32),
        torch.as_tensor(is_target),
        torch.ones(num_users, num_items, dtype=torch.bool),
        gate_features(torch.full((num_users,), 8.0)),
        torch.as_tensor(is_target.sum(axis=1)),
        torch.arange(num_items).expand(num_users, -1),
    )


def covered(choices: Choices, weight_T2: torch.Tensor, k: int) -> float:
    """Return the share of the items that are in a slate."""
    top_BK = choices.blended(weight_T2).topk(k, dim=1).indices
    return len(choices.items_BC.gather(1, top_BK).unique()) / choices.scores_BCT.shape[1]


def test_the_more_coverage_is_worth_the_more_of_it_and_the_less_ndcg():
    choices, k = narrow_shop(), 3
    fitted = [
        fit_weights(choices, k=k, spread=Spread(worth, 80, 60, 3.0)) for worth in (0.0, 0.3, 3.0)
    ]
    shares = [covered(choices, weight_T2, k) for weight_T2 in fitted]
    assert shares == sorted(shares)
    assert shares[-1] > shares[0] + 0.1
    assert ndcg(choices, fitted[-1], k) < ndcg(choices, fitted[0], k)


def test_coverage_in_the_loss_is_its_formula():
    start_T2, weight_T2 = (
        torch.tensor([[1.0, 0.0], [1.0, 0.0]]),
        torch.tensor([[1.0, 0.1], [0.7, 0.0]]),
    )
    choices, k = narrow_shop().that_count().near_the_top(start_T2, 60), 10

    def coverage(weight_T2: torch.Tensor) -> float:
        slates = np.zeros(60)
        blended = choices.blended(weight_T2).double().numpy()
        for items, scores in zip(choices.items_BC.numpy(), blended, strict=True):
            ranks = [(1 / (1 + np.exp((score - scores) / SMOOTH))).sum() + 0.5 for score in scores]
            slates[items] += 1 / (1 + np.exp(np.array(ranks) - k - 0.5))
        return float((1 - np.exp(-slates * 40 / len(choices.scores_BCT) / 3)).mean())

    plain = smooth_loss(choices, start_T2, k, Spread(0.0, 40, 60, 3.0))
    spread = smooth_loss(choices, start_T2, k, Spread(0.5, 40, 60, 3.0))
    ndcg_0 = -float(plain(start_T2))
    assert float(spread(start_T2)) == pytest.approx(-ndcg_0, abs=1e-6)
    gain = np.log(coverage(weight_T2) / coverage(start_T2))
    assert float(spread(weight_T2)) == pytest.approx(
        float(plain(weight_T2)) - 0.5 * ndcg_0 * gain, abs=1e-4
    )


def test_candidates_that_are_not_allowed_change_nothing():
    choices = shoppers()
    more = Choices(
        torch.cat([choices.scores_BCT, torch.full((40, 9, 2), 5.0)], dim=1),
        torch.cat([choices.is_target_BC, torch.ones(40, 9, dtype=torch.bool)], dim=1),
        torch.cat([choices.is_allowed_BC, torch.zeros(40, 9, dtype=torch.bool)], dim=1),
        choices.features_B2,
        choices.num_targets_B,
        torch.cat([choices.items_BC, choices.items_BC[:, :9]], dim=1),
    )
    torch.testing.assert_close(fit_weights(more, k=10), fit_weights(choices, k=10))


def test_a_slate_longer_than_the_candidates_is_fitted_too():
    assert fit_weights(made_users(20, 6), k=50).isfinite().all()


def test_few_users_stay_near_the_prior():
    users, prior_T2 = (
        made_users(30).that_count(),
        torch.tensor([[0.3, 0.0], [2.0, 0.0], [-1.0, 0.0]]),
    )
    near = fit_likelihood(users, prior_T2, strength=100.0)
    far = fit_likelihood(users, prior_T2, strength=1e-3)
    assert (near - prior_T2).abs().max() < 0.05
    assert (far - prior_T2).abs().max() > 0.5


def test_without_users_the_prior_stays():
    users = made_users(30)
    none = Choices(*(part[:0] for part in users))
    prior_T2 = torch.tensor([[0.3, 0.0], [2.0, 0.0], [-1.0, 0.0]])
    assert torch.equal(fit_weights(none, k=5, prior_T2=prior_T2), prior_T2)


def test_smooth_ranks_and_their_gradient_are_those_of_the_plain_formula():
    rng = torch.Generator().manual_seed(0)
    scores_BM = torch.randn(4, 6, dtype=torch.float64, generator=rng).requires_grad_()
    scores_BM.data[1, 2] = -1e9  # a candidate that is not allowed
    own_BR = scores_BM[:, 1:4]
    over_BRM = (scores_BM[:, None, :] - own_BR[..., None]) / 0.5
    plain_BR = 0.5 + torch.sigmoid(over_BRM).sum(dim=2)
    ranks_BR = smooth_ranks(own_BR, scores_BM, 0.5)
    torch.testing.assert_close(ranks_BR, plain_BR)
    worth_BR = torch.randn(4, 3, dtype=torch.float64, generator=rng)
    wanted, found = (
        torch.autograd.grad((worth_BR * ranks).sum(), scores_BM, retain_graph=True)[0]
        for ranks in (plain_BR, ranks_BR)
    )
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("spread", [None, Spread(0.2, 64, 60, 3.0)])
def test_rounding_of_the_scores_hardly_moves_the_weights(spread: Spread | None):
    # another number of workers rounds otherwise; ten times as steep ranks move by 1e-4 here
    users = made_users(64, 60)
    noise = 1 + np.random.default_rng(0).uniform(-1e-6, 1e-6, users.scores_BCT.shape)
    fitted, moved = (
        fit_weights(choices, k=5, spread=spread)
        for choices in (users, users._replace(scores_BCT=users.scores_BCT * torch.as_tensor(noise)))
    )
    torch.testing.assert_close(moved, fitted, rtol=0, atol=1e-5)
