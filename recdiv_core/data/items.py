# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Read the shop's items from catalogue files or from the click log, check and order them.

catalogue.py makes the catalogue of a prepared data set from them. The first row of an item_id
counts; every further row goes to the quarantine with its reason. Items are in the order of a hash
of their ids.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdiv_core.config import Config
from recdiv_core.data.catalogue import NUMERIC, RawCatalogue
from recdiv_core.data.events import is_left_out, log_text
from recdiv_core.data.outcomes import SAME_ID, why_no_rows
from recdiv_core.data.sale_dates import clean_dates
from recdiv_core.errors import UserError
from recdiv_core.formats import readers, values
from recdiv_core.formats.files import SourceFile, TextFormat
from recdiv_core.schema import (
    AVAILABLE_FROM,
    AVAILABLE_UNTIL,
    CATALOGUE,
    CATALOGUE_OPTIONAL,
    CATALOGUE_REQUIRED,
    DERIVED,
    EVENT,
    ITEM_ID,
)
from recdiv_core.wording import counted

logger = logging.getLogger(__name__)

TEXTS: Final = ("title", "category", "brand", "colour", "image")
OF_THE_LOG: Final = (*TEXTS, "price")
"""Item attributes that the rows of a click log may hold."""

Rejected = dict[str, list[tuple[int, Any]]]
"""Reason -> (number in the input, row) of each rejected row."""


def item_columns(config: Config) -> dict[str, str]:
    """Return our name -> name in the catalogue files, for all columns that we name."""
    names = config.data.columns.model_dump() | config.data.item_columns
    return {name: names.get(name, name) for name in (*CATALOGUE_REQUIRED, *CATALOGUE_OPTIONAL)}


def read_catalogue(files: Sequence[SourceFile], config: Config) -> RawCatalogue:
    """Read and check the shop's catalogue.

    Raises:
        UserError: A column is missing, there are no rows, a text field is no column, or a date on
            sale is no time.
    """
    data = config.data
    text = TextFormat(
        data.item_separator, data.item_header, data.item_encoding, prefix="data.item_"
    )
    ours = item_columns(config)
    found = readers.find_columns(files, ours, CATALOGUE_REQUIRED, "data.items", text)
    columns = found | _further_columns(files, found, text)
    tables: list[pa.Table] = []
    rejected: Rejected = {}
    for unit in readers.cut_units(files, "data.items", text):
        for batch in readers.read_unit(unit, columns):
            tables.append(_clean_types(batch.table, config))
            for place, text, reason in batch.broken:
                rejected.setdefault(reason, []).append((place, text))
    num_broken = sum(len(rows) for rows in rejected.values())
    num_rows = sum(table.num_rows for table in tables) + num_broken
    if num_rows == num_broken:
        broken = [(place, text, why) for why, rows in rejected.items() for place, text in rows]
        raise UserError(why_no_rows(f"data.items={config.data.items}", broken))
    dated = clean_dates(_concatenate(tables), files, found, config)
    table = in_order_of_hash(_reject_rows(dated, rejected))
    assert num_rows == len(table) + sum(len(rows) for rows in rejected.values())
    _check_text_fields(table, config)
    return RawCatalogue(table, rejected, num_rows)


def read_items_of_log(files: Sequence[SourceFile], config: Config) -> RawCatalogue:
    """Make the catalogue from the rows of the click log, if the shop gives no catalogue.

    The first value of each attribute (OF_THE_LOG) counts. Rows of a kind that `data.event_names`
    drops describe no item: the title of a correction of the stock may be `damaged`.

    Raises:
        UserError: The log has no item ids.
    """
    names = item_columns(config) | {ITEM_ID: config.data.columns.item_id}
    names |= {EVENT: config.data.columns.event}
    wanted = {name: names[name] for name in (ITEM_ID, EVENT, *OF_THE_LOG)}
    text = log_text(config)
    columns = readers.find_columns(files, wanted, (ITEM_ID,), "data.clicks", text)
    parts: list[pa.Table] = []
    num_left_out = 0
    logger.info("data.items is not given: looking for items in the click log")
    for unit in readers.cut_units(files, "data.clicks", text):
        for batch in readers.read_unit(unit, columns):
            kept = batch.table.filter(pa.array(~is_left_out(batch.table, config)))
            present = [name for name in columns if name in kept.column_names and name != EVENT]
            table = _clean_types(kept.select(present), config)
            parts.append(_first_of_each(table))
            num_left_out += batch.table.num_rows - kept.num_rows
    table = _first_of_each(_concatenate(parts)) if parts else pa.table({})
    if not table.num_rows and not num_left_out:
        raise UserError(f"data.clicks={config.data.clicks} holds no item to make a catalogue of")
    if "title" not in table.column_names:
        logger.warning(
            "data.items is not given and the click log has no column %r (data.columns.title): "
            "items have no title",
            names["title"],
        )
        table = table.append_column("title", pa.nulls(len(table), pa.string()))
    titles = table["title"].fill_null("")
    table = table.set_column(table.column_names.index("title"), "title", titles)
    logger.info(
        "data.items is not given: the catalogue is made of the click log, %s with %s",
        counted(len(table), "item"),
        ", ".join(table.column_names),
    )
    _check_text_fields(table, config)
    return RawCatalogue(in_order_of_hash(table), {}, len(table))


def _first_of_each(table: pa.Table) -> pa.Table:
    """Return one row per item, with the first value of each column that is not null."""
    table = table.filter(pc.is_valid(table[ITEM_ID]))
    others = [name for name in table.column_names if name != ITEM_ID]
    if not others:
        return pa.table({ITEM_ID: pc.unique(table[ITEM_ID])})
    grouped = pa.TableGroupBy(table, ITEM_ID, use_threads=False)
    firsts = grouped.aggregate([(name, "first") for name in others])
    return firsts.rename_columns({f"{name}_first": name for name in others}).select(
        table.column_names
    )


def in_order_of_hash(table: pa.Table) -> pa.Table:
    """Sort items by a hash of item_id: the same order on any machine and for any order of rows.

    Equal scores are ranked by item_index everywhere. In the order of the file, they would favour
    items that the shop lists first, often its best sellers.

    >>> in_order_of_hash(pa.table({"item_id": ["1", "2", "3", "4"]}))["item_id"].to_pylist()
    ['2', '4', '3', '1']
    """
    ids = table[ITEM_ID].cast(pa.binary()).to_pylist()
    digests = pa.array([blake2b(item_id, digest_size=16).digest() for item_id in ids], pa.binary())
    return table.take(pc.sort_indices(digests))


def _further_columns(
    files: Sequence[SourceFile], found: Mapping[str, str], text: TextFormat
) -> dict[str, str]:
    """Name the further attributes of the shop; a name of ours gets the prefix `given_`."""
    further: dict[str, str] = {}
    taken = {*found, *CATALOGUE.names, DERIVED, AVAILABLE_FROM, AVAILABLE_UNTIL}
    for file in files:
        blobs = readers.find_blobs(file)
        if blobs := [name for name in blobs if name not in found.values()]:
            logger.warning(
                "data.items: columns of bytes, not text, are left out: %s", ", ".join(blobs)
            )
        for theirs in readers.read_header(file, "data.items", text):
            if theirs not in found.values() and theirs not in blobs:
                further[f"given_{theirs}" if theirs in taken else theirs] = theirs
    return further


def _clean_types(table: pa.Table, config: Config) -> pa.Table:
    words = config.data.null_words
    for index, name in enumerate(table.column_names):
        if name == ITEM_ID:
            ids, coerced = values.clean_ids(table[name], words)
            for change, number in coerced.items():
                logger.info("data.items: %s: %s", counted(number, "value"), change)
            table = table.set_column(index, name, ids)
        elif name in TEXTS:
            texts = values.drop_null_words(values.as_text(table[name]), words)
            table = table.set_column(index, name, texts)
        elif name in NUMERIC:
            as_numbers = values.as_prices if name == "price" else values.as_numbers
            numbers = as_numbers(table[name])
            given = values.drop_null_words(values.as_text(table[name]), words)
            num_lost = numbers.null_count - given.null_count
            if num_lost:
                logger.warning(
                    "data.items: left out %s of %s, no numbers", counted(num_lost, "value"), name
                )
            table = table.set_column(index, name, numbers)
    return table


def _concatenate(tables: Sequence[pa.Table]) -> pa.Table:
    try:
        return pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # the type of an attribute differs between files
        texts = [
            pa.table(
                {n: t[n] if n == readers.ROW else values.as_text(t[n]) for n in t.schema.names}
            )
            for t in tables
        ]
        return pa.concat_tables(texts, promote_options="permissive").combine_chunks()


def _reject_rows(table: pa.Table, rejected: Rejected) -> pa.Table:
    ids = table[ITEM_ID].combine_chunks()
    has_id_N = ids.is_valid().to_numpy(zero_copy_only=False)
    codes_N = ids.dictionary_encode().indices.fill_null(-1).to_numpy()
    _, first_of, place_N = np.unique(codes_N, return_index=True, return_inverse=True)
    first_N = first_of[place_N]
    is_first_N = first_N == np.arange(len(codes_N))
    conflicts: list[str] = []
    for row in np.flatnonzero(~has_id_N | ~is_first_N):
        given = table.slice(row, 1).to_pylist()[0]
        place = given.pop(readers.ROW)
        reason = "missing item_id"
        if has_id_N[row]:
            kept = table.slice(first_N[row], 1).to_pylist()[0]
            is_same = given == {name: kept[name] for name in given}
            reason = SAME_ID + ("" if is_same else " with other values")
            if not is_same:
                conflicts.append(str(given[ITEM_ID]))
        rejected.setdefault(reason, []).append((place, given))
    if conflicts:
        logger.warning(
            "data.items: %s with an item_id of an earlier row and other values, e.g. %r; the first "
            "row counts",
            counted(len(conflicts), "row"),
            conflicts[0],
        )
    table = table.filter(pa.array(has_id_N & is_first_N)).drop_columns([readers.ROW])
    titles = table["title"].fill_null("")
    num_untitled = pc.sum(pc.equal(titles, "")).as_py()
    if num_untitled:
        logger.info("data.items: %s without a title; kept", counted(num_untitled, "item"))
    return table.set_column(table.column_names.index("title"), "title", titles)


def _check_text_fields(table: pa.Table, config: Config) -> None:
    known = {*CATALOGUE_REQUIRED, *CATALOGUE_OPTIONAL}
    for name in config.model.text.fields:
        if name not in table.column_names and name not in known:
            raise UserError(
                f"model.text.fields: {name!r} is no column of the catalogue; "
                f"columns there: {', '.join(table.column_names)}"
            )
