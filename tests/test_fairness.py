import dataclasses

import numpy as np
import pytest
import torch

from recdiv_core.metrics import finish
from recdiv_core.metrics.fairness import item_fairness, user_fairness
from recdiv_core.metrics.groups import GroupTally, finish_groups, tally_groups
from tests import metric_oracles
from tests.worlds import World, pad, random_world, tally_of, traits_of

K = 5


def masks(sets: dict[str, set[int]], size: int) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([i in some for i in range(size)]) for name, some in sets.items()}


def random_sets(seed: int, size: int) -> dict[str, set[int]]:
    rng = np.random.default_rng(seed)
    return {name: {*rng.permutation(size)[: size // 3].tolist()} for name in "abc"}


def grouped(world: World, users: range, user_sets, item_sets) -> GroupTally:
    chosen = [*users]
    of_users = {name: mask[chosen] for name, mask in masks(user_sets, len(world.slates)).items()}
    return tally_groups(
        pad([world.slates[user] for user in chosen]),
        pad([world.targets[user] for user in chosen]),
        traits_of(world),
        k=K,
        user_groups=of_users,
        item_groups=masks(item_sets, 30),
    )


def test_a_group_of_users_is_judged_as_if_alone():
    world, sets = random_world(3), random_sets(3, 40)
    figures = finish_groups(grouped(world, range(40), sets, {}))
    for name, users in sets.items():
        alone = tally_of(world, k=K, users=sorted(users))
        assert figures[name].pop("num_users") == int(alone.num_users)
        expected = {n: v for n, v in finish(alone).items() if n in figures[name]}
        assert figures[name] == pytest.approx(expected, rel=1e-12)


def test_a_group_of_items_is_judged_by_the_targets_in_it():
    world, sets = random_world(3), random_sets(4, 30)
    figures = finish_groups(grouped(world, range(40), {}, sets))
    for name, items in sets.items():
        wanted = [[item for item in targets if item in items] for targets in world.targets]
        alone = tally_of(dataclasses.replace(world, targets=wanted), k=K)
        assert figures[name].pop("num_users") == int(alone.num_users)
        expected = {n: v for n, v in finish(alone).items() if n in figures[name]}
        assert figures[name] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("num_workers", [1, 2, 3, 5])
def test_sums_of_groups_do_not_depend_on_the_number_of_workers(num_workers):
    world, sets = random_world(5, num_users=101), (random_sets(1, 101), random_sets(2, 30))
    shares = [grouped(world, range(rank, 101, num_workers), *sets) for rank in range(num_workers)]
    together = sum(shares[1:], shares[0])
    whole = grouped(world, range(101), *sets)
    torch.testing.assert_close(together.sums_GM, whole.sums_GM, rtol=1e-9, atol=1e-9)


def test_a_group_without_users_is_left_out():
    assert finish_groups(grouped(random_world(3), range(40), {"nobody": set()}, {})) == {}


def test_no_groups_give_no_figures():
    assert finish_groups(grouped(random_world(3), range(40), {}, {})) == {}


def test_other_groups_do_not_add():
    with pytest.raises(ValueError, match="do not add"):
        GroupTally.zeros(["a"], k=5) + GroupTally.zeros(["b"], k=5)


@pytest.mark.parametrize("seed", range(6))
def test_item_fairness_equals_its_slow_twin(seed):
    world, sets = random_world(seed, num_users=60), random_sets(seed, 30)
    figures = item_fairness(tally_of(world, k=K), masks(sets, 30), min_size=10)
    expected = metric_oracles.item_fairness(world, sets, k=K, min_size=10)
    assert figures == pytest.approx(expected, rel=1e-12)


def test_item_fairness_by_hand():
    # items 0 and 1 are popular, 2 to 5 are not; three of four places go to the popular ones
    world = dataclasses.replace(
        random_world(0, num_items=6), slates=[[0, 1], [0, 2]], targets=[[0, 3], [4, 1]]
    )
    sets = {"head": {0, 1}, "tail": {2, 3, 4, 5}}
    figures = item_fairness(tally_of(world, k=2), masks(sets, 6), min_size=1)
    assert figures == pytest.approx(
        {
            "equal_coverage_gap": 3 / 4 / (2 / 6) - 1 / 4 / (4 / 6),
            "pop_rsp": (2.25 - 0.375) / (2.25 + 0.375),
            "equal_opportunity_gap": 1 / 2,  # of the head's two targets one is shown
            "pop_reo": 1.0,
        }
    )


def test_groups_too_small_to_compare_leave_no_figure():
    world, sets = random_world(0), {"a": {1, 2}, "b": {3}}
    figures = item_fairness(tally_of(world, k=K), masks(sets, 30), min_size=10_000)
    assert figures.keys() == {"equal_coverage_gap", "pop_rsp"}
    assert item_fairness(tally_of(world, k=K), masks({"a": {1}}, 30)) == {}


def test_user_fairness_compares_the_groups_that_are_large_enough():
    groups = {
        name: {"num_users": size, "recall_at_5": recall, "category_coverage_at_5": spread}
        for name, size, recall, spread in (
            ("cold", 30, 0.1, 0.5),
            ("warm", 99, 0.3, 0.6),
            ("few", 29, 0.9, 0.9),
        )
    }
    assert user_fairness(groups, k=5) == pytest.approx(
        {"equal_opportunity_gap": 0.2, "equal_coverage_gap": 0.1}
    )
    assert user_fairness({"warm": groups["warm"], "few": groups["few"]}, k=5) == {}
