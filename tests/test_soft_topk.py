import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from recdiv_core.losses.soft_topk import soft_topk, standardise

any_case = given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 9),
    temperature=st.sampled_from([0.02, 0.1, 1.0, 5.0]),
)


def random_scores(seed, *, num_users=3, num_candidates=9, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(num_users, num_candidates, generator=rng, dtype=dtype)


@any_case
def test_rows_lie_in_0_to_1_and_sum_to_k(seed, k, temperature):
    soft = soft_topk(random_scores(seed), k, temperature)
    assert soft.min() >= 0
    assert soft.max() <= 1
    torch.testing.assert_close(soft.sum(1), torch.full((3,), float(k)).double())


@any_case
def test_candidates_may_stand_in_any_order(seed, k, temperature):
    scores = random_scores(seed)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        soft_topk(scores[:, order], k, temperature), soft_topk(scores, k, temperature)[:, order]
    )


@any_case
def test_a_higher_score_is_never_less_in_the_slate(seed, k, temperature):
    order = random_scores(seed).sort(dim=1).values
    soft = soft_topk(order, k, temperature)
    assert (soft.diff(dim=1) >= 0).all()


@any_case
def test_a_constant_added_to_a_users_scores_changes_nothing(seed, k, temperature):
    scores = random_scores(seed)
    shift = torch.tensor([[-7.0], [0.5], [100.0]])
    shifted = soft_topk(scores + shift, k, temperature)
    torch.testing.assert_close(shifted, soft_topk(scores, k, temperature), rtol=1e-6, atol=1e-9)


def test_users_do_not_see_one_another():
    scores = random_scores(1)
    torch.testing.assert_close(soft_topk(scores, 3, 0.1)[1:2], soft_topk(scores[1:2], 3, 0.1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 4, 8])
def test_a_temperature_near_0_gives_the_hard_top_k(k, dtype):
    scores = random_scores(2, dtype=dtype).requires_grad_()
    hard = torch.zeros_like(scores).scatter(1, scores.topk(k, dim=1).indices, 1.0)
    soft = soft_topk(scores, k, 1e-4)
    (soft * random_scores(3, dtype=dtype)).sum().backward()
    torch.testing.assert_close(soft.detach(), hard)
    assert scores.grad.isfinite().all()


def test_a_temperature_near_infinity_gives_everyone_the_same():
    torch.testing.assert_close(
        soft_topk(random_scores(3), 3, 1e6), torch.full((3, 9), 1 / 3).double(), rtol=1e-5, atol=0
    )


def test_ties_share_the_places_that_are_left():
    soft = soft_topk(torch.tensor([[9.0, 5.0, 5.0, 5.0, 5.0, -9.0]]).double(), 3, 0.1)
    expected = torch.tensor([[1.0, 0.5, 0.5, 0.5, 0.5, 0.0]]).double()
    torch.testing.assert_close(soft, expected)


@pytest.mark.parametrize("k", [9, 12])
def test_a_slate_as_long_as_the_candidates_holds_them_all(k):
    scores = random_scores(4).requires_grad_()
    soft = soft_topk(scores, k, 0.1)
    soft.sum().backward()
    assert torch.equal(soft, torch.ones_like(scores))
    assert not scores.grad.any()


@any_case
def test_the_gradient_of_anything_sums_to_0_over_a_users_candidates(seed, k, temperature):
    scores = random_scores(seed).requires_grad_()
    (soft_topk(scores, k, temperature) * random_scores(seed + 1)).sum().backward()
    size = scores.grad.abs().sum(1)
    assert (scores.grad.sum(1).abs() <= 1e-9 * (1 + size)).all()


@pytest.mark.parametrize("k", [1, 4, 8])
@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_a_soft_slate_passes_gradcheck(k, temperature):
    scores = random_scores(5, num_users=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: soft_topk(s, k, temperature), scores, eps=1e-4)


def test_a_saturated_slate_has_a_gradient_of_0_not_nan():
    scores = torch.tensor([[1e4, 5e3, -5e3, -1e4]], requires_grad=True)
    (soft_topk(scores, 2, 0.01) * torch.arange(4.0)).sum().backward()
    assert torch.equal(scores.grad, torch.zeros(1, 4))


@pytest.mark.parametrize("num_candidates", [20, 200, 2000])
def test_float32_agrees_with_float64_at_the_sizes_of_training(num_candidates):
    scores = standardise(random_scores(6, num_candidates=num_candidates))
    wide = soft_topk(scores, 10, 0.1)
    narrow = soft_topk(scores.float(), 10, 0.1)
    torch.testing.assert_close(narrow.double(), wide, rtol=0, atol=1e-5)
    torch.testing.assert_close(narrow.sum(1), torch.full((3,), 10.0), rtol=1e-5, atol=0)


def test_no_users_give_no_slates():
    assert soft_topk(torch.zeros(0, 9), 3, 0.1).shape == (0, 9)


@pytest.mark.parametrize(
    ("shape", "k", "temperature"), [((9,), 3, 0.1), ((2, 9), 0, 0.1), ((2, 9), 3, 0.0)]
)
def test_arguments_out_of_range_are_named(shape, k, temperature):
    with pytest.raises(ValueError, match="must be"):
        soft_topk(torch.zeros(shape), k, temperature)


def test_standardised_scores_have_mean_0_and_deviation_1():
    scaled = standardise(7 + 40 * random_scores(7))
    torch.testing.assert_close(scaled.mean(1), torch.zeros(3).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(scaled.std(1, correction=0), torch.ones(3).double())


@pytest.mark.parametrize("scale", [0.01, 3.0, 1e4])
def test_standardised_scores_do_not_depend_on_scale_and_shift(scale):
    scores = random_scores(8)
    torch.testing.assert_close(
        standardise(scale * scores - 50), standardise(scores), rtol=1e-6, atol=1e-7
    )


def test_equal_scores_become_zeros_with_a_finite_gradient():
    scores = torch.full((2, 9), 3.0, requires_grad=True)
    scaled = standardise(scores)
    (scaled * torch.arange(9.0)).sum().backward()
    assert torch.equal(scaled, torch.zeros(2, 9))
    assert scores.grad.isfinite().all()


def test_scaling_the_scores_is_no_way_to_change_a_slate():
    scores = random_scores(9)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    (soft_topk(standardise(scale * scores), 3, 0.1) * random_scores(10)).sum().backward()
    torch.testing.assert_close(scale.grad, torch.zeros_like(scale), rtol=0, atol=1e-9)
