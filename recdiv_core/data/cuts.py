"""Where a log is cut into train, validation and test: the split protocol and the cut times.

The times are global: as given, from the latest days, or from shares of the events. A histogram of
the times of all staged shards gives the shares, so the driver never holds the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from recdiv_core.config import Config
from recdiv_core.data import split
from recdiv_core.data.shards import map_shards, read_shard, summarise
from recdiv_core.errors import UserError
from recdiv_core.formats import timestamps
from recdiv_core.schema import DAY_US, Manifest

TIME_BINS: Final = 1 << 20
"""Bins of the histogram that the cut times are found with."""


@dataclass(frozen=True)
class Cuts:
    """Split protocol and cut times in microseconds; leave_last_out has no cut times."""

    protocol: str
    val_from: int = 0
    test_from: int = 0

    @classmethod
    def of_manifest(cls, manifest: Manifest) -> Cuts:
        """Return the cuts of a prepared data set."""
        made = manifest.split
        times = (int(made.get(f"{name}_us", 0)) for name in ("val_from", "test_from"))
        return cls(str(made["protocol"]), *times)

    def count(self, events: split.UserEvents) -> Any:
        """Return [B, 3] int64: events of each user in train, val and test."""
        if self.protocol == "leave_last_out":
            return split.count_leave_last_out(events.offsets_B)
        return split.count_temporal(events.times_N, events.offsets_B, self.val_from, self.test_from)

    def describe(self) -> dict[str, str | int | float]:
        """Return the description of the split for the manifest."""
        if self.protocol == "leave_last_out":
            return {"protocol": self.protocol}
        return {
            "protocol": self.protocol,
            "val_from": timestamps.show_time(self.val_from),
            "test_from": timestamps.show_time(self.test_from),
            "val_from_us": self.val_from,
            "test_from_us": self.test_from,
        }


def choose_protocol(config: Config, has_timestamps: bool) -> str:
    """Return the split protocol; `auto` depends on whether the log has times.

    Raises:
        UserError: A temporal split is set for a log without times.
    """
    protocol = config.split.protocol
    if protocol == "temporal" and not has_timestamps:
        raise UserError(
            "split.protocol=temporal needs timestamps, and this log has order numbers only "
            f"(data.columns.timestamp={config.data.columns.timestamp}); allowed: leave_last_out"
        )
    if protocol == "auto":
        return "temporal" if has_timestamps else "leave_last_out"
    return protocol


def parse_cut(text: str, key: str) -> int:
    """Return the time that a `split.*_from` key gives, in microseconds.

    Raises:
        UserError: The text is no time.
    """
    times = timestamps.read_times(pa.array([text]))
    if times is None:
        raise UserError(f"{key}={text} is no time; allowed: ISO 8601, epoch seconds, milliseconds")
    return int(times[0][0])


def find_cuts(config: Config, protocol: str, work: Path, *, on_ray: bool = True) -> Cuts:
    """Return the global cut times: as given, from the latest days, or from the shares of events.

    Shares are approximated by a histogram of TIME_BINS bins over the time span of the log.

    Raises:
        UserError: A window is empty, or the cut times are in the wrong order.
    """
    if protocol == "leave_last_out":
        return Cuts(protocol)
    staged = summarise(work, config)
    first, last = staged["first"], staged["last"]
    width = (last - first) // TIME_BINS + 1
    histogram = np.zeros(TIME_BINS, dtype=np.int64)
    for part in map_shards(_count_times, work, on_ray=on_ray, first=first, width=width):
        histogram[part["bins"]] += part["counts"]
    before = np.concatenate([[0], np.cumsum(histogram)])
    settings = config.split
    asked = {
        "val_from": (settings.val_from, settings.val_share + settings.test_share),
        "test_from": (settings.test_from, settings.test_share),
    }
    cuts: dict[str, int] = {}
    for name, (given, share) in asked.items():
        edge = first_nearest(before, (1.0 - share) * before[-1])
        cuts[name] = parse_cut(given, f"split.{name}") if given else first + edge * width
    if settings.test_days and not settings.test_from:
        midnight = (last // DAY_US + 1) * DAY_US
        cuts["test_from"] = midnight - settings.test_days * DAY_US
    if settings.val_days and not settings.val_from:
        cuts["val_from"] = cuts["test_from"] - settings.val_days * DAY_US
    if not first < cuts["val_from"] < cuts["test_from"] <= last:
        begin, val, test, end = (
            timestamps.show_time(t) for t in (first, cuts["val_from"], cuts["test_from"], last)
        )
        val_by = _deciding("val", settings.val_from, settings.val_days, settings.val_share)
        test_by = _deciding("test", settings.test_from, settings.test_days, settings.test_share)
        raise UserError(
            f"{val_by} and {test_by} cut the log at {val} and {test}, but its times go from "
            f"{begin} to {end}: each of the three windows needs events; change these settings, or "
            "set split.protocol=leave_last_out"
        )
    return Cuts(protocol, **cuts)


def _deciding(window: str, cut: str, days: int, share: float) -> str:
    """Return the setting that decides where a window begins, with its value.

    >>> _deciding("val", "", 0, 0.1)
    'split.val_share=0.1'
    """
    given = {f"{window}_from": cut, f"{window}_days": days, f"{window}_share": share}
    name = next(name for name, value in given.items() if value)
    return f"split.{name}={given[name]}"


def first_nearest(ascending: Any, target: float) -> int:
    """Return the first index of the value that is nearest to a target; of two, the smaller value.

    >>> first_nearest(np.array([0, 2, 2, 4]), 3.0)
    1
    """
    above = int(np.searchsorted(ascending, target))
    if above == 0:
        return 0
    below = int(np.searchsorted(ascending, ascending[above - 1]))
    if above == len(ascending) or target - ascending[below] <= ascending[above] - target:
        return below
    return above


def _count_times(shard: int, *, work: str, first: int, width: int) -> dict[str, Any]:
    bins = (read_shard(work, shard).times_N - first) // width
    values, counts = np.unique(bins, return_counts=True)
    return {"bins": values, "counts": counts}
