"""A step on two ranks under DDP is the step of one: two processes over gloo, started once."""

import multiprocessing

import pytest
import torch
import torch.distributed as dist

from tests.test_step import (
    NUM_ITEMS,
    USERS,
    WAYS,
    Training,
    assert_equal_weights,
    fresh_model,
    trained,
)

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


def train_on_a_rank(rank, store, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for name, (shares, changes) in CASES.items():
        model = fresh_model()
        wrapped = torch.nn.parallel.DistributedDataParallel(model, forward_sync_buffers=False)
        training = Training(wrapped, **changes)
        sums = [vars(training.step(*shares[rank])) for _ in range(2)]
        tensors = model.state_dict() | {"places_V": training.places_V}
        results.put((name, {key: value.numpy() for key, value in tensors.items()}, sums))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Return what both ranks came to in each case."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    store = tmp_path_factory.mktemp("gloo") / "store"
    ranks = [context.Process(target=train_on_a_rank, args=(r, store, results)) for r in range(2)]
    for process in ranks:
        process.start()
    answers = [results.get(timeout=120) for _ in range(2 * len(CASES))]
    for process in ranks:
        process.join()
    return answers


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_move_the_weights_as_one_does(found, case):
    _, changes = CASES[case]
    wanted = trained(USERS, **changes)
    answers = [arrays for name, arrays, _ in found if name == case]
    assert len(answers) == 2
    for arrays in answers:
        got = {key: torch.from_numpy(array) for key, array in arrays.items()}
        assert_equal_weights(got, wanted)


@pytest.mark.parametrize("case", CASES)
def test_both_ranks_report_the_figures_of_all(found, case):
    _, changes = CASES[case]
    alone = Training(**changes)
    wanted = [pytest.approx(vars(alone.step(USERS)), rel=1e-4) for _ in range(2)]
    assert [sums for name, _, sums in found if name == case] == [wanted, wanted]
