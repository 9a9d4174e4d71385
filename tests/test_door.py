"""User ids at the door: pseudonyms, and users that were forgotten (data/door.py)."""

import hashlib
import hmac
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdiv_core.config import Config, override
from recdiv_core.data.append import append
from recdiv_core.data.catalogue import load_catalogue
from recdiv_core.data.clicklog import prepare
from recdiv_core.data.digest import digest
from recdiv_core.data.door import (
    AS_GIVEN,
    NOT_KEPT,
    Door,
    Pseudonyms,
    as_stored,
    make_tombstones,
    read_key,
)
from recdiv_core.errors import UserError
from recdiv_core.formats.units import RawBatch
from recdiv_core.schema import read_manifest
from recdiv_core.slates.given import held_out_users, read_given_slates
from recdiv_core.slates.search_requests import read_requests, with_stored_users

KEY = b"a key of more than sixteen bytes"
NAMES = [f"anna-{number:03d}@shop.example" for number in range(12)]
START = 1_700_006_400
SETTINGS = {"data.num_shards": 2, "data.max_quarantined": 0.4, "model.text.max_tokens": 12}


def write_shop(root):
    """Write two files of a log, with broken rows and lines of every kind, and a catalogue."""
    head = "user_id,item_id,timestamp,event,query,session_id"
    for part in range(2):
        rows = [
            f"{name},i{(number * 3 + step) % 7},{START + part * 90_000 + step * 8_000 + number},"
            f"click,{'red shoes' if step else ''},s-{name}"
            for number, name in enumerate(NAMES)
            for step in range(5)
        ]
        rows.append(f"{NAMES[0]},nowhere,{START},click,,s-{NAMES[0]}")
        rows.append(f"{NAMES[1]},i1,no time,click,,s-{NAMES[1]}")
        rows.append(f"{NAMES[2]},i1")
        (root / f"part-{part}.csv").write_text("\n".join([head, *rows]) + "\n")
    items = [f"i{item},thing {item},A > B{item % 2}" for item in range(7)]
    (root / "items.csv").write_text("\n".join(["item_id,title,category", *items]) + "\n")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    root = tmp_path_factory.mktemp("shop")
    write_shop(root)
    (root / "key").write_bytes(KEY + b"\n")
    (root / "other").write_bytes(b"another key of enough bytes")
    return root


def make(shop, out, clicks="part-*.csv", **more):
    values = {"data.clicks": str(shop / clicks), "data.items": str(shop / "items.csv")}
    values |= {"data.out": str(shop / out), **SETTINGS, **more}
    prepare(override(Config(), values), on_ray=False)
    return shop / out


@pytest.fixture(scope="module")
def hidden(shop):
    return make(shop, "hidden", **{"data.pseudonymise": f"file:{shop / 'key'}"})


def contents(directory):
    """Return all that the files of a directory hold as bytes; Parquet as JSON."""
    for path in sorted(directory.resolve().rglob("*")):
        if path.suffix == ".parquet":
            yield path.name, json.dumps(pq.read_table(path).to_pylist(), default=str).encode()
        elif path.is_file():
            yield path.name, path.read_bytes()


def test_no_file_of_a_pseudonymised_data_set_holds_a_user_id_or_the_key(shop, hidden, caplog):
    caplog.set_level("INFO")
    make(shop, "hidden too", **{"data.pseudonymise": f"file:{shop / 'key'}"})
    texts = [*contents(hidden), ("log", caplog.text.encode())]
    for word in (*NAMES, KEY.decode()):
        assert not [name for name, text in texts if word.encode() in text], word
    assert any(NAMES[3].encode() in text for _, text in contents(make(shop, "plain")))


def test_a_pseudonym_is_an_hmac_that_a_shop_can_compute(hidden):
    expected = "p-" + hmac.new(KEY, NAMES[4].encode(), hashlib.sha256).hexdigest()[:32]
    found = {
        user
        for path in (hidden / "train").glob("*.parquet")
        for user in pq.read_table(path)["user_id"].to_pylist()
    }
    assert expected in found


def test_pseudonyms_change_nothing_else(shop, hidden):
    plain = read_manifest(make(shop, "plain"))
    found = read_manifest(hidden)
    counts = ("num_users", "num_events", "num_examples", "quarantined", "dropped", "split")
    assert {name: getattr(plain, name) for name in counts} == {
        name: getattr(found, name) for name in counts
    }


def test_the_same_key_gives_the_same_data_set_wherever_it_is(shop, hidden, monkeypatch):
    monkeypatch.setenv("SHOP_KEY", KEY.decode())
    again = make(shop, "again", **{"data.pseudonymise": "env:SHOP_KEY"})
    assert read_manifest(again).fingerprint == read_manifest(hidden).fingerprint
    for (name, one), (_, other) in zip(contents(hidden), contents(again), strict=True):
        assert name == "manifest.json" or one == other, name
    other = make(shop, "other key", **{"data.pseudonymise": f"file:{shop / 'other'}"})
    assert read_manifest(other).fingerprint != read_manifest(hidden).fingerprint


def test_an_append_takes_the_key_of_its_base(shop, hidden):
    how = {"data.pseudonymise": f"file:{shop / 'key'}"}
    base = make(shop, "first", "part-0.csv", **how)
    values = {"data.base": str(base), "data.clicks": str(shop / "part-1.csv")}
    append(override(Config(), {**values, "data.out": str(shop / "both")}))
    assert digest(shop / "both") == digest(hidden)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("file:{shop}/other", r"data.pseudonymise=file:.*other holds another key"),
        ("file:{shop}/nowhere", r"data.pseudonymise=file:.*nowhere cannot be read: No such file"),
        ("env:NO_KEY", "the environment has no variable NO_KEY"),
    ],
)
def test_an_append_with_another_key_is_refused(shop, place, message):
    base = make(shop, "first", "part-0.csv", **{"data.pseudonymise": f"file:{shop / 'key'}"})
    values = {"data.base": str(base), "data.clicks": str(shop / "part-1.csv")}
    values |= {"data.out": str(shop / "x"), "data.pseudonymise": place.format(shop=shop)}
    with pytest.raises(UserError, match=message):
        append(override(Config(), values))


def test_an_append_with_a_key_to_a_base_without_is_refused(shop):
    values = {"data.base": str(make(shop, "plain first", "part-0.csv"))}
    values |= {"data.clicks": str(shop / "part-1.csv"), "data.out": str(shop / "x")}
    with pytest.raises(UserError, match="prepared without pseudonyms"):
        append(override(Config(), {**values, "data.pseudonymise": f"file:{shop / 'key'}"}))


def test_a_key_given_in_place_of_its_place_is_refused_and_not_shown():
    with pytest.raises(UserError, match=r"allowed are env:VARIABLE and file:PATH") as caught:
        override(Config(), {"data.pseudonymise": "my secret"})
    assert "my secret" not in str(caught.value)


def test_a_short_key_is_refused(tmp_path):
    (tmp_path / "key").write_text("short")
    with pytest.raises(UserError, match="key of 5 bytes; at least 16"):
        read_key(f"file:{tmp_path / 'key'}")


def test_ids_of_a_caller_are_found_under_their_pseudonyms(shop, hidden):
    manifest = read_manifest(hidden)
    made = Pseudonyms(KEY).of(NAMES[2])
    found = as_stored(pa.array([f" {NAMES[2]}", made, None]), manifest)
    assert found.to_pylist() == [made, made, None]
    assert as_stored(pa.array(["u1"]), read_manifest(make(shop, "plain"))).to_pylist() == ["u1"]


def test_slates_and_queries_of_a_caller_are_matched_under_pseudonyms(shop, hidden, tmp_path):
    manifest, items = read_manifest(hidden), load_catalogue(hidden).item_ids
    held_out = held_out_users(hidden, "test").to_pylist()
    own = [name for name in NAMES if Pseudonyms(KEY).of(name) in held_out]
    lines = ["user_id,item_ids", *(f"{name},i1|i2" for name in own)]
    (tmp_path / "slates.csv").write_text("\n".join(lines) + "\n")
    found = read_given_slates(tmp_path / "slates.csv", hidden, items, "test", k=2)
    assert sorted(found.row_of) == sorted(held_out)
    (tmp_path / "asked.csv").write_text(f"query,user_id\nred shoes,{own[0]}\nblue hats,\n")
    asked = with_stored_users(read_requests(str(tmp_path / "asked.csv")), manifest, "")
    assert asked.table["user_id"].to_pylist() == [Pseudonyms(KEY).of(own[0]), None]


def test_the_key_is_in_no_text_of_the_door():
    door = Door(Pseudonyms(KEY), make_tombstones("salt", ["u1"]))
    assert KEY.decode() not in repr(door)


def batch(*users):
    table = pa.table({"user_id": pa.array(users, pa.string()), "session_id": pa.array(users)})
    return RawBatch(table, ((9, "u1;click", "too few fields"), (8, "u2", "too few fields")))


def test_rows_and_broken_lines_of_a_forgotten_user_are_left_out():
    door = Door(tombstones=make_tombstones("salt", ["u1"]))
    found, num_gone, _ = door.admit(batch(" u1", "u2", None, "u1.0"))
    assert found.table["user_id"].to_pylist() == ["u2", None, "u1.0"]
    assert [text for _, text, _ in found.broken] == ["u2"]
    assert num_gone == 2
    assert AS_GIVEN.admit(batch("u1"))[1] == 0


def test_a_session_has_a_pseudonym_of_its_own():
    found, _, _ = Door(Pseudonyms(KEY)).admit(batch("u1"))
    (row,) = found.table.to_pylist()
    assert row["user_id"] != row["session_id"]
    assert row["session_id"].startswith("p-")
    assert {text for _, text, _ in found.broken} == {NOT_KEPT}
