"""Arrays in, metrics out: the NumPy door gives what the whole set of metrics is by hand."""

from dataclasses import replace

import numpy as np
import pytest

from recdiv_core.metrics import evaluate_slates
from recdiv_core.metrics.scorecard import FURTHER_METRICS, NEEDS
from recdiv_core.metrics.tally import EPOCH_METRICS
from tests.metric_oracles import scorecard
from tests.oracles import narrowed_choice
from tests.worlds import World, pad, random_world, with_background


def tables_of(world: World):
    return {
        "embeddings": world.embeddings,
        "categories": world.categories,
        "attributes": {
            name: [None if value < 0 else value for value in values]
            for name, values in world.attributes.items()
        },
        "popularity": world.popularity,
        "num_train_users": world.num_train_users,
        "histories": world.histories,
    }


def world_of(seed):
    """Return a world in which each category and each value occurs."""
    world = with_background(random_world(seed), seed)
    used = {label for own in world.categories for label in own}
    assert used == set(range(world.num_categories))
    dense = {
        name: (np.unique([-1, *values], return_inverse=True)[1][1:] - 1).tolist()
        for name, values in world.attributes.items()
    }
    return replace(world, attributes=dense)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("k", [1, 5, 10])
def test_metrics_are_those_by_hand(seed, k):
    world = world_of(seed)
    found = evaluate_slates(world.slates, world.targets, k=k, **tables_of(world))
    expected = scorecard(world, k=k)
    del expected[f"auc_at_{k}"]  # it needs the scores
    num_judged = sum(map(bool, world.targets))
    expected |= {"num_judged": num_judged, "num_held_out": len(world.targets)}
    users = zip(world.slates, world.targets, world.histories, strict=True)
    choices = [
        narrowed_choice(slate[:k], own, world.categories) for slate, held, own in users if held
    ]
    expected["num_compared"] = sum(choice is not None for choice in choices)
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_arrays_padded_with_minus_1_are_ragged_lists():
    world = world_of(1)
    lists = evaluate_slates(world.slates, world.targets, **tables_of(world))
    arrays = {**tables_of(world), "histories": pad(world.histories).numpy()}
    padded = pad(world.slates).numpy(), pad(world.targets).numpy()
    assert evaluate_slates(*padded, **arrays) == lists


def test_what_is_not_given_leaves_out_its_metrics_alone():
    world = world_of(1)
    whole = evaluate_slates(world.slates, world.targets, **tables_of(world))
    tables = tables_of(world)
    for table in ("embeddings", "categories", "popularity", "histories"):
        rest = {name: given for name, given in tables.items() if name != table}
        found = evaluate_slates(world.slates, world.targets, **rest)
        missing = {name.removesuffix("_at_10") for name in whole.keys() - found.keys()}
        missing -= {"num_compared"}
        assert missing == set(NEEDS[table])
        assert found == {name: whole[name] for name in found}


def test_slates_and_targets_alone_give_accuracy_and_exposure():
    found = evaluate_slates([[3, 1], [3, 2]], [[1], [0, 2]], num_items=4)
    assert found["precision_at_2"] == 0.5
    assert found["recall_at_2"] == 0.75
    assert found["coverage_at_2"] == 0.75
    assert "ild_at_2" not in found


def test_many_users_are_the_same_in_any_portion(monkeypatch):
    world = world_of(2)
    whole = evaluate_slates(world.slates, world.targets, **tables_of(world))
    monkeypatch.setattr("recdiv_core.metrics.arrays.USERS_AT_ONCE", 7)
    portions = evaluate_slates(world.slates, world.targets, **tables_of(world))
    assert portions == pytest.approx(whole, rel=1e-12)


def test_the_table_of_needs_names_metrics_that_exist():
    known = {*EPOCH_METRICS, *FURTHER_METRICS, "total_diversity"}
    assert {name for names in NEEDS.values() for name in names} <= known


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_items": None}, "num_items: give the size of the catalogue"),
        ({"slates": [[0, 4]]}, r"slates: row 0 holds a number outside of 0\.\.3"),
        ({"slates": [[2, 2]]}, "slates: row 0 holds item 2 twice"),
        ({"slates": [[-1, 2]]}, "an item comes after a -1"),
        ({"slates": [[0.5]]}, "slates must be whole numbers, got float64"),
        ({"slates": np.array([1, 2])}, r"slates: expected a row for each user, got \[2\]"),
        ({"targets": [[9]]}, r"targets: row 0 holds a number outside of 0\.\.3"),
        ({"targets": [[1], [2]]}, "got 1 slates, 2 targets, 1 histories"),
        ({"slates": [], "targets": []}, "at least one user; got 0 slates"),
        ({"embeddings": np.eye(3)}, "embeddings has 3, num_items has 4"),
        ({"popularity": [1, 2, 3, 4]}, "popularity needs num_train_users"),
        ({"popularity": [0.5] * 4, "num_train_users": 1}, "popularity: expected .V. whole numbers"),
        ({"k": 0}, "k=0 must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes, message):
    given = {"slates": [[0, 1]], "targets": [[1]], "num_items": 4, **changes}
    with pytest.raises(ValueError, match=message):
        evaluate_slates(**given)
