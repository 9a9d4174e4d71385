"""Users that are forgotten leave a data set, and never come back (data/forget.py)."""

import collections
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdiv_core.config import Config, override
from recdiv_core.data import forget as forgetting
from recdiv_core.data import removal
from recdiv_core.data.append import append
from recdiv_core.data.clicklog import prepare
from recdiv_core.data.digest import digest
from recdiv_core.data.door import FORGOTTEN, Pseudonyms
from recdiv_core.data.forget import forget
from recdiv_core.data.versions import open_version
from recdiv_core.errors import UserError
from recdiv_core.schema import SLATE, read_manifest
from tests.test_append import DAY, NUM_DAYS, SETTINGS, START, make, write_days, write_items

GONE = ("mona.secret", "otto.secret")
WORDS = (*GONE, "a query of mona alone")


def rows_of(day, rng):
    """Return the rows of a day: no repeats and no impressions, so that counts are exact."""
    rows = []
    users = [f"u{number}" for number in range(14)] + list(GONE)
    for step in range(50):
        user = users[int(rng.integers(len(users)))] if step > 3 else GONE[step % 2]
        item = int(24 * rng.random() ** 2)
        at = START + day * DAY + step * 900
        query = ("", "red shoes", "a query of mona alone" if user == GONE[0] else f"day {day}")
        rows.append(f"{user},i{item},{at},click,{query[rng.integers(3)]},")
    rows.append(f"{GONE[0]},nowhere,{START + day * DAY},click,,")
    rows.append(f"{GONE[1]},i1")
    rows.append(f"u1,nowhere,{START + day * DAY},click,,")
    return rows


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Return a directory with `all/`, and `less/` without the rows of the users to forget."""
    place = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(3)
    for name in ("all", "less"):
        (place / name).mkdir()
    for day in range(5):
        rows = rows_of(day, rng)
        kept = [row for row in rows if not row.startswith(GONE)]
        for name, own in (("all", rows), ("less", kept)):
            text = "\n".join(["user_id,item_id,timestamp,event,query,session_id", *own])
            (place / name / f"day-{day}.csv").write_text(text + "\n")
    write_items(place / "items.csv", 24, "")
    return place


def prepared(root, out, clicks, **more):
    values = {"data.clicks": str(root / clicks), "data.items": str(root / "items.csv")}
    values |= {"data.out": str(root / out), **SETTINGS, **more}
    prepare(override(Config(), values), on_ray=False)
    return root / out


def appended(root, out, clicks, base):
    values = {"data.base": str(root / base), "data.clicks": str(root / clicks)}
    append(override(Config(), {**values, "data.out": str(root / out)}))
    return root / out


def forgotten(place, users=GONE, **more):
    return forget(override(Config(), {"data.prepared": str(place)}), list(users), **more)


def mentions(directory, words=WORDS):
    """Return the files of a directory and its versions that hold a word, Parquet as JSON."""
    found = []
    for path in sorted(directory.parent.rglob(f"{directory.name}*/**/*")):
        if path.suffix == ".parquet":
            text = json.dumps(pq.read_table(path).to_pylist(), default=str).encode()
        elif path.suffix == ".arrow":
            text = path.read_bytes()
        else:
            text = path.read_bytes() if path.is_file() else b""
        found += [path.name] if any(word.encode() in text for word in words) else []
    return found


@pytest.fixture(scope="module")
def less(root):
    return prepared(root, "without", "less")


@pytest.fixture(scope="module")
def all_users(root):
    return prepared(root, "whole", "all")


@pytest.fixture
def place(all_users, tmp_path):
    """Return a copy of the data set of all users, behind its own link."""
    for path in (all_users, all_users.with_name(f"{all_users.name}.versions")):
        if path.is_symlink():
            (tmp_path / path.name).symlink_to(path.readlink())
        else:
            shutil.copytree(path, tmp_path / path.name)
    return tmp_path / all_users.name


def test_a_data_set_without_users_is_that_of_a_log_without_them(place, less):
    before = read_manifest(place)
    assert mentions(place)
    told = forgotten(place)
    assert digest(place) == digest(less)
    assert mentions(place) == []
    after = read_manifest(place)
    assert (after.root, after.generation) == (before.fingerprint, 1)
    assert after.dropped[FORGOTTEN] > 20
    assert told["files"]["quarantine/clicks-000000.parquet"] == 2
    assert told["files"]["queries.arrow"] == 1
    assert {name.partition("/")[0] for name in told["files"]} >= {"stage", "train", "quarantine"}
    assert told["not_removed"] == []


def check_counts(manifest):
    """Check that each row of the log counts once, in its file and in all."""
    outcomes = collections.Counter()
    for row in manifest.files:
        dropped, rejected = (collections.Counter(row[name]) for name in ("dropped", "quarantined"))
        assert row["read"] == row["kept"] + dropped.total() + rejected.total()
        outcomes += dropped + rejected + collections.Counter({"kept": row["kept"]})
    later = ("duplicates", "outside the k-core")
    kept = manifest.num_events + sum(manifest.dropped[name] for name in later)
    of_all = {name: count for name, count in manifest.dropped.items() if name not in later}
    assert outcomes == collections.Counter({**of_all, **manifest.quarantined, "kept": kept})


def test_a_log_with_repeats_and_other_kinds_of_events_gives_the_same_examples(tmp_path):
    write_days(tmp_path)
    place = make(tmp_path, "messy", range(NUM_DAYS))
    before = read_manifest(place)
    forgotten(place, ["u3"])
    found, after = digest(place), read_manifest(place)
    assert [row["read"] for row in after.files] == [row["read"] for row in before.files]
    assert after.dropped[FORGOTTEN] == before.num_events - after.num_events
    for manifest in (before, after):
        check_counts(manifest)
    for path in (tmp_path / "log").glob("*.csv"):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("u3,")]
        path.write_text("\n".join(lines) + "\n")
    expected = digest(make(tmp_path, "clean", range(NUM_DAYS)))
    for part in ("train", "val", "test", "catalogue"):
        assert found[part] == expected[part], part


def test_a_later_append_does_not_bring_a_user_back(root, less):
    shutil.copytree(root / "all", root / "first", ignore=shutil.ignore_patterns("*4.csv"))
    place = prepared(root, "grows", "first")
    forgotten(place)
    grown = appended(root, "grown", "all", "grows")
    assert digest(grown) == digest(less)
    assert mentions(grown) == []


def test_a_preparation_from_scratch_of_the_old_files_does_not_bring_a_user_back(root, place, less):
    forgotten(place)
    prepared(root, place, "all")
    assert read_manifest(place).generation == 0
    assert digest(place) == digest(less)
    assert mentions(place) == []


def test_other_data_sets_of_the_lineage_are_named_and_keep_their_files(root, place):
    other = appended(root, place.with_name("two"), "all/day-0.csv", place)
    before = digest(other)
    told = forgotten(place)
    assert told["others"] == [str(other)]
    assert digest(other) == before
    assert forgotten(other)["others"] == []
    assert mentions(other) == []


def test_a_version_that_a_process_reads_is_removed_by_the_next_call(place):
    version = open_version(place)
    told = forgotten(place)
    assert told["not_removed"] == [str(version)]
    from recdiv_core.data import versions

    versions.os.close(versions._read_here.pop(version))
    told = forgotten(place)
    assert (told["not_removed"], told["num_forgotten_before"]) == ([], 2)
    assert not version.exists()


@pytest.mark.parametrize(
    ("module", "where"),
    [(removal, "write_splits"), (forgetting, "publish"), (forgetting, "remove_versions")],
    ids=["build", "publish", "remove"],
)
def test_a_killed_command_leaves_the_old_or_the_new_version(
    place, less, monkeypatch, module, where
):
    before = digest(place)

    def die(*args, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, where, die)
        with pytest.raises(KeyboardInterrupt):
            forgotten(place)
    assert digest(place) == (digest(less) if where == "remove_versions" else before)
    forgotten(place)
    assert digest(place) == digest(less)
    assert mentions(place) == []


def test_an_unknown_user_is_refused_or_forgotten_in_advance(root, less):
    shutil.copytree(root / "less", root / "then", ignore=shutil.ignore_patterns("*4.csv"))
    place = prepared(root, "early", "then")
    with pytest.raises(UserError, match=r"not in data.prepared=.*: 2 of 2 users \(number 1, 2\)"):
        forgotten(place)
    assert forgotten(place, unknown_ok=True)["num_unknown"] == 2
    assert digest(appended(root, "late", "all/day-4.csv", "early")) == digest(less)


def test_slates_lose_the_rows_of_a_user(place, tmp_path):
    rows = [
        {"user_id": user, "item_ids": ["i1"], "scores": [1.0]} for user in ("u1", GONE[0], "u2")
    ]
    (tmp_path / "slates" / "diversity=0.1").mkdir(parents=True)
    path = tmp_path / "slates" / "diversity=0.1" / "part-00000.parquet"
    pq.write_table(pa.Table.from_pylist(rows, SLATE), path)
    told = forgotten(place, slates=[tmp_path / "slates"])
    assert told["files"][str(path)] == 1
    assert pq.read_table(path)["user_id"].to_pylist() == ["u1", "u2"]
    with pytest.raises(UserError, match=r"--slates .* holds no Parquet file"):
        forgotten(place, slates=[tmp_path / "nowhere"])


def test_slates_that_cannot_be_read_are_refused_before_anything_changes(root, less, tmp_path):
    place = prepared(root, "unread", "all")
    before = read_manifest(place).fingerprint
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "part-0.parquet").write_text("no Parquet")
    for slates in (tmp_path / "none", tmp_path / "broken"):
        with pytest.raises(UserError, match="--slates"):
            forgotten(place, slates=[slates])
    assert read_manifest(place).fingerprint == before


def test_slates_with_numbers_as_users_lose_their_rows(tmp_path):
    path = tmp_path / "part-0.parquet"
    pq.write_table(pa.table({"user_id": [7, 8], "item_ids": [["a"], ["b"]]}), path)
    assert forgetting.remove_rows(path, pa.array(["7"])) == {str(path): 1}
    assert pq.read_table(path)["user_id"].to_pylist() == [8]


def test_a_user_with_a_pseudonym_is_forgotten_by_either_name(root, tmp_path):
    key = b"a key of more than sixteen bytes"
    (tmp_path / "key").write_bytes(key)
    how = {"data.pseudonymise": f"file:{tmp_path / 'key'}"}
    scratch = prepared(root, "hidden without", "less", **how)
    place = prepared(root, "hidden", "all", **how)
    forgotten(place, [GONE[0], Pseudonyms(key).of(GONE[1])])
    found, expected = digest(place), digest(scratch)
    # the text of a broken line is not kept, so it may be of any user
    assert {name for name in found if found[name] != expected[name]} == {"counts"}
    assert mentions(place, [Pseudonyms(key).of(name) for name in GONE]) == []


def test_a_preparation_with_another_key_does_not_bring_a_user_back(root, place, tmp_path):
    for name in ("key", "other"):
        (tmp_path / name).write_text(f"{name} of more than sixteen bytes")
    keys = [{"data.pseudonymise": f"file:{tmp_path / name}"} for name in ("key", "other")]
    hidden = prepared(root, tmp_path / "hidden", "all", **keys[0])
    for own, first, others in ((place, {}, keys[:1]), (hidden, keys[0], [keys[1], {}])):
        forgotten(own)
        left = read_manifest(own)
        for then in others:
            with pytest.raises(UserError, match="would come back under other ids; allowed: "):
                prepared(root, own, "all", **then)
            assert read_manifest(own) == left
        again = read_manifest(prepared(root, own, "all", **first))
        assert again.num_users == left.num_users == 14  # of 16


def test_a_copy_without_a_link_is_refused(root, less, tmp_path):
    shutil.copytree(less.resolve(), tmp_path / "copy")
    with pytest.raises(UserError, match="is not the link that `recdiv prepare` made"):
        forgotten(tmp_path / "copy")
    with pytest.raises(UserError, match="is not the link that `recdiv prepare` made"):
        forgotten(less.resolve())
