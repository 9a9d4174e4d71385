"""How an encoder is used: as its files say, as its architecture wants it, as the user sets it."""

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from recdiv_core.config import Config, override
from recdiv_core.data.clicklog import encoder_source
from recdiv_core.data.queries import QueryEncoder
from recdiv_core.errors import UserError
from recdiv_core.models.encoder_description import describe_encoder, pool, token_ids
from recdiv_core.models.text_encoder import (
    OFFLINE_ENCODER,
    load_encoder,
    load_tokenizer,
    mean_pool,
    pad_tokens,
    resolve_encoder,
)

WORDS = ("red", "blue", "shoe", "coat", "query:", "passage:")
WIDTH = 16
TEXTS = ["red shoe", "blue", "red blue coat shoe"]
SMALL = {"vocab_size": 16, "pad_token_id": 0, "max_position_embeddings": 64}
BERT_LIKE = {"hidden_size": WIDTH, "num_attention_heads": 2, "num_hidden_layers": 2}
FAMILIES = {
    "Bert": (BERT_LIKE, "mean"),
    "XLMRoberta": (BERT_LIKE, "mean"),
    "ModernBert": (BERT_LIKE | {"intermediate_size": 32}, "mean"),
    "GPT2": ({"n_embd": WIDTH, "n_head": 2, "n_layer": 2}, "last"),
    "Qwen3": (BERT_LIKE | {"num_key_value_heads": 1, "intermediate_size": 32}, "last"),
    "T5": ({"d_model": WIDTH, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}, "mean"),
}


def save_tokenizer(path: Path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: at for at, word in enumerate(("<pad>", "<unk>", "</s>", *WORDS))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
    ).save_pretrained(path)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Return the directory of a small encoder of each family, with random weights."""
    import transformers

    home = tmp_path_factory.mktemp("encoders")
    for family, (settings, _) in FAMILIES.items():
        config = getattr(transformers, f"{family}Config")(**SMALL | settings)
        with torch.random.fork_rng():
            torch.manual_seed(0)  # noqa: TID251
            getattr(transformers, f"{family}Model")(config).save_pretrained(home / family)
        save_tokenizer(home / family)
    return home


@pytest.fixture
def encoder(encoders, tmp_path) -> Path:
    """Return a BERT to add files to."""
    return Path(shutil.copytree(encoders / "Bert", tmp_path / "words"))


def write(path: Path, tree: object):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(tree))


@functools.cache
def loaded(source: Path):
    return load_encoder(str(source)), load_tokenizer(str(source))


def vectors(source: Path, texts, pooling) -> np.ndarray:
    model, tokenizer = loaded(source)
    input_ids, mask = pad_tokens(token_ids(tokenizer, texts, 8, pooling))
    with torch.inference_mode():
        hidden = model(input_ids=input_ids, attention_mask=mask).last_hidden_state
        return pool(hidden, mask, pooling).numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_an_architecture_has_its_usual_pooling(encoders, family):
    assert describe_encoder(str(encoders / family)).pooling == FAMILIES[family][1]


@pytest.mark.parametrize("pooling", ["mean", "cls", "last", "eos"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_vector_of_a_text_does_not_depend_on_its_neighbours(encoders, family, pooling):
    together = vectors(encoders / family, [*TEXTS, ""], pooling)
    alone = np.concatenate([vectors(encoders / family, [t], pooling) for t in [*TEXTS, ""]])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_each_pooling_takes_its_tokens():
    hidden = torch.arange(24.0).reshape(2, 3, 4) - 5
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    unit = torch.nn.functional.normalize
    assert torch.equal(pool(hidden, mask, "mean"), mean_pool(hidden, mask))
    assert torch.equal(pool(hidden, mask, "cls"), unit(hidden[:, 0], dim=1))
    for pooling in ("last", "eos"):
        last = torch.stack([hidden[0, 1], hidden[1, 2]])
        assert torch.equal(pool(hidden, mask, pooling), unit(last, dim=1))
        assert not pool(hidden, torch.zeros_like(mask), pooling).any()


def test_eos_ends_every_text_also_a_truncated_one(encoders):
    tokenizer = load_tokenizer(str(encoders / "GPT2"))
    lists = token_ids(tokenizer, [*TEXTS, "", "red </s>"], 4, "eos")
    assert lists == [[3, 5, 2], [4, 2], [3, 4, 6, 2], [2], [3, 2]]
    assert token_ids(tokenizer, ["", "red"], 4, "mean") == [[2], [3]]


def test_eos_without_an_end_of_text_token_is_a_users_mistake():
    tokenizer = load_tokenizer(resolve_encoder(OFFLINE_ENCODER))
    with pytest.raises(UserError, match=r"pooling=eos: .* no end-of-text token; allowed: mean"):
        token_ids(tokenizer, TEXTS, 8, "eos")


@pytest.mark.parametrize(
    ("named", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean"),
        ({"pooling_mode_lasttoken": True, "include_prompt": True}, "last"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode": ["cls"]}, "cls"),
    ],
)
def test_pooling_is_read_from_the_files_of_the_encoder(encoder, named, pooling):
    write(encoder / "1_Pooling" / "config.json", {"word_embedding_dimension": WIDTH, **named})
    assert describe_encoder(str(encoder)).pooling == pooling


@pytest.mark.parametrize("modes", [["max"], ["cls", "mean"]])
def test_an_unknown_pooling_is_refused_unless_another_is_set(encoder, modes):
    write(encoder / "1_Pooling" / "config.json", {"pooling_mode": modes})
    with pytest.raises(UserError, match=r"pools its tokens by .* set model\.text\.pooling"):
        describe_encoder(str(encoder))
    assert describe_encoder(str(encoder), pooling="cls").pooling == "cls"


@pytest.mark.parametrize(
    ("tree", "prefixes"),
    [
        ({"prompts": {"query": "q ", "document": "d ", "passage": "p "}}, ("q ", "d ")),
        ({"prompts": {"query": "q "}}, ("q ", "")),
        ({"prompts": {"all": "a "}, "default_prompt_name": "all"}, ("a ", "a ")),
        ({"prompts": {}, "default_prompt_name": None}, ("", "")),
    ],
)
def test_prefixes_are_read_from_the_files_of_the_encoder(encoder, tree, prefixes):
    write(encoder / "config_sentence_transformers.json", tree)
    own = describe_encoder(str(encoder))
    assert (own.query_prefix, own.passage_prefix) == prefixes


def test_a_module_that_is_not_applied_is_named(encoder, caplog):
    types = [f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling", "Dense")]
    write(encoder / "modules.json", [{"type": kind} for kind in types])
    describe_encoder(str(encoder))
    assert "vectors are made without its Dense" in caplog.text


@pytest.mark.parametrize("name", ["intfloat/multilingual-e5-small", "e5-base-v2", "/m/E5-large"])
def test_e5_has_prefixes_though_its_files_name_none(encoder, name):
    own = describe_encoder(str(encoder), name)
    assert (own.query_prefix, own.passage_prefix) == ("query: ", "passage: ")


def test_the_smallest_limit_of_tokens_counts(encoder):
    assert describe_encoder(str(encoder)).max_tokens == SMALL["max_position_embeddings"]
    write(encoder / "sentence_bert_config.json", {"max_seq_length": 20})
    assert describe_encoder(str(encoder)).max_tokens == 20


def test_positions_that_start_at_2_leave_fewer_tokens(encoders):
    assert describe_encoder(str(encoders / "XLMRoberta")).max_tokens == 62


def test_settings_win_over_the_files_of_the_encoder(encoder):
    write(encoder / "config_sentence_transformers.json", {"prompts": {"query": "q "}})
    config = override(Config(), {"model.text.encoder": str(encoder)})
    _, own = encoder_source(config)
    assert (own.pooling, own.query_prefix, own.passage_prefix) == ("mean", "q ", "")
    assert own.max_tokens == 64
    given = {"pooling": "cls", "query_prefix": "", "passage_prefix": "p ", "max_tokens": 9}
    _, own = encoder_source(override(config, {f"model.text.{k}": v for k, v in given.items()}))
    assert own.model_dump(include=set(given)) == given


def test_the_offline_encoder_averages_without_prefixes():
    _, own = encoder_source(Config())
    assert (own.pooling, own.query_prefix, own.passage_prefix) == ("mean", "", "")
    assert own.max_tokens == Config().model.text.max_tokens


@pytest.mark.parametrize("family", ["GPT2", "T5", "XLMRoberta"])
def test_a_query_is_encoded_as_the_manifest_says(encoders, manifest, family):
    config = override(Config(), {"model.text.encoder": str(encoders / family)})
    changes = {"model.text.query_prefix": "query: ", "model.text.pooling": "eos"}
    _, own = encoder_source(override(config, changes))
    found = QueryEncoder(manifest.model_copy(update={"encoder": own})).encode(["red shoe", "blue"])
    wanted = vectors(encoders / family, ["query: red shoe", "query: blue"], "eos")
    np.testing.assert_allclose(found, wanted, atol=1e-5)
