# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Consistency of a shard's train, val and test rows, checked without the click log.

A history holds all events before a request. So a user's train events are the core part of the
history of the first request, and the test history is the val history plus the events held out for
val. An edited file, or a file with future events, breaks these equalities. preparing.py checks the
files against the staged events instead. V items; a key is user * V + item.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdiv_core.data import split
from recdiv_core.data.audit.duplicates import hash_lists
from recdiv_core.data.audit.findings import NUM_EXAMPLES, Finding, find
from recdiv_core.data.audit.preparing import find_excess, key_lists, mark_repeated, of_users
from recdiv_core.data.reading import first_times
from recdiv_core.data.sale_dates import SaleDates
from recdiv_core.errors import UserError
from recdiv_core.schema import EVAL_EXAMPLE, NO_QUERY, TRAIN_EXAMPLE, USER_ID

HELD_OUT: Final = ("val", "test")
MIN_DISTINCT: Final = 5
"""Fewest distinct items of a history that is compared: shorter ones are equal by chance."""


@dataclass(frozen=True)
class Shard:
    """The rows of some users in all three splits.

    Attributes:
        user_ids: Distinct users; a user's index here is the user's code.
        train: TRAIN_EXAMPLE rows.
        evals: EVAL_EXAMPLE rows of val and test, one per user.
        num_rows: Rows of each split, including repeated rows of a user.
        again: Users with more than one row in val or in test.
    """

    user_ids: pa.Array
    train: pa.Table
    evals: Mapping[str, pa.Table]
    num_rows: Mapping[str, int]
    again: list[str]

    def codes(self, table: pa.Table) -> Any:
        """Return the code of the user of each row."""
        found = pc.index_in(table[USER_ID].combine_chunks(), self.user_ids)
        return found.to_numpy(zero_copy_only=False).astype(np.int64)


def read_shard(prepared: Path, name: str) -> Shard:
    """Read the files of one name in all splits; they hold all rows of their users.

    Raises:
        UserError: A file is damaged.
    """
    tables: dict[str, pa.Table] = {}
    for part in ("train", *HELD_OUT):
        schema = TRAIN_EXAMPLE if part == "train" else EVAL_EXAMPLE
        tables[part] = _read_rows(prepared / part / name, schema)
    num_rows = {part: table.num_rows for part, table in tables.items()}
    again: list[str] = []
    for part in HELD_OUT:
        users = tables[part][USER_ID].combine_chunks().dictionary_encode().indices.to_numpy()
        first = np.sort(np.unique(users, return_index=True)[1])
        further = np.setdiff1d(np.arange(len(users)), first)
        again += tables[part][USER_ID].take(pa.array(further)).to_pylist()
        tables[part] = tables[part].take(pa.array(first)).combine_chunks()
    users = [table[USER_ID].combine_chunks() for table in tables.values()]
    user_ids = pc.unique(pa.concat_arrays(users))
    return Shard(user_ids, tables.pop("train"), tables, num_rows, again)


def _read_rows(path: Path, schema: pa.Schema) -> pa.Table:
    if not path.is_file():
        return schema.empty_table()
    try:
        return pq.read_table(path).combine_chunks()
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())  # messages of Arrow may have several lines
        raise UserError(f"{path} is damaged: {reason}; run `recdiv prepare` again") from None


def list_strays(shard: Shard, num_items: int) -> list[str]:
    """Return the item indices that are not in the catalogue."""
    columns = [shard.train["items"]]
    columns += [table[name] for table in shard.evals.values() for name in ("history", "targets")]
    items = np.concatenate([pc.list_flatten(column).to_numpy() for column in columns])
    return [str(item) for item in np.unique(items[(items < 0) | (items >= num_items)])]


def train_keys(shard: Shard, num_items: int) -> Any:
    """Return the keys of the train events; an item that a row repeats as context counts once."""
    keys = key_lists(shard.train, "items", shard.user_ids, num_items)
    return keys[~mark_repeated(shard.train)]


def check_shard(shard: Shard, in_core_V: Any) -> list[Finding]:
    """Check a shard whose items are all in the catalogue; `in_core_V`: [V] bool, items of train."""
    num_items = len(in_core_V)
    train = train_keys(shard, num_items)
    has_train_B = np.zeros(len(shard.user_ids), dtype=bool)
    has_train_B[train // num_items] = True
    findings = [
        find("users with several rows in a held-out split", len(shard.again), shard.again),
        _check_requests(shard, num_items),
    ]
    wrong_flags: list[str] = []
    is_asked_B = np.zeros(len(shard.user_ids), dtype=bool)
    first_histories: list[Any] = []
    for name, table in shard.evals.items():
        codes = shard.codes(table)
        history = key_lists(table, "history", shard.user_ids, num_items)
        first = history[~is_asked_B[history // num_items]]
        is_asked_B[codes] = True
        first_histories.append(first)
        is_expected = in_core_V[first % num_items] & has_train_B[first // num_items]
        late = find_excess(first[is_expected], train)
        findings.append(
            of_users(f"held-out events in {name} histories", late, shard.user_ids, num_items)
        )
        is_cold = ~has_train_B[codes]
        is_wrong = is_cold != table["is_cold_user"].to_numpy()
        wrong_flags += table[USER_ID].filter(pa.array(is_wrong)).to_pylist()
        findings += _count_cold(name, shard, table, is_cold, history, in_core_V)
    asked_train = train[is_asked_B[train // num_items]]
    future = find_excess(asked_train, np.concatenate(first_histories))
    return [
        of_users("events of the future in train", future, shard.user_ids, num_items),
        find("cold-user flags that are wrong", len(wrong_flags), wrong_flags),
        *findings,
    ]


def _count_cold(
    name: str, shard: Shard, table: pa.Table, is_cold: Any, history: Any, in_core_V: Any
) -> list[Finding]:
    num_items = len(in_core_V)
    targets = key_lists(table, "targets", shard.user_ids, num_items)
    cold = table[USER_ID].filter(pa.array(is_cold))
    cold_targets = targets[~in_core_V[targets % num_items]]
    repeated = targets[np.isin(targets, history)]
    return [
        find(f"cold users in {name}", len(cold), cold.slice(0, NUM_EXAMPLES).to_pylist()),
        of_users(f"cold items among {name} targets", cold_targets, shard.user_ids, num_items),
        of_users(
            f"{name} targets that the user had before",
            repeated,
            shard.user_ids,
            num_items,
            {"targets": [len(targets)]},
        ),
    ]


def check_sale(shard: Shard, dates: SaleDates) -> list[Finding]:
    """Count the held-out items that are not on sale at the time of their request."""
    findings: list[Finding] = []
    for name, table in shard.evals.items():
        times_B = first_times(table["target_times"])
        if times_B is None:
            continue
        keys = key_lists(table, "targets", shard.user_ids, len(dates.from_V))
        items = keys % len(dates.from_V)
        asked = np.repeat(times_B, pc.list_value_length(table["targets"]).to_numpy())
        is_out = (dates.from_V[items] > asked) | (asked > dates.until_V[items])
        title = f"{name} targets not on sale at their request"
        findings.append(of_users(title, keys[is_out], shard.user_ids, len(dates.from_V)))
    return findings


def _check_requests(shard: Shard, num_items: int) -> Finding:
    """Compare the val row with the test row of each of the R users who have both.

    The test history begins with the val history. The rest was held out for val, so it holds the
    val targets: exactly, or for a request with a query at least.
    """
    codes = [shard.codes(shard.evals[name]) for name in HELD_OUT]
    both, val_rows, test_rows = np.intersect1d(*codes, assume_unique=True, return_indices=True)
    val = shard.evals["val"].take(pa.array(val_rows))
    test = shard.evals["test"].take(pa.array(test_rows))
    val_items, val_offsets = _flat(val["history"])
    test_items, test_offsets = _flat(test["history"])
    lengths_R, all_R = np.diff(val_offsets), np.diff(test_offsets)
    is_bad_R = lengths_R > all_R
    shared_R = np.minimum(lengths_R, all_R)
    ours, offsets = split.slices(val_offsets[:-1], shared_R)
    theirs, _ = split.slices(test_offsets[:-1], shared_R)
    rows = np.repeat(np.arange(len(both)), np.diff(offsets))
    is_bad_R[rows[val_items[ours] != test_items[theirs]]] = True
    tail, offsets = split.slices(test_offsets[:-1] + shared_R, all_R - shared_R)
    tail_keys = np.repeat(np.arange(len(both)), np.diff(offsets)) * num_items + test_items[tail]
    targets, offsets = _flat(val["targets"])
    target_keys = np.repeat(np.arange(len(both)), np.diff(offsets)) * num_items + targets
    missing = target_keys[~np.isin(target_keys, tail_keys)]
    is_bad_R[missing // num_items] = True
    further = tail_keys[~np.isin(tail_keys, target_keys)] // num_items
    is_bad_R[further[val["query"].to_numpy()[further] == NO_QUERY]] = True
    users = shard.user_ids.take(pa.array(both[is_bad_R][:NUM_EXAMPLES])).to_pylist()
    return find("val and test rows that contradict each other", is_bad_R.sum(), users)


def hash_histories(shard: Shard, num_items: int) -> tuple[Any, Any]:
    """Hash the complete history of each user with at least MIN_DISTINCT distinct items.

    Returns:
        Hashes, and the codes of their users.
    """
    num_users = len(shard.user_ids)
    parts: list[Any] = []
    is_taken_B = np.zeros(num_users, dtype=bool)
    for name in reversed(HELD_OUT):  # the test row has the longest history
        table = shard.evals[name]
        for column in ("history", "targets"):
            keys = key_lists(table, column, shard.user_ids, num_items)
            parts.append(keys[~is_taken_B[keys // num_items]])
        is_taken_B[shard.codes(table)] = True
    train = train_keys(shard, num_items)
    parts.append(train[~is_taken_B[train // num_items]])
    keys = np.concatenate(parts)
    keys = keys[np.argsort(keys // num_items, kind="stable")]
    distinct_B = np.bincount(np.unique(keys) // num_items, minlength=num_users)
    lengths_B = np.bincount(keys // num_items, minlength=num_users)
    hashes_B = hash_lists(keys % num_items, np.concatenate([[0], np.cumsum(lengths_B)]))
    codes = np.flatnonzero(distinct_B >= MIN_DISTINCT)
    return hashes_B[codes], codes


def _flat(column: pa.ChunkedArray) -> tuple[Any, Any]:
    """Return the entries of a list column, one after another, and the offset of each list."""
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(column).to_numpy())])
    return pc.list_flatten(column).to_numpy(), offsets.astype(np.int64)
