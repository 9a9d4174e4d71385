"""Events of a shard: in order, without repeats, with their sessions; and the counts of files."""

import json
import time

import numpy as np
import pyarrow as pa
import pytest

from recdiv_core.data import events, outcomes, staging
from recdiv_core.formats import readers


def make_staged(rows):
    """`rows`: (user, item, time, event, session) in order of the input."""
    users, items, times, kinds, sessions = zip(*rows, strict=True)
    columns = {
        "shard": np.zeros(len(rows)),
        "user_hash": events.hash_users(pa.array(users)),
        "user_id": users,
        "item": items,
        "timestamp": times,
        "event": kinds,
        "query": [None] * len(rows),
        "session_id": sessions,
        readers.ROW: range(len(rows)),
    }
    arrays = [pa.array(columns[f.name]).cast(f.type) for f in events.STAGED]
    return pa.table(arrays, schema=events.STAGED)


def test_events_are_in_order_of_time_and_ties_in_order_of_the_input():
    rows = [("u", 3, 5, 1, None), ("v", 9, 1, 1, None), ("u", 1, 5, 1, None), ("u", 2, 0, 1, None)]
    staged = make_staged(rows)
    shuffled = staged.take(pa.array([2, 0, 3, 1]))
    expected = {"u": [2, 3, 1], "v": [9]}
    for table in (staged, shuffled):
        ordered, _, _ = staging.order_events(table, 0)
        assert {r["user_id"]: r["items"] for r in ordered.to_pylist()} == expected


def test_only_identical_events_are_duplicates():
    rows = [("u", 1, 5, 1, None)] * 3 + [("u", 1, 5, 3, None), ("u", 1, 6, 1, None)]
    ordered, num_duplicates, _ = staging.order_events(make_staged(rows), 0)
    assert num_duplicates == 2
    assert ordered["events"].to_pylist() == [[1, 3, 1]]


@pytest.mark.parametrize(
    ("sessions", "gap_us", "expected"),
    [
        ([None, None, None, None], 0, 2),
        ([None, None, None, None], 10, 3),
        (["s", "s", "t", "t"], 10, 3),
        (["s", "s", "s", "s"], 10, 2),
    ],
)
def test_a_session_ends_after_a_gap_or_with_its_id(sessions, gap_us, expected):
    times = [0, 10, 21, 5]
    users = ["u", "u", "u", "v"]
    rows = [(u, 1, t, 1, s) for u, t, s in zip(users, times, sessions, strict=True)]
    assert staging.order_events(make_staged(rows), gap_us)[2] == expected


def test_rows_are_counted_by_file(tmp_path):
    units = [readers.ReadUnit(path, "csv", 0) for path in ("a.csv", "b.csv", "a.csv")]
    for number in range(3):
        counts = outcomes.RowCounts(num_rows=3, kept=1)
        counts.dropped["rule"] = 1
        counts.rejected["reason"] = 1
        (tmp_path / f"{number:06d}.json").write_text(json.dumps(vars(counts)))
    of_a = {"lines": {}, "read": 6, "kept": 2, "dropped": {"rule": 2}, "quarantined": {"reason": 2}}
    assert staging.count_files(tmp_path, units)[0] == {"path": "a.csv"} | of_a
    (tmp_path / "000001.json").write_text(json.dumps(vars(outcomes.RowCounts(num_rows=2, kept=1))))
    with pytest.raises(AssertionError, match="2 rows read, 1 accounted for"):
        staging.count_files(tmp_path, units)


def test_progress_is_told_once_there_are_rows(tmp_path, caplog):
    caplog.set_level("INFO")
    with staging.progress(tmp_path, every_s=0.01):
        time.sleep(0.1)
        assert not caplog.messages
        counts = vars(outcomes.RowCounts(num_rows=3, kept=3))
        (tmp_path / "fresh").write_text(json.dumps(counts))
        (tmp_path / "fresh").rename(tmp_path / "000000.json")
        deadline = time.monotonic() + 30
        while len(caplog.messages) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert caplog.messages[0].startswith("reading: 3 rows, ")
    assert caplog.messages[1] == "reading or grouping by user: 3 rows"
