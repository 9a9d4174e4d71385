# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""A leakage audit of the examples as they were written, into `audit.json`.

Not the split (split.py): the files are read back and compared with the staged events, by another
way of counting than the one that made them. Every finding is additive over shards. Severity: ok =
looked for and not there, info = a fact to know, warning = read figures with care, severe = a bug.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdiv_core.data import split
from recdiv_core.schema import EVAL_EXAMPLE, TRAIN_EXAMPLE, USER_ID

Severity = Literal["ok", "info", "warning", "severe"]

NUM_EXAMPLES: Final = 5


@dataclass(frozen=True)
class Finding:
    """What was looked for, how often it was found, and a few users that show it.

    Attributes:
        name: what is counted.
        severity: of a count above 0; a count of 0 is shown as ok.
        count: events, users or items, as the name says.
        examples: user ids.
    """

    name: str
    severity: Severity
    count: int
    examples: list[str] = field(default_factory=list)


def audit_shard(
    work: str, shard: int, events: split.UserEvents, counts_B3: Any, is_cold_V: Any
) -> list[Finding]:
    """Read back a shard's files and compare them with the events they were made of."""
    train = _read(work, "train", shard, TRAIN_EXAMPLE)
    evals = {name: _read(work, name, shard, EVAL_EXAMPLE) for name in ("val", "test")}
    num_items = len(is_cold_V)
    keys_N = events.users_N * num_items + events.items_N
    parts_N = split.mark_parts(counts_B3)
    train_keys = _keys(train, "items", events.user_ids, num_items)[~_repeated(train)]
    in_future = _excess(train_keys, keys_N[parts_N == split.TRAIN])
    targets = [_keys(evals[name], "targets", events.user_ids, num_items) for name in evals]
    twice = _excess(np.concatenate([train_keys, *targets]), keys_N)
    findings = [
        _finding("events of the future in train", "severe", in_future, events, num_items),
        _finding("events in two splits", "severe", twice, events, num_items),
    ]
    for (name, table), keys in zip(evals.items(), targets, strict=True):
        history = _keys(table, "history", events.user_ids, num_items)
        part = split.VAL if name == "val" else split.TEST
        late = _excess(history, keys_N[parts_N < part])
        cold = table.filter(table["is_cold_user"])[USER_ID].to_pylist()
        findings += [
            _finding(f"held-out events in {name} histories", "severe", late, events, num_items),
            Finding(f"cold users in {name}", "info", len(cold), cold[:NUM_EXAMPLES]),
            _finding(
                f"cold items among {name} targets",
                "info",
                keys[is_cold_V[keys % num_items]],
                events,
                num_items,
            ),
            _finding(
                f"{name} targets that the user had before",
                "info",
                keys[np.isin(keys, history)],
                events,
                num_items,
            ),
        ]
    num_ties = split.count_ties(events, counts_B3)
    return [*findings, Finding("ties in time across a cut", "warning", num_ties)]


def audit_log(protocol: str, has_timestamps: bool) -> list[Finding]:
    """Say what the log and the protocol themselves imply."""
    return [
        Finding("order-only log: no check against the clock", "warning", int(not has_timestamps)),
        Finding(
            "leave_last_out: train holds events later than other users' test events",
            "warning",
            int(protocol == "leave_last_out"),
        ),
    ]


def merge(parts: Sequence[Sequence[Finding]]) -> list[Finding]:
    """Add the findings of all shards up, by name."""
    merged: dict[str, Finding] = {}
    for finding in (finding for part in parts for finding in part):
        before = merged.get(finding.name, replace(finding, count=0, examples=[]))
        examples = sorted({*before.examples, *finding.examples})[:NUM_EXAMPLES]
        merged[finding.name] = replace(
            before, count=before.count + finding.count, examples=examples
        )
    return list(merged.values())


def to_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return the findings as they stand in `audit.json`; one that counts 0 is ok."""
    return [asdict(f) | {"severity": f.severity if f.count else "ok"} for f in findings]


def _read(work: str, name: str, shard: int, schema: pa.Schema) -> pa.Table:
    path = Path(work, name, f"part-{shard:05d}.parquet")
    return pq.read_table(path) if path.is_file() else schema.empty_table()


def _keys(table: pa.Table, column: str, user_ids: pa.Array, num_items: int) -> Any:
    """Return user * num_items + item of every entry of a list column."""
    users = pc.index_in(table[USER_ID].combine_chunks(), user_ids).to_numpy(zero_copy_only=False)
    lengths = pc.list_value_length(table[column]).to_numpy()
    items = pc.list_flatten(table[column]).to_numpy()
    return np.repeat(users.astype(np.int64), lengths) * num_items + items


def _repeated(train: pa.Table) -> Any:
    """Mark the first item of a row that goes on with the user of the row before."""
    users = train[USER_ID].combine_chunks().dictionary_encode().indices.to_numpy()
    lengths = pc.list_value_length(train["items"]).to_numpy()
    is_repeated = np.zeros(int(lengths.sum()), dtype=bool)
    starts = np.cumsum(lengths) - lengths
    is_repeated[starts[1:][np.diff(users) == 0]] = True
    return is_repeated


def _excess(found: Any, allowed: Any) -> Any:
    """Return the keys that stand more often in `found` than in `allowed`, once each."""
    keys, counts = np.unique(found, return_counts=True)
    allowed_keys, allowed_counts = np.unique(allowed, return_counts=True)
    places = np.searchsorted(allowed_keys, keys).clip(max=max(len(allowed_keys) - 1, 0))
    limits = np.zeros(len(keys), dtype=np.int64)
    if len(allowed_keys):
        limits = np.where(allowed_keys[places] == keys, allowed_counts[places], 0)
    return keys[counts > limits]


def _finding(
    name: str, severity: Severity, keys: Any, events: split.UserEvents, num_items: int
) -> Finding:
    users = np.unique(keys // num_items)[:NUM_EXAMPLES]
    return Finding(name, severity, len(keys), events.user_ids.take(pa.array(users)).to_pylist())
