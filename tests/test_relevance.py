import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from recdiv_core.losses.relevance import RELEVANCE, sampled_softmax, softmax

EVERY_LOSS = pytest.mark.parametrize("name", RELEVANCE)


def positions(seed, *, num=7, num_items=11, dim=4, dtype=torch.float64):
    """Return hidden states, item vectors, targets and weights; some weights are 0."""
    rng = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num, dim, generator=rng, dtype=dtype, requires_grad=True)
    items = torch.randn(num_items, dim, generator=rng, dtype=dtype, requires_grad=True)
    targets = torch.randint(num_items, (num,), generator=rng)
    weights = torch.rand(num, generator=rng, dtype=dtype) * (torch.arange(num) % 3 > 0)
    return hidden, items, targets, weights


def relevance_of(name, batch, **options):
    """Return any loss of the family; negatives 0, 2, 2, 5, 9 for those that take some."""
    negatives = () if name == "softmax" else (torch.tensor([0, 2, 2, 5, 9]),)
    return RELEVANCE[name](*batch, *negatives, **options)


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


def sampled_by_hand(
    batch,
    negatives,
    temperature,
    *,
    alpha=1.0,
    counts=None,
    expected=None,
):
    """Loop over positions and negatives; formulas as their papers print them."""
    hidden, items, targets, weights = (values.detach().numpy() for values in batch)
    total = 0.0
    for n in range(len(targets)):
        positive = float(hidden[n] @ items[targets[n]]) / temperature
        kept = [
            (float(hidden[n] @ items[item]) / temperature, j)
            for j, item in enumerate(negatives.tolist())
            if item != targets[n]
        ]
        norm = math.exp(positive)
        for score, j in kept:
            norm += counts[j] * math.exp(score) / expected[j] ** alpha
        loss = math.log(norm) - positive
        total += weights[n] * loss
    return total


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


def plain_softmax_without(left_out, hidden, items, targets, weights):
    """Return the loss of `softmax` position by position, from the items that stay."""
    total = 0.0
    for row, target, weight in zip(hidden, targets.tolist(), weights, strict=True):
        kept = [item for item in range(len(items)) if item not in left_out or item == target]
        own = torch.tensor([kept.index(target)])
        total = total + weight * F.cross_entropy((items[kept] @ row)[None], own)
    return total


@pytest.mark.parametrize("chunk", [1, 3, None])
@pytest.mark.parametrize("left_out", [[], [4], [0, 3, 9], list(range(11))])
def test_softmax_leaves_items_out_except_where_they_are_the_target(left_out, chunk):
    batch = positions(6)
    found = softmax(*batch, left_out_X=torch.tensor(left_out, dtype=torch.int64), chunk=chunk)
    expected = plain_softmax_without(left_out, *batch)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    gradients = [torch.autograd.grad(loss, batch[:2]) for loss in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


@given(st.integers(0, 1000), st.sets(st.integers(0, 10), max_size=9))
def test_an_item_that_is_left_out_and_no_target_gets_no_gradient(seed, left_out):
    hidden, items, targets, weights = positions(seed)
    left_out -= set(targets.tolist())
    rows = torch.tensor(sorted(left_out), dtype=torch.int64)
    loss = softmax(hidden, items, targets, weights, left_out_X=rows)
    gradient = torch.autograd.grad(loss, items)[0]
    assert torch.equal(gradient[rows], torch.zeros_like(gradient[rows]))
    moved = items.detach().index_fill(0, rows, 1e3)
    assert loss == softmax(hidden, moved, targets, weights, left_out_X=rows)


def test_no_item_left_out_is_the_plain_softmax_to_the_bit():
    batch = positions(7, dtype=torch.float32)
    none = softmax(*batch, left_out_X=torch.tensor([], dtype=torch.int64))
    assert softmax(*batch) == none


def test_softmax_passes_gradcheck():
    hidden, items, targets, weights = positions(3)
    assert torch.autograd.gradcheck(
        lambda h, e: softmax(h, e, targets, weights, temperature=0.7, chunk=2), (hidden, items)
    )


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


def test_softmax_of_half_items_sums_chunks_in_float32():
    hidden, items, targets, weights = positions(24, num=512, dim=2, dtype=torch.bfloat16)
    exact = softmax(hidden.double(), items.double(), targets, weights.double())
    wanted = torch.autograd.grad(exact, items)[0].double()
    got = torch.autograd.grad(softmax(hidden, items, targets, weights, chunk=1), items)[0].double()
    assert (got - wanted).norm() < 0.005 * wanted.norm()


@pytest.mark.parametrize("chunk", [1, 3, None])
def test_a_loss_of_negatives_is_the_loop_over_pairs(chunk):
    batch = positions(30)
    negatives = torch.tensor([7, 1, 1, 10, 3, 4])
    counts, expected = [1, 2, 1, 4, 1, 1], [0.5, 1.0, 3.0, 2.5, 0.1, 1.7]
    loss = sampled_softmax(
        *batch,
        negatives,
        temperature=0.5,
        chunk=chunk,
        logq_alpha=0.7,
        log_count_S=torch.tensor(counts).double().log(),
        log_expected_S=torch.tensor(expected, dtype=torch.float64).log(),
    )
    wanted = sampled_by_hand(batch, negatives, 0.5, alpha=0.7, counts=counts, expected=expected)
    np.testing.assert_allclose(loss.item(), wanted, rtol=1e-12)


@pytest.mark.parametrize("chunk", [2, None])
def test_a_loss_of_negatives_passes_gradcheck(chunk):
    hidden, items, targets, weights = positions(31, num=3, num_items=6, dim=2)
    negatives = torch.tensor([1, 1, 4, 5])
    assert torch.autograd.gradcheck(
        lambda h, e: sampled_softmax(h, e, targets, weights, negatives, chunk=chunk),
        (hidden, items),
    )


def test_chunks_of_positions_change_no_gradient():
    batch, negatives = positions(32), torch.tensor([1, 1, 8, 10])
    whole, chunked = (
        torch.autograd.grad(sampled_softmax(*batch, negatives, chunk=chunk), batch[:2])
        for chunk in (None, 2)
    )
    torch.testing.assert_close(chunked, whole, rtol=1e-12, atol=1e-14)


def test_chunks_are_not_kept_for_the_backward_pass():
    batch = positions(33, num=100, num_items=80, dim=2)
    kept = []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with LargestTensor() as largest:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = sampled_softmax(*batch, torch.arange(80), chunk=8)
        loss.backward()
    assert max(kept) <= 100 * 2
    assert largest.elements == 8 * 80


@pytest.mark.parametrize("chunk", [2, None])
def test_a_position_without_negatives_has_finite_gradients(chunk):
    batch = positions(34)
    batch[2][[1, 4]] = 5
    loss = sampled_softmax(*batch, torch.tensor([5, 5]), chunk=chunk)
    gradients = torch.autograd.grad(loss, batch[:2])
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_a_position_without_negatives_has_sampled_loss_0():
    hidden, items, _, _ = positions(35)
    targets = torch.full((7,), 3)
    loss = sampled_softmax(hidden, items, targets, torch.ones(7), torch.tensor([3, 3]))
    gradients = torch.autograd.grad(loss, (hidden, items))
    assert loss == 0
    assert not any(gradient.any() for gradient in gradients)


def test_a_count_of_two_is_the_entry_twice():
    batch = positions(37)
    expected = torch.tensor([0.5, 2.0, 2.0], dtype=torch.float64).log()
    counted = sampled_softmax(
        *batch,
        torch.tensor([1, 8]),
        log_count_S=torch.tensor([1, 2]).double().log(),
        log_expected_S=expected[:2],
    )
    twice = sampled_softmax(*batch, torch.tensor([1, 8, 8]), log_expected_S=expected)
    torch.testing.assert_close(counted, twice, rtol=1e-12, atol=0)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_push_on_a_popular_item_is_its_expected_count_to_the_power_1_minus_alpha(alpha):
    items = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    counts = torch.tensor([8.0, 0.5], dtype=torch.float64).log()  # both drawn as expected
    loss = sampled_softmax(
        torch.ones(1, 2, dtype=torch.float64),
        items,
        torch.tensor([0]),
        torch.ones(1),
        torch.tensor([1, 2]),
        logq_alpha=alpha,
        log_count_S=counts,
        log_expected_S=counts,
    )
    (gradient,) = torch.autograd.grad(loss, items)
    popular, rare = gradient[1:, 0].tolist()
    np.testing.assert_allclose(popular / rare, 16 ** (1 - alpha), rtol=1e-12)


def test_sampled_softmax_is_exact_in_both_tails():
    items = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    hidden = torch.tensor([[15.0], [-12.5], [-400.0]], dtype=torch.float64)
    certain, unlikely, impossible = (
        sampled_softmax(
            row[None],
            items,
            torch.tensor([0]),
            torch.ones(1),
            torch.tensor([1]),
            log_expected_S=torch.zeros(1),
        ).item()
        for row in hidden
    )
    np.testing.assert_allclose(certain, math.log1p(math.exp(-30)), rtol=1e-14)
    np.testing.assert_allclose(unlikely, 25 + math.log1p(math.exp(-25)), rtol=1e-14)
    assert impossible == 800


def test_a_loss_scale_reaches_half_gradients_before_they_vanish():
    hidden, items, targets, _ = positions(44, num=8, num_items=4000, dtype=torch.float32)
    weights, negatives = torch.full((8,), 1e-4), torch.arange(4000)
    exact = torch.autograd.grad(sampled_softmax(hidden, items, targets, weights, negatives), items)[
        0
    ]
    with torch.autocast("cpu", torch.float16):
        loss = sampled_softmax(hidden, items, targets, weights, negatives, chunk=3)
    scaled = torch.autograd.grad(loss * 2**16, items)[0] / 2**16
    assert (scaled - exact).norm() < 0.01 * exact.norm()
    assert (scaled - exact)[exact.abs() > 1e-9].abs().max() < 0.05 * exact.abs().max()


def test_the_score_of_a_target_is_not_rounded_to_half():
    hidden = torch.tensor([[1.0078125]], dtype=torch.bfloat16)
    items = torch.tensor([[1.0078125], [0.0]], dtype=torch.bfloat16)
    halves, wide = (
        sampled_softmax(h, e, torch.tensor([0]), torch.ones(1), torch.tensor([1]))
        for h, e in ((hidden, items), (hidden.float(), items.float()))
    )
    torch.testing.assert_close(halves, wide, rtol=1e-6, atol=0)


# the family: what holds of every loss


@EVERY_LOSS
def test_the_positions_of_any_two_parts_add_up(name):
    batch = positions(50)
    whole = relevance_of(name, batch)
    for cut in range(8):
        hidden, items, targets, weights = batch
        first = (hidden[:cut], items, targets[:cut], weights[:cut])
        second = (hidden[cut:], items, targets[cut:], weights[cut:])
        total = relevance_of(name, first) + relevance_of(name, second)
        torch.testing.assert_close(total, whole, rtol=1e-12, atol=0)


@EVERY_LOSS
def test_a_position_of_weight_0_might_as_well_not_be_there(name):
    hidden, items, targets, weights = positions(51)
    kept = weights > 0
    fewer = (hidden[kept], items, targets[kept], weights[kept])
    full, part = (relevance_of(name, batch) for batch in ((hidden, items, targets, weights), fewer))
    torch.testing.assert_close(part, full, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(part, items), torch.autograd.grad(full, items), rtol=1e-10, atol=1e-14
    )


@EVERY_LOSS
def test_weights_of_0_give_loss_0_and_gradients_of_0(name):
    hidden, items, targets, weights = positions(51)
    loss = relevance_of(name, (hidden, items, targets, weights * 0))
    loss.backward()
    assert loss == 0
    assert not hidden.grad.any()
    assert not items.grad.any()


@EVERY_LOSS
def test_weights_scale_a_loss(name):
    hidden, items, targets, weights = positions(52)
    torch.testing.assert_close(
        relevance_of(name, (hidden, items, targets, 3 * weights)),
        3 * relevance_of(name, (hidden, items, targets, weights)),
        rtol=1e-12,
        atol=0,
    )


@pytest.mark.parametrize("name", ["softmax", "sampled_softmax"])
def test_a_constant_on_all_scores_changes_nothing(name):
    hidden, items, targets, weights = positions(53)
    raised = torch.cat([hidden, torch.full((7, 1), 5.0)], 1)
    ones = torch.cat([items, torch.ones(11, 1)], 1)
    torch.testing.assert_close(
        relevance_of(name, (raised, ones, targets, weights)),
        relevance_of(name, (hidden, items, targets, weights)),
        rtol=1e-12,
        atol=0,
    )


@EVERY_LOSS
def test_no_positions_have_loss_0_and_gradients_of_0(name):
    hidden, items, targets, weights = positions(54, num=0)
    loss = relevance_of(name, (hidden, items, targets, weights))
    loss.backward()
    assert loss == 0
    assert hidden.grad.shape == (0, 4)
    assert not items.grad.any()


@EVERY_LOSS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_are_near_float64(name, dtype):
    batch = positions(55, num=64, dim=16, dtype=dtype)
    exact = relevance_of(name, [v if v.dtype == torch.int64 else v.double() for v in batch])
    loss = relevance_of(name, batch)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=0.005, atol=0)
    for got, wanted in zip(
        torch.autograd.grad(loss, batch[:2]), torch.autograd.grad(exact, batch[:2]), strict=True
    ):
        assert (got.double() - wanted.double()).norm() < 0.03 * wanted.double().norm()


@EVERY_LOSS
def test_autocast_in_chunks_is_near_float32(name):
    batch = positions(56, num=64, dim=16, dtype=torch.float32)
    exact = relevance_of(name, batch)
    with torch.autocast("cpu", torch.bfloat16):
        loss = relevance_of(name, batch, chunk=10)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0.01, atol=0)
    for got, wanted in zip(
        torch.autograd.grad(loss, batch[:2]), torch.autograd.grad(exact, batch[:2]), strict=True
    ):
        assert got.dtype == torch.float32
        assert (got - wanted).norm() < 0.03 * wanted.norm()


@EVERY_LOSS
def test_a_step_down_the_gradient_raises_the_share_of_targets_ranked_first(name):
    hidden, items, targets, _ = positions(57, num=40, dim=8)
    weights = torch.ones(40, dtype=torch.float64)
    before = (hidden @ items.T).argsort(1, descending=True).argsort(1)[torch.arange(40), targets]
    loss = relevance_of(name, (hidden, items, targets, weights))
    (gradient,) = torch.autograd.grad(loss, hidden)
    after = ((hidden - gradient) @ items.T).argsort(1, descending=True).argsort(1)
    assert after[torch.arange(40), targets].double().mean() < before.double().mean()


def test_counts_of_negatives_that_do_not_fit_are_named():
    batch, negatives = positions(58), torch.tensor([0, 4])
    with pytest.raises(ValueError, match=r"counts of negatives \(3,\) must be"):
        sampled_softmax(*batch, negatives, log_expected_S=torch.zeros(3))
    with pytest.raises(ValueError, match=r"counts of negatives \(1,\) must be"):
        sampled_softmax(*batch, negatives, log_count_S=torch.zeros(1))


def test_negatives_that_do_not_fit_are_named():
    batch = positions(59)
    with pytest.raises(ValueError, match=r"negatives \(2, 1\) must be"):
        sampled_softmax(*batch, torch.zeros(2, 1).long())
