import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdiv_core.config import Config, override
from recdiv_core.data import catalogue
from recdiv_core.data.files import list_files


def read(path, **values):
    config = override(Config(), {"data.items": str(path), **values})
    return catalogue.read_catalogue(list_files(str(path), "data.items"), config)


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
        "1 fields instead of 3": 1,
        "missing item_id": 1,
        "duplicate item_id": 1,
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
