"""The updates of a model over time: one row a day, and the page that shows them.

    <run.storage>/updates/<name>/days.json      one row per update, the oldest first
    <run.storage>/updates/<name>/index.html     report/timeline_page.py

Both are written whole after each update, from the outcomes of all updates, so a lost or damaged
file is made again by the next one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from recdiv_core.report import plots
from recdiv_core.report.timeline_page import METRICS, Arm, timeline_page
from recdiv_core.storage.whole_files import write_json, write_whole
from recdiv_core.updating.forgetting import WINDOW
from recdiv_core.wording import counted

PAGE: Final = "index.html"
ROWS: Final = "days.json"
KEPT: Final = ("day", "generation", "champion", "version", "promoted", "before", "yardstick")
"""Parts of an outcome that make a row."""
NOTES: Final = (
    "The champion of each day is judged on the newest window before any training has seen it.",
    "Its clicks come from what the champion showed, so they favour it. Compare accuracy with the "
    "model that was trained from scratch on the same data (update --yardstick), not with 1.",
)
OLD: Final = (
    "The first window is {days}. All models since have trained on its clicks, so its NDCG shows "
    "what a model keeps, and not its accuracy. Its requests have no query."
)


def _notes(updates: Path) -> list[str]:
    """Return the sentences of the page; the first window is named where it is known."""
    path = updates / f"{WINDOW}.json"
    window = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    if not window:
        return [*NOTES]
    days = " to ".join(dict.fromkeys((window["first_day"], window["last_day"])))
    return [*NOTES, OLD.format(days=days)]


def past(updates: Path, generation: int) -> list[dict[str, Any]]:
    """Return the results of the updates before a generation, the earliest first."""
    found = [json.loads(path.read_text("utf-8")) for path in updates.glob("*/outcome.json")]
    return sorted(
        (row for row in found if row["generation"] < generation), key=lambda row: row["generation"]
    )


def write_timeline(updates: Path, name: str, generation: int) -> Path:
    """Write the rows and the page of all updates up to a generation; return the page.

    Args:
        updates: directory of the updates of a model.
        name: name of the model.
        generation: number of appends of the newest data set.
    """
    outcomes = past(updates, generation + 1)
    rows = [{key: row.get(key) for key in KEPT} for row in outcomes]
    write_json(updates / ROWS, rows, indent=1)
    days = [str(row["day"] or f"append {row['generation']}") for row in rows]
    num_promoted = sum(bool(row["promoted"]) for row in rows)
    span = " to ".join(dict.fromkeys((days[0], days[-1])))
    page = timeline_page(
        days,
        [
            Arm("champion", plots.ACCURATE, _values(rows, "before")),
            Arm("trained from scratch", plots.DIVERSE, _values(rows, "yardstick"), is_points=True),
        ],
        title=f"{name}: {counted(len(rows), 'update')}",
        meta=f"{span}, {counted(num_promoted, 'candidate')} became the champion",
        notes=_notes(updates),
    )
    write_whole(updates / PAGE, page)
    return updates / PAGE


def _values(rows: Sequence[Mapping[str, Any]], part: str) -> dict[str, list[float]]:
    return {name: [(row[part] or {}).get(name, math.nan) for row in rows] for name in METRICS}
