"""How an encoder is found, and how its states become one vector of a text."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.errors import UserError
from recdiv_core.models.text_encoder import (
    OFFLINE_ENCODER,
    TOKENISER,
    check_encoder,
    encoder_depth,
    encoder_sha256,
    encoder_width,
    load_tokenizer,
    mean_pool,
    pad_tokens,
    resolve_encoder,
    weights_bytes,
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


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Return the directory of a tiny BERT: settings, weights, the offline encoder's tokeniser."""
    from transformers import BertConfig, BertModel

    path = tmp_path_factory.mktemp("encoder")
    load_tokenizer(resolve_encoder(OFFLINE_ENCODER)).save_pretrained(path)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        model = BertModel(BertConfig(**sizes, intermediate_size=8, vocab_size=30522))
    model.save_pretrained(path)
    return path


@pytest.fixture
def encoder(whole: Path, tmp_path: Path) -> Path:
    """Return a copy to spoil."""
    return Path(shutil.copytree(whole, tmp_path / "encoder"))


def tokeniser_files(encoder: Path) -> list[Path]:
    return [path for pattern in TOKENISER for path in encoder.glob(pattern)]


def test_a_whole_encoder_is_taken(encoder: Path):
    check_encoder(resolve_encoder(str(encoder)))


def test_an_encoder_without_a_tokeniser_is_refused(encoder: Path):
    for path in tokeniser_files(encoder):
        path.unlink()
    with pytest.raises(UserError, match=r"has no tokeniser: none of tokenizer\*\.json, vocab"):
        check_encoder(str(encoder))
    with pytest.raises(UserError, match="it encodes 'red shoe' and 'blue coat' alike"):
        load_tokenizer(str(encoder))


def test_a_tokeniser_without_a_vocabulary_is_refused(encoder: Path):
    for path in tokeniser_files(encoder):
        path.unlink()
    (encoder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    with pytest.raises(UserError, match="its tokeniser has no vocabulary"):
        check_encoder(str(encoder))


def test_an_encoder_without_weights_is_refused(encoder: Path):
    (encoder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        check_encoder(str(encoder))


def test_weights_that_are_there_in_two_formats_count_once(encoder: Path):
    size = (encoder / "model.safetensors").stat().st_size
    (encoder / "pytorch_model.bin").write_bytes(b"0" * 77)
    assert weights_bytes(str(encoder)) == size
    (encoder / "model.safetensors").unlink()
    assert weights_bytes(str(encoder)) == 77


def test_an_encoder_that_lacks_a_shard_is_refused(encoder: Path):
    (encoder / "model.safetensors").rename(encoder / "model-1-of-2.safetensors")
    weights = {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}
    index = encoder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weights}))
    with pytest.raises(UserError, match=r"lacks the weights file model-2-of-2\.safetensors"):
        check_encoder(str(encoder))


def test_damaged_settings_of_an_encoder_are_named(encoder: Path):
    (encoder / "tokenizer.json").write_text('{"half')
    with pytest.raises(UserError, match=r"tokenizer\.json is damaged"):
        check_encoder(str(encoder))


@pytest.mark.parametrize(
    "name", ["model.safetensors", "pytorch_model.bin", "model-2-of-9.safetensors", "vocab.txt"]
)
def test_a_changed_file_changes_the_fingerprint(encoder: Path, name: str):
    (encoder / name).write_bytes(b"as it was")
    before = encoder_sha256(str(encoder))
    (encoder / name).write_bytes(b"as it is!")
    assert encoder_sha256(str(encoder)) != before


def test_what_an_encoder_is_not_loaded_from_changes_no_fingerprint(encoder: Path):
    before = encoder_sha256(str(encoder))
    (encoder / "README.md").write_text("read me")
    assert encoder_sha256(str(encoder)) == before


def test_the_fingerprint_of_an_encoder_of_the_hub_is_of_its_files(encoder, tmp_path, monkeypatch):
    cached = tmp_path / "hub" / "models--shop--words"
    shutil.copytree(encoder, cached / "snapshots" / "1")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert encoder_sha256("shop/words") == encoder_sha256(str(encoder))


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v3", "shop/no-such-words", "two words", "a//b"])
def test_an_encoder_that_is_nowhere_is_refused_with_what_is_allowed(name: str):
    with pytest.raises(UserError, match=r"hub cannot be reached or has no such encoder .* allowed"):
        check_encoder(resolve_encoder(name))
