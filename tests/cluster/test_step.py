"""A step on two ranks under DDP is the step of one: two processes over gloo, started once."""

import pytest
import torch
import torch.distributed as dist

from tests.ranks import leave_ranks, on_two_ranks
from tests.step_worlds import (
    NUM_ITEMS,
    USERS,
    Training,
    assert_equal_weights,
    fresh_model,
    trained,
    warm_model,
)
from tests.test_step import DIALS, WAYS, conditioned_step

pytestmark = pytest.mark.ray  # no Ray in it, but as slow as if there were

CASES = {
    "uneven shares in parts": (
        [[USERS[:3], []], [USERS[3:6], USERS[6:]]],
        {"diversity_weight": 0.5, "slate_candidates": NUM_ITEMS},
    ),
    "a rank without users": (
        [[USERS], [[]]],
        {"diversity_weight": 0.5, "mix": {"exposure": 1.0}},
    ),
} | {
    way: ([[USERS[:1], USERS[1:3]], [USERS[3:], []]], {"diversity_weight": 0.5, **changes})
    for way, changes in WAYS.items()
}


COMPILED = "uneven shares in parts"
"""The case that is done with compiled towers too."""


OWN_ITEMS = {"relevance": "sampled_softmax", "negatives": "mixed", "reads_all": False}
"""Each rank computes the vectors of its own items and of the negatives alone."""


def users_and_dials(is_wanted):
    rows = [index for index, dial in enumerate(DIALS) if is_wanted(dial)]
    return [USERS[index] for index in rows], [DIALS[index] for index in rows]


CONDITIONED = {
    "dials in uneven parts": [
        [(USERS[:1], DIALS[:1]), (USERS[1:3], DIALS[1:3])],
        [(USERS[3:], DIALS[3:]), ([], [])],
    ],
    "a rank all at dial 0": [
        [users_and_dials(lambda dial: dial == 0)],
        [users_and_dials(lambda dial: dial > 0)],
    ],
    "dials on one rank alone": [[(USERS, DIALS)], [([], [])]],
}


def train_on_a_rank(rank, store, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for name, (shares, changes) in [*CASES.items(), ("compiled", CASES[COMPILED])]:
        model = fresh_model()
        if name == "compiled":
            model.compile_towers("aot_eager")
        wrapped = torch.nn.parallel.DistributedDataParallel(model, forward_sync_buffers=False)
        training = Training(wrapped, **changes)
        sums = [vars(training.step(*shares[rank])) for _ in range(2)]
        tensors = model.state_dict() | {"shown_V": training.shown_V}
        results.put((name, {key: value.numpy() for key, value in tensors.items()}, sums))
    model = warm_model()
    wrapped = torch.nn.parallel.DistributedDataParallel(model, forward_sync_buffers=False)
    training = Training(wrapped, **OWN_ITEMS)
    sums = [vars(training.step(*CASES["mixed"][0][rank])) for _ in range(2)]
    tensors = {key: value.numpy() for key, value in model.state_dict().items()}
    results.put(("own items", tensors, sums))
    for name, shares in CONDITIONED.items():
        model = fresh_model(is_conditioned=True)
        wrapped = torch.nn.parallel.DistributedDataParallel(model, forward_sync_buffers=False)
        training, sums = conditioned_step(*shares[rank], model=wrapped)
        tensors = model.state_dict() | {"shown_V": training.shown_V}
        results.put((name, {key: value.numpy() for key, value in tensors.items()}, [vars(sums)]))
    leave_ranks(results)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Return what both ranks came to in each case."""
    return on_two_ranks(
        train_on_a_rank,
        tmp_path_factory.mktemp("gloo"),
        num_answers=2 * (len(CASES | CONDITIONED) + 2),
    )


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_move_the_weights_as_one_does(found, case):
    _, changes = CASES[case]
    wanted = trained(USERS, **changes)
    answers = [arrays for name, arrays, _ in found if name == case]
    assert len(answers) == 2
    for arrays in answers:
        got = {key: torch.from_numpy(array) for key, array in arrays.items()}
        assert_equal_weights(got, wanted)


def test_two_ranks_with_compiled_towers_move_the_weights_as_one_without_does(found):
    shares, changes = CASES[COMPILED]
    wanted = trained(*(users for share in shares for users in share), **changes)
    answers = [arrays for name, arrays, _ in found if name == "compiled"]
    assert len(answers) == 2
    for arrays in answers:
        got = {key: torch.from_numpy(array) for key, array in arrays.items()}
        assert_equal_weights(got, wanted)


def test_two_ranks_that_read_their_own_items_alone_move_the_weights_as_one_that_reads_all(found):
    alone = Training(warm_model(), **OWN_ITEMS | {"reads_all": True})
    wanted_sums = [pytest.approx(vars(alone.step(USERS)), rel=1e-4) for _ in range(2)]
    answers = [(arrays, sums) for name, arrays, sums in found if name == "own items"]
    assert len(answers) == 2
    for arrays, sums in answers:
        got = {key: torch.from_numpy(array) for key, array in arrays.items()}
        assert_equal_weights(got, alone.weights())
        assert sums == wanted_sums


@pytest.mark.parametrize("case", CASES)
def test_both_ranks_report_the_figures_of_all(found, case):
    _, changes = CASES[case]
    alone = Training(**changes)
    wanted = [pytest.approx(vars(alone.step(USERS)), rel=1e-4) for _ in range(2)]
    assert [sums for name, _, sums in found if name == case] == [wanted, wanted]


@pytest.mark.parametrize("case", CONDITIONED)
def test_two_ranks_train_a_conditioned_model_as_one_does(found, case):
    alone, wanted_sums = conditioned_step((USERS, DIALS))
    wanted = alone.weights() | {"shown_V": alone.shown_V}
    answers = [answer[1:] for answer in found if answer[0] == case]
    assert len(answers) == 2
    for arrays, sums in answers:
        got = {key: torch.from_numpy(array) for key, array in arrays.items()}
        assert_equal_weights(got, wanted)
        assert sums == [pytest.approx(vars(wanted_sums), rel=1e-4)]
