"""How an encoder is found, and how its states become one vector of a text."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.models.text_encoder import (
    encoder_depth,
    encoder_width,
    mean_pool,
    pad_tokens,
    resolve_encoder,
)

TEXTS = st.lists(st.lists(st.integers(1, 30), max_size=6), min_size=1, max_size=5)


@given(TEXTS)
def test_padding_and_pooling_forget_the_padding(texts):
    table = torch.linspace(-1, 1, 31 * 3).sin().reshape(31, 3)
    input_ids, mask = pad_tokens(texts)
    hidden = table[input_ids] + 100 * (1 - mask[..., None])  # what stands at the padding
    for text, vector in zip(texts, mean_pool(hidden, mask).numpy(), strict=True):
        mean = table[text].mean(0).numpy() if text else np.zeros(3)
        np.testing.assert_allclose(vector, mean / max(1e-12, np.linalg.norm(mean)), atol=1e-5)


def test_no_text_at_all_pads_to_one_empty_column():
    input_ids, mask = pad_tokens([[], []])
    assert input_ids.shape == mask.shape == (2, 1)
    assert not mask.any()


@pytest.mark.parametrize(
    "settings",
    [
        {"model_type": "bert", "hidden_size": 48, "num_hidden_layers": 7},
        {"model_type": "distilbert", "dim": 48, "n_heads": 2, "n_layers": 7},
        {"model_type": "gpt2", "n_embd": 48, "n_layer": 7},
    ],
)
def test_width_and_depth_of_an_encoder_have_many_names(tmp_path, settings):
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert encoder_width(str(tmp_path)) == 48
    assert encoder_depth(str(tmp_path)) == 7


def test_a_family_that_is_not_known_is_a_users_mistake(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "abacus"}')
    with pytest.raises(ValueError, match=rf"model\.text\.encoder={tmp_path}: no model found"):
        encoder_width(str(tmp_path))


def test_a_directory_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"without a config\.json"):
        resolve_encoder(str(tmp_path))


def test_a_path_that_is_no_directory_is_not_asked_of_the_hub(tmp_path):
    with pytest.raises(ValueError, match="neither a directory nor a hub name"):
        resolve_encoder(str(tmp_path / "nowhere"))
