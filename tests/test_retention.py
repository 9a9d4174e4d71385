"""Only the latest days of a log are kept (data/retention.py)."""

import json
from typing import Any

import pyarrow.parquet as pq
import pytest

from recdiv_core.config import Config, override
from recdiv_core.data.clicklog import prepare
from recdiv_core.data.digest import digest
from recdiv_core.data.forget import forget
from recdiv_core.data.retention import OLDER
from recdiv_core.errors import UserError
from recdiv_core.schema import read_manifest
from tests.test_append import DAY, NUM_DAYS, START, make, write_days

KEEP = 4
HOW: dict[str, Any] = {"data.retention_days": KEEP}
FIRST = (START + (NUM_DAYS - KEEP) * DAY) * 1_000_000


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    place = tmp_path_factory.mktemp("shop")
    write_days(place)
    return place


@pytest.fixture(scope="module")
def whole(root):
    return make(root, "whole", range(NUM_DAYS), **HOW)


def times_of(prepared):
    paths = (prepared / "stage").glob("*.parquet")
    return [t for path in paths for row in pq.read_table(path)["times"].to_pylist() for t in row]


def test_no_event_of_an_earlier_day_is_left(root, whole):
    everything = make(root, "everything", range(NUM_DAYS))
    assert min(times_of(everything)) < FIRST <= min(times_of(whole))
    assert sorted(times_of(whole)) == sorted(t for t in times_of(everything) if t >= FIRST)
    found = read_manifest(whole)
    assert found.dropped[OLDER] > 50
    kept = sum(row["kept"] for row in found.files)
    computed = ("duplicates", "outside the k-core", OLDER)
    assert kept == found.num_events + sum(found.dropped[name] for name in computed)
    assert (
        "day 1" not in pq.ParquetFile(next((whole / "stage").glob("*.parquet"))).read().to_string()
    )


def test_quarantined_rows_of_an_earlier_day_are_removed(whole):
    rows = [
        json.loads(text)
        for path in (whole / "quarantine").glob("clicks-*.parquet")
        for text in pq.read_table(path)["row"].to_pylist()
    ]
    assert rows
    assert min(int(row["timestamp"]) for row in rows) >= FIRST // 1_000_000


@pytest.mark.parametrize("steps", [[[5, 6], [7], [8]], [[8], [0, 1], [7]]])
def test_appends_keep_the_days_that_a_preparation_from_scratch_keeps(root, whole, steps):
    new = {day for days in steps for day in days}
    name = f"base {steps}"
    make(root, name, [day for day in range(NUM_DAYS) if day not in new], **HOW)
    for number, days in enumerate(steps):
        after = f"{name} {number}"
        make(root, after, days, base=name)
        name = after
    assert digest(root / name) == digest(whole)


def test_the_base_of_an_append_keeps_its_files(root):
    base = make(root, "before", range(NUM_DAYS - 1), **HOW)
    found = digest(base)
    make(root, "after", [NUM_DAYS - 1], base="before")
    assert digest(base) == found


def test_a_user_is_forgotten_in_the_kept_days(root):
    place = make(root, "forgotten", range(NUM_DAYS), **HOW)
    forget(override(Config(), {"data.prepared": str(place)}), ["u3"])
    assert min(times_of(place)) >= FIRST


def test_a_log_without_times_is_refused(tmp_path):
    rows = [f"u{row % 3},i{row % 4},{row}" for row in range(30)]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")
    values = {"data.clicks": str(tmp_path / "log.csv"), "data.out": str(tmp_path / "out"), **HOW}
    with pytest.raises(UserError, match=r"data\.retention_days=4 needs timestamps"):
        prepare(override(Config(), values), on_ray=False)
