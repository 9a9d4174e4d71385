from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from recdiv_core.data.arrays import Examples
from recdiv_core.data.catalogue import Catalogue
from recdiv_core.evaluation.groupings import (
    check_kinds,
    column_values,
    item_groups,
    merge,
    user_group_names,
    user_groups,
)


def catalogue(**columns) -> Catalogue:
    """Return ten items; item i has i train events and is of category i // 2, item 9 of 0 too."""
    ids = [f"i{item}" for item in range(10)]
    labels = [[item // 2] for item in range(9)] + [[4, 0]]
    return Catalogue(
        item_ids=pa.array(ids),
        titles=pa.array(ids),
        category_lists=pa.array(labels, pa.list_(pa.int32())),
        categories=("A", "B", "C", "D", "E"),
        popularity_V=np.arange(10),
        is_cold_V=np.arange(10) == 0,
        table=pa.table({"item_id": ids, **columns}),
    )


def members(groups) -> dict[str, list[int]]:
    return {name: mask.nonzero().flatten().tolist() for name, mask in groups.items()}


def test_items_by_popularity():
    # of 45 events 9 + 8 + 7 make half, 6 + 5 + 4 more bring it to 80 %
    groups = members(item_groups(["popularity"], catalogue())["popularity"])
    assert groups == {
        "popularity=head": [7, 8, 9],
        "popularity=mid": [4, 5, 6],
        "popularity=tail": [0, 1, 2, 3],
    }


def test_items_without_train_events_are_cold():
    groups = members(item_groups(["item"], catalogue())["item"])
    assert groups == {"item=cold": [0], "item=warm": list(range(1, 10))}


def test_items_by_category_stand_in_each_of_theirs():
    groups = members(item_groups(["category"], catalogue())["category"])
    assert groups["category=A"] == [0, 1, 9]
    assert groups["category=E"] == [8, 9]
    assert len(groups) == 5


def test_the_values_that_are_met_most_stand_alone_and_unknown_ones_nowhere():
    brands = ["a", "b", "c", "d", "e", "f", "g", "h", None, "j"]
    groups = members(item_groups(["brand"], catalogue(brand=brands))["brand"])
    assert [*groups] == [f"brand={name}" for name in "jhgfedcb"] + ["brand=(other)"]
    assert groups["brand=j"] == [9]
    assert groups["brand=(other)"] == [0]


def test_prices_are_grouped_in_bands():
    prices = [*range(9), float("nan")]
    groups = members(item_groups(["price"], catalogue(price=prices))["price"])
    assert {*groups} == {f"price=band {band}" for band in range(1, 6)}
    assert sorted(item for of in groups.values() for item in of) == [*range(9)]


def test_columns_in_which_nothing_is_known_give_no_groups():
    unknown = {"price": pa.nulls(10, pa.float64()), "brand": pa.nulls(10, pa.string())}
    groups = item_groups(["price", "brand"], catalogue(**unknown))
    assert not any(mask.any() for of in groups.values() for mask in of.values())


def test_columns_are_measured_and_our_own_kinds_are_not():
    values = column_values(["user", "category", "size"], catalogue(size=[38, 40] * 5))
    assert values.keys() == {"size"}
    assert values["size"].tolist() == [0, 1] * 5


def test_users_by_what_is_known_of_them():
    empty = np.zeros(0, np.int64)
    examples = Examples(empty, empty, np.array([3, -1, 0]), empty, empty, empty)
    examples = replace(examples, is_cold=np.array([True, False, False]))
    kinds = ["query", "user", "query_seen", "query_history", "query_script"]
    examples = replace(examples, lengths=np.array([0, 2, 1]))
    groups_Q = {"query_seen": np.array([0, 0, 0, 1]), "query_script": np.array([0, 0, 0, 1])}
    groups = merge(user_groups(kinds, examples, groups_Q), torch.device("cpu"))
    assert [*groups] == user_group_names(kinds)
    assert {name: own for name, own in members(groups).items() if own} == {
        "query=with": [0, 2],
        "query=without": [1],
        "user=cold": [0],
        "user=warm": [1, 2],
        "query_seen=yes": [2],
        "query_seen=no": [0],
        "query_history=with": [2],
        "query_history=without": [0],
        "query_script=latin": [2],
        "query_script=cyrillic": [0],
    }


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (["brnd"], r"eval.slices: 'brnd' is neither user, .* columns there: item_id, brand"),
        (["brand", "brand"], "each kind once"),
    ],
)
def test_a_kind_that_is_none_is_refused(kinds, message):
    with pytest.raises(ValueError, match=message):
        check_kinds(kinds, ["item_id", "brand"])


def test_our_kinds_and_columns_are_welcome():
    check_kinds(["user", "query", "popularity", "category", "brand"], ["item_id", "brand"])
