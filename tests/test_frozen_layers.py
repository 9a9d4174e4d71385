"""An encoder that starts behind its frozen layers gives the same vectors and gradients."""

import numpy as np
import pytest
import torch
import transformers

from recdiv_core.models.frozen_layers import FrozenLayers
from recdiv_core.models.trainable_encoder import trainable_encoder
from tests.test_trainable_encoder import FAMILIES, SMALL, gradients, model_of, source, texts

__all__ = ["source"]  # a fixture

# peft asks transformers by a name that is on its way out
pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)


@pytest.fixture(scope="module", params=FAMILIES)
def encoder(request, tmp_path_factory):
    """Return the directory of an encoder of three layers of each family, with random weights."""
    path = tmp_path_factory.mktemp(request.param)
    config = getattr(transformers, f"{request.param}Config")(**SMALL | FAMILIES[request.param])
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251
        getattr(transformers, f"{request.param}Model")(config).save_pretrained(path)
    return str(path)


def test_any_family_starts_behind_its_frozen_layers(encoder):
    frozen = FrozenLayers(trainable_encoder(encoder, 1, 0, recomputes=False), 2)
    assert frozen.is_possible
    fresh = texts()
    states = frozen.states(fresh.input_ids, fresh.mask)
    with torch.no_grad():
        wanted = frozen.encoder(
            input_ids=fresh.input_ids, attention_mask=fresh.mask
        ).last_hidden_state
        found = frozen.finish(fresh.input_ids, fresh.mask, states)
        other = frozen.finish(fresh.input_ids, fresh.mask, states.flip(0))
    is_token = fresh.mask.bool()
    torch.testing.assert_close(found[is_token], wanted[is_token], atol=1e-5, rtol=1e-4)
    assert (other[is_token] - wanted[is_token]).abs().max() > 1e-3  # it does start from the states


@pytest.mark.parametrize("rank", [0, 4], ids=["layers", "adapters"])
@pytest.mark.parametrize("recomputes", [False, True], ids=["kept", "computed again"])
@pytest.mark.parametrize("layers", [1, 2])
def test_gradients_are_those_of_the_whole_encoder(source, layers, rank, recomputes):
    model = model_of(source, layers=layers, rank=rank, recomputes=recomputes)
    wanted = gradients(model)
    model.zero_grad()
    model.frozen = FrozenLayers(model.encoder, 3 - layers)
    fresh = texts()
    states = model.frozen.states(fresh.input_ids, fresh.mask)
    found = gradients(model, states=states)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_the_names_of_the_weights_do_not_change(source):
    model = model_of(source, layers=1)
    before = model.state_dict().keys()
    model.frozen = FrozenLayers(model.encoder, 2)
    assert model.state_dict().keys() == before


def test_frozen_layers_are_not_computed(source):
    model = model_of(source, layers=1)
    frozen = FrozenLayers(model.encoder, 2)
    fresh = texts()
    states = frozen.states(fresh.input_ids, fresh.mask)
    with torch.no_grad():
        for parameter in model.encoder.encoder.layer[:2].parameters():
            parameter.fill_(np.nan)
    assert frozen.finish(fresh.input_ids, fresh.mask, states).isfinite().all()


def test_an_encoder_whose_layers_need_each_other_cannot_start_behind_them(source):
    encoder = trainable_encoder(source, 1, 0, recomputes=False)
    _, middle, top = encoder.encoder.layer
    of_middle, of_top, sums = middle.forward, top.forward, [0.0]

    def middle_forward(hidden, *args, **kwargs):
        sums[0] = hidden[0, 0]
        return of_middle(hidden, *args, **kwargs)

    def top_forward(hidden, *args, **kwargs):
        output = of_top(hidden + sums[0], *args, **kwargs)
        sums[0] = 0.0
        return output

    middle.forward, top.forward = middle_forward, top_forward
    assert not FrozenLayers(encoder, 2).is_possible
