# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Small functions for published data sets that a mapping of columns cannot describe.

layouts.yaml says which file needs which function. Each function is pure: it takes a table as read
and the paths of side files, and returns a table of our columns. Columns of text files are strings.
A row keeps its position (ROW). A row that cannot be an event gets a special kind of event, which
`event_names` does not list, so that it is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdiv_core.formats import nested
from recdiv_core.formats.files import TextFormat, list_files
from recdiv_core.formats.readers import ROW, ReadUnit, cut_units, read_unit
from recdiv_core.formats.reshape import Side
from recdiv_core.formats.values import as_numbers, as_text

PATH: Final = " > "
LABELS: Final = "|"


# --------------------------------------------------------------------------- MovieLens


def movielens_flags(table: pa.Table, _: Side) -> pa.Table:
    """MovieLens 100K: one 0/1 column per genre -> labels."""
    first = table.column_names.index("unknown")
    genres = table.column_names[first : first + 19]
    labels = [pc.if_else(pc.equal(_text(table, name), "1"), name, None) for name in genres]
    kept = [name for name in table.column_names if name not in genres]
    return table.select(kept).append_column("category", _join(labels, LABELS))


# --------------------------------------------------------------------------- Amazon


def amazon_paths(table: pa.Table, _: Side) -> pa.Table:
    """Amazon 2014: a list of category paths, each a list."""
    return _amazon(table, _join_lists(_column(table, "categories")))


def amazon_path(table: pa.Table, _: Side) -> pa.Table:
    """Amazon 2018: one category path, as a list; the price as text."""
    return _amazon(table, _join_lists(_column(table, "category")))


def amazon_2023(table: pa.Table, _: Side) -> pa.Table:
    """Amazon 2023: one path, or the main category; the brand column is called store."""
    path = _join_lists(_column(table, "categories"))
    category = pc.if_else(_is_blank(path), _text(table, "main_category"), path)
    made = _amazon(table, category)
    brand = made.column_names.index("brand")
    return made.set_column(brand, "brand", _text(table, "store"))


def _amazon(table: pa.Table, category: pa.Array) -> pa.Table:
    price = pc.replace_substring(_text(table, "price"), ",", "")
    found = pc.struct_field(pc.extract_regex(price, r"^\$?\s*(?P<n>[0-9]+(?:\.[0-9]+)?)"), ["n"])
    item = "parent_asin" if "parent_asin" in table.column_names else "asin"
    return _table(
        table,
        item_id=_text(table, item),
        title=_text(table, "title"),
        category=category,
        brand=_text(table, "brand"),
        price=found,
    )


# --------------------------------------------------------------------------- shops


def retailrocket_categories(table: pa.Table, _: Side) -> pa.Table:
    """Retailrocket: keep the item properties that name a category."""
    kept = table.filter(pc.equal(_text(table, "property"), "categoryid").fill_null(False))
    return kept.select(["timestamp", "itemid", "value", ROW])


def retailrocket_items(table: pa.Table, side: Side) -> pa.Table:
    """Retailrocket: last category path of each item; also items of events without a category."""
    times = as_numbers(_text(table, "timestamp")).fill_null(0.0).to_numpy(zero_copy_only=False)
    order = np.argsort(times, kind="stable")
    last = dict(
        zip(
            _text(table, "itemid").take(pa.array(order)).to_pylist(),
            _text(table, "value").take(pa.array(order)).to_pylist(),
            strict=True,
        )
    )
    for path in side["events"]:
        for item in pc.unique(_text(_load(path, ","), "itemid")).to_pylist():
            last.setdefault(item, None)
    parents: dict[str, str] = {}
    for path in side["tree"]:
        tree = _load(path, ",")
        children, above = (_text(tree, name).to_pylist() for name in ("categoryid", "parentid"))
        parents |= {c: p for c, p in zip(children, above, strict=True) if p}
    paths = [_path_to_root(category, parents) for category in last.values()]
    return pa.table(
        {
            "item_id": pa.array(list(last), pa.string()),
            "title": pa.nulls(len(last), pa.string()),
            "category": pa.array(paths, pa.string()),
            ROW: pa.array(range(len(last)), pa.int64()),
        }
    )


def _path_to_root(category: str | None, parents: dict[str, str]) -> str | None:
    path: list[str] = []
    while category and category not in path:
        path.append(category)
        category = parents.get(category)
    return PATH.join(reversed(path)) or None


def yoochoose_clicks(table: pa.Table, _: Side) -> pa.Table:
    """YooChoose: the context of a click is a category (1 to 12), a brand, S (on sale) or 0."""
    context = _text(table, "context")
    is_category = pc.match_substring_regex(context, r"^([1-9]|1[0-2])$")
    is_brand = pc.match_substring_regex(context, r"^[0-9]{3,}$")
    none = pa.scalar(None, pa.string())
    table = table.append_column("category", pc.if_else(is_category, context, none))
    return table.append_column("brand", pc.if_else(is_brand, context, none))


def diginetica_events(table: pa.Table, _: Side) -> pa.Table:
    """Diginetica: a date and the milliseconds since the session began -> a time."""
    days = pc.strptime(
        _text(table, "eventdate"), format="%Y-%m-%d", unit="us", error_is_null=True
    ).cast(pa.int64())
    offsets = as_numbers(_text(table, "timeframe"))
    times = pc.add(days, pc.multiply(_whole(offsets), 1000)).cast(pa.timestamp("us"))
    return _table(
        table,
        user_id=_text(table, "sessionId"),
        item_id=_text(table, "itemId"),
        timestamp=times,
        session_id=_text(table, "sessionId"),
    )


def diginetica_items(table: pa.Table, side: Side) -> pa.Table:
    """Diginetica: titles are numbers of words; categories are in a side file."""
    item_ids = _text(table, "itemId")
    return _table(
        table,
        item_id=item_ids,
        title=pc.replace_substring(_text(table, "product.name.tokens"), ",", " "),
        category=_join_side(item_ids, side["categories"], ";", "itemId", "categoryId"),
        price=pc.power(2.0, as_numbers(_text(table, "pricelog2"))),
    )


def rees46_events(table: pa.Table, _: Side) -> pa.Table:
    """REES46: dots separate the levels of a category."""
    category = pc.replace_substring(_text(table, "category_code"), ".", PATH)
    place = table.column_names.index("category_code")
    return table.set_column(place, "category_code", category)


def hm_articles(table: pa.Table, _: Side) -> pa.Table:
    """H&M: department group and article type form the category."""
    levels = [_text(table, name) for name in ("index_group_name", "product_group_name")]
    category = _join([*levels, _text(table, "product_type_name")], PATH)
    return table.append_column("category", category)


def instacart_events(table: pa.Table, side: Side) -> pa.Table:
    """Instacart: user and order number are in orders.csv; there are no times.

    Events are sorted by order number, then by position in the cart.
    """
    orders = _lookup(side["orders"], ",", "order_id")
    order_ids = _text(table, "order_id")
    numbers = orders.find(order_ids, "order_number")
    within = as_numbers(_text(table, "add_to_cart_order"))
    place = _whole(pc.add(pc.multiply(as_numbers(numbers), 1000.0), within))
    return _table(
        table,
        user_id=orders.find(order_ids, "user_id"),
        item_id=_text(table, "product_id"),
        order=place,
        session_id=order_ids,
    )


def instacart_products(table: pa.Table, side: Side) -> pa.Table:
    """Instacart: department and aisle form the category."""
    departments = _text(table, "department_id")
    aisles = _text(table, "aisle_id")
    levels = [
        _join_side(departments, side["departments"], ",", "department_id", "department"),
        _join_side(aisles, side["aisles"], ",", "aisle_id", "aisle"),
    ]
    return table.append_column("category", _join(levels, PATH))


def online_retail(table: pa.Table, _: Side) -> pa.Table:
    """Online Retail: rows that sell nothing to a customer become special kinds of event.

    These are cancellations, rows without a customer, and codes of no product, such as POST or
    BANK CHARGES: a product has four digits in a row. Codes that differ in capitals are one product.
    Both versions of the data set are read, with dates as `12/1/2010 8:26` (month first) or ISO.
    """
    names = table.column_names
    invoice = _text(table, "InvoiceNo" if "InvoiceNo" in names else "Invoice")
    customer = _text(table, "CustomerID" if "CustomerID" in names else "Customer ID")
    is_cancelled = pc.or_(
        pc.starts_with(pc.utf8_upper(invoice), "C").fill_null(False),
        pc.less_equal(as_numbers(_text(table, "Quantity")), 0).fill_null(False),
    )
    code = pc.utf8_upper(_text(table, "StockCode"))
    is_product = pc.match_substring_regex(code, "[0-9]{4}").fill_null(True)
    kind = pc.if_else(_is_blank(customer), "without a customer", "purchase")
    kind = pc.if_else(is_product, kind, "no product")
    return _table(
        table,
        user_id=pc.replace_substring_regex(customer, r"\.0$", ""),
        item_id=code,
        timestamp=_month_first(_column(table, "InvoiceDate")),
        event=pc.if_else(is_cancelled, "cancelled", kind),
        session_id=invoice,
        title=_text(table, "Description"),
        price=_text(table, "UnitPrice" if "UnitPrice" in names else "Price"),
    )


def _month_first(times: pa.Array) -> pa.Array:
    if pa.types.is_temporal(times.type):
        return times
    text = times.cast(pa.string())
    found = pc.extract_regex(
        text, r"^(?P<m>[0-9]{1,2})/(?P<d>[0-9]{1,2})/(?P<y>[0-9]{2}|[0-9]{4})(?P<t>\s.*)?$"
    )
    month, day, year, rest = (pc.struct_field(found, [i]) for i in range(4))
    year = pc.if_else(pc.equal(pc.utf8_length(year), 2), _join([pa.scalar("20"), year], ""), year)
    clock = pc.utf8_lpad(pc.utf8_trim_whitespace(rest), 5, "0")
    parts = [pc.utf8_lpad(part, 2, "0") for part in (month, day)]
    date = pc.binary_join_element_wise(year, *parts, "-")
    iso = pc.binary_join_element_wise(date, clock, " ")
    return pc.coalesce(iso, text)


# --------------------------------------------------------------------------- news, music, search


def mind_events(table: pa.Table, _: Side) -> pa.Table:
    """MIND: a list of shown articles, each with 1 = clicked or 0 -> one row per article."""
    shown = pc.split_pattern(_text(table, "impressions").fill_null(""), " ")
    parents = pc.list_parent_indices(shown)
    entry = pc.list_flatten(shown)
    found = pc.extract_regex(entry, r"^(?P<item>.+)-(?P<label>[01])$")
    item, label = (pc.struct_field(found, [i]) for i in range(2))
    kind = pc.if_else(pc.equal(label, "1"), "click", "impression")
    return _table(
        table.take(parents),
        user_id=_text(table, "user_id").take(parents),
        item_id=pc.coalesce(item, entry),
        timestamp=_text(table, "time").take(parents),
        event=pc.if_else(pc.is_null(label), "without a label", kind),
        slate_id=_text(table, "impression_id").take(parents),
    )


def mind_news(table: pa.Table, _: Side) -> pa.Table:
    """MIND: category and subcategory form the category path."""
    path = _join([_text(table, "section"), _text(table, "subsection")], PATH)
    return table.append_column("category", path)


def first_of_same(table: pa.Table, _: Side) -> pa.Table:
    """MIND: the parts of the data set share articles; keep the first of equal rows."""
    names = [name for name in table.column_names if name != ROW]
    columns = [_text(table, name).to_pylist() for name in names]
    first: dict[tuple[str | None, ...], int] = {}
    for number, row in enumerate(zip(*columns, strict=True)):
        first.setdefault(row, number)
    return table.take(pa.array(list(first.values()), pa.int64()))


def lastfm_events(table: pa.Table, _: Side) -> pa.Table:
    """Last.fm 1K: a track without an id is identified by its artist and name."""
    names = pc.binary_join_element_wise(
        _text(table, "artist").fill_null(""), _text(table, "track").fill_null(""), " / "
    )
    track = _text(table, "track_id")
    return table.append_column("item_id", pc.if_else(_is_blank(track), names, track))


def recbole_columns(table: pa.Table, _: Side) -> pa.Table:
    """RecBole: drop the type from names (`item_id:token`), and split `token_seq` of labels.

    The first column with a usual name for one of our columns gets our name.
    """
    bare = [name.partition(":")[0] for name in table.column_names]
    renamed = table.rename_columns(bare)
    for ours, usual in RECBOLE_NAMES.items():
        theirs = next((name for name in usual if name in bare), None)
        if ours not in bare and theirs is not None:
            values = _text(renamed, theirs)
            if ours == "category" and f"{theirs}:token_seq" in table.column_names:
                values = pc.replace_substring(values, " ", LABELS)
            renamed = renamed.append_column(ours, values)
    if not {"title", "user_id"} & set(renamed.column_names):  # a catalogue of attributes alone
        renamed = renamed.append_column("title", pa.nulls(table.num_rows, pa.string()))
    return renamed


RECBOLE_NAMES: Final = {
    "user_id": ("session_id",),
    "item_id": ("product_id", "movie_id", "artist_id", "artists_id", "track_id", "business_id"),
    "title": ("movie_title", "name", "item_name", "product_name", "artist_name", "track_name"),
    "category": ("class", "genre", "categories", "genres", "category_id", "categoryid"),
}


def ubi_events(table: pa.Table, side: Side) -> pa.Table:
    """OpenSearch UBI: nested attributes, and the query of an event from the file of queries.

    Events without an object (a login, a search) become a special kind of event.
    """
    columns = {
        "user_id": "client_id",
        "item_id": "event_attributes.object.object_id",
        "timestamp": "timestamp",
        "event": "action_name",
        "query": "user_query",
        "session_id": "session_id",
        "slate_id": "query_id",
        "position": "event_attributes.position.ordinal",
        "title": "event_attributes.object.description",
    }
    made, _ = nested.unnest(_unwrapped(table), columns, (), ROW)
    text = {name: _text(made, name) for name in columns}
    by_id = _queries(side["queries"])
    known = [by_id.get(key or "") for key in text["slate_id"].to_pylist()]
    kind = pc.if_else(_is_blank(text["item_id"]), "without an object", text["event"])
    asked = pc.coalesce(text["query"], pa.array(known, pa.string()))
    return _table(made, **text | {"event": kind, "query": asked})


@lru_cache(maxsize=2)
def _queries(paths: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in paths:
        for unit in cut_units(list_files(path, "data.clicks"), "data.clicks"):
            for batch in read_unit(unit, None):
                table = _unwrapped(batch.table)
                keys, texts = (
                    _text(table, name).to_pylist() for name in ("query_id", "user_query")
                )
                found |= {k: text for k, text in zip(keys, texts, strict=True) if k and text}
    return found


def _unwrapped(table: pa.Table) -> pa.Table:
    """Return the documents of an index export; their fields are below `_source`."""
    if "_source" not in table.column_names or not pa.types.is_struct(table["_source"].type):
        return table
    names = [field.name for field in table["_source"].type]
    made, _ = nested.unnest(table, {name: f"_source.{name}" for name in names}, (), ROW)
    return made


# --------------------------------------------------------------------------- tables


def _table(source: pa.Table, **columns: Any) -> pa.Table:
    return pa.table({**columns, ROW: source[ROW]})


def _column(table: pa.Table, name: str) -> pa.Array:
    if name not in table.column_names:
        return pa.nulls(table.num_rows, pa.string())
    return table[name].combine_chunks()


def _text(table: pa.Table, name: str) -> pa.Array:
    return as_text(_column(table, name))


def _whole(numbers: pa.Array) -> pa.Array:
    return numbers.cast(pa.int64(), safe=False)


def _is_blank(text: pa.Array) -> pa.Array:
    return pc.equal(pc.utf8_trim_whitespace(text), "").fill_null(True)


def _join(columns: Sequence[Any], separator: str) -> pa.Array:
    """Join the values of each row that are not null; null if all are."""
    joined = pc.binary_join_element_wise("", *columns, separator, null_handling="skip")
    return _or_null(pc.utf8_slice_codeunits(joined, len(separator)))


def _join_lists(column: pa.Array) -> pa.Array:
    """Join a list as a path, a list of lists as several paths."""
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return as_text(column)
    inner = pc.list_flatten(column)
    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    is_deep = pa.types.is_list(inner.type) or pa.types.is_large_list(inner.type)
    parts = _join_lists(inner) if is_deep else as_text(inner)
    parts = pc.replace_substring(parts, LABELS, "/").fill_null("")
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, parts), LABELS if is_deep else PATH)
    return _or_null(joined)


def _or_null(text: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


# --------------------------------------------------------------------------- files beside


def _load(path: str, separator: str) -> pa.Table:
    """Read a small CSV side file; every column is text."""
    unit = ReadUnit(path, "csv", 0, text=TextFormat(separator))
    tables = [batch.table for batch in read_unit(unit, None)]
    return pa.concat_tables(tables).drop_columns([ROW])


class _Lookup:
    """Lookup of table rows by key; binary search for whole numbers."""

    def __init__(self, table: pa.Table, key: str) -> None:
        self._columns = {name: _text(table, name) for name in table.column_names}
        keys = _text(table, key)
        is_whole = pc.match_substring_regex(keys, "^[0-9]{1,18}$").fill_null(False)
        self._is_whole = bool(pc.all(is_whole).as_py())
        if self._is_whole:
            numbers = keys.cast(pa.int64()).to_numpy()
            self._order = np.argsort(numbers, kind="stable")
            self._keys = numbers[self._order]
        else:
            self._rows = {name: row for row, name in enumerate(keys.to_pylist())}

    def find(self, keys: pa.Array, column: str) -> pa.Array:
        """Return the value of a column for each key; null = no such key."""
        if self._is_whole:
            is_whole = pc.match_substring_regex(keys, "^[0-9]{1,18}$").fill_null(False)
            wanted = pc.if_else(is_whole, keys, "-1").cast(pa.int64()).to_numpy()
            at = np.minimum(np.searchsorted(self._keys, wanted), max(len(self._keys) - 1, 0))
            is_there = (self._keys[at] == wanted) if len(self._keys) else np.zeros(len(at), bool)
            rows = pa.array(self._order[at] if len(self._keys) else at, mask=~is_there)
        else:
            rows = pa.array([self._rows.get(key) for key in keys.to_pylist()], pa.int64())
        values = self._columns.get(column)
        return pa.nulls(len(keys), pa.string()) if values is None else values.take(rows)


@lru_cache(maxsize=4)
def _lookup(paths: tuple[str, ...], separator: str, key: str) -> _Lookup:
    tables = [_load(path, separator) for path in paths]
    return _Lookup(pa.concat_tables(tables, promote_options="permissive"), key)


def _join_side(
    keys: pa.Array, paths: tuple[str, ...], separator: str, key: str, column: str
) -> pa.Array:
    return _lookup(paths, separator, key).find(keys, column)
