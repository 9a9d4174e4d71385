"""The first window of the updates: its requests and its name (updating/forgetting.py)."""

import json

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from recdiv_core.data.past_window import cut_window, ensure_window
from recdiv_core.data.requests import join_shard
from recdiv_core.data.split import count_temporal
from recdiv_core.report.timeline_page import METRICS
from recdiv_core.schema import EVAL_EXAMPLE, NO_QUERY, read_manifest
from recdiv_core.updating.forgetting import OLD_NDCG, judge_window, window_of
from recdiv_core.updating.timeline import write_timeline
from tests.test_append import NUM_DAYS, make, write_days
from tests.test_requests import without_queries, write_splits
from tests.test_split import cuts, logs, make_events
from tests.test_timeline import write_outcome

property_test = settings(deadline=None, derandomize=True)


@property_test
@given(logs, cuts)
def test_a_window_of_the_past_has_the_events_of_its_time_as_targets(users, cut):
    users = without_queries(users)
    events = make_events(users)
    counts = count_temporal(events.times_N, events.offsets_B, *cut)
    requests = join_shard(write_splits(events, counts), "part-00000.parquet", has_times=True)
    first, last = min(cut) - 3, max(cut)
    found = cut_window(requests, first, last)
    assert found.schema == EVAL_EXAMPLE
    for row in found.to_pylist():
        whole = next(r for r in requests.to_pylist() if r["user_id"] == row["user_id"])
        pairs = list(zip(whole["history"], whole["history_times"], strict=True))
        assert row["history"] == [item for item, time in pairs if time < first]
        targets = [item for item, time in pairs if first <= time < last]
        assert row["targets"] == list(dict.fromkeys(targets))
        assert row["targets"]
        assert len(row["target_times"]) == len(row["targets"])
    has_target = [
        any(first <= t < last for t in row["history_times"]) for row in requests.to_pylist()
    ]
    assert found.num_rows == sum(has_target)


@pytest.fixture(scope="module")
def lineage(tmp_path_factory):
    """Return a data set, and the same one two days later."""
    root = tmp_path_factory.mktemp("lineage")
    write_days(root)
    first = make(root, "shop", range(NUM_DAYS - 2)).resolve()
    for day in range(NUM_DAYS - 2, NUM_DAYS):
        make(root, "shop", [day], base="shop")
    return first, (root / "shop").resolve()


def test_the_first_test_window_can_be_made_again_of_a_newer_data_set(lineage):
    first, newest = lineage
    window = window_of(read_manifest(first))
    name = ensure_window(newest, read_manifest(newest), window["from_us"], window["to_us"])
    assert window["first_day"] in name

    def rows(prepared, split):
        table = pq.read_table(prepared / split)
        return {row["user_id"]: row for row in table.to_pylist()}

    old, again = rows(first, "test"), rows(newest, name)
    assert old.keys() == again.keys()
    plain = [user for user, row in old.items() if row["query"] == NO_QUERY]
    assert len(plain) > 3
    for user in plain:
        assert again[user]["targets"] == old[user]["targets"]
        assert again[user]["target_times"] == old[user]["target_times"]


def test_a_window_stays_the_same_while_it_moves_into_the_past(lineage):
    """Its events go from the test split to train; those of any query are targets in both."""
    window = window_of(read_manifest(lineage[0]))
    found = []
    for prepared in lineage:
        name = ensure_window(prepared, read_manifest(prepared), window["from_us"], window["to_us"])
        rows = pq.read_table(prepared / name).to_pylist()
        found.append({row["user_id"]: row["targets"] for row in rows})  # late events: in histories
    assert found[0] == found[1]


def test_a_window_without_events_is_not_judged(lineage):
    _, newest = lineage
    assert ensure_window(newest, read_manifest(newest), 0, 1) is None


def test_a_split_without_times_has_no_window(manifest):
    other = manifest.model_copy(update={"split": {"protocol": "leave_last_out"}})
    assert window_of(other) == {}
    assert judge_window(None, None, other, {}) == {}


def test_the_page_names_the_first_window(tmp_path):
    for generation in (1, 2):
        before = {"ndcg": 0.2, OLD_NDCG: 0.4 - 0.01 * generation}
        write_outcome(tmp_path, generation, before=before, yardstick={OLD_NDCG: 0.41})
    window = {"first_day": "2026-03-01", "last_day": "2026-03-01", "from_us": 0, "to_us": 1}
    (tmp_path / "window.json").write_text(json.dumps(window))
    text = write_timeline(tmp_path, "shop", 2).read_text()
    assert "The first window is 2026-03-01. All models" in text
    assert "Its requests have no query." in text
    assert METRICS[OLD_NDCG].words in text
