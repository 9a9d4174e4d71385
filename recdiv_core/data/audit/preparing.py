# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""The audit inside `prepare`: compares the written examples with the staged events and the clock.

It reads the files back and counts by another way than split.py, which made them. It also runs the
checks that need the times of the raw log (did the item exist yet, is the user human), because a
prepared data set has no times. prepared.py runs the checks that need the data set alone.
B users, N events, V items, R requests.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdiv_core.data import split
from recdiv_core.data.audit import traces
from recdiv_core.data.audit.findings import NUM_EXAMPLES, Finding, find
from recdiv_core.formats import timestamps
from recdiv_core.schema import AVAILABLE_FROM, DAY_US, EVAL_EXAMPLE, TRAIN_EXAMPLE, USER_ID

logger = logging.getLogger(__name__)

UNDATED: Final = np.iinfo(np.int64).min
SLACK_US: Final = DAY_US
"""Tolerance of a date: dates have no hour and no time zone."""
MANY_UNBORN: Final = 0.05
"""Share of ranked candidates that do not exist yet, above which the finding is a warning."""


@dataclass(frozen=True)
class Clock:
    """Arrival times of items in microseconds; exists only for a log with real times.

    Attributes:
        first_V: [V] int64, time of the first event of any kind; traces.NEVER = no event.
        dated_V: [V] int64, `available_from` of the catalogue; UNDATED = not given.
    """

    first_V: Any
    dated_V: Any

    @property
    def born_V(self) -> Any:
        """[V] int64: latest possible arrival of each item; NEVER = unknown."""
        return np.where(
            self.dated_V == UNDATED, self.first_V, np.minimum(self.first_V, self.dated_V)
        )


def make_clock(first_V: Any, items: pa.Table) -> Clock:
    """Combine the first events of items with the dates of the catalogue."""
    dated_V = np.full(len(first_V), UNDATED, dtype=np.int64)
    if AVAILABLE_FROM in items.column_names:
        found = timestamps.read_times(items[AVAILABLE_FROM].combine_chunks())
        if found is None:
            logger.warning("data.items: %s holds no times; not used", AVAILABLE_FROM)
        else:
            dated_V = np.where(found[1] == 0, found[0], UNDATED)
    return Clock(first_V, dated_V)


def audit_shard(
    work: str,
    shard: int,
    events: split.UserEvents,
    counts_B3: Any,
    is_cold_V: Any,
    clock: Clock | None = None,
) -> list[Finding]:
    """Read a shard's files back and compare them with the events that they were made from."""
    train = _read(work, "train", shard, TRAIN_EXAMPLE)
    evals = {name: _read(work, name, shard, EVAL_EXAMPLE) for name in ("val", "test")}
    return audit_tables(train, evals, events, counts_B3, is_cold_V, clock)


def audit_tables(
    train: pa.Table,
    evals: Mapping[str, pa.Table],
    events: split.UserEvents,
    counts_B3: Any,
    is_cold_V: Any,
    clock: Clock | None = None,
) -> list[Finding]:
    """Compare the rows of some users, `evals` by split, with the events that they were made from.

    The findings of users without held-out events whose rows are right are 0.
    """
    num_items = len(is_cold_V)
    keys_N = events.users_N * num_items + events.items_N
    parts_N = split.mark_parts(counts_B3)
    train_keys = key_lists(train, "items", events.user_ids, num_items)[~mark_repeated(train)]
    in_future = find_excess(train_keys, keys_N[parts_N == split.TRAIN])
    targets = [key_lists(evals[name], "targets", events.user_ids, num_items) for name in evals]
    twice = find_excess(np.concatenate([train_keys, *targets]), keys_N)
    findings = [
        of_users("events of the future in train", in_future, events.user_ids, num_items),
        of_users("events in two splits", twice, events.user_ids, num_items),
    ]
    for (name, table), keys in zip(evals.items(), targets, strict=True):
        history = key_lists(table, "history", events.user_ids, num_items)
        part = split.VAL if name == "val" else split.TEST
        late = find_excess(history, keys_N[parts_N < part])
        cold = table.filter(table["is_cold_user"])[USER_ID].to_pylist()
        is_cold = is_cold_V[keys % num_items]
        findings += [
            of_users(f"held-out events in {name} histories", late, events.user_ids, num_items),
            find(f"cold users in {name}", len(cold), cold),
            of_users(f"cold items among {name} targets", keys[is_cold], events.user_ids, num_items),
            of_users(
                f"{name} targets that the user had before",
                keys[np.isin(keys, history)],
                events.user_ids,
                num_items,
                {"targets": [len(keys)]},
            ),
        ]
        if clock is not None:
            findings += audit_times(events, counts_B3, part, clock)
    num_ties = split.count_ties(events, counts_B3)
    return [*findings, find("ties in time across a cut", num_ties)]


def audit_times(events: split.UserEvents, counts_B3: Any, part: int, clock: Clock) -> list[Finding]:
    """Check whether items existed at the time of a split's requests.

    The time of a request is its user's first held-out event. Candidates are counted as pairs of a
    request and an item that arrived later. Items of unknown arrival count as present.
    """
    name = "val" if part == split.VAL else "test"
    users_R = np.flatnonzero(counts_B3[:, part])
    starts_R = events.offsets_B[users_R] + counts_B3[users_R, :part].sum(1)
    asked_R = events.times_N[starts_R]
    born = np.sort(clock.born_V[clock.born_V != traces.NEVER])
    unborn_R = len(born) - np.searchsorted(born, asked_R, side="right")
    held_out = np.flatnonzero(split.mark_parts(counts_B3) == part)
    items, asked = events.items_N[held_out], np.repeat(asked_R, counts_B3[users_R, part])
    num_items = len(clock.first_V)
    keys = events.users_N[held_out] * num_items + items
    dated = np.maximum(clock.dated_V[items], UNDATED + SLACK_US)  # no wrap-around
    is_early = events.times_N[held_out] < dated - SLACK_US
    return [
        of_users(
            f"{name} targets nobody had seen before",
            keys[clock.first_V[items] >= asked],
            events.user_ids,
            num_items,
        ),
        of_users(
            f"{name} targets before their item was available",
            keys[is_early],
            events.user_ids,
            num_items,
        ),
        find(
            f"candidates not yet there at {name} requests",
            unborn_R.sum(),
            figures={"requests": [len(users_R)], "candidates": [len(users_R) * num_items]},
        ),
    ]


def audit_log(
    protocol: str, counts_2P: Any, clock: Clock | None, item_ids: pa.Array
) -> list[Finding]:
    """Return the findings about the whole log: its kind, its split, positions and arrivals."""
    findings = [
        find("order-only log: no check against the clock", clock is None),
        find(
            "leave_last_out: train holds events later than other users' test events",
            protocol == "leave_last_out",
        ),
        *traces.audit_positions(counts_2P),
    ]
    return findings if clock is None else [*findings, audit_arrivals(clock, item_ids)]


def audit_arrivals(clock: Clock, item_ids: pa.Array) -> Finding:
    """Compare the dates of the catalogue with the first events in the log."""
    dated_V = np.maximum(clock.dated_V, UNDATED + SLACK_US)  # no wrap-around
    early = np.flatnonzero(clock.first_V < dated_V - SLACK_US)
    shown = item_ids.take(pa.array(early[:NUM_EXAMPLES])).to_pylist()
    return find("items seen before they were available", len(early), shown)


def weigh(findings: Sequence[Finding], clock: Clock) -> list[Finding]:
    """Raise the severity of many not yet existing candidates, if the catalogue dates its items.

    Without dates, a rarely clicked item only looks new.
    """
    has_dates = bool((clock.dated_V != UNDATED).any())
    weighed: list[Finding] = []
    for finding in findings:
        ranked = finding.figures.get("candidates", [0])[0]
        is_grave = has_dates and ranked and finding.count > MANY_UNBORN * ranked
        weighed.append(replace(finding, severity="warning") if is_grave else finding)
    return weighed


# --------------------------------------------------------------------------- reading back


def _read(work: str, name: str, shard: int, schema: pa.Schema) -> pa.Table:
    path = Path(work, name, f"part-{shard:05d}.parquet")
    return pq.read_table(path) if path.is_file() else schema.empty_table()


def key_lists(table: pa.Table, column: str, user_ids: pa.Array, num_items: int) -> Any:
    """Return user * num_items + item for every entry of a list column."""
    users = pc.index_in(table[USER_ID].combine_chunks(), user_ids).to_numpy(zero_copy_only=False)
    lengths = pc.list_value_length(table[column]).to_numpy()
    items = pc.list_flatten(table[column]).to_numpy()
    return np.repeat(users.astype(np.int64), lengths) * num_items + items


def mark_repeated(train: pa.Table) -> Any:
    """Mark the first item of a row whose user is the user of the previous row."""
    users = train[USER_ID].combine_chunks().dictionary_encode().indices.to_numpy()
    lengths = pc.list_value_length(train["items"]).to_numpy()
    is_repeated = np.zeros(int(lengths.sum()), dtype=bool)
    starts = np.cumsum(lengths) - lengths
    is_repeated[starts[1:][np.diff(users) == 0]] = True
    return is_repeated


def find_excess(found: Any, allowed: Any) -> Any:
    """Return the keys that occur more often in `found` than in `allowed`, once each."""
    keys, counts = np.unique(found, return_counts=True)
    allowed_keys, allowed_counts = np.unique(allowed, return_counts=True)
    places = np.searchsorted(allowed_keys, keys).clip(max=max(len(allowed_keys) - 1, 0))
    limits = np.zeros(len(keys), dtype=np.int64)
    if len(allowed_keys):
        limits = np.where(allowed_keys[places] == keys, allowed_counts[places], 0)
    return keys[counts > limits]


def of_users(
    name: str,
    keys: Any,
    user_ids: pa.Array,
    num_items: int,
    figures: Mapping[str, list[float]] | None = None,
) -> Finding:
    """Make a finding of keys (user * num_items + item), with some of their users as examples."""
    users = np.unique(keys // num_items)[:NUM_EXAMPLES]
    return find(name, len(keys), user_ids.take(pa.array(users)).to_pylist(), figures)
