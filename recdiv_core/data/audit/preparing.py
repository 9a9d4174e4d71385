# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Prepare's audit: the examples as they were written, against the staged events and the clock.

Not the split (split.py): the files are read back and counted by another way than the one that made
them. What needs the raw log's times is asked here too (was the item there yet, is the user human),
for the prepared data set has none; recdiv_core/audit.py asks what the data set itself can answer.
B users, N events, V items, R requests.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
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
from recdiv_core.schema import EVAL_EXAMPLE, TRAIN_EXAMPLE, USER_ID

logger = logging.getLogger(__name__)

AVAILABLE_FROM: Final = "available_from"
UNDATED: Final = np.iinfo(np.int64).min
DAY_US: Final = 86_400_000_000
"""How far a date may be off: dates have no hour and no zone."""
HOUR_S: Final = 3_600
MIN_BUSY: Final = 60
"""Events in an hour below which nobody is suspected: one a minute, the whole hour."""
FENCE: Final = 6.0
"""Robust standard deviations of log busiest hours beyond which a user is no human."""
MAD_FLOOR: Final = 0.4
"""Least spread taken: half of the users within a factor of 1.5."""
MAD_TO_SD: Final = 1.4826
MANY_UNBORN: Final = 0.05
"""Share of ranked candidates not yet there from which figures need care."""


@dataclass(frozen=True)
class Clock:
    """When items came, in microseconds; only of a log that has real times.

    Attributes:
        first_V: [V] int64, first seen in the log by any kind of event; traces.NEVER = never.
        dated_V: [V] int64, the catalogue's `available_from`; UNDATED = it does not say.
    """

    first_V: Any
    dated_V: Any

    @property
    def born_V(self) -> Any:
        """[V] int64: when the item was there at the latest; NEVER = nothing is known."""
        return np.where(
            self.dated_V == UNDATED, self.first_V, np.minimum(self.first_V, self.dated_V)
        )


def make_clock(first_V: Any, items: pa.Table) -> Clock:
    """Join what the log shows of the items' arrival with what the catalogue says."""
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
    """Read back a shard's files and compare them with the events they were made of."""
    train = _read(work, "train", shard, TRAIN_EXAMPLE)
    evals = {name: _read(work, name, shard, EVAL_EXAMPLE) for name in ("val", "test")}
    num_items = len(is_cold_V)
    keys_N = events.users_N * num_items + events.items_N
    parts_N = split.mark_parts(counts_B3)
    train_keys = key_lists(train, "items", events.user_ids, num_items)[~mark_repeated(train)]
    in_future = find_excess(train_keys, keys_N[parts_N == split.TRAIN])
    targets = [key_lists(evals[name], "targets", events.user_ids, num_items) for name in evals]
    twice = find_excess(np.concatenate([train_keys, *targets]), keys_N)
    findings = [
        _of_users("events of the future in train", in_future, events, num_items),
        _of_users("events in two splits", twice, events, num_items),
    ]
    for (name, table), keys in zip(evals.items(), targets, strict=True):
        history = key_lists(table, "history", events.user_ids, num_items)
        part = split.VAL if name == "val" else split.TEST
        late = find_excess(history, keys_N[parts_N < part])
        cold = table.filter(table["is_cold_user"])[USER_ID].to_pylist()
        is_cold = is_cold_V[keys % num_items]
        findings += [
            _of_users(f"held-out events in {name} histories", late, events, num_items),
            find(f"cold users in {name}", len(cold), cold),
            _of_users(f"cold items among {name} targets", keys[is_cold], events, num_items),
            _of_users(
                f"{name} targets that the user had before",
                keys[np.isin(keys, history)],
                events,
                num_items,
            ),
        ]
        if clock is not None:
            findings += audit_times(events, counts_B3, part, clock)
    num_ties = split.count_ties(events, counts_B3)
    return [*findings, find("ties in time across a cut", num_ties)]


def audit_times(events: split.UserEvents, counts_B3: Any, part: int, clock: Clock) -> list[Finding]:
    """Ask of a split's requests whether the items were there at the time.

    A request is made at its user's first held-out event. The count of candidates is that of pairs
    (request, item of the catalogue that came later); items of unknown arrival are taken as there.
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
    dated = np.maximum(clock.dated_V[items], UNDATED + DAY_US)  # no wrap-around
    is_early = events.times_N[held_out] < dated - DAY_US
    return [
        _of_users(
            f"{name} targets nobody had seen before",
            keys[clock.first_V[items] >= asked],
            events,
            num_items,
        ),
        _of_users(
            f"{name} targets before their item was available", keys[is_early], events, num_items
        ),
        find(
            f"candidates not yet there at {name} requests",
            unborn_R.sum(),
            figures={"requests": [len(users_R)], "candidates": [len(users_R) * num_items]},
        ),
    ]


def audit_log(protocol: str, has_timestamps: bool) -> list[Finding]:
    """Say what the log and the protocol themselves imply."""
    return [
        find("order-only log: no check against the clock", not has_timestamps),
        find(
            "leave_last_out: train holds events later than other users' test events",
            protocol == "leave_last_out",
        ),
    ]


def audit_arrivals(clock: Clock, item_ids: pa.Array) -> Finding:
    """Compare the catalogue's dates with the log."""
    dated_V = np.maximum(clock.dated_V, UNDATED + DAY_US)  # no wrap-around
    early = np.flatnonzero(clock.first_V < dated_V - DAY_US)
    shown = item_ids.take(pa.array(early[:NUM_EXAMPLES])).to_pylist()
    return find("items seen before they were available", len(early), shown)


def weigh(findings: Sequence[Finding], clock: Clock) -> list[Finding]:
    """Make many unborn candidates a warning, when the catalogue itself dates its items.

    Without its dates an item that few click only looks new.
    """
    has_dates = bool((clock.dated_V != UNDATED).any())
    weighed: list[Finding] = []
    for finding in findings:
        ranked = finding.figures.get("candidates", [0])[0]
        is_grave = has_dates and ranked and finding.count > MANY_UNBORN * ranked
        weighed.append(replace(finding, severity="warning") if is_grave else finding)
    return weighed


# --------------------------------------------------------------------------- rates


def count_busiest_hours(events: split.UserEvents) -> Any:
    """Return [B] int64: the most events of each user within any 3600 seconds."""
    seconds = (events.times_N - events.times_N.min()) // 1_000_000
    stride = int(seconds.max()) + HOUR_S
    keys = events.users_N * stride + seconds
    ends = np.searchsorted(keys, keys + HOUR_S)
    return np.maximum.reduceat(ends - np.arange(len(keys)), events.offsets_B[:-1])


def sum_up_rates(events: split.UserEvents) -> dict[str, Any]:
    """Return a shard's busiest hours as a histogram, and its busiest users."""
    busiest_B = count_busiest_hours(events)
    values, counts = np.unique(busiest_B, return_counts=True)
    top = np.argsort(-busiest_B, kind="stable")[:NUM_EXAMPLES]
    users = events.user_ids.take(pa.array(top)).to_pylist()
    return {
        "values": values.tolist(),
        "counts": counts.tolist(),
        "top": [[int(busiest_B[b]), user] for b, user in zip(top, users, strict=True)],
    }


def audit_rates(parts: Sequence[dict[str, Any]]) -> Finding:
    """Find users whose busiest hour no human has.

    A busiest hour is too busy when it has MIN_BUSY events or more and lies more than FENCE robust
    standard deviations (1.4826 * the median absolute deviation of the logarithms) above the median.
    """
    values = np.concatenate([np.asarray(part["values"]) for part in parts])
    counts = np.concatenate([np.asarray(part["counts"]) for part in parts])
    logs = np.log(values)
    median = weighted_median(logs, counts)
    spread = MAD_TO_SD * max(weighted_median(np.abs(logs - median), counts), MAD_FLOOR)
    limit = max(float(np.exp(median + FENCE * spread)), MIN_BUSY)
    top = sorted((pair for part in parts for pair in part["top"]), key=lambda pair: -pair[0])
    return find(
        "users at an inhuman rate",
        counts[values >= limit].sum(),
        [user for rate, user in top if rate >= limit],
        figures={"median_an_hour": [float(np.exp(median))], "limit_an_hour": [limit]},
    )


def weighted_median(values: Any, counts: Any) -> float:
    """Return the lower median of values that stand `counts` times each."""
    order = np.argsort(values)
    reached = np.cumsum(counts[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])


# --------------------------------------------------------------------------- reading back


def _read(work: str, name: str, shard: int, schema: pa.Schema) -> pa.Table:
    path = Path(work, name, f"part-{shard:05d}.parquet")
    return pq.read_table(path) if path.is_file() else schema.empty_table()


def key_lists(table: pa.Table, column: str, user_ids: pa.Array, num_items: int) -> Any:
    """Return user * num_items + item of every entry of a list column."""
    users = pc.index_in(table[USER_ID].combine_chunks(), user_ids).to_numpy(zero_copy_only=False)
    lengths = pc.list_value_length(table[column]).to_numpy()
    items = pc.list_flatten(table[column]).to_numpy()
    return np.repeat(users.astype(np.int64), lengths) * num_items + items


def mark_repeated(train: pa.Table) -> Any:
    """Mark the first item of a row that goes on with the user of the row before."""
    users = train[USER_ID].combine_chunks().dictionary_encode().indices.to_numpy()
    lengths = pc.list_value_length(train["items"]).to_numpy()
    is_repeated = np.zeros(int(lengths.sum()), dtype=bool)
    starts = np.cumsum(lengths) - lengths
    is_repeated[starts[1:][np.diff(users) == 0]] = True
    return is_repeated


def find_excess(found: Any, allowed: Any) -> Any:
    """Return the keys that stand more often in `found` than in `allowed`, once each."""
    keys, counts = np.unique(found, return_counts=True)
    allowed_keys, allowed_counts = np.unique(allowed, return_counts=True)
    places = np.searchsorted(allowed_keys, keys).clip(max=max(len(allowed_keys) - 1, 0))
    limits = np.zeros(len(keys), dtype=np.int64)
    if len(allowed_keys):
        limits = np.where(allowed_keys[places] == keys, allowed_counts[places], 0)
    return keys[counts > limits]


def _of_users(name: str, keys: Any, events: split.UserEvents, num_items: int) -> Finding:
    users = np.unique(keys // num_items)[:NUM_EXAMPLES]
    return find(name, len(keys), events.user_ids.take(pa.array(users)).to_pylist())
