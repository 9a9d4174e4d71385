"""Laws of the CSV reader: every line is accounted for, whatever the file holds."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recdiv_core.data import readers
from recdiv_core.data.files import TextFormat

BREAKS = ["\n", "\r\n"]
SEPARATORS = [",", "\t", ";", "|", "::", "\x01", "¦"]
relaxed = settings(deadline=None, max_examples=100)


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


@relaxed
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


@relaxed
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


@relaxed
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
