"""The encoder that is trained along, its layers computed once or twice: a BERT of three layers."""

from dataclasses import replace

import pytest
import torch

from recdiv_core.models.item_tower import ItemTower
from recdiv_core.models.recommender import FreshText, FreshVectors, Recommender
from recdiv_core.models.session_tower import SessionTower
from recdiv_core.models.text_encoder import encoder_width
from recdiv_core.models.trainable_encoder import encoder_layers, trainable_encoder
from tests.test_towers import packed_histories

NUM_ITEMS, WIDTH, NUM_LAYERS = 24, 32, 3
HISTORIES = [[1, 2, 3], [4, 5], [6, 7, 8, 9]]

# peft asks transformers by a name that is on its way out
pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Return the directory of a small encoder with random weights."""
    from transformers import BertConfig, BertModel

    path = tmp_path_factory.mktemp("encoder")
    config = BertConfig(
        vocab_size=50,
        hidden_size=WIDTH,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=2,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251
        BertModel(config).save_pretrained(path)
    return str(path)


def model_of(
    source, *, layers=NUM_LAYERS, rank=0, recomputes=False, num_items=NUM_ITEMS, max_history=5
):
    with torch.random.fork_rng():
        torch.manual_seed(1)  # noqa: TID251
        encoder = trainable_encoder(source, layers, rank, recomputes=recomputes)
        for name, parameter in encoder.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)  # at its start, 0, nothing reaches lora_A
        return Recommender(
            ItemTower(torch.arange(num_items), text_dim=WIDTH, dim=8, id_dropout=0.0),
            SessionTower(dim=8, num_layers=1, num_heads=2, max_history=max_history, dropout=0.0),
            text_VH=torch.randn(num_items, WIDTH),
            queries_QH=None,
            dim=8,
            encoder=encoder,
        ).train()


def texts(num_items=10, num_tokens=20):
    draws = torch.Generator().manual_seed(0)
    input_ids = torch.randint(1, 50, (num_items, num_tokens), generator=draws)
    mask = torch.arange(num_tokens)[None] < torch.arange(2, num_items + 2)[:, None]
    return FreshText(torch.arange(num_items), input_ids, mask.long())


def encoded_by(model, fresh):
    return FreshVectors(fresh.items_U, model.encode(fresh.input_ids, fresh.mask, fresh.states))


def loss_of(model, states=None):
    packed = packed_histories(HISTORIES)
    fields = packed.items_RW, packed.position_RW, packed.segment_RW, packed.queries_RW
    states, items = model(*fields, fresh=encoded_by(model, replace(texts(), states=states)))
    return (states @ items.T).logsumexp(1).sum()


def gradients(model, states=None):
    loss_of(model, states).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def kept_bytes(model):
    """Return what a forward pass leaves allocated for the way back, of the model's texts."""
    fresh = texts(num_items=16, num_tokens=48)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        encoded = model.encode(fresh.input_ids, fresh.mask)
    assert encoded.requires_grad
    return sum(event.self_cpu_memory_usage for event in profile.key_averages())


@pytest.mark.parametrize("rank", [0, 4], ids=["layers", "adapters"])
@pytest.mark.parametrize("layers", [1, NUM_LAYERS])
def test_layers_computed_again_have_the_same_gradients(source, layers, rank):
    wanted = gradients(model_of(source, layers=layers, rank=rank))
    got = gradients(model_of(source, layers=layers, rank=rank, recomputes=True))
    assert any("encoder." in name for name in got)
    assert all(gradient.abs().max() > 0 for name, gradient in got.items() if "key.bias" not in name)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)


def test_gradients_of_two_losses_are_taken_one_after_another(source):
    found = []
    for recomputes in (False, True):
        model = model_of(source, recomputes=recomputes)
        loss = loss_of(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        found += [
            torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True),
            torch.autograd.grad(2 * loss, trained, allow_unused=True),
        ]
    torch.testing.assert_close(found[2:], found[:2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("rank", [0, 4], ids=["layers", "adapters"])
def test_the_encoder_alone_learns(source, rank):
    model = model_of(source, layers=1, rank=rank)
    before = loss_of(model)
    optimizer = torch.optim.SGD(model.encoder.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    assert loss_of(model) < before - 1e-3


def test_an_encoder_that_moves_all_texts_alike_moves_all_items_alike(source):
    model, fresh, change = model_of(source), texts(), torch.linspace(-0.3, 0.3, WIDTH)
    packed = packed_histories(HISTORIES)
    fields = packed.items_RW, packed.position_RW, packed.segment_RW, packed.queries_RW
    with torch.no_grad():
        encoded = model.encode(fresh.input_ids, fresh.mask)
        model.text_VH[fresh.items_U] = encoded - change
        _, items = model(*fields, fresh=encoded_by(model, fresh))
        wanted = model.item_vectors(model.text_VH + change)
        outside = torch.arange(len(fresh.items_U), NUM_ITEMS)
        assert (items - model.item_vectors())[outside].abs().max() > 1e-2
    torch.testing.assert_close(items, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rank", [0, 4], ids=["layers", "adapters"])
def test_layers_computed_again_keep_a_fifth_of_the_memory(source, rank):
    kept = kept_bytes(model_of(source, rank=rank))
    assert 0 < kept_bytes(model_of(source, rank=rank, recomputes=True)) < kept / 5


def test_the_names_of_the_weights_do_not_change(source):
    for rank in (0, 4):
        plain, other = (model_of(source, rank=rank, recomputes=r) for r in (False, True))
        assert other.state_dict().keys() == plain.state_dict().keys()


def test_the_encoder_draws_no_dropout_while_the_towers_do(source):
    model = model_of(source, recomputes=True)
    assert model.session_tower.training
    assert not any(module.training for module in model.encoder.modules())


def test_more_layers_than_there_are_is_a_users_mistake(source):
    with pytest.raises(ValueError, match="trainable_layers=4: the encoder has 3 layers"):
        trainable_encoder(source, 4, 0, recomputes=False)


SMALL = {"vocab_size": 50, "pad_token_id": 0, "max_position_embeddings": 64}
FAMILIES = {
    "Bert": {"hidden_size": WIDTH, "num_attention_heads": 2, "num_hidden_layers": 3},
    "XLMRoberta": {"hidden_size": WIDTH, "num_attention_heads": 2, "num_hidden_layers": 3},
    "MPNet": {"hidden_size": WIDTH, "num_attention_heads": 2, "num_hidden_layers": 3},
    "DebertaV2": {"hidden_size": WIDTH, "num_attention_heads": 2, "num_hidden_layers": 3},
    "DistilBert": {"dim": WIDTH, "n_heads": 2, "n_layers": 3, "hidden_dim": 64},
    "ModernBert": {"hidden_size": WIDTH, "num_attention_heads": 2, "num_hidden_layers": 3},
    "GPT2": {"n_embd": WIDTH, "n_head": 2, "n_layer": 3},
    "Qwen3": {
        "hidden_size": WIDTH,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "intermediate_size": 64,
    },
    "CTRL": {"n_embd": WIDTH, "n_head": 2, "n_layer": 3, "dff": 64},
    "T5": {"d_model": WIDTH, "d_kv": 16, "d_ff": 64, "num_layers": 3, "num_heads": 2},
    "Bart": {"d_model": WIDTH, "encoder_layers": 3, "decoder_layers": 1},
}


@pytest.fixture(scope="module", params=FAMILIES)
def of_family(request, tmp_path_factory):
    """Return the directory of a small encoder of a family, with random weights."""
    import transformers

    path, family = tmp_path_factory.mktemp("family"), request.param
    config = getattr(transformers, f"{family}Config")(**SMALL | FAMILIES[family])
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251
        getattr(transformers, f"{family}Model")(config).save_pretrained(path)
    return str(path)


@pytest.mark.parametrize("rank", [0, 4], ids=["layers", "adapters"])
def test_the_top_layer_of_any_family_trains_and_no_other(of_family, rank):
    assert encoder_width(of_family) == WIDTH
    model = model_of(of_family, layers=1, rank=rank, recomputes=True)
    gradients(model)
    (*others, top) = encoder_layers(model.encoder)
    assert len(others) == 2
    trained = {p for p in model.encoder.parameters() if p.requires_grad}
    assert trained
    assert trained <= set(top.parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    assert any(p.grad.abs().max() > 0 for p in trained)


def test_an_encoder_without_a_place_for_adapters_is_named(tmp_path):
    from transformers import FNetConfig, FNetModel  # mixes tokens by Fourier transforms

    config = FNetConfig(vocab_size=50, hidden_size=WIDTH, num_hidden_layers=2, intermediate_size=64)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251
        FNetModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="FNetModel has no attention with linear maps"):
        trainable_encoder(str(tmp_path), 1, 4, recomputes=False)
