"""The selection by groups against torch's own."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.rerank.top_scores import GROUP, USERS_AT_ONCE, _by_index, _by_two_sorts, top_scores


def scores(num_users: int, num_items: int, seed: int) -> torch.Tensor:
    return torch.randn(num_users, num_items, generator=torch.Generator().manual_seed(seed))


@given(
    num_users=st.integers(0, 5),
    num_items=st.integers(1, 300),
    k=st.integers(1, 40),
    seed=st.integers(0, 2**20),
)
def test_it_is_the_selection_of_torch(num_users, num_items, k, seed):
    k = min(k, num_items)
    scores_BV = scores(num_users, num_items, seed)
    values, index = top_scores(scores_BV, k)
    wanted, wanted_index = scores_BV.topk(k, dim=1)
    assert torch.equal(values, wanted)
    assert torch.equal(index, wanted_index)


@given(
    num_items=st.sampled_from([1, 2, 9, 100, 40 * GROUP + 5]),
    levels=st.sampled_from([0.0, 0.5, 1.0, 3.0, 9.0]),
    k=st.integers(0, 20),
    odd=st.sampled_from([0.0, torch.nan, torch.inf, -torch.inf]),
    share=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
    seed=st.integers(0, 2**20),
)
def test_of_equal_scores_the_lower_index_comes_first(num_items, levels, k, odd, share, seed):
    k = min(k, num_items)
    scores_BV = (scores(3, num_items, seed) * levels).round()
    scores_BV.masked_fill_(scores(3, num_items, seed + 1).sigmoid() < share, odd)
    values, index = top_scores(scores_BV, k)
    order = scores_BV.sort(dim=1, descending=True, stable=True)
    assert torch.equal(values.nan_to_num(7e30), order.values[:, :k].nan_to_num(7e30))
    assert torch.equal(index, order.indices[:, :k])


@given(levels=st.sampled_from([0.0, 0.5, 3.0]), k=st.integers(1, 20), seed=st.integers(0, 2**20))
def test_the_order_of_a_gpu_is_that_of_the_cpu(levels, k, seed):
    falling, index = (scores(3, 40, seed) * levels).round().topk(k, dim=1)
    expected = _by_index(falling, index.clone())
    assert torch.equal(_by_two_sorts(falling, index), expected)


def test_items_that_must_not_be_chosen_come_last():
    scores_BV = scores(2, 40 * GROUP, 0).fill_(-torch.inf)
    scores_BV[0, 7], scores_BV[0, 300] = 1.0, 2.0
    values, index = top_scores(scores_BV, 3)
    assert index[0, :2].tolist() == [300, 7]
    assert values[0, 2] == values[1, 0] == -torch.inf


def test_what_is_not_a_number_counts_as_highest_as_in_torch():
    scores_BV = scores(1, 40 * GROUP, 0)
    scores_BV[0, 123] = torch.nan
    assert top_scores(scores_BV, 2)[1][0, 0] == 123


def test_a_view_of_a_wider_matrix_is_selected_from_as_well():
    wide = scores(4, 500, 1)
    assert torch.equal(top_scores(wide[:, ::2], 5)[1], wide[:, ::2].topk(5, dim=1).indices)


def test_more_users_than_are_selected_from_at_once():
    scores_BV = scores(2 * USERS_AT_ONCE + 3, 20 * GROUP, 4)
    values, index = top_scores(scores_BV, 10)
    wanted, wanted_index = scores_BV.topk(10, dim=1)
    assert torch.equal(values, wanted)
    assert torch.equal(index, wanted_index)
