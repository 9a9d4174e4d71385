"""Compiled towers train as the plain ones do; graphs are counted, since each costs many seconds."""

import shutil

import pytest
import torch
from torch._dynamo.utils import counters

from tests.step_worlds import USERS, Training, assert_equal_weights, fresh_model, trained
from tests.test_step import DIALS, WAYS, conditioned_step

HALVES = USERS[:4], USERS[4:]


@pytest.fixture(autouse=True)
def no_graphs():
    torch._dynamo.reset()
    counters.clear()


def compiled_model(backend="aot_eager", **changes):
    """Return a model that is compiled as far as its graphs, without a compiler of C++."""
    model = fresh_model(**changes)
    model.compile_towers(backend)
    return model


def num_graphs():
    return counters["stats"]["unique_graphs"]


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_steps_of_any_number_of_rows_share_the_second_graph_and_a_single_row_has_its_own(backend):
    training, plain = Training(compiled_model(backend)), Training()
    batches = [USERS, USERS[:5], USERS * 3, USERS[::2]]
    for users in batches:
        sums = training.step(users)
        assert sums.loss == pytest.approx(plain.step(users).loss, rel=1e-5)
    assert num_graphs() == 2  # of the first number of rows, and of any
    for _ in range(2):
        training.step([])
        training.step(USERS[:1])
    assert num_graphs() == 3
    assert not counters["graph_break"]


def test_neither_the_names_of_weights_nor_evaluation_know_of_it():
    model, plain = compiled_model(), fresh_model()
    assert model.state_dict().keys() == plain.state_dict().keys()
    with torch.inference_mode():
        assert torch.equal(model.item_vectors(), plain.item_vectors())
    assert num_graphs() == 0


@pytest.mark.slow
@pytest.mark.parametrize("way", ["softmax", "mixed, masked"])
def test_each_kind_of_step_moves_the_weights_as_without(way):
    changes = {"diversity_weight": 0.5, **WAYS[way]}
    training = Training(compiled_model(), **changes)
    for _ in range(2):
        training.step(*HALVES)
    wanted = trained(*HALVES, **changes)
    assert_equal_weights(training.weights() | {"shown_V": training.shown_V}, wanted)
    assert num_graphs() <= 4


@pytest.mark.slow
def test_a_conditioned_model_is_trained_as_without():
    training, _ = conditioned_step((USERS, DIALS), model=compiled_model(is_conditioned=True))
    wanted, _ = conditioned_step((USERS, DIALS))
    assert_equal_weights(training.weights(), wanted.weights())
    assert num_graphs() == 1


def seeded_step(model):
    torch.manual_seed(5)  # noqa: TID251
    return Training(model).step(USERS).loss


@pytest.mark.slow
def test_dropout_draws_what_it_draws_without():
    dropped = seeded_step(fresh_model(dropout=0.5))
    assert seeded_step(compiled_model(dropout=0.5)) == pytest.approx(dropped, rel=1e-5)
    assert seeded_step(fresh_model()) != pytest.approx(dropped, rel=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs g++ to compile for the CPU")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_what_the_compiler_makes_of_it_moves_the_weights_as_without(precision):
    found = []
    for model in (compiled_model("inductor", dropout=0.3), fresh_model(dropout=0.3)):
        torch.manual_seed(5)  # noqa: TID251
        training = Training(model, diversity_weight=0.5, precision=precision)
        for _ in range(2):
            training.step(*HALVES)
        found.append(training.weights() | {"shown_V": training.shown_V})
    atol = 1e-5 if precision == torch.float32 else 2e-3
    assert_equal_weights(*found, atol=atol)
