import dataclasses
import json

import pyarrow as pa

from recdiv_core.formats import readers
from recdiv_core.formats.files import TextFormat, list_files
from recdiv_core.formats.reshape import Reshape

NAMES = {"user_id": "user_id", "item_id": "item_id", "event": "event"}


def twice(table, side):
    """Two events a row: of `a` and of `b`."""
    del side
    return pa.concat_tables(
        [
            pa.table({"user_id": table["u"], "item_id": table[name], readers.ROW: table["__row__"]})
            for name in ("a", "b")
        ]
    )


def count_items(table, side):
    del side
    return (
        table.select(["item_id"])
        .group_by("item_id")
        .aggregate([])
        .append_column(readers.ROW, pa.array(range(len(set(table["item_id"].to_pylist())))))
    )


def write(tmp_path, name, rows):
    (tmp_path / name).write_text("u,a,b\n" + "".join(f"{row}\n" for row in rows))


def read(files):
    columns = readers.find_columns(files, NAMES, ("item_id",), "data.clicks")
    units = readers.cut_units(files, "data.clicks")
    return [batch for unit in units for batch in readers.read_unit(unit, columns)]


def test_a_function_of_a_layout_makes_rows_that_keep_their_place_and_the_constants(tmp_path):
    write(tmp_path, "log.csv", ["1,x,y", "2,z,w"])
    files = [
        dataclasses.replace(f, reshape=Reshape(twice), partitions=(("event", "click"),))
        for f in list_files(str(tmp_path), "data.clicks")
    ]
    (batch,) = read(files)
    assert batch.num_made == 2
    assert batch.table.to_pylist() == [
        {"user_id": user, "item_id": item, "event": "click", readers.ROW: place}
        for user, item, place in [("1", "x", 2), ("2", "z", 3), ("1", "y", 2), ("2", "w", 3)]
    ]


def test_what_is_made_of_all_rows_is_made_once_of_all_files(tmp_path):
    write(tmp_path, "a.csv", ["1,x,y"])
    write(tmp_path, "b.csv", ["2,y,w"])
    files = [
        dataclasses.replace(f, reshape=Reshape(twice, count_items))
        for f in list_files(str(tmp_path), "data.clicks")
    ]
    batches = read(files)
    assert [b.table.num_rows for b in batches] == [0, 0, 3]
    assert sorted(batches[-1].table["item_id"].to_pylist()) == ["w", "x", "y"]
    assert sum(b.num_made for b in batches) == 1  # 3 items of 2 rows


def test_each_file_may_be_written_in_its_own_way(tmp_path):
    (tmp_path / "a.csv").write_text("u,i\n")
    (file,) = list_files(str(tmp_path), "data.clicks")
    text = TextFormat(header=("user_id", "item_id"))
    (unit,) = readers.cut_units([dataclasses.replace(file, text=text)], "data.clicks")
    assert unit.text is text


def test_a_list_of_events_in_json_lines_is_a_row_an_event(tmp_path):
    rows = [
        {"session": 1, "events": [{"aid": "x"}, {"aid": "y"}]},
        {"session": 2, "events": [{"aid": "z"}]},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = list_files(str(tmp_path), "data.clicks")
    names = {"user_id": "session", "item_id": "events.aid", "event": "event"}
    columns = readers.find_columns(files, names, ("item_id",), "data.clicks")
    (batch,) = readers.read_unit(readers.cut_units(files, "data.clicks")[0], columns)
    assert batch.num_made == 1
    assert batch.table.to_pylist() == [
        {"user_id": 1, "item_id": "x", readers.ROW: 1},
        {"user_id": 1, "item_id": "y", readers.ROW: 1},
        {"user_id": 2, "item_id": "z", readers.ROW: 2},
    ]


def test_a_row_with_lists_of_different_lengths_is_handed_back_as_broken(tmp_path):
    row = {"user_id": 1, "item_id": ["x", "y"], "event": ["click"]}
    good = {"user_id": 2, "item_id": ["z"], "event": ["cart"]}
    (tmp_path / "log.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(good) + "\n")
    (batch,) = read(list_files(str(tmp_path), "data.clicks"))
    assert batch.table["item_id"].to_pylist() == ["z"]
    assert [(place, reason) for place, _, reason in batch.broken] == [(1, readers.UNEVEN)]
    assert batch.num_made == 0
