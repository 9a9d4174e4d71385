"""Laws of the CSV reader: every line is accounted for, whatever the file holds."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.formats import readers
from recdiv_core.formats.files import TextFormat

BREAKS = ["\n", "\r\n"]
SEPARATORS = [",", "\t", ";", "|", "::", "\x01", "¦"]


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("csv") / "log.csv"


def read(path: Path, data: str | bytes, block_bytes=1 << 20, **text):
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    unit = readers.ReadUnit(str(path), "csv", 0, text=TextFormat(**text))
    return list(readers.read_unit(unit, None, block_bytes))


def rows_of(batches):
    return [row for batch in batches for row in batch.table.to_pylist()]


def values_of(batches):
    return [[v or "" for k, v in row.items() if k != readers.ROW] for row in rows_of(batches)]


def broken_of(batches):
    return [line for batch in batches for line in batch.broken]


def count(batches, name):
    return sum(getattr(batch, f"num_{name}") for batch in batches)


# --------------------------------------------------------------------------- laws

rough_text = st.text(st.sampled_from(list('ab1",;\t|:\r\n é\0')), max_size=12)


@given(
    lines=st.lists(rough_text, max_size=12),
    end=st.sampled_from(BREAKS),
    separator=st.sampled_from(SEPARATORS),
    block_bytes=st.sampled_from([1, 7, 64, 1 << 20]),
)
def test_any_lines_are_accounted_for_and_blocks_do_not_matter(
    path, lines, end, separator, block_bytes
):
    data = separator.join("abc") + "\n" + end.join(lines)
    whole = read(path, data, separator=separator)
    parts = read(path, data, block_bytes, separator=separator)
    assert rows_of(parts) == rows_of(whole)
    assert broken_of(parts) == broken_of(whole)
    for name in ("lines", "blank", "continued", "stray_quotes"):
        assert count(parts, name) == count(whole, name)
    num_ends = data.replace("\r\n", "\n").count("\n") + (not data.endswith("\n"))
    assert count(whole, "lines") >= num_ends  # more where a lone carriage return ends lines
    places = [row[readers.ROW] for row in rows_of(whole)]
    assert places == sorted(set(places))


plain_value = st.text(st.sampled_from(list("abé.- ")), max_size=6)
quoted_value = st.text(st.sampled_from(list('ab",\r\n;|')), max_size=10)


@given(
    values=st.lists(st.tuples(plain_value, quoted_value, quoted_value), max_size=10),
    written=st.sampled_from([("\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_MINIMAL)]),
    separator=st.sampled_from([",", "\t", ";", "|"]),
    block_bytes=st.sampled_from([16, 1 << 20]),
    place=st.integers(0, 3),
)
def test_what_pythons_csv_writes_comes_back(path, values, written, separator, block_bytes, place):
    """A column of numbers tells a row from a line that only looks like one."""
    values = [("x", "y", "z"), *values]
    rows = [[*row[:place], "17.5", *row[place:]] for row in values]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator=written[0], quoting=written[1], delimiter=separator)
    writer.writerows([list("abcd"), *rows])
    batches = read(path, out.getvalue(), block_bytes, separator=separator)
    assert values_of(batches) == rows
    assert not broken_of(batches)
    assert not count(batches, "stray_quotes")


@given(
    values=st.lists(st.tuples(plain_value, st.integers(0, 99), plain_value), min_size=1),
    data=st.data(),
    is_quoted=st.booleans(),
    block_bytes=st.sampled_from([16, 1 << 20]),
)
def test_a_stray_quotation_mark_costs_at_most_its_own_line(
    path, values, data, is_quoted, block_bytes
):
    out = io.StringIO()
    quoting = csv.QUOTE_ALL if is_quoted else csv.QUOTE_MINIMAL
    rows = [[str(value) for value in row] for row in values]
    csv.writer(out, lineterminator="\n", quoting=quoting).writerows(rows)
    lines = out.getvalue().splitlines()
    number = data.draw(st.integers(0, len(lines) - 1))
    at = data.draw(st.integers(0, len(lines[number])))
    lines[number] = lines[number][:at] + '"' + lines[number][at:]
    batches = read(path, "a,b,c\n" + "\n".join(lines) + "\n", block_bytes)
    assert count(batches, "lines") == len(lines) + 1
    found = {row[readers.ROW]: [row[n] or "" for n in "abc"] for row in rows_of(batches)}
    for other, row in enumerate(rows):
        assert other == number or found[other + 2] == row
    assert len(found) + len(broken_of(batches)) == len(rows)


# --------------------------------------------------------------------------- kinds of fault

HEAD = "user,item,time,query\n"


def line_of(number, query="shoes"):
    return f"u{number},i{number},{1700000000 + number},{query}\n"


@pytest.mark.parametrize("bad", [(100,), (100, 600), (100, 101), (999,)])
def test_a_mark_that_is_never_closed_swallows_nothing(path, bad):
    data = HEAD + "".join(line_of(k, '"air max' if k in bad else "shoes") for k in range(1000))
    batches = read(path, data)
    assert len(rows_of(batches)) == 1000
    assert count(batches, "stray_quotes") == len(bad)
    assert rows_of(batches)[bad[0]]["query"] == '"air max'
    assert [row[readers.ROW] for row in rows_of(batches)] == list(range(2, 1002))


def test_a_mark_that_opens_and_one_that_ends_a_later_line_are_two_stray_marks(path):
    queries = {3: '"air max', 4: 'tv 24"', 9: 'tv 32"'}
    data = HEAD + "".join(line_of(k, queries.get(k, "shoes")) for k in range(20))
    batches = read(path, data)
    assert [row["query"] for row in rows_of(batches)][3:5] == ['"air max', 'tv 24"']
    assert len(rows_of(batches)) == 20


def test_a_description_of_several_lines_is_one_row(path):
    text = "Light, soft, and warm\n\nTwo sizes, one colour, no zip"
    data = HEAD + line_of(0) + f'u1,i1,17,"{text}"\n' + line_of(2)
    batches = read(path, data)
    assert [row["query"] for row in rows_of(batches)] == ["shoes", text, "shoes"]
    assert [row[readers.ROW] for row in rows_of(batches)] == [2, 3, 6]
    assert count(batches, "continued") == 2


def test_rows_of_another_width_are_named_with_their_own_line(path):
    data = HEAD + line_of(0) + "\nu1,i1\n" + line_of(2) + "a,b,c,d,e\n"
    batches = read(path, data)
    assert broken_of(batches) == [
        (4, "u1,i1", "2 fields instead of 4"),
        (6, "a,b,c,d,e", "5 fields instead of 4"),
    ]
    assert count(batches, "blank") == 1


def test_a_mark_that_breaks_the_width_of_its_line_is_named(path):
    data = HEAD + line_of(0) + 'u1,"i,1,17,shoes\n' + line_of(2)
    batches = read(path, data)
    assert broken_of(batches) == [(3, 'u1,"i,1,17,shoes', "a quotation mark that is never closed")]
    assert len(rows_of(batches)) == 2


def test_marks_in_tab_separated_files_are_text_unless_they_close(path):
    data = 'id\ttitle\n1\t"Weird Al" Yankovic\n2\t"Heroes"\n3\t"24\n'
    titles = [row["title"] for row in rows_of(read(path, data, separator="tab"))]
    assert titles == ['"Weird Al" Yankovic', "Heroes", '"24']


def test_names_twice_empty_or_internal_do_no_harm_where_nobody_needs_them(path):
    data = ",user,x,x,__row__\n0,a,1,2,7\n1,b,3,4,8\n"
    assert rows_of(read(path, data)) == [
        {"user": "a", "x": "1", readers.ROW: 2},
        {"user": "b", "x": "3", readers.ROW: 3},
    ]


def test_a_field_may_be_long_and_hold_nul(path):
    long = "x" * 200_000
    assert rows_of(read(path, f"a,b\n{long},\0\n"))[0] == {"a": long, "b": "\0", readers.ROW: 2}


def test_lone_carriage_returns_end_lines_that_are_no_rows_otherwise(path):
    batches = read(path, "a,b\n1,2\r3,4\r5,6\n7,8\r9\n")
    assert [row["a"] for row in rows_of(batches)] == ["1", "3", "5", "7"]
    assert rows_of(batches)[3]["b"] == "8\r9"
    assert count(batches, "lines") == 5


@pytest.mark.parametrize("separator", ['"', "\n", "\r", "\0", ',"'])
def test_a_separator_that_cannot_be_one_is_refused(path, separator):
    with pytest.raises(readers.UserError, match=r"data\.separator="):
        read(path, "a,b\n", separator=separator)
