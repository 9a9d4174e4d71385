"""A directory of slates inspected: read, refused, and told on a page."""

import html
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.errors import UserError
from recdiv_core.evaluation.sameness import latest_distinct
from recdiv_core.report.inspection import inspect
from recdiv_core.report.slate_metrics import MIN_SIZE
from recdiv_core.schema import SLATE
from recdiv_core.slates.recommend import PLAN
from recdiv_core.slates.search_requests import SPLIT
from tests.sweep_worlds import HOSTILE, K


@pytest.fixture(scope="module")
def shop(swept_shop):
    return swept_shop


def write(place, slates, plan=None):
    """Write slates, user_id -> item_ids, in two parts."""
    place.mkdir()
    rows = [{"user_id": u, "item_ids": own, "scores": [0.0] * len(own)} for u, own in slates]
    for part in range(2):
        table = pa.Table.from_pylist(rows[part::2], SLATE)
        pq.write_table(table, place / f"part-{part:05d}.parquet")
    if plan:
        (place / PLAN).write_text(json.dumps(plan))
    return place


def ids_of(shop):
    return pq.read_table(shop.prepared / "catalogue.parquet")["item_id"].to_pylist()


@pytest.fixture(scope="module")
def alike(shop, tmp_path_factory):
    """Return slates of which every second one is the same."""
    ids, rng = ids_of(shop), np.random.default_rng(0)
    slates = [
        (
            user["user_id"],
            [ids[item] for item in (range(K) if row % 2 else rng.permutation(len(ids))[:K])],
        )
        for row, user in enumerate(shop.users)
    ]
    return write(tmp_path_factory.mktemp("alike") / "slates", slates, {"users": "test"})


def test_users_with_one_slate_are_counted(shop, alike):
    result = inspect(shop.config, alike)
    num_users = len(shop.users)
    assert result["num_users"] == num_users
    assert result["k"] == K
    assert result["same_slates"] == [num_users // 2]
    assert result["figures"]["same_slate"] == pytest.approx(0.5, abs=0.02)
    assert "of slates are equal to another slate" in result["verdict"]
    assert result["segments"].keys() >= {"cold", "warm"}
    cold = sum(user["is_cold_user"] for user in shop.users)
    assert result["segments"]["cold"]["num_users"] == cold
    json.dumps(result, allow_nan=False)


def test_the_page_says_it_without_markup_of_the_shop(shop, alike):
    result = inspect(shop.config, alike)
    page = (alike / "_inspect.html").read_text(encoding="utf-8")
    assert "counts an\nequal part in each" in page
    assert html.escape(result["verdict"]) in page
    body = page[page.index("<body>") :]
    assert HOSTILE not in body
    assert "http" not in re.sub(r"<script.*?</script>", "", body, flags=re.DOTALL)


def test_older_slates_stand_beside(shop, alike, tmp_path):
    ids, rng = ids_of(shop), np.random.default_rng(1)
    varied = [(u["user_id"], [ids[i] for i in rng.permutation(len(ids))[:K]]) for u in shop.users]
    before = write(tmp_path / "before", varied, {"users": "test"})
    result = inspect(shop.config, alike, before=before, out=tmp_path / "page.html")
    alone = inspect(shop.config, before)
    assert result["before"] == alone["figures"]
    assert result["before"]["coverage"] >= result["figures"]["coverage"]
    assert result["before"]["personalisation"] > result["figures"]["personalisation"]
    assert "points" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_page_of_varied_slates_says_what_that_means(shop, tmp_path):
    ids = ids_of(shop)
    slates = [(user["user_id"], [ids[row]]) for row, user in enumerate(shop.users[: len(ids)])]
    result = inspect(shop.config, write(tmp_path / "own", slates, {"users": "none"}))
    assert result["verdict"] == "varied"
    page = (tmp_path / "own" / "_inspect.html").read_text(encoding="utf-8")
    assert "Varied: no finding holds for 20 % of the users or more" in page


def test_slates_from_elsewhere_are_of_everybody(shop, tmp_path):
    ids = ids_of(shop)
    slates = [("nobody we know", ids[:3]), (shop.users[0]["user_id"], []), ("and another", ids[:2])]
    result = inspect(shop.config, write(tmp_path / "foreign", slates))
    assert result["num_users"] == 3
    assert result["k"] == 3
    assert result["figures"]["num_compared"] == result["figures"]["narrowed"] == 0


def answered(place, shop, slates, requests):
    """Write slates of requests, (user_id, query, item_ids), as `recommend --queries` does."""
    write(place, [], {"users": "queries 0123"})
    rows = [
        {"user_id": user, "item_ids": own, "scores": [0.0] * len(own), "query": query}
        for user, query, own in slates
    ]
    schema = SLATE.append(pa.field("query", pa.string()))
    for part in range(2):
        own = rows[: len(rows) // 2] if part == 0 else rows[len(rows) // 2 :]
        pq.write_table(pa.Table.from_pylist(own, schema), place / f"part-{part:05d}.parquet")
    (place / SPLIT).mkdir()
    table = pa.Table.from_pylist(
        [{"history": history, "is_cold_user": not history} for history in requests],
        pa.schema([("history", pa.list_(pa.int32())), ("is_cold_user", pa.bool_())]),
    )
    pq.write_table(table, place / SPLIT / "part-00000.parquet")
    return place


def test_slates_of_queries_are_counted_as_requests(shop, tmp_path):
    ids = ids_of(shop)
    num_items = len(ids)
    slates = [
        (
            "" if row % 2 else "u",
            f"query {row}",
            [ids[(row + place) % num_items] for place in (0, 1)],
        )
        for row in range(2 * MIN_SIZE)
    ]
    histories = [[] if row % 2 else [row % num_items] for row in range(2 * MIN_SIZE)]
    result = inspect(shop.config, answered(tmp_path / "found", shop, slates, histories))
    assert (result["of"], result["num_users"]) == ("requests", 2 * MIN_SIZE)
    assert result["segments"]["cold"]["num_users"] == MIN_SIZE
    assert result["figures"]["num_compared"] > 0
    page = (tmp_path / "found" / "_inspect.html").read_text(encoding="utf-8")
    assert f"Slates of {2 * MIN_SIZE} requests" in page
    assert "Kinds of requests" in page


def test_requests_without_their_slates_are_refused(shop, tmp_path):
    place = answered(tmp_path / "found", shop, [("u", "blue", ids_of(shop)[:2])] * 2, [[]] * 3)
    with pytest.raises(UserError, match="2 of 3 requests answered"):
        inspect(shop.config, place)


def test_the_history_of_a_user_serves_each_of_their_requests(shop, tmp_path):
    user, ids = shop.users[0], ids_of(shop)
    place = answered(tmp_path / "found", shop, [(user["user_id"], "blue", ids[:2])] * 2, [])
    (place / PLAN).unlink()  # slates of another system
    result = inspect(shop.config, place)
    assert result["num_users"] == result["figures"]["num_compared"] == 2


@pytest.mark.parametrize(
    ("slates", "message"),
    [
        (
            [("u", ["no such item"])],
            "1 listed item not in the catalogue of data.prepared, e.g. 'no such",
        ),
        ([("u", []), ("u", [])], "1 user with several slates; .*column query"),
        ([("u", []), ("v", [])], "2 slates, all empty"),
        ([], "holds no slate"),
    ],
)
def test_what_are_no_slates_of_this_shop_is_refused(shop, tmp_path, slates, message):
    with pytest.raises(ValueError, match=message):
        inspect(shop.config, write(tmp_path / "slates", slates))


def test_a_file_in_place_of_a_directory_of_slates_is_named(shop, tmp_path):
    file = tmp_path / "slates.csv"
    file.touch()
    with pytest.raises(ValueError, match=r"^SLATES .*slates\.csv is not a directory"):
        inspect(shop.config, file)


def test_a_damaged_part_is_named(shop, tmp_path):
    place = write(tmp_path / "slates", [("u", [])])
    (place / "part-00001.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(ValueError, match=r"part-00001\.parquet cannot be read as slates"):
        inspect(shop.config, place)


@given(st.lists(st.lists(st.integers(0, 5), max_size=9), max_size=5), st.integers(1, 4))
def test_the_latest_distinct_items_are_those_of_a_loop(histories, k):
    flat = np.array([item for own in histories for item in own], dtype=np.int64)
    lengths = np.array([len(own) for own in histories], dtype=np.int64)
    expected = []
    for own in histories:
        latest = list(dict.fromkeys(reversed(own)))[:k]
        expected.append(latest + [-1] * (k - len(latest)))
    assert latest_distinct(flat, lengths, k).tolist() == expected
