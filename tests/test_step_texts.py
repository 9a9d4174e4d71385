"""The texts of a step, shared among ranks and parts: each item once, and exact gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.training.step_texts import EncodedTexts, share_texts
from tests.test_item_texts import item_texts
from tests.test_trainable_encoder import NUM_ITEMS, WIDTH, model_of, source

__all__ = ["source"]  # a fixture

ITEMS = np.array([0, 3, 4, 9, 11, 17, 23])
PLAIN = torch.autocast("cpu", enabled=False)


def items_of(chunk):
    return torch.cat([group.items_U for group in chunk.groups])[chunk.row_C].tolist()


@given(st.sets(st.integers(0, NUM_ITEMS - 1)), st.integers(1, 4), st.integers(1, 3))
def test_item_n_of_the_order_is_encoded_by_rank_n(items, world_size, num_chunks):
    every = item_texts(NUM_ITEMS)
    given_U = np.array(sorted(items), np.int64)
    shares = [
        share_texts(every, given_U, num_chunks=num_chunks, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    order = shares[0].items_U.tolist()
    assert sorted(order) == (sorted(items) or [0])
    assert all(share.items_U.tolist() == order for share in shares)
    assert len({len(chunk.row_C) for share in shares for chunk in share.chunks}) == 1
    by_rank = [[item for chunk in share.chunks for item in items_of(chunk)] for share in shares]
    in_turn = [item for turn in zip(*by_rank, strict=True) for item in turn]
    assert in_turn[: len(order)] == order
    assert len(in_turn) < len(order) + world_size * num_chunks  # what is encoded twice


def texts_of(num_chunks):
    return share_texts(item_texts(NUM_ITEMS), ITEMS, num_chunks=num_chunks, rank=0, world_size=1)


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("num_chunks", [1, 3, 9])
def test_gradients_reach_the_encoder_as_if_the_texts_were_encoded_in_the_loss(source, num_chunks):
    weight_H = torch.linspace(-1, 1, WIDTH)
    direct, model = model_of(source), model_of(source)
    groups = item_texts(NUM_ITEMS).groups(ITEMS)
    for number in (1, 2):  # parts, one after another
        for group in groups:
            vectors = direct.encode(group.input_ids, group.mask)
            (number * vectors * weight_H).sin().sum().backward()

    encoded = EncodedTexts(model, texts_of(num_chunks), PLAIN)
    for number in (1, 2):
        (number * encoded.fresh.vectors_UH * weight_H).sin().sum().backward()
    encoded.backward()

    assert gradients(direct)
    torch.testing.assert_close(gradients(model), gradients(direct), rtol=0, atol=1e-5)


def kept_bytes(source, num_chunks):
    """Return what the vectors of a step leave allocated for the way back."""
    model, texts = model_of(source), texts_of(num_chunks)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        encoded = EncodedTexts(model, texts, PLAIN)
    assert encoded.fresh.vectors_UH.requires_grad
    return sum(event.self_cpu_memory_usage for event in profile.key_averages())


def test_several_parts_keep_the_vectors_alone(source):
    assert 0 < kept_bytes(source, 2) < kept_bytes(source, 1) / 20
