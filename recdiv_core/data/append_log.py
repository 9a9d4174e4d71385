"""The new rows of an append: new files of the log, and quarantined rows that are usable now.

A file that the base has read before, by content, is not read again. A row that was rejected because
its item was unknown, or its time lay in the future, is judged again. All rows are classified in
this process: a day's rows are few beside the log.
"""

from __future__ import annotations

import collections
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from recdiv_core.config import Config
from recdiv_core.data import events, outcomes
from recdiv_core.data.audit import traces
from recdiv_core.data.events import STAGED, ClickLog, classify_rows
from recdiv_core.data.outcomes import RowCounts, write_quarantine
from recdiv_core.formats import readers
from recdiv_core.storage.whole_files import link_or_copy

logger = logging.getLogger(__name__)

AGAIN: Final = (outcomes.NO_ITEM, "time in the future")
"""Reasons for a quarantine that may pass: the item may be listed later, the clock goes on."""


@dataclass
class NewRows:
    """Rows that an append adds.

    Attributes:
        counts: outcomes of the rows of new files.
        files: path -> outcomes of the rows of a file; of an old file, the changes of its counts.
        seen: sums over all valid rows, for the audit.
    """

    seen: traces.Traces
    batches: list[pa.Table] = field(default_factory=list)
    counts: RowCounts = field(default_factory=RowCounts)
    files: dict[str, RowCounts] = field(default_factory=dict)

    @property
    def events(self) -> pa.Table:
        """All new events, [N] rows of STAGED."""
        return pa.concat_tables([STAGED.empty_table(), *self.batches])

    def changes(self) -> RowCounts:
        """Return what the append changes in the counts of the data set."""
        total = RowCounts()
        for counts in self.files.values():
            total.add(counts)
        return total


def numbered_from(log: ClickLog, first_file: int) -> ClickLog:
    """Return a log whose files are numbered from `first_file` on, as the positions of rows say."""
    shift = first_file * readers.FILE_STRIDE

    def moved(unit: readers.ReadUnit) -> readers.ReadUnit:
        rest = tuple(moved(part) for part in unit.rest)
        return replace(unit, first_row=unit.first_row + shift, rest=rest)

    return replace(log, units=tuple(moved(unit) for unit in log.units))


def read_rows(
    new: NewRows, log: ClickLog, item_ids: pa.Array, config: Config, work: Path, mark: str
) -> None:
    """Read and classify new files; add them to `new`, and rejected rows to the quarantine.

    `mark` is part of the names of the quarantine's files.
    """
    for number, unit in enumerate(log.units):
        rejected: list[pa.Table] = []
        counts = new.files.setdefault(unit.path, RowCounts())
        for raw in readers.read_unit(unit, log.columns):
            batch, quarantined, found, sightings = classify_rows(raw, log, item_ids, config)
            counts.add(found)
            new.counts.add(found)
            new.seen.add(sightings)
            new.batches.append(batch)
            rejected.append(quarantined)
        if rejected:
            path = work / "quarantine" / f"clicks-{mark}-{number:06d}.parquet"
            write_quarantine(pa.concat_tables(rejected), unit.path, path)


def read_again(
    new: NewRows,
    base: Path,
    log: ClickLog,
    item_ids: pa.Array,
    config: Config,
    work: Path,
    file_numbers: Mapping[str, int],
) -> None:
    """Judge quarantined rows of the base again; the rows that stay go to the new quarantine.

    `log` gives the format of the times and the latest accepted time.
    """
    for path in sorted((base / "quarantine").glob("*.parquet")):
        target = work / "quarantine" / path.name
        table = pq.read_table(path)
        is_again = [
            path.name.startswith("clicks-") and reason in AGAIN
            for reason in table["reason"].to_pylist()
        ]
        rows = table.filter(pa.array(is_again, pa.bool_()))
        source = table["source"][0].as_py() if len(table) else ""
        if not len(rows) or source not in file_numbers:
            link_or_copy(path, target)
            continue
        raw = _as_read(rows, file_numbers[source])
        batch, still, found, sightings = classify_rows(readers.RawBatch(raw), log, item_ids, config)
        if len(still) == len(rows):
            link_or_copy(path, target)
            continue
        logger.info("%s: %d quarantined rows are usable now", source, len(rows) - len(still))
        changes = new.files.setdefault(source, RowCounts())
        changes.kept += found.kept
        changes.dropped.update(found.dropped)
        changes.rejected.subtract(rows["reason"].to_pylist())
        changes.rejected.update(found.rejected)
        new.seen.add(sightings)
        new.batches.append(batch)
        others = table.filter(pa.array([not flag for flag in is_again], pa.bool_()))
        left = pa.concat_tables([others.drop_columns(["source"]), still])
        write_quarantine(left, source, target)


def _as_read(rows: pa.Table, file_number: int) -> pa.Table:
    """Return quarantined rows as a reader gives them, with all values as text."""
    found = [json.loads(text) for text in rows["row"].to_pylist()]
    names = [name for name in events.READ if any(name in row for row in found)]
    columns = {
        name: pa.array([_text(row.get(name)) for row in found], pa.string()) for name in names
    }
    first = file_number * readers.FILE_STRIDE
    places = [first + number for number in rows["row_number"].to_pylist()]
    return pa.table({**columns, readers.ROW: pa.array(places, pa.int64())})


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value) if isinstance(value, list | dict) else str(value)


def add_files(
    before: Sequence[Mapping[str, Any]], changes: Mapping[str, RowCounts]
) -> list[dict[str, Any]]:
    """Return the row counts of each file (`Manifest.files`) after an append."""
    files = {str(row["path"]): row for row in before}
    for path, counts in changes.items():
        old = files.get(path, {})
        read = int(old.get("read", 0)) + counts.num_rows
        row: dict[str, Any] = {"path": path, "read": read}
        row["kept"] = int(old.get("kept", 0)) + counts.kept
        for name, own in (
            ("lines", counts.lines),
            ("dropped", counts.dropped),
            ("quarantined", counts.rejected),
        ):
            row[name] = add_counts(old.get(name, {}), own)
        lost = read - row["kept"] - sum(row["dropped"].values()) - sum(row["quarantined"].values())
        assert not lost, f"{path}: {lost} of {read} rows are not accounted for"
        files[path] = row
    return [dict(row) for row in files.values()]


def add_counts(before: Mapping[str, int], changes: Mapping[str, int]) -> dict[str, int]:
    """Return counts by name after changes; names with a count of 0 are left out."""
    total = collections.Counter(before)
    total.update(changes)
    return {name: count for name, count in total.items() if count}
