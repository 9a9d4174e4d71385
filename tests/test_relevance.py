import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from recdiv_core.losses.relevance import sampled_softmax, softmax


def positions(seed, *, num=7, num_items=11, dim=4, dtype=torch.float64):
    """Return hidden states, item vectors, targets and weights; some weights are 0."""
    rng = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num, dim, generator=rng, dtype=dtype, requires_grad=True)
    items = torch.randn(num_items, dim, generator=rng, dtype=dtype, requires_grad=True)
    targets = torch.randint(num_items, (num,), generator=rng)
    weights = torch.rand(num, generator=rng, dtype=dtype) * (torch.arange(num) % 3 > 0)
    return hidden, items, targets, weights


class LargestTensor(TorchDispatchMode):
    """Watch how many elements the largest result of any operation has."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def plain_softmax(hidden, items, targets, weights, temperature):
    losses = F.cross_entropy(hidden @ items.T / temperature, targets, reduction="none")
    return (losses * weights).sum()


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 100, None])
@pytest.mark.parametrize("temperature", [0.2, 1.0, 5.0])
def test_softmax_is_the_weighted_sum_of_cross_entropies(chunk, temperature):
    batch = positions(1)
    loss = softmax(*batch, temperature=temperature, chunk=chunk)
    torch.testing.assert_close(loss, plain_softmax(*batch, temperature), rtol=1e-12, atol=0)


@pytest.mark.parametrize("chunk", [1, 3, 7, None])
def test_softmax_has_the_gradients_of_cross_entropy(chunk):
    hidden, items, targets, weights = positions(2)
    loss = softmax(hidden, items, targets, weights, temperature=0.5, chunk=chunk)
    expected = plain_softmax(hidden, items, targets, weights, 0.5)
    torch.testing.assert_close(
        torch.autograd.grad(3 * loss, (hidden, items)),
        torch.autograd.grad(3 * expected, (hidden, items)),
        rtol=1e-12,
        atol=1e-14,
    )


def test_softmax_passes_gradcheck():
    hidden, items, targets, weights = positions(3)
    assert torch.autograd.gradcheck(
        lambda h, e: softmax(h, e, targets, weights, temperature=0.7, chunk=2), (hidden, items)
    )


def test_softmax_of_no_positions_is_0_with_gradients_of_0():
    hidden, items, targets, weights = positions(4, num=0)
    loss = softmax(hidden, items, targets, weights)
    loss.backward()
    assert loss == 0
    assert hidden.grad.shape == (0, 4)
    assert not items.grad.any()


def test_softmax_is_finite_for_scores_in_the_thousands():
    hidden, items, targets, weights = positions(5, dtype=torch.float32)
    loss = softmax(hidden, items, targets, weights, temperature=1e-3)
    gradients = torch.autograd.grad(loss, (hidden, items))
    assert all(values.isfinite().all() for values in (loss, *gradients))


def test_softmax_never_holds_the_logits_of_all_positions():
    hidden, items, targets, weights = positions(6, num=500, num_items=400, dim=2)
    with LargestTensor() as largest:
        softmax(hidden, items, targets, weights, chunk=8).backward()
    assert largest.elements == 8 * 400


def test_softmax_under_bf16_autocast_is_near_float32():
    hidden, items, targets, weights = positions(7, num=64, dim=16, dtype=torch.float32)
    exact = plain_softmax(hidden, items, targets, weights, 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = softmax(hidden, items, targets, weights)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0.01, atol=0)
    for got, wanted in zip(
        torch.autograd.grad(loss, (hidden, items)),
        torch.autograd.grad(exact, (hidden, items)),
        strict=True,
    ):
        assert got.dtype == torch.float32
        assert (got - wanted).norm() < 0.02 * wanted.norm()


def test_sampled_softmax_with_each_item_drawn_once_is_the_exact_softmax():
    batch = positions(8)
    exact = softmax(*batch, temperature=0.5)
    sampled = sampled_softmax(*batch, torch.randperm(11), temperature=0.5)
    torch.testing.assert_close(sampled, exact, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(sampled, batch[:2]), torch.autograd.grad(exact, batch[:2])
    )


def test_the_corrected_normaliser_is_unbiased_over_all_possible_draws():
    hidden, items, targets, weights = positions(9, num=1)
    weights = torch.ones_like(weights)
    losses = [
        sampled_softmax(hidden, items, targets, weights, torch.tensor([drawn]))
        for drawn in range(11)
    ]
    # loss = log(normaliser / exp(positive)), so exp(loss) is linear in the normaliser
    mean = torch.stack(losses).exp().mean().log()
    torch.testing.assert_close(mean, softmax(hidden, items, targets, weights), rtol=1e-12, atol=0)


def test_a_negative_that_is_the_target_does_not_count():
    hidden, items, _, _ = positions(10, num=1)
    target, weight = torch.tensor([3]), torch.ones(1)
    loss = sampled_softmax(hidden, items, target, weight, torch.tensor([3, 3, 3]))
    assert loss == 0


def test_alpha_shifts_negatives_by_the_log_of_their_expected_count():
    hidden, items, targets, weights = positions(11)
    negatives = torch.tensor([0, 4, 5])
    halfway = sampled_softmax(hidden, items, targets, weights, negatives, logq_alpha=0.5)
    positive = (hidden * items[targets]).sum(1, keepdim=True)
    negative = hidden @ items[negatives].T - 0.5 * math.log(3 / 11)
    negative[targets[:, None] == negatives] = -torch.inf
    logits = torch.cat([positive, negative], 1)
    losses = F.cross_entropy(logits, torch.zeros_like(targets), reduction="none")
    torch.testing.assert_close(halfway, (losses * weights).sum(), rtol=1e-12, atol=0)


def test_a_weaker_correction_lowers_the_weight_of_undersampled_negatives():
    batch = positions(12)
    negatives = torch.tensor([0, 4, 5])
    losses = [
        sampled_softmax(*batch, negatives, logq_alpha=alpha).item() for alpha in (0.0, 0.5, 1.0)
    ]
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]


def test_sampled_softmax_passes_gradcheck():
    hidden, items, targets, weights = positions(13)
    negatives = torch.tensor([1, 1, 8, 10])
    assert torch.autograd.gradcheck(
        lambda h, e: sampled_softmax(h, e, targets, weights, negatives, temperature=0.7),
        (hidden, items),
    )


def test_sampled_softmax_of_no_positions_is_0_with_gradients_of_0():
    hidden, items, targets, weights = positions(14, num=0)
    loss = sampled_softmax(hidden, items, targets, weights, torch.tensor([1, 2]))
    loss.backward()
    assert loss == 0
    assert not items.grad.any()


@pytest.mark.parametrize(
    ("hidden", "items", "targets", "weights"),
    [
        ((5, 3), (7, 4), (5,), (5,)),
        ((5,), (7, 5), (5,), (5,)),
        ((5, 4), (7, 4), (6,), (5,)),
        ((5, 4), (7, 4), (5,), (5, 1)),
    ],
)
def test_shapes_that_do_not_fit_are_named(hidden, items, targets, weights):
    batch = (
        torch.zeros(hidden),
        torch.zeros(items),
        torch.zeros(targets).long(),
        torch.ones(weights),
    )
    with pytest.raises(ValueError, match="must be"):
        softmax(*batch)
    with pytest.raises(ValueError, match="must be"):
        sampled_softmax(*batch, torch.tensor([0]))
