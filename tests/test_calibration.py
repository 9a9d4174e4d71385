import dataclasses
import math

import hypothesis.strategies as st
import pytest
from hypothesis import given
from scipy.spatial.distance import jensenshannon

from recdiv_core.metrics.calibration import calibration_js, calibration_kl
from recdiv_core.metrics.slate_batch import match_slates
from tests.metric_oracles import calibration, shares_of_labels
from tests.worlds import World, background_of, pad, random_world, traits_of, with_background


def world_of(slates: list[list[int]], histories: list[list[int]]) -> World:
    """Return a world of items 0 and 1 in category 0, 2 in 1, 3 in both, and the rest in none."""
    world = random_world(0, num_users=len(slates))
    return dataclasses.replace(
        with_background(world, 0),
        slates=slates,
        targets=[[9]] * len(slates),
        histories=histories,
        scores=[[0.0] * 30] * len(slates),
        categories=[[0], [0], [1], [0, 1], *[[]] * 26],
        num_categories=2,
    )


def divergences(world: World, k: int = 4) -> tuple[list[float], list[float]]:
    background = background_of(world, range(len(world.slates)))
    targets = pad(world.targets)
    slates = match_slates(pad(world.slates), targets, traits_of(world), k=k, background=background)
    return calibration_kl(slates).tolist(), calibration_js(slates).tolist()


@pytest.mark.parametrize(
    ("slate", "history", "kl", "js"),
    [
        ([0, 2], [1, 1, 2, 2], 0.0, 0.0),  # half and half
        ([3], [0, 2], 0.0, 0.0),  # an item of both counts half for each
        ([0, 5], [1, 5, 6], 0.0, 0.0),  # items without a category count nothing
        ([2], [0], math.log(100), 1.0),  # nothing in common
        ([5], [0], math.log(100), 1.0),  # nothing shown that has a category
        ([0], [5], 0.0, 0.0),  # nothing to agree with
        ([0], [], 0.0, 0.0),
        (
            [0],
            [0, 2],
            (math.log(0.5 / 0.995) + math.log(100)) / 2,
            0.25 + math.log2(4 / 3) / 2 - math.log2(3 / 2) / 4,
        ),
    ],
)
def test_calibration_by_hand(slate, history, kl, js):
    got_kl, got_js = divergences(world_of([slate], [history]))
    assert got_kl == pytest.approx([kl], abs=1e-12)
    assert got_js == pytest.approx([js], abs=1e-12)


@given(seed=st.integers(0, 10_000), k=st.integers(1, 10))
def test_divergences_equal_the_slow_twin_and_scipy(seed, k):
    world = with_background(random_world(seed, num_users=5), seed)
    world = dataclasses.replace(world, targets=[wanted or [0] for wanted in world.targets])
    world = with_background(world, seed)
    got_kl, got_js = divergences(world, k)
    for user, slate in enumerate(world.slates):
        expected = calibration(slate[:k], world.histories[user], world)
        assert got_kl[user] == pytest.approx(expected["calibration_kl"], abs=1e-12)
        assert got_js[user] == pytest.approx(expected["calibration_js"], abs=1e-12)
        shares = [shares_of_labels(s, world) for s in (world.histories[user], slate[:k])]
        if all(shares):
            rows = [[some.get(c, 0.0) for c in range(world.num_categories)] for some in shares]
            assert got_js[user] == pytest.approx(jensenshannon(*rows, base=2) ** 2, abs=1e-9)
