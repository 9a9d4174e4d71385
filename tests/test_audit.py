import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.data import split
from recdiv_core.data.audit import busy_users, preparing, traces
from recdiv_core.data.audit.findings import find
from recdiv_core.data.audit.preparing import UNDATED
from tests.oracles import busiest_hour, count_not_yet_there

NUM_ITEMS = 5
EVENTS = split.UserEvents(
    pa.array(["u", "v"]),
    np.array([0, 4, 7]),
    np.array([0, 1, 2, 3, 1, 1, 1], dtype=np.int32),
    np.arange(7),
    np.full(7, -1, dtype=np.int32),
    np.ones(7, dtype=np.float32),
)
COUNTS = split.count_leave_last_out(EVENTS.offsets_B)
HAS_TRAIN = np.array([True, True])
IS_COLD = np.array([False, False, True, False, False])


def write_and_audit(tmp_path, **changed):
    is_train = split.mark_train_events(EVENTS, COUNTS, np.ones(NUM_ITEMS, dtype=bool), 1)
    tables = {
        "train": split.make_train_examples(EVENTS, is_train),
        "val": split.make_eval_examples(EVENTS, COUNTS, split.VAL, HAS_TRAIN),
        "test": split.make_eval_examples(EVENTS, COUNTS, split.TEST, HAS_TRAIN),
    }
    for name, table in tables.items():
        rows = table.to_pylist()
        for column, items in changed.get(name, {}).items():
            rows[0][column] = items
        (tmp_path / name).mkdir()
        changed_table = pa.Table.from_pylist(rows, schema=table.schema)
        pq.write_table(changed_table, tmp_path / name / "part-00000.parquet")
    findings = preparing.audit_shard(str(tmp_path), 0, EVENTS, COUNTS, IS_COLD)
    return {finding.name: finding for finding in findings if finding.count}


def test_a_sound_split_has_no_severe_finding(tmp_path):
    found = write_and_audit(tmp_path)
    assert [finding for finding in found.values() if finding.severity == "severe"] == []
    assert found["cold items among val targets"].examples == ["u"]
    before = found["test targets that the user had before"]
    assert (before.count, before.examples, before.figures) == (1, ["v"], {"targets": [2]})


@pytest.mark.parametrize(
    ("name", "change", "finding"),
    [
        (
            "train",
            {"items": [0, 1, 3], "queries": [-1] * 3, "weights": [1.0] * 3},
            "events of the future in train",
        ),
        ("val", {"history": [0, 1, 2]}, "held-out events in val histories"),
        ("test", {"history": [0, 1, 2, 3]}, "held-out events in test histories"),
        ("val", {"targets": [1]}, "events in two splits"),
    ],
)
def test_a_leak_planted_in_the_files_is_found(tmp_path, name, change, finding):
    found = write_and_audit(tmp_path, **{name: change})
    assert found[finding].severity == "severe"
    assert found[finding].examples == ["u"]


# --------------------------------------------------------------------------- times

V_DATED = 6


def random_events(seed):
    """Users with a few events each at random seconds; nobody without any."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, 6)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    times = [np.sort(rng.integers(0, 9_000, n)) * 1_000_000 for n in lengths]
    items = rng.integers(0, V_DATED, offsets[-1]).astype(np.int32)
    ids = pa.array([f"u{b}" for b in range(len(lengths))])
    queries, weights = np.full(offsets[-1], -1), np.ones(offsets[-1])
    return split.UserEvents(ids, offsets, items, np.concatenate(times), queries, weights)


def by_user(events, values):
    return [values[a:b].tolist() for a, b in itertools.pairwise(events.offsets_B)]


@pytest.mark.parametrize("seed", range(5))
def test_the_busiest_hours_are_those_of_the_twin(seed):
    events = random_events(seed)
    seconds = by_user(events, events.times_N // 1_000_000)
    assert busy_users.count_busiest_hours(events).tolist() == [busiest_hour(s) for s in seconds]


@pytest.mark.parametrize("seed", range(5))
def test_candidates_not_yet_there_are_those_of_the_twin(seed):
    events = random_events(seed)
    counts = split.count_temporal(events.times_N, events.offsets_B, int(3e9), int(6e9))
    first = np.array([int(1e9), int(4e9), int(8e9), traces.NEVER, traces.NEVER, 0])
    dated = np.array([UNDATED, int(7e9), int(2e9), int(8.5e9), UNDATED, int(9e9)])
    found = preparing.audit_times(events, counts, split.TEST, preparing.Clock(first, dated))
    later = [[t for t in times if t >= 6e9] for times in by_user(events, events.times_N)]
    asked = [times[0] for times in later if times]
    born = [int(1e9), int(4e9), int(2e9), int(8.5e9), None, 0]
    unborn = {finding.name: finding for finding in found}[
        "candidates not yet there at test requests"
    ]
    assert unborn.count == count_not_yet_there(asked, born)
    assert unborn.figures == {"requests": [len(asked)], "candidates": [len(asked) * V_DATED]}


def test_a_target_before_its_item_was_available_is_found():
    events = random_events(0)
    counts = split.count_leave_last_out(events.offsets_B)
    first = np.zeros(V_DATED, dtype=np.int64)
    soon = np.full(V_DATED, preparing.SLACK_US)  # within the slack of a day
    late = np.full(V_DATED, 2 * preparing.SLACK_US)
    name = "test targets before their item was available"
    num_targets = int(counts[:, split.TEST].sum())
    for dated, expected in ((soon, 0), (late, num_targets), (first + UNDATED, 0)):
        found = preparing.audit_times(events, counts, split.TEST, preparing.Clock(first, dated))
        assert [f.count for f in found if f.name == name] == [expected]


def test_the_catalogues_dates_are_held_against_the_log():
    first = np.array([0, 0, traces.NEVER])
    ids = pa.array(["a", "b", "c"])
    table = pa.table({"item_id": ids, "available_from": ["1970-01-01", "1970-01-09", "2020-01-01"]})
    finding = preparing.audit_arrivals(preparing.make_clock(first, table), ids)
    assert (finding.count, finding.examples) == (1, ["b"])


@pytest.mark.parametrize("values", [["soon", "later"], [1, 2], [None, None]])
def test_dates_that_are_none_count_for_nothing(values):
    clock = preparing.make_clock(np.zeros(2, dtype=np.int64), pa.table({"available_from": values}))
    assert clock.dated_V.tolist() == [UNDATED] * 2
    assert clock.born_V.tolist() == [0, 0]
    assert preparing.audit_arrivals(clock, pa.array(["a", "b"])).count == 0


def unborn(count, first, dated):
    name = "candidates not yet there at test requests"
    finding = find(name, count, figures={"requests": [10], "candidates": [1000]})
    clock = preparing.Clock(np.array(first), np.array(dated))
    return preparing.weigh([finding], clock)[0].severity


def test_many_unborn_candidates_are_a_warning_when_the_catalogue_dates_its_items():
    assert unborn(60, [5], [7]) == "warning"
    assert unborn(40, [5], [7]) == "info"
    assert unborn(60, [5], [UNDATED]) == "info"


# --------------------------------------------------------------------------- rates


def shop_of(rates):
    """Users whose events all lie within one hour, `rates` of each."""
    offsets = np.concatenate([[0], np.cumsum(rates)])
    times = np.concatenate([np.arange(n) for n in rates]) * 1_000_000
    ids = pa.array([f"u{b}" for b in range(len(rates))])
    zeros = np.zeros(offsets[-1], dtype=np.int32)
    return split.UserEvents(ids, offsets, zeros, times, zeros - 1, zeros)


def bots_of(*shards):
    return busy_users.audit_rates([busy_users.sum_up(shop_of(rates)) for rates in shards])


def test_a_user_that_is_no_human_is_found_whatever_the_shard():
    humans = np.random.default_rng(0).poisson(4, 200) + 1
    finding = bots_of(humans[:90], [*humans[90:], 900], [400, 2])
    assert finding.count == 2
    assert finding.examples == ["u110", "u0"]
    assert finding.severity == "warning"


def test_a_busy_shop_has_busy_users():
    rates = np.exp(np.random.default_rng(0).normal(4, 0.8, 500)).astype(int) + 1
    assert rates.max() > busy_users.MIN_BUSY
    assert bots_of(rates).count == 0


def test_a_quiet_shops_busiest_user_is_human_below_one_event_a_minute():
    assert bots_of([1] * 50 + [59]).count == 0
    assert bots_of([1] * 50 + [60]).count == 1


def heavy_of(*shards):
    return busy_users.audit_shares([busy_users.sum_up(shop_of(sizes)) for sizes in shards])


def test_an_id_that_all_visitors_share_is_found_whatever_the_shard():
    finding = heavy_of([4] * 40, [*[4] * 40, 600], [5, 500])
    assert (finding.count, finding.severity) == (2, "warning")
    assert finding.examples == ["u40", "u1"]
    assert finding.figures == {"their_events": [1100], "all_events": [1100 + 80 * 4 + 5]}


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ([60], 0),  # a shop of one user
        ([4] * 30 + [30], 0),  # a fifth of the events, but a small shop
        ([4] * 1000 + [210], 0),  # 50 times the mean, but a twentieth of the events is 211
        ([4] * 1000 + [211], 1),
    ],
)
def test_a_user_is_heavy_by_the_share_and_beside_the_mean(sizes, count):
    assert heavy_of(sizes).count == count


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), min_size=1, max_size=9))
def test_a_weighted_median_is_that_of_the_values_written_out(pairs):
    values, counts = (np.array(column) for column in zip(*pairs, strict=True))
    written = np.sort(np.repeat(values, counts))
    assert busy_users.weighted_median(values, counts) == written[(len(written) - 1) // 2]
