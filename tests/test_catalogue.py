import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.config import Config, override
from recdiv_core.data import catalogue, items
from recdiv_core.formats.files import list_files


def read(path, **values):
    config = override(Config(), {"data.items": str(path), **values})
    return items.read_catalogue(list_files(str(path), "data.items"), config)


def write_csv(tmp_path, text):
    (tmp_path / "items.csv").write_text(text, encoding="utf-8")
    return tmp_path / "items.csv"


def test_broken_rows_are_rejected_with_their_reason_and_the_first_of_an_id_stays(tmp_path):
    raw = read(write_csv(tmp_path, "item_id,title,price\na,A,1.5\n,B,2\na,again,3\nb,,free\nc\n"))
    assert raw.table.to_pylist() == [
        {"item_id": "a", "title": "A", "price": 1.5},
        {"item_id": "b", "title": "", "price": None},
    ]
    assert {reason: len(rows) for reason, rows in raw.rejected.items()} == {
        "1 field instead of 3": 1,
        "missing item_id": 1,
        "duplicate item_id with other values": 1,
    }
    assert raw.num_rows == 5


def test_further_attributes_stay_and_names_of_ours_are_set_apart(tmp_path):
    table = pa.table({"item_id": [1], "title": ["A"], "size": [[1, 2]], "popularity": [9]})
    pq.write_table(table, tmp_path / "items.parquet")
    raw = read(tmp_path / "items.parquet")
    assert raw.table.to_pylist() == [
        {"item_id": "1", "title": "A", "size": [1, 2], "given_popularity": 9}
    ]


def test_columns_are_mapped_and_lists_of_categories_become_labels(tmp_path):
    (tmp_path / "items.jsonl").write_text(
        json.dumps({"sku": 7, "name": "茶", "tags": ["A > B", "C"]}) + "\n", encoding="utf-8"
    )
    names = {"item_id": "sku", "title": "name", "category": "tags"}
    raw = read(tmp_path / "items.jsonl", **{f"data.columns.{k}": v for k, v in names.items()})
    assert raw.table.to_pylist() == [{"item_id": "7", "title": "茶", "category": "A > B|C"}]


def test_a_text_field_that_is_no_column_is_an_error(tmp_path):
    path = write_csv(tmp_path, "item_id,title\na,A\n")
    with pytest.raises(ValueError, match=r"model.text.fields: 'titel' is no column.*title"):
        read(path, **{"model.text.fields": ("titel",)})


def test_a_catalogue_whose_lines_are_all_broken_is_not_called_empty(tmp_path):
    with pytest.raises(ValueError, match=r"data.items.*line 2: 1 field instead of 2: 'a;A'"):
        read(write_csv(tmp_path, "item_id,title\na;A\nb;B\n"))


def test_a_catalogue_of_a_header_alone_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"data.items.*holds no rows"):
        read(write_csv(tmp_path, "item_id,title\n"))


def test_categories_are_cut_at_a_level_and_counted_once():
    assert catalogue.parse_categories(["A > B > C|A > B > D", " ", "x"], level=2) == (
        [[0], [1], [2]],
        ["A > B", "(none)", "x"],
    )


def test_text_leaves_out_what_an_item_does_not_have():
    table = pa.table({"title": ["T", ""], "brand": ["B", None], "price": [1.5, 2.0]})
    texts = catalogue.make_texts(table, ("title", "category", "brand", "price"))
    assert texts.to_pylist() == ["T | B | 1.5", "2"]


@pytest.mark.parametrize("fields", [("title",), ("title", "category", "brand")])
def test_an_item_without_any_text_keeps_its_place(fields):
    table = pa.table({"title": ["A", None, "", "D"], "category": ["a", None, None, "d"]})
    texts = catalogue.make_texts(table, fields).to_pylist()
    assert texts[1:3] == ["", ""]
    assert texts[0].startswith("A")
    assert texts[3].startswith("D")


def test_the_catalogue_may_call_its_columns_otherwise_than_the_log(tmp_path):
    path = write_csv(tmp_path, "id,name\n1.0,A\n 2,B\nNULL,C\n")
    names = {"data.columns.item_id": "product_id", "data.item_columns.item_id": "id"}
    raw = read(path, **names, **{"data.item_columns.title": "name"})
    assert sorted(raw.item_ids.to_pylist()) == ["1", "2"]
    assert list(raw.rejected) == ["missing item_id"]


def test_identical_and_conflicting_duplicates_are_told_apart(tmp_path, caplog):
    raw = read(write_csv(tmp_path, "item_id,title\na,A\na,A\na,B\nb,B\n"))
    assert {reason: len(rows) for reason, rows in raw.rejected.items()} == {
        "duplicate item_id": 1,
        "duplicate item_id with other values": 1,
    }
    assert "1 row with an item_id of an earlier row and other values, e.g. 'a'" in caplog.text


def test_without_a_catalogue_the_items_are_those_of_the_log(tmp_path):
    (tmp_path / "log.csv").write_text(
        "user_id,item_id,timestamp,brand,price\nu,a,1,,2\nu,b,2,B,3\nv,a,3,A,9\nv,NULL,4,C,1\n"
    )
    files = list_files(str(tmp_path / "log.csv"), "data.clicks")
    raw = items.read_items_of_log(files, Config())
    found = {row["item_id"]: row for row in raw.table.to_pylist()}
    assert found == {
        "a": {"item_id": "a", "brand": "A", "price": 2.0, "title": ""},
        "b": {"item_id": "b", "brand": "B", "price": 3.0, "title": ""},
    }


def test_rows_that_are_left_out_describe_no_item(tmp_path):
    (tmp_path / "log.csv").write_text(
        "user_id,item_id,timestamp,event,title,price\n"
        "u,a,1,Stock,damaged,0\nu,a,2,click,Lamp,3\nu,b,3,stock,lost,0\nu,c,4,impression,Pot,2\n"
    )
    files = list_files(str(tmp_path / "log.csv"), "data.clicks")
    config = override(Config(), {"data.event_names": {"stock": "drop"}})
    raw = items.read_items_of_log(files, config)
    titles = dict(zip(*(raw.table[n].to_pylist() for n in ("item_id", "title")), strict=True))
    assert titles == {"a": "Lamp", "c": "Pot"}
    assert "event" not in raw.table.column_names


ROWS = ["i1,Cup,A|B", "i2,Mug,B", "i10,Pot,C", "x,,", "y,Pan,A > D", "1,One,E"]


@given(order=st.permutations(ROWS))
def test_the_order_of_rows_in_the_shops_file_changes_nothing(order, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    found = []
    for name, rows in (("one", ROWS), ("two", order)):
        (folder / name).mkdir()
        path = write_csv(folder / name, "\n".join(["item_id,title,category", *rows, ""]))
        raw = read(path)
        popularity_V = np.zeros(len(raw.table), np.int64)
        names = catalogue.write_catalogue(raw, popularity_V, 0, folder / name / "catalogue.parquet")
        found.append((names, pq.read_table(folder / name / "catalogue.parquet")))
    assert found[0] == found[1]


def test_items_stand_in_no_order_of_their_ids():
    ids = [f"i{number}" for number in range(100)]
    found = items.in_order_of_hash(pa.table({"item_id": ids}))["item_id"].to_pylist()
    place = [found.index(item_id) for item_id in ids]
    assert found[:3] == ["i95", "i88", "i30"]  # the same on every machine
    assert abs(np.corrcoef(place, range(100))[0, 1]) < 0.25
