"""The audit of prepared data sets: small ones, by prepare's own functions, and edited."""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import audit as audit_script
from recdiv_core.config import Config, override
from recdiv_core.data import catalogue, split
from recdiv_core.data.audit import duplicates
from recdiv_core.data.audit.findings import CHECKS, merge, to_json
from recdiv_core.data.audit.prepared import audit, format_table, without_users
from recdiv_core.data.audit.preparing import audit_log, audit_shard, make_clock
from recdiv_core.data.audit.traces import NEVER
from recdiv_core.schema import NO_QUERY, TOKENS

NUM_ITEMS = 40
NUM_USERS = 16
WORDS = ("soap", "lamp", "brush", "茶", "chair", "scarf", "بلسم", "guitar")
TITLES = [f"{a} {b}" for a in WORDS for b in ("of oak", "in blue", "no frills", "for two", "鉄道")]


def random_log(seed):
    """Users' events with many repeats; a third of them led to by a query."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(6, 25, NUM_USERS)
    num_events = lengths.sum()
    times = [np.sort(rng.choice(1000, length, replace=False)) for length in lengths]
    return split.UserEvents(
        pa.array([f"u{user}" for user in range(NUM_USERS)]),
        np.concatenate([[0], np.cumsum(lengths)]),
        (NUM_ITEMS * rng.random(num_events) ** 1.5).astype(np.int32),
        np.concatenate(times),
        np.where(rng.random(num_events) < 0.3, 0, -1).astype(np.int32),
        np.ones(num_events, dtype=np.float32),
    )


def some_users(events, users):
    """Return the events of a range of users."""
    offsets = events.offsets_B[users.start : users.stop + 1]
    columns = (events.items_N, events.times_N, events.queries_N, events.weights_N)
    parts = (column[offsets[0] : offsets[-1]] for column in columns)
    return split.UserEvents(
        events.user_ids.slice(users.start, len(users)), offsets - offsets[0], *parts
    )


def count_parts(events, protocol):
    if protocol == "leave_last_out":
        return split.count_leave_last_out(events.offsets_B)
    return split.count_temporal(events.times_N, events.offsets_B, 700, 850)


def write_shop(root, manifest, *, seed=0, protocol="temporal", min_item=1, titles=TITLES):
    """Write a prepared data set of two shards; items with too few train events leave the core."""
    log = random_log(seed)
    counts = count_parts(log, protocol)
    in_core = np.ones(NUM_ITEMS, dtype=bool)
    is_train = split.mark_train_events(log, counts, in_core, 1)
    in_core = np.bincount(log.items_N[is_train], minlength=NUM_ITEMS) >= min_item
    is_train = split.mark_train_events(log, counts, in_core, 1)
    popularity = np.bincount(log.items_N[is_train], minlength=NUM_ITEMS)
    for name in ("train", "val", "test"):
        (root / name).mkdir(parents=True)
    findings, num_rows, num_cold = [], dict.fromkeys(("train", "val", "test"), 0), 0
    for shard, users in enumerate((range(9), range(9, NUM_USERS))):
        events = some_users(log, users)
        counts = count_parts(events, protocol)
        is_train = split.mark_train_events(events, counts, in_core, 1)
        has_train = np.add.reduceat(is_train, events.offsets_B[:-1]) > 0
        tables = {
            "train": split.make_train_examples(events, is_train),
            "val": split.make_eval_examples(events, counts, split.VAL, has_train),
            "test": split.make_eval_examples(events, counts, split.TEST, has_train),
        }
        for name, table in tables.items():
            pq.write_table(table, root / name / f"part-{shard:05d}.parquet", 4)
            num_rows[name] += table.num_rows
        num_cold += int((~has_train).sum())
        findings.append(audit_shard(str(root), shard, events, counts, popularity == 0))
    clock = make_clock(np.full(NUM_ITEMS, NEVER), pa.table({}))
    ids = pa.array([f"i{n}" for n in range(NUM_ITEMS)])
    of_log = audit_log(protocol, np.zeros((2, 0), np.int64), clock, ids)
    rows = to_json([*merge(findings), *of_log])
    (root / "audit.json").write_text(json.dumps(rows))
    categories = [("A", "A > B", "C")[item % 3] for item in range(NUM_ITEMS)]
    items = {"item_id": [f"i{n}" for n in range(NUM_ITEMS)], "title": titles}
    raw = catalogue.RawCatalogue(pa.table({**items, "category": categories}), {}, NUM_ITEMS)
    names = catalogue.write_catalogue(raw, popularity, 0, root / "catalogue.parquet")
    write_tokens(root, [[*title.encode()] for title in titles])
    complete = manifest.model_copy(
        update={
            "num_users": NUM_USERS,
            "num_items": NUM_ITEMS,
            "num_examples": num_rows,
            "num_events_by_split": {"train": int(popularity.sum())},
            "num_cold_users": num_cold,
            "num_cold_items": int((popularity == 0).sum()),
            "categories": tuple(names),
        }
    )
    (root / "manifest.json").write_text(complete.model_dump_json())
    return root


def write_tokens(root, lists):
    with pa.OSFile(str(root / "tokens.arrow"), "wb") as sink, pa.ipc.new_file(sink, TOKENS) as file:
        file.write_table(pa.table([lists], schema=TOKENS), max_chunksize=7)


@pytest.fixture(scope="module")
def original(tmp_path_factory, manifest):
    return write_shop(tmp_path_factory.mktemp("original") / "shop", manifest)


@pytest.fixture
def shop(tmp_path, original):
    """Return a copy of a small prepared data set, for a test to edit."""
    return Path(shutil.copytree(original, tmp_path / "shop"))


def found(root):
    """Return what an audit finds, by name; infos count as nothing."""
    findings = audit(str(root))["findings"]
    return {row["name"]: row for row in findings if row["severity"] in ("warning", "severe")}


def edit(root, place, change):
    """Change a file's rows: `change` gets them as a list of dicts."""
    path = root / place
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("protocol", ["temporal", "leave_last_out"])
@pytest.mark.parametrize("min_item", [1, 6])
def test_a_clean_data_set_is_clean(tmp_path, manifest, seed, protocol, min_item):
    shape = {"seed": seed, "protocol": protocol, "min_item": min_item}
    root = write_shop(tmp_path / "shop", manifest, **shape)
    expected = {"leave_last_out: train holds events later than other users' test events"}
    assert found(root).keys() == (expected if protocol == "leave_last_out" else set())


def test_a_user_with_more_events_than_a_row_holds_is_clean(tmp_path, manifest, monkeypatch):
    monkeypatch.setattr(split, "MAX_EXAMPLE_EVENTS", 4)
    assert found(write_shop(tmp_path / "shop", manifest)) == {}


def test_what_was_not_looked_for_is_named(shop):
    unchecked = audit(str(shop))["not_checked"]
    assert "users at an inhuman rate" in unchecked
    assert "events of the future in train" not in unchecked


# --------------------------------------------------------------------------- planted leaks

TRAIN, VAL, TEST = (f"{name}/part-00000.parquet" for name in ("train", "val", "test"))
CATALOGUE = "catalogue.parquet"


def row_of(root, place, user):
    return next(row for row in pq.read_table(root / place).to_pylist() if row["user_id"] == user)


def put(root, place, user, column, values):
    def change(rows):
        for row in rows:
            if row["user_id"] == user:
                row[column] = values

    edit(root, place, change)


def put_train(root, user, items):
    put(root, TRAIN, user, "items", items)
    put(root, TRAIN, user, "queries", [-1] * len(items))
    put(root, TRAIN, user, "weights", [1.0] * len(items))


def unseen_item(root, user):
    """Return an item that train has and the user has not."""
    mine = {*row_of(root, TEST, user)["history"], *row_of(root, TEST, user)["targets"]}
    popularity = pq.read_table(root / CATALOGUE)["popularity"].to_pylist()
    return next(i for i in range(NUM_ITEMS) if i not in mine and popularity[i])


def asked_twice(root):
    """Return a user with a test row, and a val row that no query led to."""
    rows = [pq.read_table(root / place).to_pylist() for place in (VAL, TEST)]
    without_query = {row["user_id"] for row in rows[0] if row["query"] == NO_QUERY}
    return min(without_query & {row["user_id"] for row in rows[1]})


def plant_future(root, user):
    put_train(root, user, [*row_of(root, TRAIN, user)["items"], unseen_item(root, user)])


def plant_in_val_history(root, user):
    row = row_of(root, VAL, user)
    put(root, VAL, user, "history", [*row["history"], unseen_item(root, user)])


def plant_in_test_history(root, user):
    row = row_of(root, TEST, user)
    put(root, TEST, user, "history", [*row["history"], unseen_item(root, user)])


def plant_old_target(root, user):
    row = row_of(root, TEST, user)
    old = next(item for item in row["history"] if item not in row["targets"])
    put(root, TEST, user, "targets", [*row["targets"], old])


def plant_popularity(root, _):
    edit(root, CATALOGUE, lambda rows: rows[3].update(popularity=rows[3]["popularity"] + 1))


def plant_warm_item(root, _):
    edit(root, CATALOGUE, lambda rows: rows[0].update(is_cold=not rows[0]["is_cold"]))


def plant_category(root, _):
    edit(root, CATALOGUE, lambda rows: rows[2].update(categories=[0]))


def plant_category_name(root, _):
    tree = json.loads((root / "manifest.json").read_text())
    tree["categories"].append("D")
    (root / "manifest.json").write_text(json.dumps(tree))


def plant_flag(root, user):
    put(root, VAL, user, "is_cold_user", True)


def plant_second_row(root, user):
    edit(root, TEST, lambda rows: rows.append(row_of(root, TEST, user)))


def plant_stray(root, user):
    put(root, TEST, user, "targets", [NUM_ITEMS])


def drop_train(root, user):
    edit(root, TRAIN, lambda rows: rows.pop())


@pytest.mark.parametrize(
    ("plant", "name", "shown"),
    [
        (plant_future, "events of the future in train", "{user}"),
        (plant_in_val_history, "held-out events in val histories", "{user}"),
        (plant_in_val_history, "val and test rows that contradict each other", "{user}"),
        (plant_in_test_history, "val and test rows that contradict each other", "{user}"),
        (plant_old_target, "figures that prepare's audit counted otherwise", "test targets that"),
        (plant_popularity, "popularity that is not the train shards'", "i3: "),
        (plant_warm_item, "popularity that is not the train shards'", "i0: "),
        (plant_category, "categories that are not the catalogue's", "i2"),
        (plant_category_name, "categories that are not the catalogue's", "D"),
        (plant_flag, "cold-user flags that are wrong", "{user}"),
        (plant_second_row, "users with several rows in a held-out split", "{user}"),
        (plant_stray, "items outside the catalogue", "40"),
        (drop_train, "figures of the manifest that the files do not bear out", "num_examples"),
    ],
)
def test_a_leak_planted_in_the_files_is_found(shop, plant, name, shown):
    user = asked_twice(shop)
    plant(shop, user)
    leak = found(shop)[name]
    assert leak["severity"] == "severe"
    assert leak["examples"][0].startswith(shown.format(user=user))
    assert leak["remedy"].endswith("run `recdiv prepare` again")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("protocol", ["temporal", "leave_last_out"])
def test_any_target_in_train_is_found(tmp_path, manifest, seed, protocol):
    root = write_shop(tmp_path / "shop", manifest, seed=seed, protocol=protocol)
    user = asked_twice(root)
    target = row_of(root, TEST, user)["targets"][0]
    put_train(root, user, [*row_of(root, TRAIN, user)["items"], target])
    assert found(root)["events of the future in train"]["examples"] == [user]


def derive(root, derived):
    """Write the shop's catalogue again with derived categories; return their names."""
    table = pq.read_table(root / "catalogue.parquet")
    raw = catalogue.RawCatalogue(table.select(["item_id", "title"]), {}, NUM_ITEMS)
    path = root / "catalogue.parquet"
    names = catalogue.write_catalogue(raw, table["popularity"].to_numpy(), 1, path, derived)
    manifest = json.loads((root / "manifest.json").read_text())
    changes = {"categories": names, "categories_from": "texts"}
    (root / "manifest.json").write_text(json.dumps(manifest | changes))
    return names


def test_derived_categories_are_named_and_checked(shop):
    names = derive(shop, pa.array([("tea > hot", "mug")[item % 2] for item in range(NUM_ITEMS)]))
    assert names == ["tea > hot", "mug"]
    rows = {row["name"]: row for row in audit(str(shop))["findings"]}
    told = rows["categories derived from texts"]
    assert (told["severity"], told["count"], told["examples"]) == ("info", 2, names)
    assert rows["categories that are not the catalogue's"]["severity"] == "ok"
    edit(shop, "catalogue.parquet", lambda items: items[3].update(derived_category="tea > hot"))
    assert found(shop)["categories that are not the catalogue's"]["severity"] == "severe"


def test_given_categories_are_not_said_to_be_derived(shop):
    rows = {row["name"]: row for row in audit(str(shop))["findings"]}
    assert rows["categories derived from texts"]["severity"] == "ok"


def test_a_history_of_a_user_asked_once_is_held_against_train(tmp_path, manifest):
    root = write_shop(tmp_path / "shop", manifest)
    user = asked_twice(root)
    edit(root, VAL, lambda rows: rows.clear())
    put(
        root, TEST, user, "history", [*row_of(root, TEST, user)["history"], unseen_item(root, user)]
    )
    assert user in found(root)["held-out events in test histories"]["examples"]


# --------------------------------------------------------------------------- doubles


def test_users_of_one_history_are_found_across_shards(shop):
    user = asked_twice(shop)
    rows = {place: row_of(shop, place, user) for place in (TRAIN, VAL, TEST)}
    for place, row in rows.items():
        other = place.replace("00000", "00001")
        edit(shop, other, lambda rows, row=row: rows.append(row | {"user_id": "twin"}))
    twins = found(shop)["users with identical histories"]
    assert (twins["count"], twins["severity"]) == (2, "warning")
    assert sorted(twins["examples"][0].split(" = ")) == sorted([user, "twin"])


def test_short_histories_alike_are_chance(shop):
    for place in (TRAIN, VAL, TEST):
        edit(shop, place, lambda rows: rows.clear())
    short = {"items": [1, 2, 1, 2, 3], "queries": [-1] * 5, "weights": [1.0] * 5}
    edit(shop, TRAIN, lambda rows: rows.extend({"user_id": u, **short} for u in ("a", "b")))
    assert "users with identical histories" not in found(shop)


def all_found(root):
    return {row["name"]: row for row in audit(str(root))["findings"] if row["count"]}


@pytest.mark.parametrize(
    ("title", "name", "shown"),
    [
        ("SOAP, of oak!", "items that share their title", "i0 = i39"),
        ("lamp no  frils", "items a tiny edit apart", "lamp no frills ~ lamp no frils"),
        ("بلسم no frill", "items a tiny edit apart", "بلسم no frills ~ بلسم no frill"),
    ],
)
def test_titles_nearly_alike_are_found(tmp_path, manifest, title, name, shown):
    root = write_shop(tmp_path / "shop", manifest, titles=[*TITLES[:-1], title])
    double = all_found(root)[name]
    assert (double["count"], double["severity"]) == (2, "info")
    assert double["examples"] == [shown]


def test_titles_that_the_encoder_cannot_tell_apart_are_found(shop):
    write_tokens(shop, [[*title.encode()] for title in TITLES[:-2]] + [[101, 100, 102]] * 2)
    double = all_found(shop)["items of different titles with identical text vectors"]
    assert (double["count"], double["examples"]) == (2, ["i38 = i39"])


def test_many_items_of_one_title_are_a_warning(tmp_path, manifest):
    root = write_shop(tmp_path / "shop", manifest, titles=[*TITLES[:-4], *["Tea 茶"] * 4])
    assert found(root)["items that share their title"]["count"] == 4


def test_prices_below_0_are_counted(shop):
    path = shop / CATALOGUE
    table, name = pq.read_table(path), "items with a price below 0"
    assert name in audit(str(shop))["not_checked"]
    prices = [-11062.06, 0.0, None, *[2.5] * (NUM_ITEMS - 3)]
    pq.write_table(table.append_column("price", pa.array(prices)), path)
    row = all_found(shop)[name]
    assert (row["severity"], row["count"]) == ("info", 1)
    assert row["examples"] == [f"{table['item_id'][0].as_py()} (-11062.1)"]


def test_untitled_items_are_no_doubles(tmp_path, manifest):
    root = write_shop(tmp_path / "shop", manifest, titles=[*TITLES[:-2], "", "?"])
    assert "items that share their title" not in all_found(root)


def test_the_number_of_passes_changes_nothing(shop, monkeypatch):
    before = audit(str(shop))
    monkeypatch.setattr(duplicates, "VARIANTS_A_PASS", 50)
    assert audit(str(shop)) == before


# --------------------------------------------------------------------------- the script


def test_the_table_tells_the_gravest_first(shop):
    plant_future(shop, asked_twice(shop))
    result = audit(str(shop))
    lines = format_table(result).splitlines()
    assert lines[2].split() == ["severe", "1", "events", "of", "the", "future", "in", "train"]
    assert lines[-1] == "worst: severe"
    severities = [row["severity"] for row in result["findings"]]
    assert severities == sorted(severities, key=["severe", "warning", "info", "ok"].index)


def test_counts_of_a_finding_are_written_in_full():
    figures = {"candidates": [4_031_060.0], "click_rate": [0.425, 0.2652]}
    row = {"severity": "info", "count": 1, "name": "x", "examples": [], "remedy": "y"}
    result = {"prepared": "z", "findings": [row | {"figures": figures}], "worst": "info"}
    text = format_table(result | {"not_checked": []})
    assert "candidates: 4,031,060" in text
    assert "click_rate: 0.425, 0.2652" in text


def test_an_edit_that_prepare_itself_has_seen_stays_in_the_audit(shop):
    rows = json.loads((shop / "audit.json").read_text())
    (row,) = (row for row in rows if row["name"] == "events in two splits")
    row.update(severity="severe", count=3, examples=["u1"])
    (shop / "audit.json").write_text(json.dumps(rows))
    assert found(shop)["events in two splits"]["examples"] == ["u1"]
    hidden = {row["name"]: row for row in without_users(audit(str(shop)))["findings"]}
    row = hidden["events in two splits"]
    assert (row["count"], row["examples"]) == (3, [])


def test_an_audit_that_hides_ids_of_users_tells_how_to_see_them(shop, capsys):
    rows = json.loads((shop / "audit.json").read_text())
    (row,) = (row for row in rows if row["name"] == "events in two splits")
    row.update(severity="warning", count=1, examples=["bot7"])
    (shop / "audit.json").write_text(json.dumps(rows))
    config = override(Config(), {"data.prepared": str(shop)})
    audit_script.main(config, argparse.Namespace(show_ids=False, strict=False))
    shown = capsys.readouterr().err
    assert "bot7" not in shown
    assert "--show-ids" in shown
    audit_script.main(config, argparse.Namespace(show_ids=True, strict=False))
    shown = capsys.readouterr().err
    assert "bot7" in shown
    assert "--show-ids" not in shown


def test_findings_of_items_keep_their_examples_without_user_ids():
    rows = [{"name": name, "examples": ["x"]} for name in CHECKS]
    kept = {r["name"] for r in without_users({"findings": rows})["findings"] if r["examples"]}
    assert "items that share their title" in kept
    assert not [name for name in kept if "user" in name or "events" in name or "targets" in name]


def garble(path):
    """Turn the bits of all pages and leave the footer, which is all that a quick look reads."""
    content = path.read_bytes()
    end = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    path.write_bytes(content[:4] + bytes(255 - byte for byte in content[4:end]) + content[end:])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: shutil.rmtree(root), "is not a directory"),
        (lambda root: (root / "manifest.json").unlink(), "has no manifest.json"),
        (lambda root: (root / "audit.json").unlink(), "lacks audit.json"),
        (lambda root: (root / "audit.json").write_text("[{]"), "is not valid JSON"),
        (lambda root: (root / "audit.json").write_text("[1]"), "is no audit"),
        (lambda root: (root / CATALOGUE).unlink(), "lacks catalogue.parquet"),
        (lambda root: (root / CATALOGUE).write_bytes(b"PAR1"), "catalogue.parquet is damaged"),
        (lambda root: edit(root, CATALOGUE, lambda rows: rows.pop()), "not the catalogue of 40"),
        (lambda root: (root / "tokens.arrow").unlink(), "tokens.arrow cannot be read"),
        (lambda root: (root / TRAIN).write_bytes(b"PAR1"), "part-00000.parquet is damaged"),
        (lambda root: garble(root / TRAIN), "part-00000.parquet is damaged"),
    ],
)
def test_what_is_no_whole_data_set_is_refused(shop, spoil, message):
    spoil(shop)
    with pytest.raises(ValueError, match=message) as refused:
        audit(str(shop))
    assert "\n" not in str(refused.value)


def test_the_command_line_answers_with_its_status(run, shop):
    done = run("audit", f"data.prepared={shop}", "--strict")
    assert done.status == 0
    assert json.loads(done.stdout)["passed"]
    plant_future(shop, asked_twice(shop))
    assert run("audit", f"data.prepared={shop}").status == 0
    done = run("audit", f"data.prepared={shop}", "--strict")
    assert done.status == 1
    assert json.loads(done.stdout)["worst"] == "severe"
    assert f"severe{'1':>11}  events of the future in train" in done.stderr
    done = run("audit", "data.prepared=/nowhere")
    assert (done.status, done.stdout) == (2, "")
    assert "error: data.prepared=/nowhere is not a directory" in done.stderr
    assert "Traceback" not in done.stderr
