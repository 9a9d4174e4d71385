import dataclasses
import math
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from recdiv_core.metrics import Tally, finish
from recdiv_core.metrics.scorecard import FURTHER_METRICS, finish_scorecard, user_metrics
from recdiv_core.metrics.slate_batch import match_slates
from recdiv_core.metrics.tally import tally_batch
from tests.metric_oracles import scorecard
from tests.worlds import (
    World,
    background_of,
    pad,
    random_world,
    renumbered,
    scorecard_tally,
    tally_of,
    traits_of,
    with_background,
)

HIGHEST = {  # other than 1
    "ild": 2,
    "ilmd": 2,
    "homogeneity": 10,
    "novelty": 60,
    "effective_categories": 30,
    "vendi": 10,
    "popularity": 1e9,
    "calibration_kl": 4.61,
}


def world_of(seed: int, **sizes: int) -> World:
    return with_background(random_world(seed, **sizes), seed)


def values_of(world: World, k: int) -> dict[str, torch.Tensor]:
    traits = traits_of(world)
    background = background_of(world, range(len(world.slates)))
    slates = match_slates(pad(world.slates), pad(world.targets), traits, k=k, background=background)
    return {name: metric(slates) for name, metric in user_metrics(traits.attributes).items()}


@pytest.mark.parametrize("k", [1, 3, 10, 12])
@pytest.mark.parametrize("seed", range(5))
def test_the_whole_set_equals_its_slow_twins(seed, k):
    world = world_of(seed)
    figures = finish_scorecard(scorecard_tally(world, k=k))
    assert figures == pytest.approx(scorecard(world, k=k), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_slates_that_were_cut_are_judged_as_short_ones(seed):
    world = world_of(seed)
    traits, background = traits_of(world), background_of(world, range(40))
    slates = match_slates(
        pad(world.slates), pad(world.targets), traits, k=10, background=background
    )
    for k in (7, 10, 1, 3):
        cut = tally_batch(slates.cut(k), user_metrics(traits.attributes))
        alone = scorecard_tally(world, k=k)
        assert (cut.k, cut.names) == (alone.k, alone.names)
        # ild of a slate takes off lengths that were squared in float32, that of a cut one does not
        torch.testing.assert_close(cut.flat(), alone.flat(), rtol=1e-8, atol=1e-12)
        is_other = torch.tensor([name != "ild" for name in cut.names])
        torch.testing.assert_close(cut.sums[is_other], alone.sums[is_other], rtol=1e-12, atol=1e-12)


def test_a_cut_of_a_cut_is_the_shorter_one():
    world = world_of(3)
    slates = match_slates(pad(world.slates), pad(world.targets), traits_of(world), k=10)
    twice, once = (tally_batch(cut) for cut in (slates.cut(6).cut(2), slates.cut(2)))
    assert torch.equal(twice.flat(), once.flat())


@pytest.mark.parametrize("k", [0, 11])
def test_a_cut_beyond_the_slates_is_refused(k):
    world = world_of(3)
    slates = match_slates(pad(world.slates), pad(world.targets), traits_of(world), k=10)
    with pytest.raises(ValueError, match=r"can be cut to 1\.\.10"):
        slates.cut(k)


def test_metrics_that_are_no_function_of_vectors_equal_their_twins_to_rounding():
    world = world_of(9, num_users=60)
    figures, expected = finish_scorecard(scorecard_tally(world, k=10)), scorecard(world, k=10)
    rounded = {"ild_at_10", "ilmd_at_10", "vendi_at_10"}  # vectors are float32
    assert {n: v for n, v in figures.items() if n not in rounded} == pytest.approx(
        {n: v for n, v in expected.items() if n not in rounded}, rel=1e-12, abs=1e-12
    )


def test_the_set_holds_the_metrics_of_every_epoch_unchanged():
    world = world_of(1)
    figures = finish_scorecard(scorecard_tally(world, k=10))
    few = finish(tally_of(world, k=10))
    assert {name: figures[name] for name in few} == few


@pytest.mark.parametrize("num_workers", [1, 2, 3, 5])
def test_metrics_do_not_depend_on_the_number_of_workers(num_workers):
    world = world_of(7, num_users=101)
    whole = scorecard_tally(world, k=10)
    flats = [
        scorecard_tally(world, k=10, users=range(rank, 101, num_workers)).flat()
        for rank in range(num_workers)
    ]
    empty = Tally.zeros(traits_of(world), k=10, names=whole.names)
    reduced = empty.from_flat(torch.stack(flats).sum(dim=0))
    expected = pytest.approx(finish_scorecard(whole), rel=1e-9, abs=1e-12)
    assert finish_scorecard(reduced) == expected


@given(seed=st.integers(0, 99), order=st.permutations(range(12)), cut=st.integers(0, 12))
def test_tallies_add_in_any_order_and_any_split(seed, order, cut):
    world = world_of(seed, num_users=12)
    whole = scorecard_tally(world, k=4)
    parts = [scorecard_tally(world, k=4, users=some) for some in (order[cut:], order[:cut])]
    torch.testing.assert_close((parts[0] + parts[1]).flat(), whole.flat(), rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 10_000), k=st.integers(1, 12))
def test_the_numbers_of_items_do_not_matter(seed, k):
    # of targets that serve as many needs the ideal order of alpha_ndcg takes the lower number
    world = world_of(seed, num_users=12)
    other = renumbered(world, np.random.default_rng(seed))
    there, here = (finish_scorecard(scorecard_tally(own, k=k)) for own in (world, other))
    there.pop(f"alpha_ndcg_at_{k}")
    assert {name: here[name] for name in there} == pytest.approx(there, rel=1e-6, abs=1e-9)


@given(seed=st.integers(0, 10_000), k=st.integers(1, 12))
def test_values_keep_to_their_ranges(seed, k):
    for name, values_B in values_of(world_of(seed, num_users=6), k).items():
        assert values_B.dtype == torch.float64
        assert values_B.isfinite().all() or name == "narrowed"
        values_B = values_B[values_B.isfinite()]
        assert ((values_B >= 0) & (values_B <= HIGHEST.get(name, 1) + 1e-9)).all(), name


@given(seed=st.integers(0, 10_000))
def test_what_has_no_ranks_does_not_depend_on_the_order_of_a_slate(seed):
    world = world_of(seed, num_users=6)
    turned = dataclasses.replace(world, slates=[slate[::-1] for slate in world.slates])
    ranked = {"narrowed", "mrr", "map", "ndcg", "alpha_ndcg", "err_ia", "epc", "serendipity"}
    there, back = values_of(world, 10), values_of(turned, 10)
    for name in there.keys() - ranked:
        torch.testing.assert_close(there[name], back[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", FURTHER_METRICS)
def test_an_empty_slate_scores_0_or_what_the_docstring_says(name):
    world = dataclasses.replace(world_of(4), slates=[[]] * 40)
    values_B = values_of(world, 10)[name]
    history = [h for h, t in zip(world.histories, world.targets, strict=True) if t]
    labelled = torch.tensor([any(world.categories[i] for i in items) for items in history])
    worst = {"calibration_kl": math.log(100), "calibration_js": 1.0}
    if name in worst:
        expected_B = labelled.double() * worst[name]
        torch.testing.assert_close(values_B, expected_B, rtol=0, atol=1e-12)
    elif name != "auc":
        assert not values_B.any()


@pytest.mark.parametrize("name", FURTHER_METRICS)
def test_a_metric_of_no_users_is_empty(name):
    world = dataclasses.replace(world_of(4), targets=[[]] * 40)
    assert values_of(world, 10)[name].shape == (0,)


def test_a_metric_that_needs_a_background_says_so():
    world = world_of(4)
    slates = match_slates(pad(world.slates), pad(world.targets), traits_of(world), k=10)
    with pytest.raises(ValueError, match="needs a background"):
        FURTHER_METRICS["auc"](slates)


def test_a_background_of_other_users_is_refused():
    world = world_of(4)
    background = background_of(world, range(39))
    with pytest.raises(ValueError, match="expected num_above"):
        match_slates(
            pad(world.slates), pad(world.targets), traits_of(world), k=10, background=background
        )


def test_tallies_of_other_metrics_do_not_add():
    world = world_of(4)
    with pytest.raises(ValueError, match="do not add"):
        scorecard_tally(world, k=10) + tally_of(world, k=10)


def test_every_metric_stands_in_the_document():
    document = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text(encoding="utf-8")
    figures = finish_scorecard(scorecard_tally(world_of(4), k=10))
    names = {name.removesuffix("_at_10") for name in figures}
    assert not [name for name in names - {"price_coverage"} if f"`{name}`" not in document]
