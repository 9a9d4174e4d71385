"""A prepared data set and slates monitored (report/monitoring.py)."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdiv_core.config import Config, override
from recdiv_core.errors import UserError
from recdiv_core.report.monitoring import monitor
from recdiv_core.schema import DAY_US, NO_QUERY, SLATE, TRAIN_EXAMPLE
from tests.worlds import write_dataset

NUM_ITEMS, NUM_USERS, NUM_DAYS, FIRST = 40, 60, 20, 19_999


@pytest.fixture(scope="module")
def config(tmp_path_factory, manifest):
    """Return the config of a log of 20 days; the last one has a single event."""
    return make_dataset(tmp_path_factory.mktemp("monitored"), manifest, has_times=True)


def make_dataset(prepared, manifest, *, has_times):
    counts = {"train": NUM_USERS, "val": 0, "test": 0}
    own = manifest.model_copy(update={"num_examples": counts, "has_timestamps": has_times})
    write_dataset(prepared, own, num_items=NUM_ITEMS, num_queries=0)
    (prepared / "tokens.arrow").touch()  # no test reads it
    for name in ("train", "stage"):
        (prepared / name).mkdir()
    write_log(prepared, has_times=has_times)
    return override(Config(), {"data.prepared": str(prepared)})


def write_log(prepared, *, has_times):
    rng = np.random.default_rng(0)
    rows = []
    for user in range(NUM_USERS):
        days = [FIRST + day for day in range(NUM_DAYS - 1)] + [FIRST + NUM_DAYS - 1] * (user == 0)
        rows.append(
            {
                "user_id": f"u{user}",
                "items": rng.integers(0, NUM_ITEMS, len(days)).tolist(),
                "queries": [NO_QUERY] * len(days),
                "weights": [1.0] * len(days),
                "times": [day * DAY_US + user for day in days] if has_times else None,
            }
        )
    pq.write_table(
        pa.Table.from_pylist(rows, TRAIN_EXAMPLE), prepared / "train" / "part-00000.parquet"
    )
    staged = [
        {name: row[name] for name in ("user_id", "items")} | {"times": row["times"] or row["items"]}
        for row in rows
    ]
    pq.write_table(pa.Table.from_pylist(staged), prepared / "stage" / "00000.parquet")


def write_slates(place, config, items_of):
    ids = pq.read_table(f"{config.data.prepared}/catalogue.parquet")["item_id"].to_pylist()
    rows = []
    for user in range(NUM_USERS):
        own = [ids[item] for item in items_of(user)]
        rows.append({"user_id": f"u{user}", "item_ids": own, "scores": [0.0] * len(own)})
    place.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, SLATE), place / "part-00000.parquet")
    return place


def test_the_last_whole_day_of_a_quiet_log_raises_no_alarm(config):
    found = monitor(config)
    assert found["day"] == "2024-10-21"  # the 19th of 20 days
    assert found["days_before"] == NUM_DAYS - 2
    assert found["fired"] == []
    assert found["signals"]["events"]["value"] == NUM_USERS
    assert found["not_judged"].keys() >= {"slates"}
    json.dumps(found, allow_nan=False)


def test_a_log_is_monitored_before_a_training_makes_its_text_vectors(config, tmp_path):
    fresh = tmp_path / "fresh"
    shutil.copytree(config.data.prepared, fresh)
    shutil.rmtree(fresh / "vectors")
    found = monitor(override(config, {"data.prepared": str(fresh)}))
    assert found | {"prepared": ""} == monitor(config) | {"prepared": ""}


def test_the_day_that_broke_off_is_found_if_asked_for(config):
    assert "events" in monitor(config, day="2024-10-22")["fired"]


def test_events_that_are_in_no_example_count(config, tmp_path):
    """Examples lack repeated events, and those of other queries than the request's."""
    more = tmp_path / "more"
    shutil.copytree(config.data.prepared, more)
    path = more / "stage" / "00000.parquet"
    rows = pq.read_table(path).to_pylist()
    judged = (FIRST + NUM_DAYS - 2) * DAY_US
    rows += [{"items": [7, 7], "times": [judged, judged]} for _ in range(NUM_USERS)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    found = monitor(override(config, {"data.prepared": str(more)}))
    events = found["signals"]["events"]
    assert (events["value"], round(events["usual"]), events["fired"]) == (180, 60, True)


def test_a_data_set_that_keeps_no_events_is_refused(config, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(config.data.prepared, old)
    shutil.rmtree(old / "stage")
    with pytest.raises(UserError, match="keeps no events; run `recdiv prepare` again"):
        monitor(override(config, {"data.prepared": str(old)}))


def test_slates_that_became_alike_raise_alarms(config, tmp_path):
    rng = np.random.default_rng(1)
    varied = write_slates(
        tmp_path / "before", config, lambda _: rng.permutation(NUM_ITEMS)[:10].tolist()
    )
    alike = write_slates(tmp_path / "now", config, lambda _: range(10))
    assert {"same_slates", "coverage"} <= set(monitor(config, slates=alike, before=varied)["fired"])
    assert monitor(config, slates=varied, before=varied)["fired"] == []


def test_a_log_without_times_says_what_is_not_judged(tmp_path, manifest):
    without = make_dataset(tmp_path, manifest, has_times=False)
    found = monitor(without)
    assert found["not_judged"]["log"] == "the click log has no times"
    assert found["signals"] == {}
    with pytest.raises(UserError, match="has no times"):
        monitor(without, day="2024-10-21")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limits": {"clicks": 1.0}}, "--limit clicks: allowed are events"),
        ({"limits": {"events": 0.5}}, "--limit events=0.5: a factor of 1 or more"),
        ({"limits": {"narrowed": -0.1}}, "--limit narrowed=-0.1: allowed is 0 or more"),
        ({"day": "yesterday"}, "--day yesterday: allowed is a date"),
        ({"day": "2020-01-01"}, "the log has days from 2024-10-03 to 2024-10-22"),
        ({"before": "x"}, "give both, or neither"),
    ],
)
def test_mistakes_are_one_line(config, options, message):
    with pytest.raises(UserError, match=message):
        monitor(config, **options)
