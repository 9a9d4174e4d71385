"""The users of a log who are no single human: robots, and an id that all visitors share.

Each shard of the staged events is summed up by itself; the findings need all shards, because one
user's share or rate counts beside those of all users. B users of a shard, N events.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from recdiv_core.data import split
from recdiv_core.data.audit.findings import NUM_EXAMPLES, Finding, find

HOUR_S: Final = 3_600
MIN_BUSY: Final = 60
"""Fewest events in an hour of a suspicious user: one per minute."""
FENCE: Final = 6.0
"""Robust standard deviations of the log busiest hour above which a user counts as a robot."""
MAD_FLOOR: Final = 0.4
"""Smallest spread of log busiest hours: half of the users within a factor of 1.5."""
MAD_TO_SD: Final = 1.4826
HEAVY_SHARE: Final = 0.05
"""Least share of all events of a user who decides what is learned."""
HEAVY_TIMES: Final = 20
"""The same user has at least so many times the mean events of a user; matters in small shops."""


def count_busiest_hours(events: split.UserEvents) -> Any:
    """Return [B] int64: largest number of events of each user within any 3600 seconds."""
    seconds = (events.times_N - events.times_N.min()) // 1_000_000
    stride = int(seconds.max()) + HOUR_S
    keys = events.users_N * stride + seconds
    ends = np.searchsorted(keys, keys + HOUR_S)
    return np.maximum.reduceat(ends - np.arange(len(keys)), events.offsets_B[:-1])


def sum_up(events: split.UserEvents) -> dict[str, Any]:
    """Return the histogram of a shard's busiest hours, its busiest users, and its heaviest users.

    A heavy user has many events; no more than 1 / HEAVY_SHARE users have HEAVY_SHARE of all.
    """
    busiest_B, sizes_B = count_busiest_hours(events), np.diff(events.offsets_B)
    values, counts = np.unique(busiest_B, return_counts=True)
    return {
        "values": values.tolist(),
        "counts": counts.tolist(),
        "top": _largest(busiest_B, events.user_ids),
        "num_events": int(sizes_B.sum()),
        "heaviest": _largest(sizes_B, events.user_ids, int(1 / HEAVY_SHARE)),
    }


def _largest(
    values_B: Any, user_ids: pa.Array, number: int = NUM_EXAMPLES
) -> list[tuple[int, str]]:
    """Return the largest values with their users."""
    top = np.argsort(-values_B, kind="stable")[:number]
    users = user_ids.take(pa.array(top)).to_pylist()
    return [(int(values_B[b]), user) for b, user in zip(top, users, strict=True)]


def audit_rates(parts: Sequence[dict[str, Any]]) -> Finding:
    """Find users whose busiest hour is too busy for a human.

    An hour is too busy when it has at least MIN_BUSY events and its logarithm lies more than FENCE
    robust standard deviations (1.4826 * median absolute deviation) above the median.
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


def audit_shares(parts: Sequence[dict[str, Any]]) -> Finding:
    """Find users who have so large a share of all events that they decide what is learned.

    Such a user has HEAVY_SHARE of all events or more, and HEAVY_TIMES the mean of all users.
    """
    num_events = sum(part["num_events"] for part in parts)
    num_users = sum(sum(part["counts"]) for part in parts)
    limit = max(HEAVY_SHARE, HEAVY_TIMES / num_users) * num_events
    top = sorted((pair for part in parts for pair in part["heaviest"]), key=lambda pair: -pair[0])
    heavy = [(count, user) for count, user in top if count >= limit]
    their_events = sum(count for count, _ in heavy)
    return find(
        "users with a large share of all events",
        len(heavy),
        [user for _, user in heavy[:NUM_EXAMPLES]],
        figures={"their_events": [their_events], "all_events": [num_events]} if heavy else {},
    )


def weighted_median(values: Any, counts: Any) -> float:
    """Return the lower median of values that occur `counts` times each."""
    order = np.argsort(values)
    reached = np.cumsum(counts[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])
