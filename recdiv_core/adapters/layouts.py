"""Layouts of well-known public data sets, as they are published: `data.layout=NAME`.

A layout is data: which files are the log and the catalogue, their text format, and settings that a
user could write in a YAML file. Settings of the user win. docs/layouts.md links the description of
each format. Functions on rows are in layout_rows.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from recdiv_core.adapters import layout_rows as rows
from recdiv_core.errors import UserError
from recdiv_core.formats.files import Format
from recdiv_core.formats.reshape import Rows

COMPRESSED: Final = ("", ".gz", ".zip", ".bz2", ".zst")
"""Extensions of compressed files, which every layout allows."""


@dataclass(frozen=True)
class Part:
    """Files of one shape within a published data set.

    Attributes:
        names: patterns of file names, in any case, without COMPRESSED.
        but_not: patterns of file names that are excluded.
        format: format of the files; None = given by the extension.
        separator, header, encoding: like `data.separator` and so on; empty = not fixed.
        constants: columns with one value in all rows.
        rows: function on each batch; None = no change.
        whole: function on all rows of the part together, from all its files.
        beside: name -> patterns of side files that `rows` and `whole` read.
        optional: names in `beside` that may be missing.
    """

    names: tuple[str, ...]
    but_not: tuple[str, ...] = ()
    format: Format | None = None
    separator: str = ""
    header: tuple[str, ...] = ()
    encoding: str = ""
    constants: tuple[tuple[str, str], ...] = ()
    rows: Rows | None = None
    whole: Rows | None = None
    beside: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    optional: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """One published data set.

    Attributes:
        log: alternatives of parts; the first alternative with files is read, all parts together.
        items: alternatives for the catalogue; empty = the catalogue is built from the log.
        needs_items: False = without files of `items` the catalogue is built from the log.
        settings: keys below `data.`, as in a YAML file.
        marks: column names by which `recdiv init` recognises a log with renamed files.
    """

    log: tuple[tuple[Part, ...], ...]
    items: tuple[tuple[Part, ...], ...] = ()
    needs_items: bool = True
    settings: Mapping[str, object] = field(default_factory=dict[str, object])
    marks: tuple[str, ...] = ()


MOVIELENS_GENRES: Final = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
RATINGS: Final = ("user_id", "item_id", "rating", "timestamp")
AMAZON: Final = {
    "columns.user_id": "reviewerID",
    "columns.item_id": "asin",
    "columns.timestamp": "unixReviewTime",
    "columns.rating": "overall",
    "item_columns": {"item_id": "item_id", "rating": "rating"},
}
PURCHASES: Final = (("event", "purchase"),)

LAYOUTS: Final[Mapping[str, Layout]] = {
    "movielens-100k": Layout(
        log=((Part(("u.data",), format="csv", separator="\t", header=RATINGS),),),
        items=(
            (
                Part(
                    ("u.item",),
                    format="csv",
                    separator="|",
                    header=(
                        *("item_id", "title", "release_date", "video_release_date", "imdb_url"),
                        *MOVIELENS_GENRES,
                    ),
                    encoding="latin-1",
                    rows=rows.movielens_flags,
                ),
            ),
        ),
    ),
    "movielens-1m": Layout(
        log=((Part(("ratings.dat",), format="csv", separator="::", header=RATINGS),),),
        items=(
            (
                Part(
                    ("movies.dat",),
                    format="csv",
                    separator="::",
                    header=("item_id", "title", "category"),
                    encoding="latin-1",
                ),
            ),
        ),
    ),
    "movielens-20m": Layout(
        log=((Part(("ratings.csv",)),),),
        items=((Part(("movies.csv",)),),),
        settings={
            "columns.user_id": "userId",
            "columns.item_id": "movieId",
            "item_columns": {"category": "genres"},
        },
        marks=("userId", "movieId", "rating", "timestamp"),
    ),
    "amazon-2014": Layout(
        log=(
            (Part(("reviews_*.json",)),),
            (
                Part(
                    ("ratings_*.csv",),
                    header=("reviewerID", "asin", "overall", "unixReviewTime"),
                ),
            ),
        ),
        items=((Part(("meta_*.json",), format="python_literal", rows=rows.amazon_paths),),),
        settings=AMAZON,
        marks=("reviewerID", "asin", "helpful", "unixReviewTime"),
    ),
    "amazon-2018": Layout(
        log=(
            (Part(("*.json",), but_not=("meta_*", "reviews_*")),),
            (
                Part(
                    ("*.csv",),
                    but_not=("meta_*", "ratings_*"),
                    header=("asin", "reviewerID", "overall", "unixReviewTime"),
                ),
            ),
        ),
        items=((Part(("meta_*.json",), rows=rows.amazon_path),),),
        settings=AMAZON,
        marks=("reviewerID", "asin", "verified", "unixReviewTime"),
    ),
    "amazon-2023": Layout(
        log=(
            (Part(("*.jsonl",), but_not=("meta_*",)),),
            (Part(("*.csv",), but_not=("meta_*",)),),
        ),
        items=((Part(("meta_*.jsonl",), rows=rows.amazon_2023),),),
        settings={"columns.item_id": "parent_asin", "item_columns": {"item_id": "item_id"}},
        marks=("user_id", "parent_asin", "rating", "timestamp"),
    ),
    "retailrocket": Layout(
        log=((Part(("events.csv",)),),),
        items=(
            (
                Part(
                    ("item_properties*.csv",),
                    rows=rows.retailrocket_categories,
                    whole=rows.retailrocket_items,
                    beside={"tree": ("category_tree.csv",), "events": ("events.csv",)},
                    optional=("tree", "events"),
                ),
            ),
        ),
        needs_items=False,
        settings={
            "columns.user_id": "visitorid",
            "columns.item_id": "itemid",
            "item_columns": {"item_id": "item_id"},
            "event_names": {"view": "click", "addtocart": "cart", "transaction": "purchase"},
        },
        marks=("timestamp", "visitorid", "event", "itemid", "transactionid"),
    ),
    "yoochoose": Layout(
        log=(
            (
                Part(
                    ("yoochoose-clicks.dat",),
                    format="csv",
                    separator=",",
                    header=("session_id", "timestamp", "item_id", "context"),
                    constants=(("event", "click"),),
                    rows=rows.yoochoose_clicks,
                ),
                Part(
                    ("yoochoose-buys.dat",),
                    format="csv",
                    separator=",",
                    header=("session_id", "timestamp", "item_id", "price", "quantity"),
                    constants=PURCHASES,
                ),
            ),
        ),
        settings={"columns.user_id": "session_id"},
    ),
    "diginetica": Layout(
        log=(
            (
                Part(
                    ("train-item-views.csv",),
                    separator=";",
                    constants=(("event", "click"),),
                    rows=rows.diginetica_events,
                ),
                Part(
                    ("train-purchases.csv",),
                    separator=";",
                    constants=PURCHASES,
                    rows=rows.diginetica_events,
                ),
            ),
        ),
        items=(
            (
                Part(
                    ("products.csv",),
                    separator=";",
                    rows=rows.diginetica_items,
                    beside={"categories": ("product-categories.csv",)},
                ),
            ),
        ),
        marks=("sessionId", "userId", "itemId", "timeframe", "eventdate"),
    ),
    "taobao-userbehavior": Layout(
        log=(
            (
                Part(
                    ("UserBehavior.csv",),
                    header=("user_id", "item_id", "category", "event", "timestamp"),
                ),
            ),
        ),
        settings={
            "event_names": {"pv": "click", "fav": "click", "cart": "cart", "buy": "purchase"},
        },
    ),
    "rees46": Layout(
        log=((Part(("20[0-9][0-9]-[a-z][a-z][a-z].csv",), rows=rows.rees46_events),),),
        settings={
            "columns.item_id": "product_id",
            "columns.timestamp": "event_time",
            "columns.event": "event_type",
            "columns.session_id": "user_session",
            "columns.category": "category_code",
            "event_names": {"view": "click", "remove_from_cart": "drop"},
        },
        marks=("event_time", "event_type", "product_id", "category_code", "user_session"),
    ),
    "hm": Layout(
        log=((Part(("transactions_train.csv",), constants=PURCHASES),),),
        items=((Part(("articles.csv",), rows=rows.hm_articles),),),
        settings={
            "columns.user_id": "customer_id",
            "columns.item_id": "article_id",
            "columns.timestamp": "t_dat",
            "item_columns": {"title": "prod_name", "colour": "colour_group_name"},
        },
        marks=("t_dat", "customer_id", "article_id", "sales_channel_id"),
    ),
    "instacart": Layout(
        log=(
            (
                Part(
                    ("order_products__prior.csv", "order_products__train.csv"),
                    constants=PURCHASES,
                    rows=rows.instacart_events,
                    beside={"orders": ("orders.csv",)},
                ),
            ),
        ),
        items=(
            (
                Part(
                    ("products.csv",),
                    rows=rows.instacart_products,
                    beside={"aisles": ("aisles.csv",), "departments": ("departments.csv",)},
                ),
            ),
        ),
        settings={
            "columns.timestamp": "order",
            "item_columns": {"item_id": "product_id", "title": "product_name"},
        },
        marks=("order_id", "product_id", "add_to_cart_order", "reordered"),
    ),
    "mind": Layout(
        log=(
            (
                Part(
                    ("behaviors.tsv",),
                    separator="\t",
                    header=("impression_id", "user_id", "time", "history", "impressions"),
                    rows=rows.mind_events,
                ),
            ),
        ),
        items=(
            (
                Part(
                    ("news.tsv",),
                    separator="\t",
                    header=(
                        *("item_id", "section", "subsection", "title", "abstract", "url"),
                        *("title_entities", "abstract_entities"),
                    ),
                    rows=rows.mind_news,
                    whole=rows.first_of_same,
                ),
            ),
        ),
        settings={
            "timestamp_format": "%m/%d/%Y %I:%M:%S %p",
            "event_names": {"without a label": "drop"},
        },
    ),
    "otto": Layout(
        log=((Part(("*train*.jsonl",)),), (Part(("*.jsonl",)),)),
        settings={
            "columns.user_id": "session",
            "columns.item_id": "events.aid",
            "columns.timestamp": "events.ts",
            "columns.event": "events.type",
            "event_names": {"clicks": "click", "carts": "cart", "orders": "purchase"},
        },
        marks=("session", "events"),
    ),
    "online-retail": Layout(
        log=(
            (Part(("online*retail*.xlsx",), rows=rows.online_retail),),
            (
                Part(
                    ("online*retail*.csv", "data.csv"),
                    encoding="latin-1",
                    rows=rows.online_retail,
                ),
            ),
        ),
        settings={"event_names": {"cancelled": "drop", "without a customer": "drop"}},
        marks=("StockCode", "Description", "Quantity", "InvoiceDate"),
    ),
    "lastfm-1k": Layout(
        log=(
            (
                Part(
                    ("userid-timestamp-artid-artname-traid-traname.tsv",),
                    separator="\t",
                    header=("user_id", "timestamp", "artist_id", "artist", "track_id", "track"),
                    rows=rows.lastfm_events,
                ),
            ),
        ),
        settings={"columns.title": "track", "columns.brand": "artist"},
    ),
    "recbole": Layout(
        log=((Part(("*.inter",), format="csv", separator="\t", rows=rows.recbole_columns),),),
        items=((Part(("*.item",), format="csv", separator="\t", rows=rows.recbole_columns),),),
        needs_items=False,
    ),
    "ubi": Layout(
        log=(
            (
                Part(
                    ("*ubi*events*.ndjson", "*ubi*events*.json", "*ubi*events*.jsonl"),
                    rows=rows.ubi_events,
                    beside={
                        "queries": (
                            *("*ubi*queries*.ndjson", "*ubi*queries*.json"),
                            "*ubi*queries*.jsonl",
                        )
                    },
                    optional=("queries",),
                ),
            ),
        ),
        settings={
            "event_names": {
                "view": "click",
                "product_view": "click",
                "watch": "click",
                "add_to_cart": "cart",
                "product_hover": "drop",
                "without an object": "drop",
            }
        },
        marks=("action_name", "client_id", "event_attributes"),
    ),
}
ALIASES: Final[Mapping[str, str]] = {
    "movielens-10m": "movielens-1m",
    "movielens-25m": "movielens-20m",
    "movielens-32m": "movielens-20m",
    "movielens-latest": "movielens-20m",
    "lastfm": "lastfm-1k",
    "taobao": "taobao-userbehavior",
    "h&m": "hm",
    "online-retail-ii": "online-retail",
    "mind-small": "mind",
    "mind-large": "mind",
    "retail-rocket": "retailrocket",
    "rees46-multi-category": "rees46",
    "opensearch-ubi": "ubi",
}


def find_layout(name: str) -> Layout:
    """Return a layout by its name.

    Raises:
        UserError: no layout has this name; the message names similar ones.
    """
    plain = name.strip().lower()
    plain = ALIASES.get(plain, plain)
    if plain not in LAYOUTS:
        near = difflib.get_close_matches(plain, [*LAYOUTS, *ALIASES], n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UserError(f"data.layout={name} is unknown; {hint}allowed: {', '.join(LAYOUTS)}")
    return LAYOUTS[plain]
