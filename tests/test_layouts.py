import collections
import datetime
import gzip
import json
import re

import hypothesis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from recdiv_core.adapters import layout_rows, layouts
from recdiv_core.adapters.layout_files import find_given
from recdiv_core.config import Config, override
from recdiv_core.data import events, items, outcomes
from recdiv_core.errors import UserError
from recdiv_core.formats import readers
from recdiv_core.schema import EVENTS
from tests.published import PUBLISHED, RETAIL, online_retail_rows

EPOCH = datetime.datetime(1970, 1, 1)
BY_NAME = {published.layout: published for published in PUBLISHED}


def load(config):
    """Read what prepare reads, without Ray: the catalogue, the log, all judged events, counts."""
    given = find_given(config)
    if given.items:
        raw = items.read_catalogue(given.items, given.config)
    else:
        raw = items.read_items_of_log(given.clicks, given.config)
    everything = override(given.config, {"data.events": EVENTS})
    log = events.open_log(given.clicks, raw.item_ids, everything)
    counts, kept = outcomes.RowCounts(), []
    for unit in log.units:
        for batch in readers.read_unit(unit, log.columns):
            table, _, found, _ = events.classify_rows(batch, log, raw.item_ids, everything)
            counts.add(found)
            kept += table.to_pylist()
    return given, raw, log, kept, counts


def config_of(root, layout, **values):
    return override(Config(), {"data.clicks": str(root), "data.layout": layout, **values})


def moment(log, event):
    if not log.has_timestamps:
        return "order"
    return (EPOCH + datetime.timedelta(microseconds=event["timestamp"])).isoformat()


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda published: published.layout)
def test_a_published_data_set_loads_with_its_layout_alone(tmp_path, published):
    published.write(tmp_path)
    _, raw, log, kept, counts = load(config_of(tmp_path, published.layout))
    kinds = collections.Counter("" if e["event"] < 0 else EVENTS[e["event"]] for e in kept)
    assert counts.rejected == {}
    assert kinds == published.kinds
    assert counts.dropped.total() == published.dropped
    assert len({e["user_id"] for e in kept}) == published.num_users
    assert len(raw.table) == published.num_items
    in_time = sorted(kept, key=lambda event: event["timestamp"])
    assert moment(log, in_time[0]) == published.first
    assert moment(log, in_time[-1]) == published.last
    for name, expected in (("title", published.titles), ("category", published.categories)):
        by_id = (
            dict(zip(*(raw.table[n].to_pylist() for n in ("item_id", name)), strict=True))
            if expected
            else {}
        )
        assert {item: by_id[item] for item in expected} == expected
    assert {n: sum(e[n] is not None for e in kept) for n in published.columns if n in kept[0]} == {
        n: count for n, count in published.columns.items() if n in kept[0]
    }


def test_every_layout_has_a_fixture():
    assert set(BY_NAME) == set(layouts.layouts())


@pytest.mark.parametrize("part", [{"name": ["log.csv"]}, {"names": ["log.csv"], "rows": "nosuch"}])
def test_a_slip_in_the_file_of_layouts_is_refused(part):
    with pytest.raises((ValidationError, AttributeError), match=r"unexpected_keyword|nosuch"):
        TypeAdapter(layouts.Layout).validate_python({"log": [[part]]})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("movielens", "is unknown; did you mean movielens-.*allowed: movielens-100k"),
        ("amazon2018", "did you mean amazon-2018"),
        ("xyz", "data.layout=xyz is unknown; allowed"),
    ],
)
def test_an_unknown_layout_names_the_nearest(name, message):
    with pytest.raises(UserError, match=message):
        layouts.find_layout(name)


@pytest.mark.parametrize("name", ["movielens-25m", " MovieLens-20M ", "taobao", "lastfm"])
def test_a_layout_has_other_names(name):
    assert layouts.find_layout(name) in layouts.layouts().values()


def test_missing_files_of_a_layout_are_named(tmp_path):
    (tmp_path / "some.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"expects ratings.dat in .*; found there: some.csv"):
        find_given(config_of(tmp_path, "movielens-1m"))
    BY_NAME["movielens-1m"].write(tmp_path)
    (tmp_path / "movies.dat").unlink()
    with pytest.raises(UserError, match=r"data.items: the layout movielens-1m expects movies.dat"):
        find_given(config_of(tmp_path, "movielens-1m"))
    BY_NAME["instacart"].write(tmp_path)
    (tmp_path / "orders.csv").unlink()
    with pytest.raises(UserError, match=r"expects orders.csv beside order_products__prior.csv"):
        find_given(config_of(tmp_path, "instacart"))


def test_an_archive_that_is_not_unpacked_is_named(tmp_path):
    (tmp_path / "ml-1m.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"unpack ml-1m.zip first"):
        find_given(config_of(tmp_path, "movielens-1m"))


def test_what_the_user_gives_wins_over_the_layout(tmp_path):
    BY_NAME["taobao-userbehavior"].write(tmp_path)
    names = {"fav": "cart"}
    given = find_given(
        config_of(
            tmp_path,
            "taobao-userbehavior",
            **{"data.event_names": names, "data.header": ("u", "i", "c", "e", "t")},
        )
    )
    assert given.config.data.event_names == {
        "pv": "click",
        "fav": "cart",
        "cart": "cart",
        "buy": "purchase",
    }
    assert given.clicks[0].text.header == ("u", "i", "c", "e", "t")


def test_one_file_of_a_layout_may_have_another_name_and_place(tmp_path):
    BY_NAME["movielens-1m"].write(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "ratings.dat").rename(tmp_path / "elsewhere" / "my ratings.dat")
    config = config_of(
        tmp_path / "elsewhere" / "my ratings.dat",
        "movielens-1m",
        **{"data.items": str(tmp_path / "movies.dat")},
    )
    assert len(load(config)[3]) == 20


def test_a_file_of_a_layout_is_given_and_its_catalogue_is_found_beside_it(tmp_path):
    BY_NAME["movielens-1m"].write(tmp_path)
    given = find_given(config_of(tmp_path / "ratings.dat", "movielens-1m"))
    assert [file.path for file in given.items] == [str(tmp_path / "movies.dat")]


def test_files_beside_the_log_are_sources_too(tmp_path):
    BY_NAME["instacart"].write(tmp_path)
    names = [
        file.path.rsplit("/", 1)[1] for file in find_given(config_of(tmp_path, "instacart")).beside
    ]
    assert names == ["aisles.csv", "departments.csv", "orders.csv"]


def test_without_a_layout_the_files_are_those_that_are_given(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n1,2,3\n")
    given = find_given(override(Config(), {"data.clicks": str(tmp_path / "log.csv")}))
    assert [file.path for file in given.clicks] == [str(tmp_path / "log.csv")]
    assert given.items == []


def test_rows_of_a_kind_that_is_dropped_need_neither_user_nor_item(tmp_path):
    BY_NAME["ubi"].write(tmp_path)
    _, _, _, kept, counts = load(config_of(tmp_path, "ubi"))
    assert counts.num_rows == 20
    assert counts.dropped == {"kind of event that data.event_names drops": 2}
    assert counts.rejected == {}
    assert sum(event["query"] == "laptop 1" for event in kept) == 4


def test_ubi_events_of_an_index_export_have_the_text_of_their_query(tmp_path):
    object_ = {"object": {"object_id": "7"}, "position": {"ordinal": 3}}
    event = {"client_id": "c", "query_id": "q1", "timestamp": "2024-05-23T20:20:00.000Z"}
    event |= {"event_attributes": object_, "session_id": "s"}
    rows = [event | {"action_name": name} for name in ("impression", "click", "brand_filter")]
    rows.append(rows[1] | {"query_id": "of another export"})
    exported = [json.dumps({"_index": "ubi_events", "_source": row}) for row in rows]
    (tmp_path / "ubi_events.ndjson").write_text("\n".join(exported))
    asked = {"query_id": "q1", "user_query": "Rote Schuhe", "query_response_hit_ids": ["7"]}
    (tmp_path / "ubi_queries.ndjson").write_text(json.dumps({"_source": asked}))
    _, _, _, kept, counts = load(config_of(tmp_path, "ubi"))
    assert [event["query"] for event in kept] == ["rote schuhe", "rote schuhe", None]
    assert counts.dropped.total() == 1


def test_a_workbook_of_online_retail_is_read_like_the_csv(tmp_path):
    openpyxl = pytest.importorskip("openpyxl", reason="needs openpyxl, of the extra xlsx")
    book = openpyxl.Workbook()
    book.active.append(RETAIL.split(","))
    for *fields, time, price, customer in online_retail_rows():
        when = datetime.datetime.strptime(time, "%m/%d/%Y %H:%M")
        book.active.append([*fields, when, price, customer or None, "United Kingdom"])
    book.save(tmp_path / "Online Retail.xlsx")
    published = BY_NAME["online-retail"]
    _, raw, log, kept, counts = load(config_of(tmp_path, "online-retail"))
    assert len(kept) == 18
    assert counts.dropped.total() == published.dropped
    assert moment(log, kept[0]) == published.first
    assert len(raw.table) == 5
    assert {event["user_id"] for event in kept} == {f"1785{n}" for n in range(1, 6)}


@pytest.mark.parametrize("name", sorted(set(BY_NAME) - {"amazon-2018", "amazon-2023"}))
def test_a_layout_says_which_files_it_expects(tmp_path, name):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(UserError, match=f"the layout {name} expects .*found there: notes.txt"):
        find_given(config_of(tmp_path, name))


def test_dates_in_both_ways_of_online_retail_are_one_day(tmp_path):
    times = pa.chunked_array([["12/1/2010 8:26", "12/1/10 8:26", "2010-12-01 08:26:00", None]])
    table = pa.table({"InvoiceDate": times, readers.ROW: [0, 1, 2, 3]})
    made = layout_rows.online_retail(table, {})["timestamp"].to_pylist()
    assert made == ["2010-12-01 08:26", "2010-12-01 08:26", "2010-12-01 08:26:00", None]


def test_a_category_path_ends_at_a_loop_in_the_tree():
    parents = {"a": "b", "b": "c", "c": "a"}
    assert layout_rows._path_to_root("a", parents) == "c > b > a"


def test_a_layout_that_needs_no_catalogue_makes_one_of_the_log(tmp_path):
    for name, kept in (("retailrocket", "events.csv"), ("recbole", "ml-100k.inter")):
        place = tmp_path / name
        place.mkdir()
        BY_NAME[name].write(place)
        for path in place.iterdir():
            if path.name != kept:
                path.unlink()
        _, raw, _, events_kept, _ = load(config_of(place, name))
        assert (len(raw.table), len(events_kept)) == (5, 20)


def test_a_recbole_log_of_sessions_and_of_other_items_is_named_by_its_columns():
    table = pa.table({"session_id:token": ["s"], "artist_id:token": ["a"], readers.ROW: [0]})
    made = layout_rows.recbole_columns(table, {})
    assert made["user_id"].to_pylist() == ["s"]
    assert made["item_id"].to_pylist() == ["a"]
    items_only = pa.table({"item_id:token": ["a"], "price:float": ["1"], readers.ROW: [0]})
    assert layout_rows.recbole_columns(items_only, {})["title"].to_pylist() == [None]


@pytest.mark.parametrize("kind", ["list", "large_list", "fixed"])
def test_lists_of_parquet_are_a_row_an_event_without_a_layout(tmp_path, kind):
    make = {
        "list": pa.list_,
        "large_list": pa.large_list,
        "fixed": lambda inner: pa.list_(inner, 2),
    }[kind]
    pq.write_table(
        pa.table(
            {
                "user_id": ["a", "b"],
                "item_id": pa.array([["x", "y"], ["y", "z"]], make(pa.string())),
                "timestamp": pa.array([[1, 2], [3, 4]], make(pa.int64())),
            }
        ),
        tmp_path / "log.parquet",
    )
    config = override(Config(), {"data.clicks": str(tmp_path / "log.parquet")})
    _, raw, _, kept, counts = load(config)
    ids = raw.item_ids.to_pylist()
    found = [(e["user_id"], ids[e["item"]], e["timestamp"], e[readers.ROW]) for e in kept]
    assert found == [("a", "x", 1, 1), ("a", "y", 2, 1), ("b", "y", 3, 2), ("b", "z", 4, 2)]
    assert counts.lines["made"] == 2


CELLS = st.sampled_from(
    ["", "NULL", "-1", "1e400", "9" * 20, "x", '"', "[", "{}", "2024-13-45", "\0", "ä"]
)


@given(st.sampled_from(sorted(BY_NAME)), st.data())
def test_a_damaged_published_data_set_adds_up_or_is_refused(tmp_path_factory, name, data):
    place = tmp_path_factory.mktemp("damaged")
    BY_NAME[name].write(place)
    files = sorted(p for p in place.rglob("*") if p.is_file() and p.suffix != ".zip")
    hypothesis.assume(files)
    path = files[data.draw(st.integers(0, len(files) - 1))]
    content = path.read_bytes()
    content = gzip.decompress(content) if path.suffix == ".gz" else content
    words = re.split(rb"([,;:|\t\n{}]+)", content)
    for _ in range(data.draw(st.integers(1, 4))):
        words[data.draw(st.integers(0, len(words) - 1))] = data.draw(CELLS).encode()
    damaged = b"".join(words)
    path.write_bytes(gzip.compress(damaged) if path.suffix == ".gz" else damaged)
    try:
        counts = load(config_of(place, name))[4]
    except UserError:
        return
    assert counts.num_rows == counts.kept + counts.dropped.total() + counts.rejected.total()
