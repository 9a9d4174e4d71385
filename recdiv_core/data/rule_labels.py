# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Look up the attributes, values and items of slate rules in the catalogue.

slate_rules.py holds the grammar, and rerank/quota.py applies the rules. The one idea: the driver
looks up all names before Ray starts, so an unknown name fails at once. Workers use the same
functions.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdiv_core.data.catalogue import Catalogue, shown_values
from recdiv_core.data.sale_dates import sale_dates
from recdiv_core.errors import UserError
from recdiv_core.schema import AVAILABLE_FROM, CATALOGUE
from recdiv_core.slate_rules import SlateRule

LIKENESS: Final = 0.6
"""Smallest similarity of a suggested name, in [0, 1]."""
SHOWN: Final = 5
"""Values that a message names when none is similar."""
MOST_COMPARED: Final = 100_000
"""Most names that are searched for a similar one; it takes a second."""

NO_ATTRIBUTES: Final = {*CATALOGUE.names} - {"is_cold"}
"""Columns that rules cannot name; rules use `category` for `categories`."""
IS_NEW: Final = "is_new"
"""Attribute that follows from `available_from`, see `mark_new`; a catalogue column replaces it."""
NEW_DAYS: Final = 7
"""Days of the log in which an item is new."""
BOTH: Final = ("false", "true")
"""Values of an attribute that is true or false, also if no item has one of them."""


def labels_of_rule(rule: SlateRule, catalogue: Catalogue) -> pa.ListArray:
    """Return the labels of each item that a rule counts.

    Returns:
        [V] lists of labels: the values of the attribute. For a rule on one value or one item, the
        label is 0. Unknown values give no label; `(none)` is a category.

    Raises:
        UserError: The catalogue lacks the attribute, value or item.
    """
    if rule.item_id:
        return labels_of_items([rule], catalogue)
    lists, names = values_of(rule.attribute, catalogue, f"rerank.rules: {rule.text!r}")
    if not rule.value:
        return lists
    if rule.value not in names:
        raise UserError(
            f"rerank.rules: {rule.text!r}: no item has {rule.attribute}={rule.value}"
            f"{_nearest(rule.value, names)}"
        )
    has_value_V = np.zeros(len(lists), dtype=bool)
    is_value = pc.equal(pc.list_flatten(lists), names.index(rule.value))
    has_value_V[pc.list_parent_indices(lists).filter(is_value).to_numpy()] = True
    return one_label(np.where(has_value_V, 0, -1))


def one_label(values_V: np.ndarray) -> pa.ListArray:
    """Return lists of at most one label per item, -1 = none.

    >>> one_label(np.array([4, -1, 0])).to_pylist()
    [[4], [], [0]]
    """
    ends_V = np.cumsum(values_V >= 0, dtype=np.int32)
    return pa.ListArray.from_arrays(np.append(np.int32(0), ends_V), values_V[values_V >= 0])


def labels_of_items(rules: Sequence[SlateRule], catalogue: Catalogue) -> pa.ListArray:
    """Return label 0 for the items that the rules name, and no label for others.

    Raises:
        UserError: The catalogue lacks an item.
    """
    ids = pa.array([rule.item_id for rule in rules], catalogue.item_ids.type)
    found = pc.index_in(ids, catalogue.item_ids)
    unknown = [rule for rule, place in zip(rules, found.to_pylist(), strict=True) if place is None]
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        known = catalogue.item_ids.slice(0, MOST_COMPARED).to_pylist()
        raise UserError(
            f"rerank.rules: {unknown[0].text!r}: the catalogue has no item_id "
            f"{unknown[0].item_id!r}{more}{_nearest(unknown[0].item_id, known)}"
        )
    labels_V = np.full(len(catalogue.item_ids), -1, dtype=np.int32)
    labels_V[found.to_numpy(zero_copy_only=False)] = 0
    return one_label(labels_V)


def values_of(name: str, catalogue: Catalogue, what: str) -> tuple[pa.ListArray, Sequence[str]]:
    """Return the values of an attribute: [V] lists of indices, and the values as text.

    `name` is `category` or a column of the catalogue; values of `price` are its bands. `what` is
    the setting that names it, for messages.

    Raises:
        UserError: The catalogue has no such attribute.
    """
    if name == "category":
        return catalogue.category_lists, catalogue.categories
    columns = [column for column in catalogue.table.column_names if column not in NO_ATTRIBUTES]
    has_dates = AVAILABLE_FROM in columns and catalogue.last_day
    if name == IS_NEW and has_dates and name not in columns:
        return one_label(mark_new(catalogue).astype(np.int32)), BOTH
    if name not in columns:
        known = ["category", *(column for column in columns if column != "category")]
        known += [IS_NEW] if has_dates else []
        raise UserError(
            f"{what}: the catalogue has no attribute {name!r}{_similar(name, known)}; it has "
            f"{', '.join(known)}"
        )
    values_V, names = shown_values(catalogue, name)
    if pa.types.is_boolean(catalogue.table.schema.field(name).type):
        # a rule on cold items is no mistake on a day without one
        names = [*names, *(value for value in BOTH if value not in names)]
    return one_label(values_V), names


def mark_new(catalogue: Catalogue) -> Any:
    """Return [V] bool: items on sale since the last NEW_DAYS days of the log, or from later on."""
    after = np.datetime64(catalogue.last_day, "D") + np.timedelta64(1 - NEW_DAYS, "D")
    return sale_dates(catalogue.table).from_V >= after.astype("datetime64[us]").astype(np.int64)


def _nearest(name: str, names: Sequence[str]) -> str:
    """Return a suggestion: the most similar name, or the first few names."""
    first = f"; there are {', '.join(map(repr, names[:SHOWN]))}{' ...' * (len(names) > SHOWN)}"
    return _similar(name, names) or first


def _similar(name: str, names: Sequence[str]) -> str:
    """Return the most similar name as a suggestion; empty = none is similar."""
    near = difflib.get_close_matches(name, names[:MOST_COMPARED], n=1, cutoff=LIKENESS)
    return f"; did you mean {near[0]!r}" if near else ""
