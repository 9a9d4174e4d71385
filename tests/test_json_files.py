"""JSON Lines, JSON arrays and Python literals; what is no row is named with its line."""

import json

import pytest

from recdiv_core.errors import UserError
from recdiv_core.formats import readers
from recdiv_core.formats.files import list_files

COLUMNS = {"user": "user", "item": "item"}


def read(tmp_path, text, name="log.jsonl", columns=COLUMNS):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    (unit,) = readers.cut_units(list_files(str(path), "data.clicks"), "data.clicks")
    (batch,) = readers.read_unit(unit, columns)
    return batch


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("times", [1, 2])
def test_an_array_of_objects_is_read(tmp_path, indent, times):
    rows = [{"user": "a", "item": 1}, {"user": "b"}, 7]
    batch = read(tmp_path, json.dumps(rows, indent=indent) * times, "log.json")
    assert batch.table["user"].to_pylist() == ["a", "b"] * times
    assert batch.table[readers.ROW].to_pylist()[:2] == [1, 2]
    assert batch.broken[0] == (3, "7", "not a JSON object")


@pytest.mark.parametrize("text", ['[{"user": 1}, {"us', '[{"user": 1}', '[{"user": 1},\n{oops}]'])
def test_an_array_that_breaks_off_is_refused(tmp_path, text):
    with pytest.raises(UserError, match=r"log\.json (breaks off|is no JSON array)"):
        read(tmp_path, text, "log.json")


def test_python_literals_are_read_but_never_run(tmp_path):
    text = "{'user': 'a', 'item': None}\n{'user': \"it's\"}\n{'user': __import__('os')}\n"
    batch = read(tmp_path, text)
    assert batch.table["user"].to_pylist() == ["a", "it's"]
    assert [place for place, _, _ in batch.broken] == [3]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"user": "a", "user": "b"}', "the key 'user' stands twice in the object"),
        ("[" * 100_000, "JSON that is nested too deeply"),
        ('{"user": ' + "[" * 5000 + "]" * 5000 + "}", "JSON that is nested too deeply"),
        ("{", "a JSON object over several lines; one a line is wanted"),
        ('["a"]', "not a JSON object"),
        ("user,item", "not a JSON object"),
        ('{"user": ' + "9" * 5000 + "}", "not a JSON object"),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path, line, reason):
    batch = read(tmp_path, '{"user": 1}\n\n' + line + '\n{"user": 2}')
    assert [(place, why) for place, _, why in batch.broken] == [(3, reason)]
    assert batch.table["user"].to_pylist() == [1, 2]
    assert batch.num_blank == 1


def test_half_a_surrogate_pair_is_repaired_and_counted(tmp_path):
    batch = read(tmp_path, '{"user": "a\\ud83d"}\n{"user": "\\ud83d\\ude00"}\n')
    assert batch.table["user"].to_pylist() == ["a\ufffd", "\U0001f600"]
    assert batch.num_repaired == 1


def test_half_a_surrogate_pair_in_nested_values_and_names_is_repaired(tmp_path):
    batch = read(tmp_path, '{"a": [{"b": "\\udc00"}], "c\\ud800": 1}\n', columns=None)
    row = batch.table.to_pylist()[0]
    assert row == {"a": [{"b": "\ufffd"}], "c\ufffd": 1, readers.ROW: 1}


def test_no_number_and_numbers_of_any_size_are_read(tmp_path):
    lines = ["NaN", "Infinity", "-Infinity", "1e999", str(10**400), "1.0", "true", '"x"']
    batch = read(tmp_path, "".join(f'{{"user": {value}}}\n' for value in lines))
    assert batch.table["user"].to_pylist()[4:] == [str(10**400), "1", "true", "x"]
    assert not batch.broken


def test_an_object_without_the_columns_is_a_row_of_nothing(tmp_path):
    batch = read(tmp_path, '{"x": 1}\n{"user": 1}\n')
    assert batch.table["user"].to_pylist() == [None, 1]
    batch = read(tmp_path, '{"x": 1}\n')
    assert batch.table.num_rows == 1
    assert batch.table.column_names == [readers.ROW]


def test_text_that_is_no_text_costs_its_own_line(tmp_path):
    lines = [f'{{"user": {k}}}'.encode() for k in range(200)]
    lines[100] = b'{"user": "\xff"}'
    batch = read(tmp_path, b"\n".join(lines))
    assert [place for place, _, _ in batch.broken] == [101]
    assert batch.table.num_rows == 199
