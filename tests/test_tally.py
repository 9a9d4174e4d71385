import dataclasses

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from recdiv_core.items.labels import labels_of_padded
from recdiv_core.items.traits import describe_items
from recdiv_core.metrics import USER_METRICS, Tally, finish, tally_slates
from recdiv_core.metrics.scorecard import finish_scorecard
from recdiv_core.metrics.slate_batch import SlateBatch, match_slates
from recdiv_core.metrics.tally import (
    EPOCH_METRICS,
    LOWER_IS_BETTER,
    SEARCH_METRICS,
    count_users,
)
from recdiv_core.wording import few_judged
from tests.metric_oracles import of_every_epoch
from tests.worlds import (
    World,
    histories_of,
    pad,
    random_world,
    scorecard_tally,
    tally_of,
    traits_of,
    with_background,
)

NOBODY = Tally.zeros(traits_of(random_world(0)), k=10)


def world_of(seed: int, **sizes: int) -> World:
    return with_background(random_world(seed, **sizes), seed)


def batch_of(world: World) -> SlateBatch:
    histories = histories_of(world, range(len(world.slates)))
    slates, targets = pad(world.slates), pad(world.targets)
    return match_slates(slates, targets, traits_of(world), k=10, background=histories)


@pytest.mark.parametrize("k", [1, 3, 10, 12])
@pytest.mark.parametrize("seed", range(4))
def test_every_metric_equals_its_slow_twin(seed, k):
    world = world_of(seed)
    expected = of_every_epoch(world, k=k)
    assert finish(tally_of(world, k=k)) == pytest.approx(expected, abs=1e-6)


def test_metrics_are_named_after_the_cut_off():
    metrics = finish(tally_of(world_of(0), k=5))
    assert " ".join(sorted(metrics)) == (
        "attention_coverage_at_5 attention_gini_at_5 between_diversity_at_5 category_coverage_at_5 "
        "coverage_at_5 diversity_index_at_5 f1_at_5 gini_at_5 gini_simpson_at_5 hit_at_5 "
        "homogeneity_at_5 ild_at_5 map_at_5 mrr_at_5 narrowed_at_5 ndcg_at_5 novelty_at_5 "
        "precision_at_5 recall_at_5"
    )


@pytest.mark.parametrize("num_workers", [1, 2, 3, 5])
def test_metrics_do_not_depend_on_the_number_of_workers(num_workers):
    world = world_of(7, num_users=101)
    flats = [
        tally_of(world, k=10, users=range(rank, 101, num_workers)).flat()
        for rank in range(num_workers)
    ]
    reduced = Tally.zeros(traits_of(world), k=10).from_flat(torch.stack(flats).sum(dim=0))
    assert finish(reduced) == pytest.approx(finish(tally_of(world, k=10)), rel=1e-12, abs=1e-12)


def test_the_mean_of_each_workers_coverage_is_not_the_coverage():
    world = random_world(7, num_users=101, num_items=400)
    exact = finish(tally_of(world, k=10))["coverage_at_10"]
    per_rank = [
        finish(tally_of(world, k=10, users=range(rank, 101, 5)))["coverage_at_10"]
        for rank in range(5)
    ]
    assert np.mean(per_rank) < 0.6 * exact


@given(seed=st.integers(0, 99), order=st.permutations(range(12)), cut=st.integers(0, 12))
def test_tallies_add_in_any_order_and_any_split(seed, order, cut):
    world = world_of(seed, num_users=12)
    whole = tally_of(world, k=4)
    parts = tally_of(world, k=4, users=order[cut:]) + tally_of(world, k=4, users=order[:cut])
    assert torch.equal(parts.exposure_V, whole.exposure_V)
    assert torch.allclose(parts.flat(), whole.flat(), rtol=0, atol=1e-12)


def test_zeros_add_nothing():
    tally = tally_of(random_world(1), k=10)
    assert torch.equal((Tally.zeros(traits_of(random_world(1)), k=10) + tally).flat(), tally.flat())


def test_a_tally_survives_its_flat_form():
    tally = tally_of(world_of(1), k=10)
    rebuilt = Tally.zeros(traits_of(random_world(1)), k=10).from_flat(tally.flat())
    assert tally.flat().dtype == torch.float64
    assert rebuilt.exposure_V.dtype == rebuilt.num_users.dtype == torch.int64
    assert finish(rebuilt) == finish(tally)


def test_users_without_targets_are_counted_and_left_out():
    world = random_world(2)
    judged = [user for user, targets in enumerate(world.targets) if targets]
    tally, without = tally_of(world, k=10), tally_of(world, k=10, users=judged)
    assert 0 < len(judged) < len(world.targets)
    assert (int(tally.num_users), int(tally.num_users_without_targets)) == (
        len(judged),
        len(world.targets) - len(judged),
    )
    assert int(without.num_users_without_targets) == 0
    assert torch.equal(tally.exposure_V, without.exposure_V)
    assert finish(tally) == pytest.approx(finish(without), rel=1e-12)


def test_a_wide_slate_is_cut_to_k():
    world = random_world(3)
    cut = dataclasses.replace(world, slates=[slate[:4] for slate in world.slates])
    assert torch.equal(tally_of(world, k=4).flat(), tally_of(cut, k=4).flat())


def test_targets_may_be_padded_anywhere():
    traits = traits_of(random_world(3))
    slates = torch.tensor([[1, 2, 3]])
    padded = tally_slates(slates, torch.tensor([[-1, 9, -1, 2]]), traits, k=3)
    plain = tally_slates(slates, torch.tensor([[2, 9]]), traits, k=3)
    assert torch.equal(padded.flat(), plain.flat())


def test_int32_indices_are_welcome():
    traits = traits_of(random_world(3))
    slates, targets = torch.tensor([[1, 2, 3]]), torch.tensor([[2]])
    narrow = tally_slates(slates.int(), targets.int(), traits, k=3)
    assert torch.equal(narrow.flat(), tally_slates(slates, targets, traits, k=3).flat())


@pytest.mark.parametrize("name", USER_METRICS)
def test_a_user_metric_gives_each_user_a_finite_float64(name):
    slates = batch_of(world_of(4))
    values = USER_METRICS[name](slates)
    assert values.shape == (slates.num_users,)
    assert values.dtype == torch.float64
    exists = ~values.isnan()
    assert bool(exists.all()) or name == "narrowed"
    assert bool(torch.isfinite(values[exists]).all())
    assert float(values[exists].min()) >= 0


@pytest.mark.parametrize("name", [name for name in USER_METRICS if name != "narrowed"])
def test_a_user_metric_of_an_empty_slate_is_zero(name):
    slates = match_slates(
        torch.empty(2, 0, dtype=torch.int64),
        torch.tensor([[3], [4]]),
        traits_of(random_world(4)),
        k=10,
    )
    assert USER_METRICS[name](slates).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", USER_METRICS)
def test_a_user_metric_of_no_users_is_empty(name):
    slates = match_slates(pad([]), pad([]), traits_of(random_world(4)), k=10)
    assert USER_METRICS[name](slates).shape == (0,)


def test_a_batch_of_no_users_tallies_to_zeros():
    traits = traits_of(random_world(4))
    tally = tally_slates(pad([]), pad([]), traits, k=10)
    assert torch.equal(tally.flat(), Tally.zeros(traits, k=10).flat())


def test_a_popularity_ranking_has_a_higher_gini_than_a_random_one():
    world = random_world(5, num_users=60)
    popular = dataclasses.replace(world, slates=[list(range(10))] * 60)
    assert finish(tally_of(popular, k=10))["gini_at_10"] > 0.6
    assert finish(tally_of(world, k=10))["gini_at_10"] < 0.4


def test_nothing_judged_is_an_error():
    with pytest.raises(ValueError, match="nothing to measure"):
        finish(NOBODY)


def test_the_users_who_are_judged_are_counted_over_all_workers():
    world = dataclasses.replace(random_world(3), targets=[[]] * 10 + [[1]] * 30)
    parts = [tally_of(world, k=10, users=range(rank, 40, 2)) for rank in range(2)]
    assert count_users(parts[0] + parts[1]) == {
        "num_judged": 30.0,
        "num_held_out": 40.0,
        "num_compared": 0.0,
    }


def test_a_metric_that_exists_for_nobody_is_left_out():
    assert "narrowed_at_10" not in finish(tally_of(random_world(3), k=10))  # without histories


def test_every_metric_of_an_epoch_is_in_the_table_of_their_names():
    named = {f"{name}_at_10" for name in EPOCH_METRICS}
    assert set(finish(tally_of(world_of(3), k=10))) == named
    assert set(LOWER_IS_BETTER) < set(EPOCH_METRICS)


@given(seed=st.integers(0, 999), k=st.integers(1, 12))
def test_total_diversity_is_the_part_within_slates_and_the_part_between_users(seed, k):
    world = world_of(seed, num_users=12)
    found = finish_scorecard(scorecard_tally(world, k=k))
    within, between = (found[f"{name}_at_{k}"] for name in ("gini_simpson", "between_diversity"))
    assert found[f"total_diversity_at_{k}"] == pytest.approx(within + between, abs=1e-12)
    assert between >= 0


def test_where_nobody_is_judged_the_metrics_are_those_of_nobody_and_the_remedy_is_named():
    tally = tally_of(dataclasses.replace(random_world(3), targets=[[]] * 40), k=10)
    assert set(finish(tally).values()) == {0.0}
    counts = {f"test/{name}": count for name, count in count_users(tally).items()}
    (warning,) = few_judged(counts)
    assert warning.startswith("test: only 0 of 40 users judged")
    assert "set eval.filter_seen=false" in warning


def test_tallies_of_another_k_do_not_add():
    with pytest.raises(ValueError, match="do not add"):
        NOBODY + Tally.zeros(traits_of(random_world(0)), k=5)


def test_a_flat_form_of_another_length_is_refused():
    with pytest.raises(ValueError, match="expected"):
        NOBODY.from_flat(torch.zeros(30, dtype=torch.float64))


@pytest.mark.parametrize(
    ("slates", "targets", "k", "message"),
    [
        ([[1, 2, 1]], [[3]], 3, "slates: item_index 1 is twice in row 0"),
        ([[1], [2]], [[3, 4], [5, 5]], 3, "targets: item_index 5 is twice in row 1"),
        ([[1, 30]], [[3]], 3, r"slates must lie in -1\.\.29, got 1\.\.30"),
        ([[1, 2]], [[-2]], 3, "targets must lie in"),
        ([[1, -1, 2]], [[3]], 3, "after a -1"),
        ([[1, 2]], [[3], [4]], 3, r"\[1, 2\] and \[2, 1\]"),
        ([[1, 2]], [[3]], 0, "k=0"),
        ([[1.0, 2.0]], [[3]], 3, "whole numbers"),
    ],
)
def test_broken_slates_and_targets_are_refused(slates, targets, k, message):
    with pytest.raises(ValueError, match=message):
        tally_slates(torch.tensor(slates), torch.tensor(targets), traits_of(random_world(0)), k=k)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings_VD": torch.zeros(4)}, r"expected embeddings \[V, D\]"),
        ({"embeddings_VD": torch.zeros(4, 2)}, "the same number of items"),
        ({"num_events_V": torch.zeros(2, dtype=torch.int64)}, "the same number of items"),
        ({"num_events_V": torch.tensor([1, -1, 1])}, "num_events >= 0"),
        ({"num_train_users": 0}, "num_train_users >= 1"),
        ({"num_categories": 1}, r"categories must lie in -1\.\.0, got 0\.\.1"),
    ],
)
def test_broken_descriptions_of_items_are_refused(change, message):
    given = {
        "embeddings_VD": torch.eye(3),
        "categories": labels_of_padded(torch.tensor([[0], [1], [1]])),
        "num_events_V": torch.tensor([1, 2, 3]),
        "num_train_users": 5,
        "num_categories": 2,
    }
    with pytest.raises(ValueError, match=message):
        describe_items(**(given | change))


def test_metrics_of_queries_are_those_of_the_requests_with_one():
    world = with_background(random_world(4), 4)
    has_query_B = torch.arange(len(world.slates)) % 3 == 0
    histories = histories_of(world, range(len(world.slates)))
    background = dataclasses.replace(histories, has_query_B=has_query_B)
    metrics = {**USER_METRICS, **SEARCH_METRICS}
    slates, targets, traits = pad(world.slates), pad(world.targets), traits_of(world)
    both = tally_slates(slates, targets, traits, k=5, metrics=metrics, background=background)
    asked = np.flatnonzero(has_query_B.numpy()).tolist()
    alone = tally_slates(
        pad([world.slates[row] for row in asked]),
        pad([world.targets[row] for row in asked]),
        traits,
        k=5,
        background=histories_of(world, asked),
    )
    found, want = finish(both), finish(alone)
    for name in SEARCH_METRICS:
        assert found[f"{name}_at_5"] == pytest.approx(want[f"{name.removeprefix('query_')}_at_5"])


def test_metrics_of_queries_are_left_out_without_a_query():
    world = with_background(random_world(4), 4)
    metrics = {**USER_METRICS, **SEARCH_METRICS}
    found = finish(
        tally_slates(
            pad(world.slates),
            pad(world.targets),
            traits_of(world),
            k=5,
            metrics=metrics,
            background=histories_of(world, range(len(world.slates))),
        )
    )
    assert not [name for name in found if name.startswith("query_")]
