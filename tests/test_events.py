import json

import numpy as np
import pyarrow as pa
import pytest

from recdiv_core.config import Config, override
from recdiv_core.data import events, readers
from recdiv_core.data.files import list_files

ITEMS = pa.array(["a", "b", "c"])
SETTINGS = {"data.clicks": "log", "data.num_shards": 4}
LOG = {"user_id": "u", "item_id": "a", "timestamp": "1388534400", "event": "click"}


def open_jsonl(tmp_path, rows, **values):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = override(Config(), SETTINGS | values)
    files = list_files(str(path), "data.clicks")
    return events.open_log(files, ITEMS, config), config


def judge(tmp_path, rows, **values):
    good = [LOG | {"event": kind} for kind in ("click", "cart") for _ in range(10)]
    log, config = open_jsonl(tmp_path, [*good, *rows], **values)
    (batch,) = readers.read_unit(log.units[0], log.columns)
    return events.judge_rows(batch, log, ITEMS, config)[:3]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"user_id": None}, "missing user_id"),
        ({"user_id": ""}, "missing user_id"),
        ({"item_id": None}, "missing item_id"),
        ({"timestamp": None}, "missing timestamp"),
        ({"timestamp": "soon"}, "timestamp does not parse"),
        ({"timestamp": "-5"}, "negative time"),
        ({"timestamp": "1388534400000"}, "time after the year 2200"),
        ({"event": "viewed"}, "unknown event"),
        ({"event": None}, "unknown event"),
        ({"item_id": "z"}, "item not in the catalogue"),
    ],
)
def test_a_broken_row_is_quarantined_with_its_reason(tmp_path, change, reason):
    kept, rejected, counts = judge(tmp_path, [LOG | change])
    assert rejected["reason"].to_pylist() == [reason]
    assert rejected["row_number"].to_pylist() == [20]
    given = json.loads(rejected["row"][0].as_py())
    assert {name: given[name] for name in change} == change
    assert counts.rejected == {reason: 1}
    assert counts.num_rows == 21
    assert kept.num_rows == 20


def test_other_kinds_of_event_are_left_out_and_counted(tmp_path):
    kept, rejected, counts = judge(tmp_path, [LOG], **{"data.events": ("cart",)})
    assert kept.num_rows == 10
    assert counts.num_other_events == 11
    assert rejected.num_rows == 0


def test_kinds_of_event_do_not_matter_without_an_event_column(tmp_path):
    rows = [{"user_id": "u", "item_id": "a", "timestamp": t} for t in (1, 2)]
    log, config = open_jsonl(tmp_path, rows, **{"data.events": ("cart",)})
    (batch,) = readers.read_unit(log.units[0], log.columns)
    kept, *_ = events.judge_rows(batch, log, ITEMS, config)
    assert not log.has_timestamps
    assert kept["timestamp"].to_pylist() == [1, 2]


def test_a_user_is_always_in_the_same_shard():
    hashes = events.hash_users(pa.array(["u", "花子", "u", None]))
    assert hashes[0] == hashes[2]
    assert hashes[:2].tolist() == [224103037389760772, 1382472926622390208]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item_id": "z"}, 'item not in the catalogue: 30.*"item_id": "z".*data.items'),
        ({"timestamp": -5}, "negative time: 30.*data.columns.timestamp"),
        ({"timestamp": "soon"}, "none of the first 30 values is a time.*'soon'"),
        ({"event": "viewed"}, "unknown event: 30.*data.columns.event; allowed: impression, click"),
        ({"user_id": None}, "missing user_id: 30.*data.columns.user_id"),
    ],
)
def test_a_log_of_broken_rows_is_stopped_before_ray_starts(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        open_jsonl(tmp_path, [LOG | change] * 30)


def test_a_log_without_rows_is_an_error(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n")
    files = list_files(str(tmp_path / "log.csv"), "data.clicks")
    with pytest.raises(ValueError, match=r"data.clicks=log holds no rows"):
        events.open_log(files, ITEMS, override(Config(), SETTINGS))


def test_the_limit_on_broken_rows_is_a_share():
    counts = events.empty_counts()
    counts.num_rows = 100
    counts.rejected["negative time"] = 5
    counts.examples["negative time"] = "{}"
    events.check_rejected(counts, 0.05, Config(), "data.clicks")
    with pytest.raises(ValueError, match=r"5 of 100 rows are broken.*data.max_quarantined"):
        events.check_rejected(counts, 0.04, Config(), "data.clicks")


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
        ordered, _, _ = events.order_events(table, 0)
        assert {r["user_id"]: r["items"] for r in ordered.to_pylist()} == expected


def test_only_identical_events_are_duplicates():
    rows = [("u", 1, 5, 1, None)] * 3 + [("u", 1, 5, 3, None), ("u", 1, 6, 1, None)]
    ordered, num_duplicates, _ = events.order_events(make_staged(rows), 0)
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
    assert events.order_events(make_staged(rows), gap_us)[2] == expected
