"""Which items may be shown at the time of a request: dates, lists and attributes.

Not the mask itself (ineligible.py). The one idea: besides the settings, only the time of a request
counts. In evaluation that is the time of the first held-out event. Shapes: B users, V catalogue.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdiv_core.config import Config, override
from recdiv_core.data.catalogue import Catalogue
from recdiv_core.data.cuts import parse_cut
from recdiv_core.data.item_lists import SHOWN, mark_items, mark_values, read_item_ids
from recdiv_core.data.reading import first_times, flatten_lists
from recdiv_core.data.sale_dates import SaleDates, sale_dates
from recdiv_core.errors import UserError
from recdiv_core.formats import timestamps
from recdiv_core.schema import AVAILABLE_FROM, AVAILABLE_UNTIL, DAY_US, ITEM_ID, Manifest
from recdiv_core.storage.given_paths import absolute, local_path
from recdiv_core.storage.places import is_uri
from recdiv_core.wording import counted


@dataclass(frozen=True, eq=False)
class Eligibility:
    """Which items may be shown, and from when until when.

    Attributes:
        is_open_V: [V] bool, items that lists and attributes allow.
        dates: times on sale; None = at any time.
        notes: ids and values that the catalogue does not have, for the user.
    """

    is_open_V: Any
    dates: SaleDates | None
    notes: tuple[str, ...] = field(default=(), repr=False)

    def count_at(self, times: Any) -> int:
        """Return the number of items that may be shown at one of some times."""
        if self.dates is None or not len(times):
            return int(self.is_open_V.sum())
        times = np.sort(times)
        next_V = np.searchsorted(times, self.dates.from_V)  # the first request on sale
        is_within_V = next_V < len(times)
        is_within_V &= times[np.minimum(next_V, len(times) - 1)] <= self.dates.until_V
        return int((self.is_open_V & is_within_V).sum())

    def digest(self) -> str:
        """Return a text that is equal for equal lists and attributes, and the same use of dates."""
        listed = hashlib.sha256(np.packbits(self.is_open_V).tobytes()).hexdigest()[:12]
        return f"{self.is_open_V.sum()} items ({listed}){'' if self.dates is None else ' by dates'}"


def lists_of(config: Config) -> dict[str, str]:
    """Return the files of item ids, by their keys; empty = not given."""
    settings = config.eligible
    return {"eligible.block": settings.block, "eligible.only": settings.only}


def may_limit(config: Config, prepared: Path) -> bool:
    """Tell whether some items may be ineligible, from the settings and the catalogue's columns."""
    names = {*pq.read_schema(prepared / "catalogue.parquet").names}
    has_dates = config.eligible.dates and names & {AVAILABLE_FROM, AVAILABLE_UNTIL}
    return bool(has_dates or any(lists_of(config).values()) or config.eligible.where)


def eligibility_of(config: Config, catalogue: Catalogue, manifest: Manifest) -> Eligibility | None:
    """Return which items may be shown; None = all items at any time.

    Raises:
        UserError: a list cannot be read, `eligible.where` names no attribute, or no item is left.
    """
    settings, notes = config.eligible, list[str]()
    is_open_V = np.ones(len(catalogue), bool)
    lists = lists_of(config)
    for key, place in lists.items():
        if place:
            is_listed_V, unknown = mark_items(read_item_ids(place, key, manifest), catalogue)
            is_open_V &= ~is_listed_V if key == "eligible.block" else is_listed_V
            if unknown:
                shown = ", ".join(unknown[:SHOWN]) + ", ..." * (len(unknown) > SHOWN)
                notes.append(f"{key}: {len(unknown)} ids are not in the catalogue: {shown}")
    for name, allowed in settings.where.items():
        key = f"eligible.where.{name}"
        is_fit_V, unknown = mark_values(name, allowed, catalogue, key)
        is_open_V &= is_fit_V
        if unknown:
            notes.append(f"{key}: no item has {', '.join(unknown)}")
    if not is_open_V.any():
        given = [key for key, place in lists.items() if place]
        given += [f"eligible.where.{name}" for name in settings.where]
        more = "".join(f"; {note}" for note in notes)
        raise UserError(f"{', '.join(given)}: no item of the catalogue is left to be shown{more}")
    dates = sale_dates(catalogue.table) if settings.dates and manifest.has_timestamps else None
    if dates is not None and not dates.is_limited:
        dates = None
    if dates is None and not any(lists.values()) and not settings.where:
        return None
    return Eligibility(is_open_V, dates, tuple(notes))


def request_time(config: Config, manifest: Manifest) -> int | None:
    """Return the time of requests that are made now, in microseconds; None = a log without times.

    It is `eligible.at`, else the end of the latest day of the log: the log may be old, and its
    catalogue with it.

    Raises:
        UserError: `eligible.at` is no time.
    """
    if config.eligible.at:
        return parse_cut(config.eligible.at, "eligible.at")
    if not manifest.has_timestamps:
        return None
    last = np.datetime64(str(manifest.times["last"]), "D")
    return int(last.astype("datetime64[us]").astype(np.int64)) + DAY_US - 1


def narrowed(
    eligible: Eligibility | None, catalogue: Catalogue, block: Sequence[str], only: Sequence[str]
) -> Eligibility | None:
    """Return the eligibility with further lists of item ids; unknown ids are ignored."""
    if not len(block) and not len(only):
        return eligible
    found = eligible or Eligibility(np.ones(len(catalogue), bool), None)
    is_open_V = found.is_open_V & ~mark_items(pa.array(block, pa.string()), catalogue)[0]
    if len(only):
        is_open_V &= mark_items(pa.array(only, pa.string()), catalogue)[0]
    return replace(found, is_open_V=is_open_V)


def read_where(text: str) -> dict[str, list[str]]:
    """Read the conditions of a request: attribute -> allowed values, as in `eligible.where`.

    Raises:
        UserError: a condition has no attribute or no `=`.

    >>> read_where("region=eu|world; min_age=0")
    {'region': ['eu', 'world'], 'min_age': ['0']}
    """
    found: dict[str, list[str]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, sign, values = part.partition("=")
        if not sign or not name.strip():
            raise UserError(
                f"where={text!r}: allowed are conditions ATTRIBUTE=VALUE|VALUE, joined by ;"
            )
        found[name.strip()] = [value.strip() for value in values.split("|")]
    return found


def fitting(eligible: Eligibility | None, catalogue: Catalogue, text: str) -> Eligibility | None:
    """Return the eligibility of requests with conditions; see `read_where`.

    Raises:
        UserError: a condition is wrong, or names no attribute of the catalogue.
    """
    conditions = read_where(text)
    if not conditions:
        return eligible
    found = eligible or Eligibility(np.ones(len(catalogue), bool), None)
    is_open_V = found.is_open_V.copy()
    for name, allowed in conditions.items():
        is_open_V &= mark_values(name, allowed, catalogue, f"where: {name}")[0]
    return replace(found, is_open_V=is_open_V)


def check_any(eligible: Eligibility | None, at: int | None) -> int | None:
    """Return the number of items that may be shown; None = all items.

    `at` is the time of the requests in microseconds; None = unknown.

    Raises:
        UserError: no item may be shown.
    """
    if eligible is None:
        return None
    num_items = eligible.count_at(np.array([] if at is None else [at], np.int64))
    if not num_items:
        when = "" if at is None or eligible.dates is None else f" at {timestamps.show_time(at)}"
        raise UserError(
            f"eligible: no item may be shown{when}; check eligible.at, the dates of the catalogue "
            "and the lists of items"
        )
    return num_items


def with_own_lists(config: Config, checkpoint: Path) -> Config:
    """Return the config with the lists that a registered checkpoint holds as its files."""
    own = {key: str(checkpoint / f"{key}.parquet") for key in lists_of(config)}
    return override(config, {key: path for key, path in own.items() if Path(path).is_file()})


def copy_lists(config: Config, manifest: Manifest, checkpoint: Path) -> None:
    """Write the lists of a config into the directory of a checkpoint, for `with_own_lists`."""
    for key, place in lists_of(config).items():
        if place:
            ids = read_item_ids(place, key, manifest)
            pq.write_table(pa.table({ITEM_ID: ids}), checkpoint / f"{key}.parquet")


def with_whole_paths(config: Config) -> Config:
    """Return the config with absolute paths of the lists: workers run in other directories."""
    changes: dict[str, object] = {
        key: str(absolute(local_path(place, key)))
        for key, place in lists_of(config).items()
        if place and not is_uri(place)
    }
    return override(config, changes) if changes else config


def count_targets(prepared: Path, split: str, eligible: Eligibility) -> dict[str, int]:
    """Count what the mask does to a split.

    Returns:
        `num_items`, items that may be shown at some request of the split, and
        `num_ineligible_targets`, held-out items that may not be shown at their own request.
    """
    num_out, asked = 0, [np.zeros(0, np.int64)]
    for path in sorted((prepared / split).glob("part-*.parquet")):
        table = pq.read_table(path, columns=["targets", "target_times"])
        targets, lengths = flatten_lists(table["targets"])
        is_in = eligible.is_open_V[targets]
        times_B = first_times(table["target_times"])
        if times_B is not None and eligible.dates is not None:
            times = np.repeat(times_B, lengths)
            is_in &= eligible.dates.from_V[targets] <= times
            is_in &= times <= eligible.dates.until_V[targets]
            asked.append(times_B)
        num_out += int((~is_in).sum())
    return {
        "num_items": eligible.count_at(np.concatenate(asked)),
        "num_ineligible_targets": num_out,
    }


def describe_counts(counts: Mapping[str, int], num_items: int) -> str:
    """Write the counts of `count_targets`.

    >>> describe_counts({"num_items": 8, "num_ineligible_targets": 2}, 10)
    '8 of 10 items may be shown; misses: 2 held-out items, not to be shown at their request'
    """
    said = f"{counts['num_items']} of {num_items} items may be shown"
    if number := counts["num_ineligible_targets"]:
        said += f"; misses: {counted(number, 'held-out item')}, not to be shown at their request"
    return said
