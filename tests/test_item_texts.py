"""Texts of a step in groups of similar length, with the stored output of frozen layers."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.data.catalogue import Tokens
from recdiv_core.data.layer_states import LayerStates, WriteStates, state_blocks
from recdiv_core.models.frozen_layers import FrozenLayers
from recdiv_core.models.text_groups import (
    CALL_TOKENS,
    ONE_GROUP,
    batches_by_length,
    group_by_length,
)
from recdiv_core.training.item_texts import ItemTexts
from recdiv_core.training.shards import refresh_texts
from tests.test_trainable_encoder import model_of, source

__all__ = ["source"]  # a fixture

NUM_ITEMS = 24
LENGTHS = st.lists(st.integers(1, 9), max_size=12)


def price(lengths, groups, call):
    return sum(len(group) * max(lengths[at] for at in group) + call for group in groups)


@given(LENGTHS, st.integers(0, 20))
def test_groups_hold_each_text_once_at_the_least_price(lengths, call):
    groups = group_by_length(lengths, call)
    assert sorted(at for group in groups for at in group) == list(range(len(lengths)))
    order = sorted(range(len(lengths)), key=lambda at: lengths[at])
    cuts = range(1, len(lengths))
    prices = [
        price(lengths, [order[a:b] for a, b in itertools.pairwise((0, *cut, len(order)))], call)
        for size in range(min(4, len(lengths)))
        for cut in itertools.combinations(cuts, size)
    ]
    assert price(lengths, groups, call) <= min(prices, default=0)


def test_batches_have_at_most_so_many_texts():
    batches = batches_by_length([4, 9, 4, 2, 30, 4], 0, 2)
    assert [batch.tolist() for batch in batches] == [[4], [1], [0, 2], [5], [3]]


def test_one_group_holds_all_and_free_calls_leave_no_padding():
    lengths = [4, 9, 4, 2, 30]
    assert len(group_by_length(lengths, ONE_GROUP)) == 1
    assert price(lengths, group_by_length(lengths, 0), 0) == sum(lengths)
    assert group_by_length([], 5) == []


def test_padding_of_a_step_is_below_three_per_cent():
    lengths = np.random.default_rng(0).poisson(12, 600) + 3
    padded = price(lengths.tolist(), group_by_length(lengths, CALL_TOKENS["cpu"]), 0)
    assert 1 - lengths.sum() / padded < 0.03


def item_texts(num_items: int) -> ItemTexts:
    """Return texts of 2 to 11 tokens."""
    rng = np.random.default_rng(0)
    lists = [rng.integers(1, 50, rng.integers(2, 12)).tolist() for _ in range(num_items)]
    return ItemTexts(Tokens(pa.chunked_array([lists[:10], lists[10:]], pa.list_(pa.int32()))))


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    return item_texts(NUM_ITEMS).tokens


@pytest.fixture
def stored(source, tokens, tmp_path) -> LayerStates:
    """Return the output of the two lowest layers, as the actors write it."""
    path = tmp_path / "states.npy"
    write = WriteStates(source, 2, use_gpu=False)
    written = [write(block)["rows"][0].as_py() for block in state_blocks(path, tokens, 32)]
    assert sum(written) == NUM_ITEMS
    return LayerStates(path, tokens)


def vectors(model, texts, items):
    found = torch.zeros(NUM_ITEMS, 32)
    for group in texts.groups(items):
        found[group.items_U] = model.encode(group.input_ids, group.mask, group.states).detach()
    return found


def test_lengths_of_texts_are_those_of_their_lists(tokens):
    assert tokens.lengths.tolist() == [len(ids) for ids in tokens]


def test_states_of_a_text_do_not_depend_on_the_block_that_it_was_in(source, tokens, stored):
    frozen = FrozenLayers(model_of(source, layers=1).encoder, 2)
    for row, ids in enumerate(tokens):
        wanted = frozen.states(torch.tensor([ids]), torch.ones(1, len(ids)))
        found = stored.padded([row], 15)
        torch.testing.assert_close(found[:, : len(ids)], wanted, atol=1e-5, rtol=0)
        assert not found[:, len(ids) :].any()


def test_groups_and_stored_states_change_no_vector(source, tokens, stored):
    model, items = model_of(source, layers=1), [0, 23, 5, 9, 10, 17]
    wanted = vectors(model, ItemTexts(tokens), items)
    model.frozen = FrozenLayers(model.encoder, 2)
    for states, call in itertools.product((None, stored), (0, 8, ONE_GROUP)):
        texts = ItemTexts(tokens, states, call=call)
        torch.testing.assert_close(vectors(model, texts, items), wanted, atol=1e-5, rtol=0)


def test_a_refresh_encodes_every_item_with_the_weights_of_now(source, tokens, stored):
    model = model_of(source, layers=1)
    wanted = vectors(model, ItemTexts(tokens), range(NUM_ITEMS))
    assert (model.text_VH - wanted).abs().max() > 0.1
    model.frozen = FrozenLayers(model.encoder, 2)
    for states in (None, stored):
        model.text_VH.zero_()
        refresh_texts(model, ItemTexts(tokens, states), 0, 1)
        torch.testing.assert_close(model.text_VH, wanted, atol=1e-5, rtol=0)
