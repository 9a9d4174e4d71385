"""An append equals a preparation from scratch, without Ray (data/append*.py)."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from recdiv_core.config import Config, override
from recdiv_core.data.append import append
from recdiv_core.data.catalogue import load_catalogue
from recdiv_core.data.clicklog import prepare
from recdiv_core.data.digest import digest
from recdiv_core.errors import UserError
from recdiv_core.schema import read_manifest

NUM_DAYS, NUM_ITEMS, LISTED_EARLY = 9, 24, 19
DAY = 86_400
START = 1_700_006_400  # midnight
SETTINGS = {
    "data.num_shards": 2,
    "data.fragment_rows": 4,
    "data.max_quarantined": 0.4,
    "data.session_gap_s": 600.0,
    "model.text.max_tokens": 12,
}


def write_days(root):
    """Write one file a day, with ties, repeats, late events, broken rows and unlisted items."""
    rng = np.random.default_rng(11)
    (root / "log").mkdir()
    before = []
    for day in range(NUM_DAYS):
        lines = ["user_id,item_id,timestamp,event,query,session_id"]
        rows = []
        for _ in range(60):
            late = rng.random() < 0.1
            at = START + max(0, day - 3 * late) * DAY + int(rng.integers(0, 400)) * 200
            item = int(NUM_ITEMS * rng.random() ** 2)
            user = f"u{int(rng.integers(0, 12 + 3 * day))}"
            kind = ("click", "click", "cart", "impression")[rng.integers(4)]
            query = ("", "", "red shoes", f"day {day}")[rng.integers(4)]
            session = ("", "", f"s{rng.integers(3)}")[rng.integers(3)]
            rows.append(f"{user},i{item},{at},{kind},{query},{session}")
        rows += before[:4]  # repeats of the day before
        rows.append(f",i1,{START},click,,")
        rows.append(f"u1,nowhere,{START + day * DAY},click,,")
        before = rows
        (root / "log" / f"day-{day:02d}.csv").write_text("\n".join([*lines, *rows]) + "\n")
    write_items(root / "items.csv", NUM_ITEMS, "")
    write_items(root / "early.csv", LISTED_EARLY, "old ")


def write_items(path, number, word):
    rows = ["item_id,title,category,brand,price,available_from,available_until"]
    for item in range(number):
        title = f"{word if item < 3 else ''}thing {item}"
        day = "2023-11-15" if word else "2023-11-16T12:00:00"
        dates = f"{day if item % 2 else ''},{'2023-11-20' if item % 3 else ''}"
        rows.append(f"i{item},{title},A > B{item % 4},brand {item % 3},{item}.5,{dates}")
    path.write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    place = tmp_path_factory.mktemp("shop")
    write_days(place)
    return place


def make(root, out, days, *, base="", items="items.csv", **more):
    """Prepare, or append to a base, the files of some days; return the directory."""
    log = root / "now"  # the same path in every call, as a shop's log has
    shutil.rmtree(log, ignore_errors=True)
    log.mkdir()
    for day in days:
        shutil.copy(root / "log" / f"day-{day:02d}.csv", log)
    values = {"data.clicks": str(log), "data.out": str(root / out)}
    values |= {"data.items": str(root / items)} if items else {}
    if base:
        append(override(Config(), {**values, "data.base": str(root / base), **more}))
    else:
        prepare(override(Config(), {**SETTINGS, **values, **more}), on_ray=False)
    return root / out


@pytest.fixture(scope="module")
def whole(root):
    return make(root, "whole", range(NUM_DAYS))


def test_one_day_appended_is_the_same_as_from_scratch(root, whole):
    make(root, "eight", range(NUM_DAYS - 1))
    assert digest(make(root, "one", [NUM_DAYS - 1], base="eight")) == digest(whole)


def test_days_appended_in_any_order_are_the_same_as_from_scratch(root, whole):
    make(root, "start", [4, 0, 6])
    base = "start"
    for step, days in enumerate(([7], [1, 2], [8], [3], [5])):
        make(root, f"step {step}", days, base=base)
        base = f"step {step}"
    assert digest(root / base) == digest(whole)
    manifest = read_manifest(root / base)
    assert (manifest.generation, manifest.root) == (5, read_manifest(root / "start").fingerprint)


def test_items_that_are_listed_late_or_corrected_are_the_same_as_from_scratch(root, whole):
    make(root, "few", range(5), items="early.csv")
    assert read_manifest(root / "few").quarantined["item not in the catalogue"] > 5
    found = make(root, "more", range(5, NUM_DAYS), base="few")
    assert digest(found) == digest(whole)


def test_indices_of_items_do_not_change(root):
    make(root, "small", range(4), items="early.csv")
    found = load_catalogue(make(root, "larger", [4], base="small"))
    before = load_catalogue(root / "small")
    assert found.item_ids.to_pylist()[: len(before)] == before.item_ids.to_pylist()
    assert len(found) == NUM_ITEMS


def test_a_k_core_is_the_same_as_from_scratch(root):
    core = {"data.min_user_events": 3, "data.min_item_events": 4}
    scratch = make(root, "core", range(NUM_DAYS), **core)
    make(root, "core before", range(NUM_DAYS - 2), **core)
    assert digest(make(root, "core after", [7, 8], base="core before")) == digest(scratch)


def test_windows_of_days_move_on_with_the_log(root):
    days = {"split.val_days": 2, "split.test_days": 1}
    scratch = make(root, "days", range(NUM_DAYS), **days)
    make(root, "days before", range(NUM_DAYS - 1), **days)
    found = make(root, "days after", [8], base="days before")
    assert digest(found) == digest(scratch)
    cuts = [read_manifest(root / name).split["test_from_us"] for name in ("days before", "days")]
    assert cuts == [(START + day * DAY) // DAY * DAY * 1_000_000 for day in (7, 8)]


def test_leave_last_out_is_the_same_as_from_scratch(root):
    how = {"split.protocol": "leave_last_out"}
    scratch = make(root, "last", range(NUM_DAYS), **how)
    make(root, "last before", range(NUM_DAYS - 1), **how)
    assert digest(make(root, "last after", [8], base="last before")) == digest(scratch)


@pytest.mark.parametrize("names", [{}, {"impression": "drop", "cart": "drop"}])
def test_a_catalogue_that_is_made_of_the_log_grows_with_it(root, names):
    how = {"items": "", "data.event_names": names}
    out = f"no items but {len(names)} names"
    scratch = make(root, out, range(NUM_DAYS), **how)
    make(root, f"{out} before", range(3), **how)
    found = make(root, f"{out} after", range(3, 9), base=f"{out} before", items="")
    assert digest(found) == digest(scratch)


def test_a_day_of_rows_that_are_left_out_adds_no_item(root, tmp_path):
    how = {"items": "", "data.event_names": {"impression": "drop"}}
    base = make(root, "early days", range(3), **how)
    (tmp_path / "log.csv").write_text(
        f"user_id,item_id,timestamp,event,query,session_id\nu1,new,{START + 3 * DAY},impression,,\n"
    )
    values = {"data.base": str(base), "data.clicks": str(tmp_path / "log.csv")}
    append(override(Config(), {**values, "data.out": str(tmp_path / "after")}))
    before, after = (read_manifest(place) for place in (base, tmp_path / "after"))
    assert (after.num_items, after.num_events) == (before.num_items, before.num_events)


def test_an_append_that_adds_nothing_links_all_shards(root, whole):
    found = make(root, "same", range(NUM_DAYS), base="whole")
    assert digest(found) == digest(whole)
    for name in ("train", "val", "test", "stage"):
        for path in (whole / name).glob("*.parquet"):
            assert (found / name / path.name).samefile(path)
    assert read_manifest(found).generation == 1


def test_events_of_a_day_that_is_sent_twice_are_told(root, tmp_path, caplog):
    base = make(root, "sent once", range(3))
    day = (root / "log" / "day-02.csv").read_text()
    (tmp_path / "log.csv").write_text(day + "\n")  # another content, so the file is read
    values = {"data.base": str(base), "data.clicks": str(tmp_path / "log.csv")}
    caplog.set_level("INFO")
    append(override(Config(), {**values, "data.out": str(tmp_path / "after")}))
    before, after = (read_manifest(place) for place in (base, tmp_path / "after"))
    repeated = after.dropped["duplicates"] - before.dropped["duplicates"]
    assert (after.num_events, repeated > 20) == (before.num_events, True)
    assert f"duplicates: {repeated}" in caplog.text


def test_the_same_append_is_reused(root):
    make(root, "again", range(3))
    values = {"data.base": str(root / "again"), "data.clicks": str(root / "log" / "day-03.csv")}
    config = override(Config(), {**values, "data.out": str(root / "again after")})
    assert not append(config)["is_reused"]
    assert append(config)["is_reused"]


def test_the_default_place_is_that_of_the_base(root):
    made = make(root, "home", range(3))
    before = made.resolve()
    values = {"data.base": str(made), "data.clicks": str(root / "log" / "day-03.csv")}
    append(override(Config(), values))
    after = made.resolve()
    assert after != before
    assert before.is_dir()
    assert append(override(Config(), values))["is_reused"]  # the same command changes nothing
    assert made.resolve() == after


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.base": "nowhere"}, "data.base=.*nowhere is not a prepared data set"),
        ({"data.clicks": ""}, "data.base needs data.clicks, data.items, or both"),
        ({"data.num_shards": 5}, "data.num_shards=5: data.base=.* was prepared with 2"),
    ],
)
def test_a_wrong_append_is_refused(root, whole, change, message):
    values = {"data.base": str(whole), "data.clicks": str(root / "log"), "data.out": "x"}
    with pytest.raises(UserError, match=message):
        append(override(Config(), {**values, **change}))


def test_a_day_with_many_broken_rows_is_appended_with_a_limit_of_its_own(root, whole, tmp_path):
    rows = [f"u{n},nowhere,{START + DAY},click,," for n in range(9)]
    lines = ["user_id,item_id,timestamp,event,query,session_id", *rows, f"u1,i1,{START},click,,"]
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    values = {"data.base": str(whole), "data.clicks": str(tmp_path / "log.csv")}
    config = override(Config(), {**values, "data.out": str(tmp_path / "out")})
    with pytest.raises(UserError, match=r"9 of 10 rows .*or raise data.max_quarantined=0.4"):
        append(config)
    append(override(config, {"data.max_quarantined": 0.9}))
    found = read_manifest(tmp_path / "out")
    assert found.quarantined["item not in the catalogue"] > 9
    assert found.settings["data.max_quarantined"] == 0.4


def test_times_of_another_kind_are_refused(root, whole, tmp_path):
    (tmp_path / "log.csv").write_text(
        "user_id,item_id,timestamp,event,query,session_id\nu1,i1,2024-01-01,click,,\n"
    )
    values = {"data.base": str(whole), "data.clicks": str(tmp_path / "log.csv")}
    with pytest.raises(UserError, match=r"times are ISO 8601, those of data\.base"):
        append(override(Config(), {**values, "data.out": str(tmp_path / "out")}))
    assert not (tmp_path / "out").exists()


def test_a_base_without_its_events_is_refused(root, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "old", ignore=shutil.ignore_patterns("log.json"))
    values = {"data.base": str(tmp_path / "old"), "data.clicks": str(root / "log")}
    with pytest.raises(UserError, match="does not keep the events that an append needs"):
        append(override(Config(), values))


def test_a_shard_keeps_users_in_order_of_their_hash(whole):
    for path in (whole / "stage").glob("*.parquet"):
        hashes = pq.read_table(path, columns=["user_hash"])["user_hash"].to_pylist()
        assert hashes == sorted(hashes)
    audit = json.loads((whole / "audit.json").read_text())
    assert not any(row["count"] for row in audit if row["name"] == "events in two splits")
