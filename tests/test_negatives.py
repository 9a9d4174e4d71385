import itertools
import math

import pytest
import torch

from recdiv_core.items.popularity import log_prior
from recdiv_core.losses.negatives import mixed_negatives
from recdiv_core.losses.relevance import sampled_softmax, softmax

SHARE = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
NO_DRAWS = torch.zeros(0, dtype=torch.int64)


def position(seed, num_items):
    """Return hidden state, item vectors, target and weight of one position."""
    rng = torch.Generator().manual_seed(seed)
    hidden = torch.randn(1, 3, generator=rng, dtype=torch.float64)
    items = torch.randn(num_items, 3, generator=rng, dtype=torch.float64)
    return hidden, items, torch.tensor([1]), torch.ones(1, dtype=torch.float64)


def loss_against(one, negatives, alpha=1.0):
    return sampled_softmax(
        *one,
        negatives.items_S,
        logq_alpha=alpha,
        log_count_S=negatives.log_count_S,
        log_expected_S=negatives.log_expected_S,
    )


def test_in_batch_negatives_are_the_distinct_targets_in_order():
    negatives = mixed_negatives(torch.tensor([3, 1, 3, 0, 3]), NO_DRAWS, SHARE.log())
    assert negatives.items_S.tolist() == [0, 1, 3]
    torch.testing.assert_close(negatives.log_count_S.exp().tolist(), [1.0, 1.0, 3.0])
    torch.testing.assert_close(
        negatives.log_expected_S.exp().tolist(), [4 * 0.5, 4 * 0.3, 4 * 0.05]
    )


def test_an_item_of_both_draws_stands_once_with_both_counts():
    negatives = mixed_negatives(torch.tensor([1, 1, 2]), torch.tensor([3, 1]), SHARE.log())
    assert negatives.items_S.tolist() == [1, 2, 3]
    torch.testing.assert_close(negatives.log_count_S.exp().tolist(), [3.0, 1.0, 1.0])
    torch.testing.assert_close(
        negatives.log_expected_S.exp().tolist(),
        [2 * 0.3 + 2 / 4, 2 * 0.15 + 2 / 4, 2 * 0.05 + 2 / 4],
    )


def test_uniform_draws_from_fewer_items_are_expected_more_often():
    draws = torch.tensor([0, 3])
    negatives = mixed_negatives(NO_DRAWS, draws, SHARE.log(), num_items=2)
    assert negatives.log_expected_S.exp().tolist() == pytest.approx([2 / 2, 2 / 2])


@pytest.mark.parametrize("num_uniform", [0, 1])
def test_the_normaliser_is_unbiased_over_all_batches(num_uniform):
    one = position(1, 4)
    mean = 0.0
    # the first position's target is given; two companions by popularity, the rest uniform
    for first, second, *uniform in itertools.product(range(4), repeat=2 + num_uniform):
        negatives = mixed_negatives(
            torch.tensor([1, first, second]), torch.tensor(uniform, dtype=torch.int64), SHARE.log()
        )
        probability = float(SHARE[first] * SHARE[second]) / 4**num_uniform
        # loss = log(normaliser / exp(positive)), so exp(loss) is linear in the normaliser
        mean += probability * math.exp(loss_against(one, negatives))
    assert mean == pytest.approx(math.exp(softmax(*one)), rel=1e-12)


def test_counts_of_the_batch_for_expected_ones_would_be_biased():
    one = position(1, 4)
    mean = 0.0
    for first, second in itertools.product(range(4), repeat=2):
        negatives = mixed_negatives(torch.tensor([1, first, second]), NO_DRAWS, SHARE.log())
        naive = negatives._replace(log_expected_S=negatives.log_count_S)
        mean += float(SHARE[first] * SHARE[second]) * math.exp(loss_against(one, naive))
    assert mean < 0.9 * math.exp(softmax(*one))


@pytest.mark.parametrize("num_uniform", [0, 20_000])
def test_the_log_normaliser_tends_to_the_exact_one_with_many_draws(num_uniform):
    rng = torch.Generator().manual_seed(2)
    one = position(2, 50)
    share = torch.arange(1, 51).double().reciprocal()
    share /= share.sum()
    errors = []
    for num in (20, 20_000):
        targets = torch.multinomial(share, num, replacement=True, generator=rng)
        uniform = torch.randint(50, (min(num_uniform, num),), generator=rng)
        negatives = mixed_negatives(torch.cat([one[2], targets]), uniform, share.log())
        errors.append(abs(loss_against(one, negatives) - softmax(*one)).item())
    assert errors[1] < 0.03 < errors[0]


def test_without_targets_the_list_is_that_of_the_uniform_draws():
    one, uniform = position(5, 4), torch.tensor([3, 0, 3])
    negatives = mixed_negatives(torch.tensor([], dtype=torch.int64), uniform, SHARE.log())
    torch.testing.assert_close(
        loss_against(one, negatives), sampled_softmax(*one, uniform), rtol=1e-12, atol=0
    )


def test_cold_items_are_drawn_by_the_uniform_half_alone():
    log_share = torch.tensor([0.0, -1000.0])
    negatives = mixed_negatives(torch.tensor([0, 0]), torch.tensor([1, 1, 1]), log_share)
    torch.testing.assert_close(negatives.log_expected_S.exp().tolist(), [1 + 3 / 2, 3 / 2])


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_a_batch_of_one_position_has_no_negatives_and_loss_0(alpha):
    one = position(3, 4)
    negatives = mixed_negatives(one[2], NO_DRAWS, SHARE.log())
    assert all(values.isfinite().all() for values in negatives)
    assert loss_against(one, negatives, alpha) == 0


def test_an_empty_batch_has_an_empty_list_and_loss_0():
    hidden, items, targets, weights = position(4, 4)
    negatives = mixed_negatives(targets[:0], NO_DRAWS, SHARE.log())
    assert negatives.items_S.shape == (0,)
    assert loss_against((hidden[:0], items, targets[:0], weights[:0]), negatives) == 0
    assert loss_against((hidden, items, targets, weights), negatives) == 0


def test_the_prior_is_the_smoothed_share_of_events():
    prior = log_prior(torch.tensor([0, 3, 5, 0])).exp()
    torch.testing.assert_close(prior.tolist(), [1 / 12, 4 / 12, 6 / 12, 1 / 12])


@pytest.mark.parametrize("popularity", [[0, 0, 0], [10**12, 0, 1], [7], list(range(5000))])
def test_the_prior_is_finite_and_sums_to_1(popularity):
    prior = log_prior(torch.tensor(popularity))
    assert prior.isfinite().all()
    assert prior.double().exp().sum().item() == pytest.approx(1, abs=1e-5)
