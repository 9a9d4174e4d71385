"""What rules of slates speak of, looked up in the catalogue: attributes, their values, items.

Not the grammar (slate_rules.py), nor the keeping of the rules (rerank/quota.py). The one idea: the
driver looks everything up before Ray starts, so that a name which the shop does not know costs no
minute, and workers look it up in the same way.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Final

import numpy as np

from recdiv_core.data.catalogue import Catalogue, shown_values
from recdiv_core.errors import UserError
from recdiv_core.schema import CATALOGUE
from recdiv_core.slate_rules import SlateRule

LIKENESS: Final = 0.6
"""From which on a name is near enough to be meant."""
SHOWN: Final = 5
"""Values named where none is near."""
MOST_COMPARED: Final = 100_000
"""Names that the nearest one is looked for among: it takes a second."""

NO_ATTRIBUTES: Final = {*CATALOGUE.names} - {"is_cold"}
"""Columns that are an item's place, name or numbers; `category` speaks of `categories`."""


def labels_of_rule(rule: SlateRule, catalogue: Catalogue) -> np.ndarray:
    """Number what a rule counts of each item.

    Returns:
        [V, L] int32 labels padded with -1: the values of the attribute; of a rule of one value or
        one item 0 where it is, [V, 1]. An unknown value is no label; `(none)` is a category.

    Raises:
        UserError: no such attribute, value or item.
    """
    if rule.item_id:
        ids = catalogue.item_ids.to_pylist()
        if rule.item_id not in ids:
            raise UserError(
                f"rerank.rules: {rule.text!r}: the catalogue has no item_id {rule.item_id!r}"
                f"{_nearest(rule.item_id, ids)}"
            )
        return np.where(np.arange(len(ids)) == ids.index(rule.item_id), 0, -1)[:, None].astype("i4")
    labels_VL, names = _values(rule, catalogue)
    if not rule.value:
        return labels_VL.astype(np.int32)
    if rule.value not in names:
        raise UserError(
            f"rerank.rules: {rule.text!r}: no item has {rule.attribute}={rule.value}"
            f"{_nearest(rule.value, names)}"
        )
    has_value_V = (labels_VL == names.index(rule.value)).any(axis=1)
    return np.where(has_value_V, 0, -1)[:, None].astype(np.int32)


def _values(rule: SlateRule, catalogue: Catalogue) -> tuple[np.ndarray, Sequence[str]]:
    if rule.attribute == "category":
        return catalogue.categories_VL, catalogue.categories
    columns = [name for name in catalogue.table.column_names if name not in NO_ATTRIBUTES]
    if rule.attribute not in columns:
        known = ["category", *(name for name in columns if name != "category")]
        raise UserError(
            f"rerank.rules: {rule.text!r}: the catalogue has no attribute {rule.attribute!r}"
            f"{_nearest(rule.attribute, known)}; it has {', '.join(known)}"
        )
    values_V, names = shown_values(catalogue, rule.attribute)
    return values_V[:, None], names


def _nearest(name: str, names: Sequence[str]) -> str:
    """Name the nearest of the names, or a few of them."""
    near = difflib.get_close_matches(name, names[:MOST_COMPARED], n=1, cutoff=LIKENESS)
    if near:
        return f"; did you mean {near[0]!r}"
    return f"; there are {', '.join(map(repr, names[:SHOWN]))}{' ...' * (len(names) > SHOWN)}"
