"""The door under random files and settings: counts that add up, or one line that says why not.

Not Ray: what its tasks do to each unit is done here in one process. `RECDIV_FUZZ=1000` tries so
many inputs, other ones each time (`make fuzz`).
"""

import bz2
import datetime
import decimal
import gzip
import io
import json
import os
import re
import tempfile
import zipfile
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from recdiv_core.config import Config, override
from recdiv_core.data import events, items, outcomes
from recdiv_core.errors import UserError
from recdiv_core.formats import readers
from recdiv_core.formats.files import list_files

NUM_INPUTS = int(os.environ.get("RECDIV_FUZZ", "30"))
IDS = [
    "u1",
    "7",
    "7.0",
    " 7",
    "007",
    "NULL",
    "",
    "\\N",
    "nan",
    'a"b',
    "é",
    "a,b",
    "a\nb",
    "x" * 300,
]
KINDS = ["click", "view", "Purchase", "impression", "", "null", "cart", "add to cart"]
QUERIES = ["red shoe", '"air max', 'tv 24"', "", "a;b|c", "\U0001f600", "l1\nl2, l3", "\0", "\r"]
TIMES = [
    ["1700000000", "1700003600", "1700007200.5"],
    ["1700000000000", "1700003600", "oops"],
    ["2024-01-31 10:00:00 UTC", "2024-01-31T10:00:00+02:00", "2024-02-30"],
    ["31/01/2024", "01/02/2024", "12/25/2024"],
    ["20240131", "20240201", "1"],
    ["1", "2", "3"],
    ["", "NULL", "9999999999999999999999"],
    ["-5", "1e9", "253402300800", "0001-01-01"],
]
NAMES = ["user_id", "item_id", "timestamp", "event", "query"]
ODD_NAMES = ["", "__row__", "a.b", "user_id", "User_ID", "rating", "é", 'q"', "x" * 200, "1"]
ENCODINGS = ["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"]
COMPRESS = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}


def pick(draw, *choices):
    return draw(st.sampled_from(choices))


@st.composite
def tables(draw, names, pools):
    """Draw names of columns and rows of text."""
    odd = draw(st.sampled_from([*names, *[""] * 15]))
    shown = ["other" if name == odd else name for name in names]
    extra = draw(st.lists(st.sampled_from(ODD_NAMES), max_size=2))
    rows = [
        [draw(st.sampled_from(pool)) for pool in pools] + ["e"] * len(extra)
        for _ in range(draw(st.integers(0, 8)))
    ]
    # most rows of most files are sound
    times = draw(st.sampled_from([1, 1, 30]))
    return [*shown, *extra], rows * times


@st.composite
def delimited(draw, names, rows):
    separator = pick(draw, ",", ",", ",", "\t", ";", "::", "|")
    end = pick(draw, "\n", "\n", "\r\n", "\r")
    is_quoted = draw(st.booleans())

    def cell(value):
        if is_quoted and any(mark in value for mark in (separator, '"', "\n", "\r")):
            return '"' + value.replace('"', '""') + '"'
        return value

    lines = [separator.join(map(cell, row)) for row in rows]
    header = [separator.join(map(cell, names))] if draw(st.integers(0, 9)) else []
    text = end.join([*header, *lines]) + pick(draw, end, "")
    ext = pick(draw, ".csv", ".csv", ".tsv") if separator in ",\t" else pick(draw, ".csv", ".dat")
    return text, ext, separator


@st.composite
def json_text(draw, names, rows):
    objects = [dict(zip(names, row, strict=True)) for row in rows]
    for row in objects:
        if draw(st.integers(0, 20)) == 0:
            row[draw(st.sampled_from(names))] = pick(
                draw, None, 1.5, float("nan"), [1], {"a": 1}, True, "\ud83d", 10**30
            )
    if draw(st.integers(0, 3)) == 0:
        return json.dumps(objects, indent=pick(draw, None, 1)), ".json"
    dump = pick(draw, json.dumps, json.dumps, repr)
    return "".join(dump(row) + "\n" for row in objects), pick(draw, ".jsonl", ".json")


@st.composite
def damaged(draw, data):
    """Insert, cut or repeat bytes."""
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(data)))
        insert = pick(draw, b'"', b'""', b"\n", b"\n\n", b"\0", b"\xe9", b"\r", b",", b"\\", b"{")
        kind = pick(draw, "insert", "insert", "insert", "cut", "repeat")
        if kind == "insert":
            data = data[:at] + insert + data[at:]
        elif kind == "cut":
            data = data[:at]
        else:
            data = data + data[at:]
    return data


DAY = datetime.datetime(2024, 1, 31)
ODD_TYPES = [
    lambda n: pa.array([DAY] * n, pa.timestamp("ns", "Moon/Base")),
    lambda n: pa.array([DAY] * n, pa.timestamp("us")),
    lambda n: pa.array([2**52, -(2**52), None][:n] + [5] * (n - 3)).cast(pa.timestamp("s")),
    lambda n: pa.array([DAY.date()] * n, pa.date32()),
    lambda n: pa.array([DAY.time()] * n, pa.time64("us")),
    lambda n: pa.array([7] * n, pa.duration("s")),
    lambda n: pa.array(range(n), pa.uint64()),
    lambda n: pa.array([7.0, float("nan"), None, 0.5, 1e300][:n] + [1.0] * (n - 5)),
    lambda n: pa.array([None] * n),
    lambda n: pa.array([["a", None], [], None][:n] + [["b"]] * (n - 3)),
    lambda n: pa.array([{"a": [1], "b": DAY}] * n),
    lambda n: pa.array([[("k", DAY)]] * n, pa.map_(pa.string(), pa.timestamp("us"))),
    lambda n: pa.array([b"\xff"] * n),
    lambda n: pa.array([decimal.Decimal("1.50")] * n),
    lambda n: pa.array([True] * n),
    lambda n: pa.array(["a"] * n).dictionary_encode(),
]


@st.composite
def columns_of(draw, texts):
    """Draw a column of Parquet: mostly the texts."""
    if draw(st.integers(0, 6)):
        return pa.array(texts, pa.string())
    return draw(st.sampled_from(ODD_TYPES))(len(texts))


@st.composite
def files(draw, names, pools):
    """Draw a file: its bytes, its extension, and what its settings should say."""
    columns, rows = draw(tables(names, pools))
    kind = pick(draw, *["csv"] * 9, *["json"] * 3, *["parquet"] * 4, "xlsx")
    if kind == "parquet":
        unique = {name or "unnamed": k for k, name in enumerate(columns)}
        arrays = {name: draw(columns_of([row[k] for row in rows])) for name, k in unique.items()}
        out = io.BytesIO()
        pq.write_table(pa.table(arrays), out)
        return draw(damaged(out.getvalue())), ".parquet", {}
    if kind == "xlsx":
        book = openpyxl.Workbook()
        for row in [columns, *rows]:
            book.active.append([re.sub("[\0\r]", "", value) for value in row])
        out = io.BytesIO()
        book.save(out)
        return draw(damaged(out.getvalue())), ".xlsx", {}
    found = {}
    if kind == "csv":
        text, ext, separator = draw(delimited(columns, rows))
        if draw(st.integers(0, 4)):
            found["separator"] = separator
    else:
        text, ext = draw(json_text(columns, rows))
    encoding = draw(st.sampled_from(ENCODINGS))
    data = draw(damaged(text.encode(encoding, "replace")))
    if encoding in ("latin-1", "cp1252") and draw(st.booleans()):
        found["encoding"] = encoding
    compression = pick(draw, "", "", "", ".gz", ".bz2", ".zst", ".zip")
    if compression == ".zip":
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr(f"part{ext}", data)
        data = out.getvalue()
    else:
        data = COMPRESS[compression](data)
    return draw(damaged(data)) if compression else data, ext + compression, found


@st.composite
def choices(draw):
    """Draw settings of a user's."""
    pairs = {
        "data.header": st.just(tuple(NAMES)),
        "data.null_words": st.just(("x",)),
        "data.timestamp_format": st.sampled_from(["%d/%m/%Y", "%Y", "nonsense", "%Q"]),
        "data.events": st.sampled_from([("click",), ("impression", "purchase")]),
        "data.event_names": st.sampled_from([{"view": "click"}, {"add to cart": "drop"}]),
        "data.min_rating": st.just(3.0),
        "data.columns.user_id": st.sampled_from(["other", "a.b", "User_ID", ""]),
        "data.columns.event": st.sampled_from(["other", "nowhere", "dt"]),
        "data.item_columns": st.sampled_from([{"item_id": "other"}, {"title": "item_id"}]),
        "data.separator": st.sampled_from(["tab", '"', "::", ""]),
        "data.item_header": st.just(("item_id", "title", "price")),
    }
    names = draw(st.sampled_from([[], [], *([n] for n in sorted(pairs))]))
    found = {name: draw(pairs[name]) for name in names}
    found["data.max_quarantined"] = draw(st.sampled_from([0.0, 0.05, 1.0, 1.0, 1.0, 1.0]))
    return found


def pools_of(values):
    """Draw what a column holds: one or two ordinary values, or all kinds of them."""
    return st.sampled_from([values[:1], values[:2], values])


@st.composite
def inputs(draw):
    times = draw(st.sampled_from([TIMES[0], TIMES[0], TIMES[2], *TIMES]))
    pools = [draw(pools_of(IDS)), draw(pools_of(IDS)), times, draw(pools_of(KINDS)), QUERIES]
    logs = [draw(files(NAMES, pools)) for _ in range(draw(st.sampled_from([1, 1, 2])))]
    folders = [
        draw(st.sampled_from(["", "", "event=click", "dt=2024-01-01", "event=view/dt=x%20y"]))
        for _ in logs
    ]
    catalogue = draw(
        st.one_of(st.none(), files(["item_id", "title", "price"], [IDS, QUERIES, IDS]))
    )
    values = draw(choices())
    values = {f"data.{n}": v for n, v in logs[0][2].items()} | values
    if catalogue:
        values = {f"data.item_{n}": v for n, v in catalogue[2].items()} | values
    return logs, folders, catalogue, values


def come_in(root: Path, logs, folders, catalogue, values) -> outcomes.RowCounts:
    """Do what prepare does with its input before Ray, and what its tasks do with each unit."""
    for number, ((data, ext, _), folder) in enumerate(zip(logs, folders, strict=True)):
        (root / "log" / folder).mkdir(parents=True, exist_ok=True)
        (root / "log" / folder / f"part-{number}{ext}").write_bytes(data)
    config = override(Config(), {"data.clicks": str(root / "log"), **values})
    clicks = list_files(config.data.clicks, "data.clicks")
    if catalogue:
        (root / f"items{catalogue[1]}").write_bytes(catalogue[0])
        config = override(config, {"data.items": str(root / f"items{catalogue[1]}")})
        raw = items.read_catalogue(list_files(config.data.items, "data.items"), config)
    else:
        raw = items.read_items_of_log(clicks, config)
    log = events.open_log(clicks, raw.item_ids, config)
    total = outcomes.RowCounts()
    for unit in log.units:
        for batch in readers.read_unit(unit, log.columns):
            batch.check()
            kept, rejected, counts, _ = events.classify_rows(batch, log, raw.item_ids, config)
            assert (kept.num_rows, rejected.num_rows) == (counts.kept, counts.rejected.total())
            total.add(counts)
    total.check()
    assert len(raw.table) == len(set(raw.item_ids.to_pylist()))
    outcomes.check_rejected(total, config.data.max_quarantined, config, "data.clicks")
    return total


@settings(
    max_examples=NUM_INPUTS,
    deadline=None,
    derandomize="RECDIV_FUZZ" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(given_input=inputs())
def test_every_input_ends_in_counts_that_add_up_or_in_one_line(given_input):
    with tempfile.TemporaryDirectory() as root:
        message = try_to_come_in(Path(root), *given_input)
    event("refused" if message else "read")
    assert "\n" not in message
    assert len(message) < 2000


def try_to_come_in(root: Path, *given_input) -> str:
    """Return what a user's mistake is answered with; empty = the input was read."""
    try:
        total = come_in(root, *given_input)
    except UserError as error:
        return str(error).replace(str(root), "") or "nothing was said"
    assert total.num_rows == total.kept + total.dropped.total() + total.rejected.total()
    return ""
