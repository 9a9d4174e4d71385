import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from recdiv_core.metrics import pareto
from tests.oracles import dominates, hypervolume_on_grid

BOTH_UP = ("max", "max")
GRID = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=8)
GRID_3D = st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=6)
FINITE = st.floats(-1e3, 1e3)
POINTS = st.lists(st.tuples(FINITE, FINITE), min_size=1, max_size=10)


def test_front_leaves_out_what_is_dominated():
    points = [[0.3, 0.3], [0.5, 0.1], [0.4, 0.2], [0.4, 0.1], [0.1, 0.3], [0.2, 0.9]]
    assert pareto.front(points, BOTH_UP) == [1, 2, 0, 5]


def test_front_keeps_the_first_of_equal_points():
    assert pareto.front([[1, 1], [2, 0], [1, 1], [2, 0]], BOTH_UP) == [1, 0]


def test_front_goes_by_the_directions():
    points = [[1.0, 5.0], [2.0, 5.0], [2.0, 4.0], [3.0, 6.0]]
    assert pareto.front(points, ("max", "max")) == [3]
    assert pareto.front(points, ("max", "min")) == [3, 2]
    assert pareto.front(points, ("min", "max")) == [0, 3]


def test_front_of_one_axis_is_the_best_point():
    assert pareto.front([[1.0], [3.0], [2.0]], ("max",)) == [1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_points_that_are_not_finite_are_ignored(bad):
    points = [[bad, 9.0], [1.0, 2.0], [9.0, bad], [2.0, 1.0]]
    assert pareto.front(points, BOTH_UP) == [3, 1]
    assert pareto.hypervolume(points, [0, 0], BOTH_UP) == 3.0
    assert pareto.knee(points, BOTH_UP) == 3
    assert pareto.attainment(points, 2.0, [0.5]) == {0.5: 2.0}


def test_a_sweep_without_points_has_an_empty_front():
    assert pareto.front([], BOTH_UP) == []
    assert pareto.hypervolume([], [0, 0], BOTH_UP) == 0.0


@pytest.mark.parametrize("directions", list(itertools.product(("max", "min"), repeat=2)))
@given(points=GRID)
def test_front_equals_domination_by_definition(directions, points):
    signs = [1 if direction == "max" else -1 for direction in directions]
    upward = [tuple(s * x for s, x in zip(signs, point, strict=True)) for point in points]
    kept = {p for p in upward if not any(dominates(other, p) for other in upward)}
    front = pareto.front(points, directions)
    assert [upward[index] for index in front] == sorted(kept, reverse=True)
    assert front == [upward.index(upward[index]) for index in front]


@given(points=GRID_3D)
def test_front_of_three_axes_equals_domination_by_definition(points):
    kept = {p for p in points if not any(dominates(other, p) for other in points)}
    front = pareto.front(points, ("max",) * 3)
    assert [points[index] for index in front] == sorted(kept, reverse=True)


@given(points=GRID)
def test_hypervolume_counts_the_squares_of_a_grid(points):
    assert pareto.hypervolume(points, [0, 0], BOTH_UP) == hypervolume_on_grid(points, 6)


@given(points=GRID_3D)
def test_hypervolume_counts_the_cubes_of_a_grid(points):
    assert pareto.hypervolume(points, [0, 0, 0], ("max",) * 3) == hypervolume_on_grid(points, 4)


@given(points=GRID_3D)
def test_volumes_count_the_cubes_of_every_first_points(points):
    expected = [hypervolume_on_grid(points[: n + 1], 4) for n in range(len(points))]
    assert pareto.volumes(points, [0, 0, 0], ("max",) * 3) == expected


@given(points=st.lists(st.tuples(*[st.floats(-1e3, 1e3) | st.just(np.nan)] * 2), max_size=12))
def test_volumes_never_fall_and_end_at_the_hypervolume(points):
    volumes = pareto.volumes(points, [-100, 100], ("max", "min"))
    assert len(volumes) == len(points)
    assert volumes == sorted(volumes)
    whole = pareto.hypervolume(points, [-100, 100], ("max", "min"))
    assert ([0.0, *volumes])[-1] == pytest.approx(whole)


def test_hypervolume_goes_by_the_directions_and_the_reference():
    # 2 x 3 down to the reference (1, 10), where the second axis is to be small
    assert pareto.hypervolume([[3.0, 7.0]], [1.0, 10.0], ("max", "min")) == 6.0


def test_points_beyond_the_reference_add_nothing():
    points = [[3.0, -1.0], [0.0, 5.0], [1.0, 1.0]]
    assert pareto.hypervolume(points, [0.0, 0.0], BOTH_UP) == 1.0


@given(points=POINTS, extra=st.tuples(FINITE, FINITE))
def test_a_further_point_never_lowers_the_hypervolume(points, extra):
    before = pareto.hypervolume(points, [-100, -100], BOTH_UP)
    after = pareto.hypervolume([*points, extra], [-100, -100], BOTH_UP)
    assert after >= before * (1 - 1e-12)


@given(points=POINTS, share=st.floats(0, 1))
def test_a_dominated_point_changes_nothing(points, share):
    behind = (points[0][0] - share, points[0][1] - 1)
    front = pareto.front(points, BOTH_UP)
    assert pareto.front([*points, behind], BOTH_UP) == front
    assert pareto.knee([*points, behind], BOTH_UP) == pareto.knee(points, BOTH_UP)
    assert pareto.hypervolume([*points, behind], [-5, -5], BOTH_UP) == pareto.hypervolume(
        points, [-5, -5], BOTH_UP
    )


@given(points=POINTS, seed=st.integers(0, 99))
def test_the_order_of_points_does_not_matter(points, seed):
    order = np.random.default_rng(seed).permutation(len(points)).tolist()
    shuffled = [points[index] for index in order]
    front, other = pareto.front(points, BOTH_UP), pareto.front(shuffled, BOTH_UP)
    assert [shuffled[index] for index in other] == [points[index] for index in front]
    assert pareto.hypervolume(shuffled, [0, 0], BOTH_UP) == pareto.hypervolume(
        points, [0, 0], BOTH_UP
    )
    assert shuffled[pareto.knee(shuffled, BOTH_UP)] == points[pareto.knee(points, BOTH_UP)]


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([[1.0, 0.0], [0.9, 0.8], [0.0, 1.0]], 1),  # the corner of an L
        ([[1.0, 0.0], [0.95, 0.3], [0.9, 0.8], [0.2, 0.9], [0.0, 1.0]], 2),
        ([[0.05, 10.0], [0.045, 18.0], [0.03, 20.0]], 1),  # axes of other scales
        ([[0.0, 1.0], [0.2, 0.2], [1.0, 0.0]], 2),  # bulges nowhere: the most accurate
        ([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]], 2),  # a straight line
        ([[0.4, 0.9], [0.5, 0.1]], 1),
        ([[0.5, 0.1]], 0),
        ([[0.5, 0.1], [0.5, 0.1]], 0),
    ],
)
def test_knee(points, expected):
    assert pareto.knee(points, BOTH_UP) == expected


def test_knee_goes_by_the_directions():
    assert pareto.knee([[1.0, 10.0], [0.9, 2.0], [0.0, 0.0]], ("max", "min")) == 1


def test_a_knee_needs_a_point():
    with pytest.raises(ValueError, match="at least one point"):
        pareto.knee([[np.nan, 1.0]], BOTH_UP)


def test_attainment_is_the_best_diversity_that_keeps_enough_accuracy():
    points = [[0.100, 0.50], [0.099, 0.55], [0.096, 0.53], [0.091, 0.70], [0.050, 0.95]]
    assert pareto.attainment(points, 0.1) == {0.99: 0.55, 0.95: 0.55, 0.9: 0.70}


def test_attainment_is_none_where_no_point_keeps_enough_accuracy():
    assert pareto.attainment([[0.05, 0.9]], 0.1) == {0.99: None, 0.95: None, 0.9: None}


@pytest.mark.parametrize(
    ("points", "directions", "message"),
    [
        ([[1.0, 2.0, 3.0]], BOTH_UP, r"expected points \[N, 2\], got \[1, 3\]"),
        ([1.0, 2.0], BOTH_UP, r"got \[2\]"),
        ([[1.0, 2.0]], ("max", "up"), "'max' or 'min'"),
        ([], (), "'max' or 'min'"),
    ],
)
def test_broken_points_are_refused(points, directions, message):
    with pytest.raises(ValueError, match=message):
        pareto.front(points, directions)


@pytest.mark.parametrize("reference", [[0.0], [0.0, np.nan]])
def test_a_broken_reference_is_refused(reference):
    with pytest.raises(ValueError, match="2 finite numbers"):
        pareto.hypervolume([[1.0, 2.0]], reference, BOTH_UP)


@pytest.mark.parametrize(
    ("accuracy", "diversity"), [(0.10, 0.2), (0.09, 0.3), (0.08, 0.4), (0.07, 0.6), (0.01, 0.8)]
)
def test_a_front_is_read_between_its_points_and_ends_with_the_last(accuracy, diversity):
    points = [[0.06, 0.8], [0.10, 0.2], [0.085, 0.1], [0.08, 0.4]]
    assert pareto.diversity_at(points, accuracy) == pytest.approx(diversity)


def test_a_front_is_not_read_beyond_its_best_accuracy():
    assert np.isnan(pareto.diversity_at([[0.10, 0.2], [0.05, 0.9]], 0.11))
    assert np.isnan(pareto.diversity_at([], 0.1))


@given(POINTS, FINITE, FINITE)
def test_less_accuracy_never_buys_less_diversity(points, one, other):
    low, high = sorted([one, other])
    at_low, at_high = pareto.diversity_at(points, low), pareto.diversity_at(points, high)
    assert np.isnan(at_high) or at_low >= at_high - 1e-9


def behind_by_volume(points, reference, margin: float) -> list[int]:
    """Return who adds nothing to the others' volume even with gains that much larger."""
    found = []
    for index, point in enumerate(points):
        others = [other for place, other in enumerate(points) if place != index]
        larger = [r + (x - r) / (1 - margin) for x, r in zip(point, reference, strict=True)]
        alone = pareto.hypervolume(others, reference, BOTH_UP)
        if pareto.hypervolume([*others, larger], reference, BOTH_UP) <= alone * (1 + 1e-9):
            found.append(index)
    return found


INSIDE = st.lists(st.tuples(st.floats(0.1, 5), st.floats(0.1, 5)), min_size=1, max_size=8)
MARGIN = st.floats(0.01, 0.5)


@given(points=INSIDE, margin=MARGIN)
def test_who_is_left_behind_would_add_nothing_to_the_hypervolume(points, margin):
    assert pareto.left_behind(points, [0, 0], BOTH_UP, margin) == behind_by_volume(
        points, [0.0, 0.0], margin
    )


@given(points=GRID_3D)
def test_without_a_margin_all_that_are_dominated_are_left_behind(points):
    behind = [i for i, p in enumerate(points) if any(dominates(other, p) for other in points)]
    assert pareto.left_behind(points, [0] * 3, ("max",) * 3, 0.0) == behind


@given(points=INSIDE, margin=MARGIN)
def test_neither_the_front_nor_the_best_on_an_axis_is_left_behind(points, margin):
    behind = pareto.left_behind(points, [0, 0], BOTH_UP, margin)
    assert not set(behind) & set(pareto.front(points, BOTH_UP))
    bests = [max(point[axis] for point in points) for axis in (0, 1)]
    assert not [i for i in behind if any(points[i][axis] == bests[axis] for axis in (0, 1))]


@given(points=INSIDE, extra=st.tuples(FINITE, FINITE), margin=MARGIN)
def test_a_further_point_rescues_nobody(points, extra, margin):
    before = pareto.left_behind(points, [0, 0], BOTH_UP, margin)
    after = pareto.left_behind([*points, extra], [0, 0], BOTH_UP, margin)
    assert set(before) <= set(after)


@given(points=INSIDE, margin=MARGIN)
def test_whom_a_larger_margin_leaves_behind_a_smaller_one_does_too(points, margin):
    few = pareto.left_behind(points, [0, 0], BOTH_UP, margin)
    assert set(few) <= set(pareto.left_behind(points, [0, 0], BOTH_UP, margin / 2))


@given(points=GRID, scale=st.sampled_from([0.25, 2.0, 8.0]))
def test_units_do_not_matter_to_who_is_left_behind(points, scale):
    scaled = [(scale * x, y) for x, y in points]
    assert pareto.left_behind(points, [0, 0], BOTH_UP, 0.25) == pareto.left_behind(
        scaled, [0, 0], BOTH_UP, 0.25
    )


def test_gains_count_from_the_reference_in_the_direction_of_the_axis():
    points = [[0.50, 0.6], [0.44, 0.7], [0.46, 0.7]]
    assert pareto.left_behind(points, [0.0, 1.0], ("max", "min"), 0.1) == [1]


def test_equal_points_and_those_that_are_not_finite_are_not_left_behind():
    points = [[1.0, 1.0], [1.0, 1.0], [np.nan, 0.1], [np.inf, 0.1], [0.1, 0.1]]
    assert pareto.left_behind(points, [0, 0], BOTH_UP, 0.0) == [4]
    assert pareto.left_behind([], [0, 0], BOTH_UP, 0.1) == []


def test_points_without_any_gain_are_left_behind_by_one_with_some():
    points = [[-1.0, -2.0], [-3.0, -1.0], [0.5, 0.5]]
    assert pareto.left_behind(points[:2], [0, 0], BOTH_UP, 0.1) == []
    assert pareto.left_behind(points, [0, 0], BOTH_UP, 0.1) == [0, 1]


@pytest.mark.parametrize("margin", [-0.1, 1.0])
def test_a_margin_is_a_share(margin):
    with pytest.raises(ValueError, match="margin"):
        pareto.left_behind([[1, 1]], [0, 0], BOTH_UP, margin)


@settings(max_examples=50)
@given(st.lists(st.tuples(*[st.integers(0, 3)] * 4), max_size=7))
def test_hypervolume_of_four_axes_counts_the_cells_of_a_grid(points):
    expected = hypervolume_on_grid(points, 3)
    assert pareto.hypervolume(points, [0] * 4, ("max",) * 4) == expected
    assert pareto.volumes(points, [0] * 4, ("max",) * 4)[-1:] == ([expected] if points else [])
