import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.config import Config, override
from recdiv_core.data import events, outcomes
from recdiv_core.formats import readers
from recdiv_core.formats.files import list_files

ITEMS = pa.array(["a", "b", "c"])
SETTINGS = {"data.clicks": "log", "data.num_shards": 4}
LOG = {"user_id": "u", "item_id": "a", "timestamp": "1388534400", "event": "click"}


def open_jsonl(tmp_path, rows, **values):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = override(Config(), SETTINGS | values)
    files = list_files(str(path), "data.clicks")
    return events.open_log(files, ITEMS, config), config


def judge(tmp_path, rows, **values):
    good = [LOG | {"event": kind} for kind in ("click", "cart") for _ in range(10)]
    log, config = open_jsonl(tmp_path, [*good, *rows], **values)
    (batch,) = readers.read_unit(log.units[0], log.columns)
    return events.classify_rows(batch, log, ITEMS, config)[:3]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"user_id": None}, "missing user_id"),
        ({"user_id": ""}, "missing user_id"),
        ({"item_id": None}, "missing item_id"),
        ({"timestamp": None}, "missing timestamp"),
        ({"timestamp": "soon"}, "timestamp does not parse"),
        ({"timestamp": "-5"}, "timestamp in another unit than the column's"),
        ({"timestamp": "1388534400000"}, "timestamp in another unit than the column's"),
        ({"event": "viewed"}, "unknown event"),
        ({"event": None}, "unknown event"),
        ({"item_id": "z"}, "item not in the catalogue"),
    ],
)
def test_a_broken_row_is_quarantined_with_its_reason(tmp_path, change, reason):
    kept, rejected, counts = judge(tmp_path, [LOG | change])
    assert rejected["reason"].to_pylist() == [reason]
    assert rejected["row_number"].to_pylist() == [21]
    given = json.loads(rejected["row"][0].as_py())
    assert {name: given[name] for name in change} == change
    assert counts.rejected == {reason: 1}
    assert counts.num_rows == 21
    assert kept.num_rows == 20


def test_other_kinds_of_event_are_left_out_and_counted(tmp_path):
    kept, rejected, counts = judge(tmp_path, [LOG], **{"data.events": ("cart",)})
    assert kept.num_rows == 10
    assert counts.dropped == {"kind of event not in data.events": 11}
    assert rejected.num_rows == 0


def test_kinds_of_event_do_not_matter_without_an_event_column(tmp_path):
    rows = [{"user_id": "u", "item_id": "a", "timestamp": t} for t in (1, 2)]
    log, config = open_jsonl(tmp_path, rows, **{"data.events": ("cart",)})
    (batch,) = readers.read_unit(log.units[0], log.columns)
    kept, *_ = events.classify_rows(batch, log, ITEMS, config)
    assert not log.has_timestamps
    assert kept["timestamp"].to_pylist() == [1, 2]


def test_a_user_is_always_in_the_same_shard():
    hashes = events.hash_users(pa.array(["u", "花子", "u", None]))
    assert hashes[0] == hashes[2]
    assert hashes[:2].tolist() == [224103037389760772, 1382472926622390208]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"item_id": "z"},
            "item not in the catalogue: 30.*e.g. row [0-9]+: 'z'; look at data.items",
        ),
        ({"timestamp": -5}, "negative time: 30.*data.columns"),
        ({"timestamp": "soon"}, "no value is a time.*'soon'"),
        ({"event": "viewed"}, "unknown event: 30.*'viewed': 30; known are impression, click"),
        ({"event": "viewed"}, "e.g. data.event_names.viewed=click, or =drop to leave them out"),
        ({"user_id": None}, "missing user_id: 30.*data.columns.user_id"),
    ],
)
def test_a_log_of_broken_rows_is_stopped_before_ray_starts(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        open_jsonl(tmp_path, [LOG | change] * 30)


def test_too_many_broken_rows_in_a_sample_are_told_before_ray_starts(tmp_path, caplog):
    rows = [LOG] * 80 + [LOG | {"event": "basket"}] * 20
    open_jsonl(tmp_path, rows, **{"data.max_quarantined": 0.2})
    assert "cannot be used" not in caplog.text
    open_jsonl(tmp_path, rows)
    assert "(a sample): 20 of 100 rows cannot be used (unknown event: 20)" in caplog.text
    assert "data.event_names.basket=click" in caplog.text


def test_a_log_without_rows_is_an_error(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n")
    files = list_files(str(tmp_path / "log.csv"), "data.clicks")
    with pytest.raises(ValueError, match=r"data.clicks=log holds no rows"):
        events.open_log(files, ITEMS, override(Config(), SETTINGS))


def test_a_log_whose_lines_are_all_broken_is_not_called_empty(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + "u;a;1\n" * 30)
    files = list_files(str(tmp_path / "log.csv"), "data.clicks")
    message = r"data.clicks=log: no line is a row.*e.g. line 2: 1 field instead of 3: 'u;a;1'"
    with pytest.raises(ValueError, match=message):
        events.open_log(files, ITEMS, override(Config(), SETTINGS))


def test_kinds_that_are_left_out_are_logged_by_their_names(tmp_path, caplog):
    caplog.set_level("INFO")
    rows = [LOG | {"event": word} for word in ("scroll", "refund", "scroll", "click")]
    names = {"data.event_names": {"scroll": "drop", "refund": "drop"}}
    counts = judge(tmp_path, rows, **names)[2]
    assert counts.left_out == {"scroll": 2, "refund": 1}
    outcomes.log_left_out(counts.rejected, counts.dropped, counts.left_out)
    rule = "kind of event that data.event_names drops"
    assert caplog.messages[-1] == f"rows skipped: {rule}: 3 ('scroll': 2, 'refund': 1)"


def test_the_limit_on_broken_rows_is_a_share():
    counts = outcomes.RowCounts()
    counts.num_rows = 100
    counts.rejected["negative time"] = 5
    counts.examples["negative time"] = "row 7"
    outcomes.check_rejected(counts, 0.05, Config(), "data.clicks")
    with pytest.raises(ValueError, match=r"5 of 100 rows cannot be used.*data.max_quarantined"):
        outcomes.check_rejected(counts, 0.04, Config(), "data.clicks")


def test_a_catalogue_with_a_row_per_size_is_told_to_have_one_per_item():
    counts = outcomes.RowCounts(num_rows=10)
    counts.rejected["duplicate item_id with other values"] = 6
    counts.examples["duplicate item_id with other values"] = "row 4"
    with pytest.raises(ValueError, match=r"e\.g\. row 4; give one row per item: the first row"):
        outcomes.check_rejected(counts, 0.05, Config(), "data.items")


@pytest.mark.parametrize("word", ["NULL", "\\N", "nan", "None", "N/A", "  ", "", None])
def test_a_word_for_nothing_is_no_user_and_no_item(tmp_path, word):
    _, rejected, counts = judge(tmp_path, [LOG | {"user_id": word}, LOG | {"item_id": word}])
    assert rejected["reason"].to_pylist() == ["missing user_id", "missing item_id"]
    assert counts.kept == 20


def test_words_for_nothing_can_be_named(tmp_path):
    row = LOG | {"user_id": "anonymous"}
    assert judge(tmp_path, [row])[2].kept == 21
    counts = judge(tmp_path, [row], **{"data.null_words": ("Anonymous",)})[2]
    assert counts.rejected == {"missing user_id": 1}


def test_ids_of_one_spelling_are_one_id(tmp_path):
    global_ids = pa.array(["1", "b"])
    rows = [
        LOG | {"item_id": item, "user_id": user} for item in (1, "1", "1.0", " 1") for user in "u"
    ]
    log, config = open_jsonl(tmp_path, [LOG] * 10 + rows)
    (batch,) = readers.read_unit(log.units[0], log.columns)
    kept, _, counts, _ = events.classify_rows(batch, log, global_ids, config)
    assert kept["item"].to_pylist() == [0, 0, 0, 0]
    assert counts.coerced == {
        "blanks around an id left out": 1,
        "point of a whole number left out": 1,
    }


def test_words_for_kinds_of_event_are_mapped_and_unknown_ones_are_counted(tmp_path):
    rows = [LOG | {"event": word} for word in ("View", "addtocart", "hover", "swipe", "swipe")]
    names = {"view": "click", "addtocart": "cart", "hover": "drop"}
    kept, rejected, counts = judge(tmp_path, rows, **{"data.event_names": names})
    assert kept["event"].to_pylist()[-2:] == [1, 2]
    assert counts.dropped == {"kind of event that data.event_names drops": 1}
    assert counts.words == {"swipe": 2}
    assert rejected["reason"].to_pylist() == ["unknown event"] * 2


def test_a_search_that_found_nothing_is_counted_apart(tmp_path):
    search = LOG | {"item_id": None, "query": "xqzt"}
    rows = [search | {"event": "impression"}, search | {"event": "search"}, search]
    _, rejected, counts = judge(tmp_path, rows)
    assert counts.dropped == {"search without a result": 2}
    assert rejected["reason"].to_pylist() == ["missing item_id"]  # a click is on something


def test_ratings_below_the_lowest_are_left_out(tmp_path):
    rows = [LOG | {"rating": rating} for rating in (3.5, "4", 5, None)]
    _, _, counts = judge(tmp_path, rows, **{"data.min_rating": 4})
    assert counts.dropped == {"rating below data.min_rating": 1}


def test_a_time_in_the_far_future_is_quarantined(tmp_path):
    _, rejected, _ = judge(tmp_path, [LOG | {"timestamp": "9000000000"}])
    assert rejected["reason"].to_pylist() == ["time in the future"]


def test_queries_are_spelt_in_one_way(tmp_path):
    rows = [LOG | {"query": query} for query in ("Red  SHOE ", "red\u3000shoe", " ", "nan")]
    assert judge(tmp_path, rows)[0]["query"].to_pylist()[-4:] == [
        "red shoe",
        "red shoe",
        None,
        None,
    ]


CELL = st.sampled_from(
    ["u", "a", "z", "", "NULL", "1388534400", "20", "soon", "click", "view", "4"]
)


@given(rows=st.lists(st.fixed_dictionaries(dict.fromkeys(events.READ, CELL)), max_size=20))
def test_no_row_is_lost(rows, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("log")
    kept, rejected, counts = judge(tmp_path, rows, **{"data.min_rating": 3})
    assert counts.num_rows == 20 + len(rows)
    assert counts.num_rows == kept.num_rows + rejected.num_rows + counts.dropped.total()


def test_users_are_spread_over_all_shards(tmp_path):
    kept, _, _ = judge(tmp_path, [LOG | {"user_id": f"u{n}"} for n in range(40)])
    assert set(kept["shard"].to_pylist()) == {0, 1, 2, 3}
