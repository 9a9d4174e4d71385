"""A student: some layers of an encoder, which is written and read like any other."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.errors import UserError
from recdiv_core.models.encoder_description import pool
from recdiv_core.models.fewer_layers import check_layers, keep_layers, kept_layers
from recdiv_core.models.text_encoder import encoder_depth, load_encoder, pad_tokens
from recdiv_core.models.trainable_encoder import encoder_layers
from tests.encoder_worlds import DECODERS, DEPTH, MASKED, save_encoder

INPUTS = pad_tokens([[3, 5, 7, 4], [3, 6, 9, 10, 11, 4]])


@pytest.fixture(scope="module", params=MASKED | DECODERS)
def source(request, tmp_path_factory) -> str:
    return save_encoder(tmp_path_factory.mktemp("family"), request.param)


@torch.inference_mode()
def vectors(encoder) -> torch.Tensor:
    input_ids, mask = INPUTS
    hidden = encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state
    return pool(hidden, mask, "mean")


@given(st.integers(2, 40), st.data())
def test_the_first_layer_stays_and_the_last_one_and_none_twice(depth, data):
    num_layers = data.draw(st.integers(1, depth))
    kept = kept_layers(depth, num_layers)
    assert kept == sorted(set(kept))
    assert len(kept) == num_layers
    assert kept[0] == 0
    assert num_layers == 1 or kept[-1] == depth - 1


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_written_student_gives_the_vectors_of_the_one_in_memory(source, tmp_path, num_layers):
    encoder = load_encoder(source)
    teacher, layers = vectors(encoder), encoder_layers(encoder)
    keep_layers(encoder, num_layers)
    assert encoder_layers(encoder) == [layers[at] for at in kept_layers(DEPTH, num_layers)]
    encoder.save_pretrained(tmp_path)
    assert encoder_depth(str(tmp_path)) == num_layers
    student = vectors(encoder)
    torch.testing.assert_close(vectors(load_encoder(str(tmp_path))), student)
    assert not torch.allclose(student, teacher, atol=1e-3)


@pytest.mark.parametrize("num_layers", [DEPTH, DEPTH + 4])
def test_a_student_has_fewer_layers_than_its_teacher(tmp_path, num_layers):
    encoder = load_encoder(save_encoder(tmp_path))
    message = rf"adapt\.layers={num_layers}: the encoder has 3 layers; allowed are 1 to 2, and 0"
    with pytest.raises(UserError, match=message):
        check_layers(encoder, num_layers)


def test_no_progress_bar_stands_in_the_log(tmp_path, capfd):
    load_encoder(save_encoder(tmp_path))
    assert "Loading weights" not in capfd.readouterr().err
