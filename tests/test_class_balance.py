import math

import numpy as np
import pytest
import torch

from recdiv_core.items.labels import labels_of_padded
from recdiv_core.items.popularity import log_prior
from recdiv_core.losses.class_balance import effective_number_weights, item_weights
from recdiv_core.losses.relevance import softmax

COUNTS = [1, 2, 7, 500, 40_000, 3_000_000]


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.999, 0.9999])
def test_weights_are_cuis_formula_scaled_to_mean_1(beta):
    plain = [(1 - beta) / (1 - beta**n) for n in COUNTS]
    wanted = [weight * len(plain) / sum(plain) for weight in plain]
    weights = effective_number_weights(torch.tensor(COUNTS), beta)
    np.testing.assert_allclose(weights.numpy(), wanted, rtol=1e-6)


def test_beta_0_weighs_all_categories_alike():
    assert effective_number_weights(torch.tensor([0, *COUNTS]), 0.0).tolist() == [1.0] * 7


@pytest.mark.parametrize("beta", [1 - 1e-12, math.nextafter(1.0, 0.0)])
def test_beta_towards_1_weighs_by_the_inverse_of_counts(beta):
    inverse = 1 / np.array(COUNTS, dtype=np.float64)
    weights = effective_number_weights(torch.tensor(COUNTS), beta)
    np.testing.assert_allclose(weights.numpy(), inverse / inverse.mean(), rtol=1e-5)


def test_categories_without_events_count_as_one():
    weights = effective_number_weights(torch.tensor([0, 1, 9]), 0.9)
    assert weights[0] == weights[1] > weights[2]


@pytest.mark.parametrize("beta", [-0.1, 1.0, 2.0, math.nan])
def test_beta_outside_its_range_is_named(beta):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\)"):
        effective_number_weights(torch.tensor([1, 2]), beta)


def test_an_item_weighs_the_mean_of_its_labels():
    weights = torch.tensor([0.5, 2.0, 3.0])
    categories = torch.tensor([[1, -1, -1], [0, 2, -1], [-1, 1, 2], [0, 1, 2], [-1, -1, -1]])
    wanted = [2.0, 1.75, 2.5, 5.5 / 3, 1.0]
    found = item_weights(weights, labels_of_padded(categories))
    torch.testing.assert_close(found.tolist(), wanted)


def test_a_shop_without_categories_weighs_all_items_alike():
    none = labels_of_padded(torch.full((3, 1), -1))
    assert item_weights(torch.empty(0), none).tolist() == [1.0, 1.0, 1.0]


def test_the_prior_is_the_smoothed_share_of_events():
    prior = log_prior(torch.tensor([0, 3, 5, 0])).exp()
    torch.testing.assert_close(prior.tolist(), [1 / 12, 4 / 12, 6 / 12, 1 / 12])


@pytest.mark.parametrize("popularity", [[0, 0, 0], [10**12, 0, 1], [7], list(range(5000))])
def test_the_prior_is_finite_and_sums_to_1(popularity):
    prior = log_prior(torch.tensor(popularity))
    assert prior.isfinite().all()
    assert prior.double().exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_training_with_the_prior_as_bias_leaves_scores_free_of_popularity():
    """One context; targets by popularity: plain scores learn it, adjusted ones do not."""
    popularity = torch.tensor([63, 15, 3, 0])
    prior = log_prior(popularity)
    share = prior.exp()
    learned = []
    for bias in (None, prior):
        items = torch.zeros(4, 1, requires_grad=True)
        optimizer = torch.optim.SGD([items], lr=1.0)
        for _ in range(60):
            optimizer.zero_grad()
            softmax(torch.ones(4, 1), items, torch.arange(4), share, logit_bias_V=bias).backward()
            optimizer.step()
        learned.append((items.max() - items.min()).item())
    plain, adjusted = learned
    assert plain > 1
    assert adjusted < 1e-4


def test_class_weights_move_gradient_from_frequent_to_rare_categories():
    counts = torch.tensor([90, 10])
    targets = torch.arange(2).repeat_interleave(counts)
    weights = effective_number_weights(counts, 1 - 1e-9)[targets]
    gradients = []
    for each in (torch.ones(100), weights):
        items = torch.zeros(2, 1, requires_grad=True)
        loss = softmax(torch.ones(100, 1), items, targets, each) / each.sum()
        gradients.append(torch.autograd.grad(loss, items)[0][0].item())
    plain, balanced = gradients
    assert plain == pytest.approx(-0.4, rel=1e-4)
    assert balanced == pytest.approx(0, abs=1e-5)
