"""Prepare on a real Ray, against a slow twin that loops over users in plain Python."""

import collections
import csv
import gzip
import json
import math
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdiv_core.config import Config, override
from recdiv_core.data.catalogue import load_catalogue, load_tokens
from recdiv_core.data.clicklog import prepare
from recdiv_core.data.text_vectors import ensure_vectors, load_vectors, vectors_path
from recdiv_core.schema import NO_QUERY, NO_TEXT, read_manifest
from tests.cluster.conftest import run as run_script

pytestmark = pytest.mark.ray

NUM_ITEMS = 30
ITEM_IDS = sorted(
    (f"i{n}" for n in range(NUM_ITEMS)),
    key=lambda item_id: blake2b(item_id.encode(), digest_size=16).digest(),
)
COLUMNS = ("user_id", "item_id", "timestamp", "event", "query")
BROKEN = [
    {"user_id": "u1", "item_id": "nowhere", "timestamp": 1500000000, "event": "click"},
    {"user_id": "u1", "item_id": "i1", "timestamp": -1, "event": "click"},
    {"user_id": None, "item_id": "i1", "timestamp": 1500000000, "event": "click"},
]
REASONS = {
    "item not in the catalogue": 1,
    "timestamp in another unit than the column's": 1,
    "missing user_id": 1,
}
TRAIN_TO = 1500000000 + 70
VAL_TO = 1500000000 + 85
MICROS = 1_000_000
SETTINGS = {
    "split.val_from": str(TRAIN_TO),
    "split.test_from": str(VAL_TO),
    "data.events": ("click", "purchase"),
    "data.event_weights": {"purchase": 3.0},
    "data.num_shards": 3,
    "data.fragment_rows": 4,
    "model.text.max_tokens": 16,
}


def make_log():
    """Random events with many ties, a few identical ones, and the broken rows in between."""
    rng = np.random.default_rng(7)
    kinds = ("click", "click", "purchase", "impression")
    rows = [
        {
            "user_id": f"u{rng.integers(40)}",
            "item_id": f"i{int(NUM_ITEMS * rng.random() ** 2)}",
            "timestamp": 1500000000 + int(rng.integers(100)),
            "event": kinds[rng.integers(4)],
            "query": [None, 'red, "shoes"', "寿司"][rng.integers(3)],
        }
        for _ in range(400)
    ]
    rows[50:50] = rows[:5]
    rows[100:100] = [row | {"query": None} for row in BROKEN]
    return rows


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    root = tmp_path_factory.mktemp("shop")
    log = make_log()
    with (root / "log.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(log)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in log]
    (root / "parts").mkdir()
    (root / "parts" / "0000.jsonl").write_text("".join(lines[:100]), encoding="utf-8")
    for start in range(100, len(log), 100):
        part = pa.Table.from_pylist(log[start : start + 100])
        pq.write_table(part, root / "parts" / f"{start:04d}.parquet", row_group_size=30)
    items = {"item_id": [f"i{n}" for n in range(NUM_ITEMS)], "title": ["Tea 茶"] * NUM_ITEMS}
    pq.write_table(pa.table(items), root / "items.parquet")
    return root


def run(shop, name, clicks, *, on_ray=True, **values):
    settings = SETTINGS | {
        "data.clicks": str(shop / clicks),
        "data.items": str(shop / "items.parquet"),
        "data.out": str(shop / name),
    }
    return prepare(override(Config(), settings | values), on_ray=on_ray)


@pytest.fixture(scope="module")
def from_csv(ray_cluster, shop):
    return run(shop, "csv", "log.csv")


def read_rows(directory, split):
    paths = sorted((directory / split).glob("*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def by_user(rows):
    return {row["user_id"]: row for row in rows}


def twin(train_to=TRAIN_TO, min_user=1, min_item=1):
    """Return train items, val and test requests by user, and popularity, the obvious way."""
    users = collections.defaultdict(list)
    for row in dict.fromkeys(tuple(row.values()) for row in make_log()):
        user, item, time, event, query = row
        known = user and item != "nowhere" and time > 0
        if known and event in ("click", "purchase"):
            weight = 3.0 if event == "purchase" else 1.0
            users[user].append((time, ITEM_IDS.index(item), query, weight))
    for events in users.values():
        events.sort(key=lambda event: event[0])
    train = {u: [e for e in events if e[0] < train_to] for u, events in users.items()}
    while True:
        counts = collections.Counter(e[1] for events in train.values() for e in events)
        smaller = {u: [e for e in ev if counts[e[1]] >= min_item] for u, ev in train.items()}
        smaller = {u: ev if len(ev) >= min_user else [] for u, ev in smaller.items()}
        if smaller == train:
            return users, {u: ev for u, ev in train.items() if ev}, counts
        train = smaller


def expect_requests(users, train, start, end):
    requests = {}
    for user, events in users.items():
        held_out = [e for e in events if start <= e[0] < end]
        if held_out:
            query = held_out[0][2]
            answers = [e for e in held_out if query is None or e[2] == query]
            first = {e[1]: e[0] for e in reversed(answers)}
            before = [e for e in events if e[0] < start]
            requests[user] = {
                "history": [e[1] for e in before],
                "targets": list(dict.fromkeys(e[1] for e in answers)),
                "query": query,
                "is_cold_user": user not in train,
                "history_times": [e[0] * MICROS for e in before],
                "target_times": [first[e] * MICROS for e in dict.fromkeys(e[1] for e in answers)],
            }
    return requests


def read_requests(directory, split):
    texts = pa.ipc.open_file(directory / "queries.arrow").read_all()["query"].to_pylist()
    named = [
        row | {"query": None if row["query"] == NO_QUERY else texts[row["query"]]}
        for row in read_rows(directory, split)
    ]
    return {row.pop("user_id"): row for row in named}


def assert_is_twin(directory, users, train, counts, train_to=TRAIN_TO, val_to=VAL_TO):
    rows = by_user(read_rows(directory, "train"))
    assert {u: row["items"] for u, row in rows.items()} == {
        u: [e[1] for e in events] for u, events in train.items()
    }
    assert {u: row["weights"] for u, row in rows.items()} == {
        u: [e[3] for e in events] for u, events in train.items()
    }
    assert {u: row["times"] for u, row in rows.items()} == {
        u: [e[0] * MICROS for e in events] for u, events in train.items()
    }
    val = expect_requests(users, train, train_to, val_to)
    test = expect_requests(users, train, val_to, math.inf)
    assert read_requests(directory, "val") == val
    assert read_requests(directory, "test") == test
    loaded = load_catalogue(directory)
    assert loaded.popularity_V.tolist() == [counts[i] for i in range(NUM_ITEMS)]
    assert loaded.is_cold_V.tolist() == [counts[i] == 0 for i in range(NUM_ITEMS)]


def test_examples_are_those_of_the_slow_twin(from_csv, shop):
    assert_is_twin(shop / "csv", *twin())


def test_a_catalogue_in_another_order_gives_the_same_data_set(from_csv, shop):
    table = pq.read_table(shop / "items.parquet")
    pq.write_table(table.take(list(range(NUM_ITEMS))[::-1]), shop / "reversed.parquet")
    run(shop, "turned", "log.csv", **{"data.items": str(shop / "reversed.parquet")})
    for name in ("train", "val", "test"):
        assert read_rows(shop / "turned", name) == read_rows(shop / "csv", name)
    tables = [pq.read_table(shop / name / "catalogue.parquet") for name in ("csv", "turned")]
    assert tables[0] == tables[1]


def test_manifest_counts_what_is_in_the_files(from_csv, shop):
    manifest = read_manifest(shop / "csv")
    users, train, _ = twin()
    num_rows = {split: len(read_rows(shop / "csv", split)) for split in ("train", "val", "test")}
    assert manifest.num_examples == num_rows
    assert manifest.num_events == sum(map(len, users.values()))
    assert manifest.num_events_by_split["train"] == sum(map(len, train.values()))
    assert manifest.quarantined == REASONS
    assert manifest.dropped["duplicates"] == len(make_log()) - len(
        {tuple(row.values()) for row in make_log()}
    ) - sum(1 for row in make_log()[50:55] if row["event"] == "impression")
    (log,) = manifest.files
    assert log["read"] == log["kept"] + sum(log["dropped"].values()) + 3
    assert log["lines"] == {"read": log["read"] + 1, "header": 1}
    assert from_csv["quarantined"] == 3
    assert from_csv["num_users"] == len(users)


def test_quarantine_holds_the_rows_as_given(from_csv, shop):
    rows = pq.read_table(shop / "csv" / "quarantine").to_pylist()
    assert [row["row_number"] for row in rows] == [102, 103, 104]  # lines of the file
    assert [json.loads(row["row"])["item_id"] for row in rows] == ["nowhere", "i1", "i1"]
    assert {row["source"] for row in rows} == {str(shop / "log.csv")}


def test_files_are_cut_in_row_groups_of_fragment_rows(from_csv, shop):
    for path in (shop / "csv" / "train").iterdir():
        footer = pq.read_metadata(path)
        sizes = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
        assert all(size == 4 for size in sizes[:-1])
        assert 0 < sizes[-1] <= 4


def test_tokens_are_those_of_the_tokeniser_with_special_tokens(from_csv, shop):
    tokens = load_tokens(shop / "csv")
    assert len(tokens) == NUM_ITEMS
    assert tokens[0] == tokens[-1] == [101, 5572, 100, 102]
    assert len(load_tokens(shop / "csv", "queries")) == 2


UNKNOWN_SCRIPTS = {
    f"{kind} in a script that the encoder does not know" for kind in ("item texts", "queries")
}
"""Findings about the words of this shop, which the English encoder does not know."""

PRICES = "items with a price below 0"
"""A finding that this shop without prices cannot have."""


def test_the_audit_finds_no_leak(from_csv, shop):
    findings = json.loads((shop / "csv" / "audit.json").read_text())
    assert {f["name"] for f in findings if f["severity"] == "severe"} == UNKNOWN_SCRIPTS
    assert "events of the future in train" in {f["name"] for f in findings}
    audited = run_script("audit", f"data.prepared={shop / 'csv'}")
    assert audited["not_checked"] == ["click rate that depends on the position", PRICES]
    graver = {f["name"] for f in audited["findings"] if f["severity"] in ("warning", "severe")}
    assert graver - UNKNOWN_SCRIPTS == {"items that share their title"}  # all thirty of them


THINGS = ("herbal tea", "rubber boots")


@pytest.fixture(scope="module")
def untold(ray_cluster, shop):
    """Prepare a shop whose catalogue has titles and no categories, with Ray and without."""
    titles = [f"{THINGS[n % 2]} number {n}" if n else "" for n in range(NUM_ITEMS)]
    table = pa.table({"item_id": [f"i{n}" for n in range(NUM_ITEMS)], "title": titles})
    pq.write_table(table, shop / "untold.parquet")
    settings = {"data.items": str(shop / "untold.parquet")}
    run(shop, "untold", "log.csv", **settings)
    run(shop, "again", "parts", on_ray=False, **settings, **{"data.num_shards": 2})
    return shop / "untold"


def test_a_shop_without_categories_gets_clusters_of_its_texts(untold):
    manifest, catalogue = read_manifest(untold), load_catalogue(untold)
    assert manifest.categories_from == "texts"
    of_title = {
        title.rpartition(" number")[0]: manifest.categories[label[0]]
        for title, label in zip(
            catalogue.titles.to_pylist(), catalogue.category_lists.to_pylist(), strict=True
        )
    }
    assert of_title.pop("") == NO_TEXT
    for thing, name in of_title.items():
        assert set(thing.split()) <= set(name.split(", "))
    assert len(set(of_title.values())) == len(THINGS)


def test_derived_categories_do_not_depend_on_shards_or_formats(untold, shop):
    tables = [pq.read_table(root / "catalogue.parquet") for root in (untold, shop / "again")]
    assert tables[0] == tables[1]


def test_the_vectors_of_derived_categories_serve_the_trainings(untold):
    vectors = load_vectors(untold, read_manifest(untold))
    assert vectors.shape == (NUM_ITEMS, 384)
    assert not vectors_path(untold, read_manifest(untold), "queries").exists()


def test_an_interrupted_encoding_continues(untold):
    manifest = read_manifest(untold)
    path = vectors_path(untold, manifest, "tokens")
    whole = np.load(path)
    half = whole.copy()
    half[::2] = 0
    half[1] *= -1  # of unit length, so it is not encoded again
    unfinished = path.with_name(path.name + ".unfinished")
    np.save(path, half)
    path.rename(unfinished)
    ensure_vectors(untold, manifest)
    whole[1] *= -1
    np.testing.assert_allclose(np.load(path), whole, atol=1e-6)
    assert not unfinished.exists()
    whole[1] *= -1
    np.save(path, whole)


def test_the_audit_says_that_categories_are_derived(untold):
    findings = run_script("audit", f"data.prepared={untold}")["findings"]
    rows = {row["name"]: row for row in findings}
    assert rows["categories derived from texts"]["count"] == len(THINGS) + 1
    assert rows["categories that are not the catalogue's"]["severity"] == "ok"


def test_derived_categories_can_be_turned_off(untold, shop):
    items = str(shop / "untold.parquet")
    run(shop, "off", "log.csv", **{"data.items": items, "data.derived_categories": 0})
    manifest = read_manifest(shop / "off")
    assert (manifest.categories, manifest.categories_from) == (("(none)",), "catalogue")
    assert not (shop / "off" / "vectors").exists()


def make_planted_log():
    """A log in which a bot clicks, the first place is clicked most and an item came too early."""
    rng = np.random.default_rng(3)
    rows = []
    for user in range(60):
        start = 1500000000 + 86400 * user
        for slate in range(8):
            for position, rate in ((1, 0.6), (2, 0.2)):
                row = {
                    "user_id": f"u{user}",
                    "item_id": f"i{rng.integers(NUM_ITEMS)}",
                    "timestamp": start + 7200 * slate,
                    "position": position,
                }
                rows.append(row | {"event": "impression"})
                if rng.random() < rate:
                    rows.append(row | {"event": "click"})
    bot = {"user_id": "bot", "event": "click", "position": None}
    rows += [
        bot | {"item_id": f"i{n % NUM_ITEMS}", "timestamp": 1500000000 + 5 * n} for n in range(700)
    ]
    tied = {"user_id": "tied", "timestamp": 1500000000, "event": "click", "position": None}
    rows += [tied | {"item_id": f"i{n}"} for n in range(3)]
    return rows


def test_what_only_the_raw_log_shows_is_found(ray_cluster, shop):
    log = pa.Table.from_pylist(make_planted_log())
    pq.write_table(log.slice(0, 900), shop / "planted-0.parquet")
    pq.write_table(log.slice(900), shop / "planted-1.parquet")
    items = pq.read_table(shop / "items.parquet")
    dates = ["2017-07-14"] * (NUM_ITEMS - 1) + ["2017-09-01"]
    pq.write_table(items.append_column("on_sale", [dates]), shop / "dated.parquet")
    cuts = {"split.val_from": "", "split.test_from": "", "split.protocol": "leave_last_out"}
    names = {
        "data.items": str(shop / "dated.parquet"),
        "data.columns.available_from": "on_sale",
    }
    run(shop, "planted", "planted-*.parquet", **cuts, **names)
    audited = run_script("audit", f"data.prepared={shop / 'planted'}", "--show-ids")
    found = {row["name"]: row for row in audited["findings"]}
    assert audited["not_checked"] == [PRICES]
    severe = {name for name, row in found.items() if row["severity"] == "severe"}
    assert severe <= UNKNOWN_SCRIPTS
    assert found["users at an inhuman rate"]["examples"] == ["bot"]
    assert found["items seen before they were available"]["examples"] == [f"i{NUM_ITEMS - 1}"]
    assert found["ties in time across a cut"]["severity"] == "warning"
    clicks = found["click rate that depends on the position"]
    assert clicks["figures"]["impressions"] == [480, 480]
    by_place = collections.Counter(
        row["position"] for row in make_planted_log() if row["event"] == "click"
    )
    assert clicks["figures"]["click_rate"] == [round(by_place[n] / 480, 4) for n in (1, 2)]


def test_files_of_other_formats_and_another_number_of_shards_give_the_same_examples(from_csv, shop):
    run(shop, "other", "parts", **{"data.num_shards": 7})
    for split in ("train", "val", "test"):
        ours, theirs = (by_user(read_rows(shop / d, split)) for d in ("other", "csv"))
        assert ours == theirs


def test_the_k_core_within_cuts_found_by_share_is_that_of_the_slow_twin(ray_cluster, shop):
    minimum = {"data.min_user_events": 3, "data.min_item_events": 4}
    cuts = {"split.val_from": "", "split.test_from": "", "split.val_share": 0.15}
    run(shop, "core", "log.csv", **minimum, **cuts)
    manifest = read_manifest(shop / "core")
    val_from, test_from = (manifest.split[f"{n}_from_us"] / 1e6 for n in ("val", "test"))
    users, train, counts = twin(val_from, 3, 4)
    _, everything, _ = twin(val_from)
    assert_is_twin(shop / "core", users, train, counts, val_from, test_from)
    num_events = sum(map(len, users.values()))
    num_in_window = sum(map(len, everything.values()))
    num_in_core = sum(map(len, train.values()))
    assert manifest.dropped["outside the k-core"] == num_in_window - num_in_core > 0
    assert num_in_window / num_events == pytest.approx(0.75, abs=0.02)
    assert manifest.num_events_by_split["test"] / num_events == pytest.approx(0.1, abs=0.02)


def test_the_same_again_is_no_work_and_a_failure_leaves_the_old(from_csv, shop):
    before = (shop / "csv" / "manifest.json").stat().st_mtime_ns
    assert run(shop, "csv", "log.csv")["is_reused"]
    with pytest.raises(ValueError, match=r"data.min_user_events=1000.*leave no event"):
        run(shop, "csv", "log.csv", **{"data.min_user_events": 1000})
    assert (shop / "csv" / "manifest.json").stat().st_mtime_ns == before
    assert [path.name for path in shop.iterdir() if path.name.startswith(".")] == []


def test_too_many_broken_rows_stop_the_job(ray_cluster, shop):
    with pytest.raises(ValueError, match=r"data.clicks: 3 of 408 rows.*data.max_quarantined=0.005"):
        run(shop, "strict", "log.csv", **{"data.max_quarantined": 0.005})
    assert not (shop / "strict").exists()


def test_a_file_that_breaks_off_late_is_named_without_a_traceback(ray_cluster, shop):
    header, *lines = (shop / "log.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    whole = gzip.compress("".join([header, *lines * 3000]).encode())
    (shop / "cut.csv.gz").write_bytes(whole[: len(whole) * 3 // 4])
    with pytest.raises(
        ValueError, match=r"^data.clicks: /[^\n]*cut.csv.gz breaks off[^\n]*in line \d+[^\n]*$"
    ):
        run(shop, "cut", "cut.csv.gz")
    assert not (shop / "cut").exists()
