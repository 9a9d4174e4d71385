"""A trained encoder on two ranks, whole or in shards: they learn what one rank in one part does."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist

from recdiv_core.training.build import parameter_groups
from recdiv_core.training.shards import is_shard, load_optimizer, load_whole, shard_encoder, whole
from recdiv_core.training.step import fetch_sums, train_step
from recdiv_core.training.step_texts import share_texts
from tests.ranks import leave_ranks, on_two_ranks
from tests.step_worlds import NUM_ITEMS, USERS, assert_equal_weights, objective, part
from tests.test_item_texts import item_texts
from tests.test_trainable_encoder import model_of, source

__all__ = ["source"]  # a fixture

pytestmark = [
    pytest.mark.ray,  # no Ray in it, but as slow as if there were
    # peft asks transformers by a name that is on its way out
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]

SGD = partial(torch.optim.SGD, momentum=0.9)  # AdamW scales rounding noise up
SHARES = [[USERS[:2], []], [USERS[4:6], USERS[6:]]]  # of each rank, in parts
CASES = {
    "the top layer": ({"layers": 1}, {}, SHARES),
    "all layers, with slates": ({}, {"diversity_weight": 0.5}, SHARES),
    "layers computed again": ({"recomputes": True}, {}, SHARES),
    "adapters": ({"layers": 2, "rank": 2}, {}, SHARES),
    "a rank without users": ({"layers": 1}, {}, [[USERS[:2]], [[]]]),
}


class _Training:
    """One rank's model and optimiser."""

    def __init__(self, source, *, is_sharded, optimizer=SGD, **how):
        self.model = model_of(source, **how, num_items=NUM_ITEMS, max_history=6)
        if is_sharded:
            shard_encoder(self.model, torch.device("cpu"))
        rates = {"learning_rate": 0.05, "text_learning_rate": 1e-3, "weight_decay": 0.01}
        self.optimizer = optimizer(parameter_groups(self.model, **rates))

    def step(self, shares, rank=0, **changes):
        users = [user for share in shares for part in share for user in part]
        texts = share_texts(
            item_texts(NUM_ITEMS),
            np.unique(np.concatenate(users)),
            num_chunks=len(shares[rank]),
            rank=rank,
            world_size=len(shares),
        )
        sums = train_step(
            self.model,
            [part(users) for users in shares[rank]],
            objective(**changes),
            self.optimizer,
            torch.amp.GradScaler("cpu", enabled=False),
            precision=torch.float32,
            clip_norm=0.5,
            shown_V=torch.zeros(NUM_ITEMS),
            negatives=None,
            texts=texts,
        )
        return fetch_sums([sums])[0]

    def state(self):
        """Return weights and moments, whole and apart from what trains on."""
        state = {"weights": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return copy.deepcopy(whole(state))

    def load(self, state):
        load_whole(self.model, state["weights"])
        load_optimizer(self.optimizer, state["optimizer"])

    def num_held(self):
        """Return how many numbers this rank keeps of trained layers and of their moments."""
        trained = [p for n, p in self.model.named_parameters() if ".layer." in n]
        moments = [self.optimizer.state[p]["momentum_buffer"] for p in trained if p.requires_grad]
        return tuple(
            sum((t.to_local() if is_shard(t) else t).numel() for t in tensors)
            for tensors in (trained, moments)
        )


def train_on_a_rank(rank, store, results, source):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for name, (how, changes, shares) in CASES.items():
        for is_sharded in (False, True):
            training = _Training(source, is_sharded=is_sharded, **how)
            sums = [vars(training.step(shares, rank, **changes)) for _ in range(2)]
            state = training.state()["weights"]
            results.put(((name, is_sharded), to_numpy(state), sums, training.num_held()))
    for first, second in ((True, True), (True, False), (False, True)):
        before = _Training(source, is_sharded=first, optimizer=torch.optim.AdamW)
        before.step(SHARES, rank)
        after = _Training(source, is_sharded=second, optimizer=torch.optim.AdamW)
        after.load(before.state())
        sums = [vars(training.step(SHARES, rank)) for training in (before, after)]
        states = [to_numpy(training.state()["weights"]) for training in (before, after)]
        results.put((("goes on", first, second), states, sums, None))
    leave_ranks(results)


def to_numpy(state):
    return {name: value.numpy() for name, value in state.items()}


def to_torch(state):
    return {name: torch.from_numpy(value) for name, value in state.items()}


@pytest.fixture(scope="module")
def found(tmp_path_factory, source):
    """Return what both ranks came to: case -> weights, sums and how much was held, by rank."""
    answers = on_two_ranks(
        train_on_a_rank,
        tmp_path_factory.mktemp("gloo"),
        source,
        num_answers=2 * (2 * len(CASES) + 3),
    )
    by_case = {}
    for name, *rest in answers:
        by_case.setdefault(name, []).append(rest)
    return by_case


@pytest.mark.parametrize("is_sharded", [False, True], ids=["whole", "shards"])
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_in_parts_learn_what_one_rank_in_one_part_does(source, found, case, is_sharded):
    how, changes, shares = CASES[case]
    alone = _Training(source, is_sharded=False, **how)
    users = [user for share in shares for part in share for user in part]
    wanted_sums = [vars(alone.step([[users]], **changes)) for _ in range(2)]
    wanted = alone.state()["weights"]
    for got, sums, _ in found[case, is_sharded]:
        assert_equal_weights(to_torch(got), wanted)
        assert sums == [pytest.approx(each, rel=1e-4) for each in wanted_sums]


def test_each_rank_holds_its_share_of_layers_and_moments(found):
    case = "all layers, with slates"
    (_, _, whole_layers), _ = found[case, False]
    shares = [held for _, _, held in found[case, True]]
    assert tuple(map(sum, zip(*shares, strict=True))) == whole_layers
    for share in shares:
        assert share == pytest.approx([count / 2 for count in whole_layers], rel=0.01)


@pytest.mark.parametrize(
    "way",
    [(True, True), (True, False), (False, True)],
    ids=["shards", "whole after", "whole before"],
)
def test_training_goes_on_from_whole_tensors_with_shards_or_without(found, way):
    for (undisturbed, resumed), sums, _ in found["goes on", *way]:
        assert_equal_weights(to_torch(resumed), to_torch(undisturbed))
        assert sums[1] == pytest.approx(sums[0], rel=1e-4)
