"""Sums of the raw log: first sightings, and clicks by position against scipy's chi-square test."""

import numpy as np
import pytest
from scipy import stats

from recdiv_core.data.audit import traces
from recdiv_core.data.audit.findings import worst

IMPRESSION, CLICK = 0, 1


def sightings(*rows):
    items, times, events, positions = np.array(rows, dtype=np.int64).T
    return traces.Sightings(items, times, events, positions)


def test_parts_of_a_log_add_up_through_their_files(tmp_path):
    for number, rows in enumerate(
        [
            [(0, 50, IMPRESSION, 1), (0, 51, CLICK, 1), (2, 9, CLICK, -1)],
            [(0, 40, IMPRESSION, 2), (2, 10, IMPRESSION, 1)],
        ]
    ):
        part = traces.Traces(4)
        part.add(sightings(*rows))
        part.save(tmp_path / f"{number}.npz")
    total = traces.merge_traces(sorted(tmp_path.glob("*.npz")), 4)
    assert total.first_V.tolist() == [40, traces.NEVER, 9, traces.NEVER]
    assert total.counts_2P[:, :4].tolist() == [[0, 2, 1, 0], [0, 1, 0, 0]]


def test_positions_that_are_none_are_left_out():
    given = np.array([0.0, 3.0, 2.5, -1.0, np.nan, np.inf, 1e30, 99.0, 100.0])
    assert traces.clean_positions(given).tolist() == [0, 3, -1, -1, -1, -1, -1, 99, -1]


def counts(shown, clicked):
    table = np.zeros((2, traces.NUM_POSITIONS), dtype=np.int64)
    table[0, 1 : 1 + len(shown)] = shown
    table[1, 1 : 1 + len(clicked)] = clicked
    return table


@pytest.mark.parametrize("seed", range(5))
def test_the_deviate_is_that_of_the_chi_square_test(seed):
    rng = np.random.default_rng(seed)
    shown = rng.integers(200, 2000, 6)
    clicked = rng.binomial(shown, 0.2 + 0.02 * rng.random(6))
    test = stats.chi2_contingency([clicked, shown - clicked], correction=False)
    found = traces.deviate(shown.astype(float), clicked.astype(float))
    assert found == pytest.approx(stats.norm.isf(test.pvalue), abs=0.03)


def test_clicks_that_fall_with_the_position_are_found():
    (finding,) = traces.audit_positions(counts([1000] * 4, [400, 300, 200, 100]))
    assert finding.count == 4
    assert finding.severity == "warning"
    assert finding.figures["position"] == [1, 2, 3, 4]
    assert finding.figures["click_rate"] == [0.4, 0.3, 0.2, 0.1]


@pytest.mark.parametrize(
    ("shown", "clicked"),
    [
        ([1000] * 3, [100, 104, 95]),  # chance
        ([100_000] * 3, [10_000, 10_900, 10_400]),  # real, and small
        ([120] * 3, [4, 6, 3]),  # a factor of two, by chance
        ([200] * 3, [200, 200, 200]),
    ],
)
def test_a_rate_that_is_alike_everywhere_is_ok_and_keeps_its_figures(shown, clicked):
    (finding,) = traces.audit_positions(counts(shown, clicked))
    assert worst([finding]) == "ok"
    assert finding.figures["impressions"] == shown


@pytest.mark.parametrize(
    ("shown", "clicked"), [([], []), ([0, 0], [50, 10]), ([1000], [10]), ([1000, 1000], [0, 0])]
)
def test_without_impressions_or_clicks_nothing_is_said(shown, clicked):
    assert traces.audit_positions(counts(shown, clicked)) == []
