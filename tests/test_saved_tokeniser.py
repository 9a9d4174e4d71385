"""The saved tokeniser of a data set gives the tokens of transformers, without it."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.data.tokeniser import save_tokeniser
from recdiv_core.models.encoder_description import token_ids
from recdiv_core.models.saved_tokeniser import read_tokeniser
from recdiv_core.models.text_encoder import OFFLINE_ENCODER, load_tokenizer, resolve_encoder

TEXTS = ["Red shoes | Shoes > Running | Acme", "", "\u7ea2\u8272\u8fd0\u52a8\u978b 42", "a " * 90]

WITHOUT = """
import sys
from pathlib import Path
import recdiv_core.data.append
from recdiv_core.models.encoder_description import token_ids
from recdiv_core.models.saved_tokeniser import read_tokeniser
token_ids(read_tokeniser(Path(sys.argv[1])), ["red shoes"], 8, "mean")
print(sorted({"torch", "transformers", "ray", "mlflow"} & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(resolve_encoder(OFFLINE_ENCODER))


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "tokeniser.json"
    save_tokeniser(tokenizer, path, TEXTS, 16, "mean")
    return path


def test_what_the_audit_and_appends_need_is_kept(tokenizer, saved):
    found = read_tokeniser(saved)
    for name in ("eos_token_id", "unk_token_id", "all_special_ids"):
        assert getattr(found, name) == getattr(tokenizer, name), name


@given(data=st.data())
def test_tokens_of_any_text_are_those_of_transformers(data, tokenizer, saved):
    texts = [*TEXTS, *data.draw(st.lists(st.text(max_size=40), max_size=4))]
    max_tokens = data.draw(st.integers(4, 20))
    ours = token_ids(read_tokeniser(saved), texts, max_tokens, "mean")
    assert ours == token_ids(tokenizer, texts, max_tokens, "mean")


def test_a_tokeniser_that_differs_without_transformers_is_not_saved(tokenizer, tmp_path):
    class Other(type(tokenizer)):
        def __call__(self, texts, **more):
            return super().__call__([text.upper() + "!" for text in texts], **more)

    other = Other.from_pretrained(resolve_encoder(OFFLINE_ENCODER))
    save_tokeniser(other, tmp_path / "tokeniser.json", TEXTS, 16, "mean")
    assert not (tmp_path / "tokeniser.json").exists()


def test_an_append_imports_neither_torch_nor_transformers(saved):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(saved)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
