"""Masked language modelling of any family that has it, with its own head or a new one."""

import pytest
import torch
from torch.nn import functional as F

from recdiv_core.errors import UserError
from recdiv_core.models.masked_tokens import MaskedTokens, masking_of
from recdiv_core.models.text_encoder import load_encoder, load_tokenizer, pad_tokens
from tests.encoder_worlds import DECODERS, MASKED, WORDS, save_encoder

TEXTS = ["item 1 2 3", "query 4", "item 5 item 6 7"]


@pytest.fixture(scope="module", params=MASKED)
def source(request, tmp_path_factory) -> str:
    return save_encoder(tmp_path_factory.mktemp("family"), request.param)


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> str:
    return save_encoder(tmp_path_factory.mktemp("bert"))


def tokens(source: str):
    return pad_tokens(load_tokenizer(source)(TEXTS)["input_ids"])


def hidden_tokens(source: str, encoder, share: float = 0.5):
    input_ids, mask = tokens(source)
    rng = torch.Generator().manual_seed(0)
    shown, is_hidden = masking_of(source, encoder, share).hide(input_ids, mask, rng)
    return input_ids, mask, shown, is_hidden


def test_the_surprise_is_that_of_the_whole_model_at_the_hidden_tokens(source):
    encoder = load_encoder(source)
    model = MaskedTokens(source, encoder, seed=0)
    input_ids, mask, shown, is_hidden = hidden_tokens(source, encoder)
    logits = model.model(input_ids=shown, attention_mask=mask).logits
    wanted = F.cross_entropy(logits[is_hidden], input_ids[is_hidden], reduction="sum")
    found = model.surprise(input_ids, mask, shown, is_hidden, head_only=False)
    assert is_hidden.sum() > 2
    torch.testing.assert_close(found, wanted)


def test_a_new_head_shares_the_embeddings_and_can_learn_alone(source):
    encoder = load_encoder(source)
    model = MaskedTokens(source, encoder, seed=0)
    assert model.has_new_head
    embeddings = encoder.get_input_embeddings().weight.requires_grad_(False)
    assert model.model.get_output_embeddings().weight is embeddings
    model.surprise(*hidden_tokens(source, encoder), head_only=True).backward()
    assert all(weight.grad is None for weight in encoder.parameters())
    grads = [weight.grad for weight in model.head_parameters()]
    assert any(grad is not None and grad.abs().max() > 0 for grad in grads)


def test_the_surprise_trains_the_encoder(bert):
    encoder = load_encoder(bert)
    model = MaskedTokens(bert, encoder, seed=0)
    inputs = hidden_tokens(bert, encoder)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    found = []
    for _ in range(12):
        loss = model.surprise(*inputs, head_only=False)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < 0.5 * found[0]


def test_a_new_head_depends_on_the_seed_alone(bert):
    encoder = load_encoder(bert)
    one, same, other = (MaskedTokens(bert, encoder, seed).head_parameters() for seed in (0, 0, 1))
    assert all(map(torch.equal, one, same))
    assert not all(map(torch.equal, one, other))


def test_the_head_of_the_checkpoint_is_kept(tmp_path):
    source = save_encoder(tmp_path, kind="ForMaskedLM")
    encoder = load_encoder(source)
    one, other = (MaskedTokens(source, encoder, seed) for seed in (0, 1))
    assert not one.has_new_head
    assert all(map(torch.equal, one.head_parameters(), other.head_parameters()))


def test_special_tokens_and_padding_are_never_hidden(bert):
    input_ids, mask, shown, is_hidden = hidden_tokens(bert, load_encoder(bert), share=1.0)
    is_plain = torch.isin(input_ids, torch.arange(5, len(WORDS))) & mask.bool()
    assert torch.equal(is_hidden, is_plain)
    assert torch.equal(shown[~is_plain], input_ids[~is_plain])


def test_most_hidden_tokens_become_the_mask_and_some_stay(bert):
    masking = masking_of(bert, load_encoder(bert), 0.25)
    input_ids = torch.full((100, 100), 7)
    rng = torch.Generator().manual_seed(0)
    shown, is_hidden = masking.hide(input_ids, torch.ones_like(input_ids), rng)
    hidden = shown[is_hidden]
    assert is_hidden.float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert (hidden == masking.mask_id).float().mean().item() == pytest.approx(0.8, abs=0.03)
    assert (hidden == 7).float().mean().item() == pytest.approx(0.1, abs=0.03)


def test_an_encoder_or_a_tokeniser_without_masks_is_named(tmp_path, bert):
    source = save_encoder(tmp_path / "decoder", next(iter(DECODERS)))
    with pytest.raises(UserError, match=r"adapt\.mask_share: GPT2Model has no masked language"):
        MaskedTokens(source, load_encoder(source), 0)
    save_encoder(tmp_path / "unmasked")
    file = tmp_path / "unmasked" / "tokenizer_config.json"
    file.write_text(file.read_text().replace('"mask_token"', '"no_token"'))
    with pytest.raises(UserError, match=r"adapt\.mask_share=0\.15: the tokeniser of .* no mask"):
        masking_of(str(tmp_path / "unmasked"), load_encoder(bert), 0.15)
