"""Whether the encoder knows the scripts of the texts, by its unknown tokens."""

from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.data.audit.scripts import audit_scripts, script_of
from recdiv_core.models.encoder_description import token_ids
from recdiv_core.models.text_encoder import OFFLINE_ENCODER, load_tokenizer, resolve_encoder

ENGLISH = ["red running shoe", "blue coat", "42"]
CHINESE = ["\u7ea2\u8272\u8dd1\u978b", "\u84dd\u8272\u5916\u5957 M", "\u8fde\u8863\u88d9"]
UNKNOWN = 100


def test_the_script_of_most_letters_counts():
    assert [script_of(text) for text in ENGLISH] == ["LATIN", "LATIN", ""]
    assert [script_of(text) for text in CHINESE] == ["CJK"] * 3
    assert script_of("\u043a\u0440\u0430\u0441\u043d\u044b\u0439 Nike") == "CYRILLIC"


@given(st.text())
def test_every_text_has_a_script(text):
    assert isinstance(script_of(text), str)


def test_minilm_does_not_know_chinese():
    tokenizer = load_tokenizer(resolve_encoder(OFFLINE_ENCODER))
    texts = ENGLISH + CHINESE
    tokens = token_ids(tokenizer, texts, 64, "mean")
    special = tokenizer.all_special_ids
    found = audit_scripts("item texts", texts, tokens, tokenizer.unk_token_id, special)
    assert (found.severity, found.count) == ("severe", 3)
    assert found.figures["LATIN"] == [0, 5]
    assert found.figures["CJK"][0] > 0.2 * found.figures["CJK"][1]
    assert found.examples[0].startswith("CJK: ")


def test_a_script_of_fewer_than_one_text_in_a_hundred_is_not_judged():
    texts = ["shoe"] * 199 + CHINESE[:1]
    tokens = [[1, 7, 2]] * 199 + [[1, UNKNOWN, UNKNOWN, 2]]
    assert not audit_scripts("queries", texts, tokens, UNKNOWN).count
    assert audit_scripts("queries", texts[101:], tokens[101:], UNKNOWN).count == 1


def test_a_few_unknown_tokens_are_ok_and_no_unknown_token_is_too():
    tokens = [[1, 7, 8, 9, 10, UNKNOWN, 2]] * 3
    assert not audit_scripts("queries", ENGLISH, tokens, UNKNOWN).count
    assert not audit_scripts("queries", CHINESE, [[1, UNKNOWN, 2]] * 3, None).count
    assert not audit_scripts("queries", [], [], UNKNOWN).count
