import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.formats import nested

LISTS = ("item_id", "timestamp", "event", "position")
OTTO = {
    "user_id": "session",
    "item_id": "events.aid",
    "timestamp": "events.ts",
    "event": "events.type",
}


def unnest(rows, columns):
    table = pa.Table.from_pylist(rows)
    table = table.append_column("row", pa.array(range(len(rows)), pa.int64()))
    made, uneven = nested.unnest(table, columns, LISTS, "row")
    return made.to_pylist(), uneven


def test_a_list_of_events_becomes_a_row_an_event_and_keeps_the_place():
    rows = [
        {
            "session": 7,
            "events": [{"aid": 1, "ts": 5, "type": "clicks"}, {"aid": 2, "ts": 6, "type": "carts"}],
        },
        {"session": 8, "events": []},
        {"session": 9, "events": [{"aid": 3, "ts": 7, "type": "orders"}]},
    ]
    assert unnest(rows, OTTO) == (
        [
            {"user_id": 7, "item_id": 1, "timestamp": 5, "event": "clicks", "row": 0},
            {"user_id": 7, "item_id": 2, "timestamp": 6, "event": "carts", "row": 0},
            {"user_id": 9, "item_id": 3, "timestamp": 7, "event": "orders", "row": 2},
        ],
        [],
    )


def test_lists_side_by_side_are_taken_apart_together():
    rows = [{"u": "a", "items": ["x", "y"], "times": [1, 2], "tags": ["t"]}]
    columns = {"user_id": "u", "item_id": "items", "timestamp": "times", "query": "tags"}
    assert unnest(rows, columns)[0] == [
        {"user_id": "a", "item_id": "x", "timestamp": 1, "query": ["t"], "row": 0},
        {"user_id": "a", "item_id": "y", "timestamp": 2, "query": ["t"], "row": 0},
    ]


def test_a_row_whose_lists_differ_in_length_is_named():
    rows = [{"items": ["x", "y"], "times": [1]}, {"items": ["z"], "times": [3]}]
    made, uneven = unnest(rows, {"item_id": "items", "timestamp": "times"})
    assert made == [{"item_id": "z", "timestamp": 3, "row": 1}]
    assert uneven == [0]


def test_fields_are_found_inside_structs_inside_names_with_dots_and_inside_json_text():
    rows = [{"a.b": {"c": {"d": 1}}, "text": '{"c": {"d": "2"}}', "none": None}]
    columns = {"item_id": "a.b.c.d", "user_id": "text.c.d", "event": "none.x", "query": "a.b.e"}
    assert unnest(rows, columns)[0] == [
        {"item_id": 1, "user_id": "2", "event": None, "query": None, "row": 0}
    ]


@pytest.mark.parametrize("text", ["", "no json", "[1]", None])
def test_text_that_is_no_json_object_holds_no_field(text):
    rows = [{"x": text, "y": "keeps the type"}, {"x": "{}", "y": ""}]
    assert unnest(rows, {"item_id": "x.id"})[0][0]["item_id"] is None


def test_a_flat_table_stays_as_it_is():
    rows = [{"u": 1, "i": 2}, {"u": 3, "i": 4}]
    assert unnest(rows, {"user_id": "u", "item_id": "i"})[0] == [
        {"user_id": 1, "item_id": 2, "row": 0},
        {"user_id": 3, "item_id": 4, "row": 1},
    ]


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=6))
def test_no_event_of_a_list_is_lost_and_none_is_made(lists):
    table = pa.table(
        {
            "items": pa.array(lists, pa.list_(pa.int64())),
            "row": pa.array(range(len(lists)), pa.int64()),
        }
    )
    made, uneven = nested.unnest(table, {"item_id": "items"}, LISTS, "row")
    assert made["item_id"].to_pylist() == [item for row in lists for item in row]
    assert made["row"].to_pylist() == np.repeat(range(len(lists)), [len(r) for r in lists]).tolist()
    assert not uneven


def test_a_row_without_a_list_makes_no_event():
    table = pa.table({"items": pa.array([None, [4]], pa.list_(pa.int64())), "row": [0, 1]})
    made, _ = nested.unnest(table, {"item_id": "items"}, LISTS, "row")
    assert made.to_pylist() == [{"item_id": 4, "row": 1}]


def test_below_a_name_with_a_dot_a_field_is_found():
    table = pa.table({"x": [{"a.b": {"c": 5}}], "row": [0]})
    made, _ = nested.unnest(table, {"item_id": "x.a.b.c"}, LISTS, "row")
    assert made["item_id"].to_pylist() == [5]
