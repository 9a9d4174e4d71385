import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdiv_core.data import audit, split

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
    findings = audit.audit_shard(str(tmp_path), 0, EVENTS, COUNTS, IS_COLD)
    return {finding.name: finding for finding in findings if finding.count}


def test_a_sound_split_has_no_severe_finding(tmp_path):
    found = write_and_audit(tmp_path)
    assert [finding for finding in found.values() if finding.severity == "severe"] == []
    assert found["cold items among val targets"].examples == ["u"]
    assert found["test targets that the user had before"].examples == ["v"]


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


def test_findings_add_up_over_shards():
    part = [audit.Finding("x", "info", 2, ["a", "b"])]
    merged = audit.merge([part, [audit.Finding("x", "info", 3, ["c"])]])
    assert merged == [audit.Finding("x", "info", 5, ["a", "b", "c"])]


def test_a_count_of_nothing_is_ok():
    assert audit.to_json([audit.Finding("x", "severe", 0)])[0]["severity"] == "ok"
