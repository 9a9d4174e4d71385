"""From staged shards to audited splits: the steps that `prepare` and `forget` share.

staging.py writes the shards, examples.py has the passes. The order is: cut times, k-core, queries,
examples with their audit.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from recdiv_core.config import Config
from recdiv_core.data import examples
from recdiv_core.data.audit import preparing, traces
from recdiv_core.data.audit.findings import Finding
from recdiv_core.data.cuts import Cuts, find_cuts
from recdiv_core.data.retention import OLDER
from recdiv_core.data.shards import summarise
from recdiv_core.schema import ITEM_ID

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Splits:
    """The written splits of a data set.

    Attributes:
        popularity_V: [V] int64, train events; 0 = outside the k-core.
        queries: all query texts, sorted.
        counts: see `examples.count_parts`.
        staged: see `summarise`.
        findings: findings of the audit, without those of the texts.
    """

    cuts: Cuts
    popularity_V: Any
    queries: pa.Array
    counts: Mapping[str, int]
    staged: Mapping[str, int]
    findings: list[Finding]

    @property
    def num_events(self) -> int:
        """Events in all splits together."""
        return sum(self.counts[f"events {name}"] for name in SPLITS)

    def describe(self) -> dict[str, Any]:
        """Return the entries of the manifest that the splits decide."""
        counts = self.counts
        lost = self.staged["num_events"] - counts["outside the k-core"] - self.num_events
        assert not lost, f"{lost} staged events are in no split"
        return {
            "num_users": counts["users"],
            "num_events": self.num_events,
            "num_examples": {name: counts[f"examples {name}"] for name in SPLITS},
            "num_events_by_split": {name: counts[f"events {name}"] for name in SPLITS},
            "num_cold_users": counts["cold users"],
            "num_cold_items": int((self.popularity_V == 0).sum()),
            "split": self.cuts.describe()
            | {"ties_across_cut": counts["ties"], "num_sessions": self.staged["num_sessions"]},
        }

    def dropped(self) -> dict[str, int]:
        """Return the counts of events that are in no split, by rule."""
        num_older = self.staged["num_expired"]
        return {
            "duplicates": self.staged["num_duplicates"],
            "outside the k-core": self.counts["outside the k-core"],
            **({OLDER: num_older} if num_older else {}),
        }


def write_splits(
    config: Config,
    protocol: str,
    seen: traces.Traces,
    table: pa.Table,
    work: Path,
    *,
    has_queries: bool,
    has_timestamps: bool,
    on_ray: bool = True,
) -> Splits:
    """Write `train/`, `val/` and `test/` of the staged shards.

    `seen` are sums over the raw log.

    Raises:
        UserError: no event is left, a window or the k-core is empty, or a split has no example.
    """
    staged = summarise(work, config)
    cuts = find_cuts(config, protocol, work, on_ray=on_ray)
    popularity_V = examples.fit_core(config, cuts, len(table), work, on_ray=on_ray)
    queries = examples.collect_queries(work, has_queries=has_queries, on_ray=on_ray)
    clock = preparing.make_clock(seen.first_V, table) if has_timestamps else None
    counts, findings = examples.write_examples(
        config, cuts, popularity_V, queries, clock, work, on_ray=on_ray
    )
    logger.info("examples: %s", dict(counts))
    examples.check_examples(counts, config, cuts)
    item_ids = table[ITEM_ID].combine_chunks()
    findings += preparing.audit_log(protocol, seen.counts_2P, clock, item_ids)
    return Splits(cuts, popularity_V, queries, counts, staged, findings)
